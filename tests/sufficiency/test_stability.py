"""How far the answer moves when an order or a seed is left out."""

import numpy as np
import pytest

from stillscape.sufficiency import stability

SIZES = [25, 50, 100, 200, 400]
EARLY = [0.50, 0.80, 0.805, 0.81, 0.81]
LATE = [0.50, 0.60, 0.70, 0.80, 0.81]
QUESTION = {"epsilon": 0.02, "target": None}


def _found(scores, orders, seeds, question=QUESTION, higher=True):
    return stability(SIZES, np.array(scores), orders, seeds, question=question, higher_is_better=higher)


def test_one_odd_order_is_seen():
    found = _found([EARLY, EARLY, EARLY, LATE], [0, 1, 2, 3], [0] * 4)
    assert found["alone"] == {"0": 50, "1": 50, "2": 50, "3": 200}
    assert found["all"] == 200
    assert found["without_order"]["3"] == 50
    assert found["without_seed"] == {}


def test_seeds_of_an_order_are_averaged_first():
    # Order 0 has three seeds, order 1 has one: each order counts once.
    found = _found([EARLY, EARLY, EARLY, LATE], [0, 0, 0, 1], [0, 1, 2, 0], {"epsilon": 0.04, "target": None})
    half = (np.array(EARLY) + np.array(LATE)) / 2
    lasting = [k for k, gain in zip(SIZES, np.diff(half), strict=False) if gain > 0.04]
    assert found["all"] == 2 * lasting[-1]


@pytest.mark.parametrize(("target", "expected"), [(0.79, 200), (0.9, None)])
def test_targets(target, expected):
    found = _found([EARLY, LATE], [0, 1], [0, 0], {"epsilon": 0.02, "target": target})
    assert found["alone"]["1"] == expected


def test_losses_are_turned():
    losses = 1 - np.array([EARLY, LATE])
    assert _found(losses, [0, 1], [0, 0], higher=False) == _found([EARLY, LATE], [0, 1], [0, 0])


def test_a_price_makes_the_tolerance_grow_with_the_size():
    question = {"epsilon": 0.001, "cost_per_image": 1.0, "value_per_point": 50.0}
    # Break-even gains are 0.02 k / 100: at 100 images 0.02, at 200 images 0.04.
    assert _found([LATE, LATE], [0, 1], [0, 0], question)["all"] == 200
    assert _found([EARLY, EARLY], [0, 1], [0, 0], question)["all"] == 50
