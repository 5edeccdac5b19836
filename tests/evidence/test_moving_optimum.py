"""L_m - L_k around trained weights: the null by enumeration, the shift of a problem with known answer."""

from itertools import permutations

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape.evidence import moving_optimum


def test_null_is_the_mean_square_over_all_orders():
    losses = np.array([0.3, 1.0, 2.5, 0.1, 4.0])
    found = [moving_optimum(losses[list(order)][None], 2) for order in permutations(range(5))]
    assert np.mean([one.value for one in found]) == pytest.approx(np.mean([one.null for one in found]), rel=1e-12)


def test_slopes_of_a_mean_that_is_fitted():
    # l = (w - x)^2 / 2 in P dimensions, w_k the mean: the shift is (1 - k/m) P / k, and the scatter of l is P / 2.
    rng = np.random.default_rng(0)
    p, m, sizes = 40, 2000, (5, 20)
    found = {k: [] for k in sizes}
    for _ in range(60):
        x = rng.normal(size=(m, p))
        for k in sizes:
            w = x[:k].mean(axis=0) + 0.01 * rng.normal(size=(3, p))
            found[k].append(moving_optimum(0.5 * np.square(w[:, None] - x).sum(axis=2), k))
    for k in sizes:
        assert np.mean([one.shift for one in found[k]]) == pytest.approx((1 - k / m) * p / k, rel=0.1)
    fall = [
        np.log(np.mean([getattr(one, name) for one in found[5]]) / np.mean([getattr(one, name) for one in found[20]]))
        / np.log(4)
        for name in ("value", "null")
    ]
    assert fall[0] > 1.6  # towards 2: optimism outweighs the scatter
    assert fall[1] == pytest.approx(1.1, abs=0.15)  # the null's 1, and a little for the scatter that w_k's error adds


def test_one_point_has_no_error_bar_and_two_unseen_are_needed():
    assert moving_optimum(np.ones((1, 4)), 2).stderr == 0.0
    with pytest.raises(InputError, match="k is 3 of 4"):
        moving_optimum(np.ones((1, 4)), 3)
    with pytest.raises(InputError, match="losses has shape"):
        moving_optimum(np.full((1, 4), np.nan), 2)
