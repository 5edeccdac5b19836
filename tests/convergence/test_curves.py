"""Curves as the report reads them."""

import json

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape.convergence import Curve, curve_from_draws


def test_to_dict_is_plain_json():
    curve = Curve(np.array([1, 2]), np.array([0.5, np.inf]), np.array([0.1, np.nan]), None, "identity", "nats")
    assert json.loads(json.dumps(curve.to_dict(), allow_nan=False)) == {
        "k": [1, 2],
        "mean": [0.5, None],
        "low": [0.1, None],
        "high": None,
        "kind": "identity",
        "unit": "nats",
    }


def test_bad_curves_are_refused():
    with pytest.raises(InputError, match="kind is 'guess'"):
        Curve([1], [1.0], None, None, "guess", "nats")
    with pytest.raises(InputError, match=r"lengths \[1, 2\]"):
        Curve([1, 2], [1.0], None, None, "measured", "nats")


def test_band_is_the_quantiles_of_the_draws():
    draws = np.linspace(0, 1, 101)[:, None]
    curve = curve_from_draws([10], [0.5], draws, level=0.8, unit="share")
    assert curve.low[0] == pytest.approx(0.1)
    assert curve.high[0] == pytest.approx(0.9)


@pytest.mark.parametrize(("unit", "low", "high"), [("share", 0, 1), ("nats", 0, 4), ("distance", -3, 4)])
def test_band_stays_where_the_quantity_can_be(unit, low, high):
    curve = curve_from_draws([10], [0.5], np.array([[-3.0]] * 50 + [[4.0]] * 50), level=0.9, unit=unit)
    assert (curve.low[0], curve.high[0]) == (low, high)


def test_band_holds_the_mean():
    curve = curve_from_draws([10], [0.99], np.full((9, 1), 0.5), level=0.9, unit="share")
    assert curve.low[0] == 0.5
    assert curve.high[0] == 0.99
