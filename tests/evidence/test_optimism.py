"""The optimism gap and its quarter."""

import numpy as np
import pytest
from scipy.stats import t

from stillscape._errors import InputError
from stillscape.convergence import Curve
from stillscape.evidence import optimism_gain, optimism_gap
from tests.evidence.problems import drawn, fitted, losses


def gap_of(heldout, train, **changes):
    repeats, sizes, _ = heldout.shape
    given = {"groups": None, "permutation_ids": list(range(repeats)), "seed_ids": [0] * repeats, "draws": 400}
    return optimism_gap(heldout, train, list(range(10, 10 + sizes)), **{**given, **changes})


def test_gap_is_the_difference_and_its_band_holds_the_orders():
    # Constant held-out losses: all that scatters is training, five orders of it, and the band is Student's.
    rng = np.random.default_rng(0)
    train = 0.4 + 0.1 * rng.normal(size=(5, 2))
    found = gap_of(np.ones((5, 2, 20)), train, draws=20_000)
    np.testing.assert_allclose(found.mean, 1 - train.mean(axis=0))
    reach = t.ppf(0.95, 4) * train.std(axis=0, ddof=1) / 5**0.5
    np.testing.assert_allclose(np.asarray(found.high) - found.mean, reach, rtol=0.05)
    np.testing.assert_allclose(found.mean - np.asarray(found.low), reach, rtol=0.05)


def test_its_band_holds_the_images():
    heldout = np.tile(np.random.default_rng(0).normal(size=200), (2, 1, 1))
    found = gap_of(heldout, np.zeros((2, 1)), draws=20_000)
    assert found.high[0] - found.mean[0] == pytest.approx(1.65 * heldout[0, 0].std() / 200**0.5, rel=0.05)


def test_a_negative_gap_stays_negative():
    found = gap_of(np.full((2, 1, 5), 0.1), np.full((2, 1), 0.3))
    assert found.mean[0] == pytest.approx(-0.2)
    assert found.low[0] == pytest.approx(-0.2)


def test_a_quarter_is_the_gain_of_a_doubling():
    hx, hy = drawn(20_000, 1, width=3, scale=0.7)
    best, gain, gaps = fitted(hx, hy, 3, 1e-3), [], []
    least = losses(best, hx, hy).mean()
    for seed in range(300):
        x, y = drawn(1000, 3000 + seed, width=3, scale=0.7)
        half, whole = fitted(x[:500], y[:500], 3, 1e-3), fitted(x, y, 3, 1e-3)
        gain.append(losses(half, hx, hy).mean() - losses(whole, hx, hy).mean())
        # L_test(w*) - L_k(w*), which is 0 in the mean and only adds noise, is left out of the gap.
        own = losses(best, x[:500], y[:500]).mean() - losses(half, x[:500], y[:500]).mean()
        gaps.append(losses(half, hx, hy).mean() - least + own)
    quarter = optimism_gain(Curve([500], [np.mean(gaps)], None, None, "measured", "nats"))
    assert quarter.mean[0] == pytest.approx(np.mean(gain), rel=0.15)
    assert quarter.low is None
    assert quarter.kind == "estimate"


def test_shapes_are_named():
    with pytest.raises(InputError, match=r"train has shape \(2,\)"):
        gap_of(np.ones((2, 1, 5)), np.ones(2))
