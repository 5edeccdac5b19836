"""Theorem 3 by hand, and its inversion at the edge of floating point."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stillscape import bounds
from stillscape._errors import InputError

CONSTANTS = {"loss_bound": 2.0, "hessian_bound": 3.0, "radius": 0.5, "gradient_bound": 0.25}


def test_printed_by_hand():
    # (2*2 + 3*0.25) / 5; the gradient has no part in the printed theorem.
    assert bounds.loss_difference(4, **CONSTANTS, kind="printed") == pytest.approx(4.75 / 5)


def test_rigorous_by_hand():
    # (2 + 0.25*0.5 + 3*0.25) / 5
    assert bounds.loss_difference(4, **CONSTANTS, kind="rigorous") == pytest.approx(2.875 / 5)


def test_arrays_keep_their_shape_and_scalars_are_floats():
    found = bounds.loss_difference(np.array([[1, 3], [7, 9]]), **CONSTANTS)
    np.testing.assert_allclose(found, 4.75 / np.array([[2, 4], [8, 10]]))
    assert isinstance(bounds.loss_difference(np.int64(3), **CONSTANTS), float)


def test_rigorous_bound_holds_for_quadratic_losses():
    """l_i(w) = a_i + g_i'(w - w*) + h_i |w - w*|^2 / 2 with constants that are true bounds; never violated."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        m, radius = 12, rng.uniform(0.1, 2)
        level, slope, bend = rng.uniform(0, 1, m), rng.normal(size=(m, 3)), rng.uniform(-2, 2, m)
        step = rng.normal(size=3)
        step *= radius / np.linalg.norm(step)
        losses = level + slope @ step + bend * radius**2 / 2
        spread = max(np.linalg.norm(slope[k] - slope[:k].mean(axis=0)) for k in range(1, m))
        k = np.arange(1, m)
        means = np.cumsum(losses) / np.arange(1, m + 1)
        bound = bounds.loss_difference(
            k, loss_bound=1.0, hessian_bound=2.0, radius=radius, gradient_bound=spread, kind="rigorous"
        )
        assert np.all(np.abs(np.diff(means)) <= bound * (1 + 1e-12))


@settings(deadline=None, derandomize=True)
@given(st.floats(1e-12, 1e12), st.floats(1e-9, 1e3))
@example(0.3, 0.1)  # 0.3 / 0.1 is 2.9999999999999996 in floating point
@example(0.7, 0.1)  # 0.7 / 0.1 is 6.999999999999999
@example(1.1, 0.1)  # 1.1 / 0.1 is 11.000000000000002, whose ceiling would be one too many
@example(5.0, 5.0)
def test_inversion_is_the_smallest_size_that_passes(scale, epsilon):
    constants = {"loss_bound": scale, "hessian_bound": 0.0, "radius": 0.0, "kind": "rigorous"}
    size = bounds.sufficient_size(epsilon, **constants)
    assert bounds.loss_difference(size, **constants) <= epsilon
    assert size == 1 or bounds.loss_difference(size - 1, **constants) > epsilon
    assert size == pytest.approx(max(1, math.ceil(scale / epsilon) - 1), rel=1e-9, abs=1)


@pytest.mark.parametrize(("scale", "epsilon", "size"), [(3.0, 1.0, 2), (3.0, 0.1, 29), (1.1, 0.1, 10), (0.5, 1.0, 1)])
def test_inversion_by_hand(scale, epsilon, size):
    assert bounds.sufficient_size(epsilon, loss_bound=scale, hessian_bound=0, radius=0, kind="rigorous") == size


@settings(deadline=None, derandomize=True)
@given(st.floats(1e-6, 10), st.floats(1, 100))
def test_a_larger_tolerance_never_asks_for_more(epsilon, factor):
    small, large = (bounds.sufficient_size(e, **CONSTANTS) for e in (epsilon, epsilon * factor))
    assert large <= small


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"loss_bound": -1.0}, "loss_bound is -1.0"),
        ({"hessian_bound": math.inf}, "hessian_bound is inf"),
        ({"radius": math.nan}, "radius is nan"),
        ({"gradient_bound": -0.5}, "gradient_bound is -0.5"),
        ({"kind": "true"}, "kind is 'true'; it must be one of printed, rigorous"),
        ({"radius": 1e200, "hessian_bound": 1e200}, "beyond any float"),
    ],
)
def test_bad_constants_are_named(change, match):
    with pytest.raises(InputError, match=match):
        bounds.loss_difference(3, **(CONSTANTS | change))
    with pytest.raises(InputError, match=match):
        bounds.sufficient_size(0.1, **(CONSTANTS | change))


@pytest.mark.parametrize("k", [0, -3, 2.5, [1, 0], "many"])
def test_bad_sizes_are_named(k):
    with pytest.raises(InputError, match="k is"):
        bounds.loss_difference(k, **CONSTANTS)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, 1e-305])
def test_bad_tolerances_are_named(epsilon):
    with pytest.raises(InputError, match="epsilon is"):
        bounds.sufficient_size(epsilon, **CONSTANTS)
