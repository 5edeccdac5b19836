"""The identity by hand, against plain means, and over all orders of a small set."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from stillscape._errors import InputError
from stillscape.convergence import (
    geometric_sizes,
    loss_differences,
    mean_absolute_deviation,
    neighborhood_differences,
    ordered_differences,
)


def test_identity_by_hand():
    # L: 4, (4+1)/2 = 2.5, (4+1+1)/3 = 2, (4+1+1+6)/4 = 3
    np.testing.assert_allclose(ordered_differences([4.0, 1.0, 1.0, 6.0]), [-1.5, -0.5, 1.0], rtol=1e-15)


@settings(deadline=None, derandomize=True)
@given(st_numpy.arrays(np.float64, st.integers(2, 40), elements=st.floats(-100, 100)))
def test_identity_against_plain_means(losses):
    means = [losses[: k + 1].mean() for k in range(losses.size)]
    np.testing.assert_allclose(ordered_differences(losses), np.diff(means), atol=1e-12)


def test_a_common_shift_costs_no_digits():
    losses = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(ordered_differences(losses + 1e8), ordered_differences(losses), atol=1e-7)


def test_mean_over_all_orders_is_at_least_the_closed_form_and_equal_at_the_end():
    """Over every order of 6 losses: E|D_k| >= MAD/(k+1), and MAD/(m-1) at k = m-1."""
    losses = np.array([0.0, 0.1, 0.5, 0.7, 2.0, 5.0])
    exact = np.mean([np.abs(ordered_differences(list(order))) for order in itertools.permutations(losses)], axis=0)
    mad = mean_absolute_deviation(losses)
    assert np.all(exact >= mad / np.arange(2, 7))
    assert exact[-1] == pytest.approx(mad / 5, rel=1e-12)
    sampled = loss_differences(losses, permutations=4000, seed=1)
    np.testing.assert_allclose(sampled.mean, exact, rtol=0.08)
    np.testing.assert_allclose(sampled.closed_form, mad / np.arange(2, 7))


def test_any_model_has_slope_minus_one():
    """A useless model and one that is over-fitted: same slope, so the slope tells them not apart."""
    rng = np.random.default_rng(0)
    for losses in (rng.normal(2.3, 0.3, 2000), np.where(rng.random(2000) < 0.9, 0, rng.exponential(1, 2000))):
        curve = loss_differences(losses, permutations=2000, sizes=[50, 100, 200, 400, 800, 1600])
        slope = np.polyfit(np.log(curve.k), np.log(curve.mean), 1)[0]
        assert slope == pytest.approx(-1, abs=0.1)
        np.testing.assert_allclose(curve.mean, curve.closed_form, rtol=0.25)


def test_sizes_only_thin_the_curve():
    losses = np.random.default_rng(3).exponential(size=30)
    whole, thin = loss_differences(losses, 20, seed=5), loss_differences(losses, 20, seed=5, sizes=[1, 7, 29])
    for name in ("mean", "low", "high", "closed_form"):
        np.testing.assert_array_equal(getattr(whole, name)[[0, 6, 28]], getattr(thin, name))


def test_seed_decides_and_the_global_generator_does_not():
    losses = np.random.default_rng(3).exponential(size=30)
    first = loss_differences(losses, 20, seed=5)
    np.random.default_rng(0).random()
    np.testing.assert_array_equal(first.mean, loss_differences(losses, 20, seed=5).mean)
    assert not np.array_equal(first.mean, loss_differences(losses, 20, seed=6).mean)


def test_band_holds_its_share_of_the_orders():
    losses = np.random.default_rng(0).exponential(size=40)
    curve = loss_differences(losses, permutations=1000, level=0.8)
    rng = np.random.default_rng(99)
    fresh = np.abs([ordered_differences(rng.permutation(losses)) for _ in range(2000)])
    inside = ((curve.low <= fresh) & (fresh <= curve.high)).mean(axis=0)
    np.testing.assert_allclose(inside, 0.8, atol=0.06)


def test_many_losses_stay_in_blocks():
    curve = loss_differences(np.random.default_rng(0).exponential(size=10_000), permutations=3)
    assert curve.k[-1] == 9999
    assert np.all(curve.low <= curve.high)
    assert curve.low.shape == (9999,)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"losses": [1.0]}, "losses has shape"),
        ({"losses": [1.0, np.nan]}, r"losses\[1\] is nan"),
        ({"losses": [1.0, 2.0], "permutations": 0}, "permutations is 0"),
        ({"losses": [1.0, 2.0], "level": 1.0}, "level is 1.0"),
        ({"losses": [1.0, 2.0], "sizes": [2]}, "sizes is"),
        ({"losses": [1.0, 2.0, 3.0], "sizes": [2, 1]}, "sizes is"),
    ],
)
def test_bad_input_is_named(kwargs, match):
    with pytest.raises(InputError, match=match):
        loss_differences(**kwargs)


def test_geometric_sizes_hold_both_ends():
    sizes = geometric_sizes(1000, 20)
    assert sizes[0] == 1
    assert sizes[-1] == 1000
    assert np.all(np.diff(sizes) > 0)


def _quadratic(seed, m=12, dims=4):
    rng = np.random.default_rng(seed)
    hessians = rng.normal(size=(m, dims, dims))
    return rng.uniform(0, 1, m), rng.normal(size=(m, dims)), hessians + hessians.swapaxes(1, 2), rng.normal(size=dims)


def test_parts_add_up_in_every_order():
    """With one order the bands are absolute values of the signed parts; the signed ones sum to the whole."""
    level, slope, hessians, step = _quadratic(0)
    star, slopes = level, slope @ step
    at = star + slopes + 0.5 * np.einsum("a,iab,b->i", step, hessians, step)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(at.size)
        parts = [ordered_differences(v[order]) for v in (star, slopes, at - star - slopes)]
        np.testing.assert_allclose(sum(parts), ordered_differences(at[order]), atol=1e-14)
        found = neighborhood_differences(at, star, slopes, permutations=1, seed=seed)
        for band, part in zip((found.loss, found.gradient, found.remainder), parts, strict=True):
            np.testing.assert_allclose(band.mean, np.abs(part), atol=1e-14)
        np.testing.assert_allclose(found.total.mean, np.abs(sum(parts)), atol=1e-14)


def test_remainder_of_a_quadratic_is_its_curvature():
    """0.5 delta'(H_{k+1} - mean H_{1..k}) delta / (k+1), formed with the matrices themselves."""
    level, slope, hessians, step = _quadratic(1)
    at = level + slope @ step + 0.5 * np.einsum("a,iab,b->i", step, hessians, step)
    order = np.random.default_rng(7).permutation(at.size)
    expected = [
        0.5 * step @ (hessians[order][k] - hessians[order][:k].mean(axis=0)) @ step / (k + 1) for k in range(1, at.size)
    ]
    found = neighborhood_differences(at, level, slope @ step, permutations=1, seed=7)
    np.testing.assert_allclose(found.remainder.mean, np.abs(expected), atol=1e-13)


def test_total_is_the_curve_of_the_losses_there():
    at = np.random.default_rng(0).exponential(size=25)
    star = np.random.default_rng(1).exponential(size=25)
    total = neighborhood_differences(at, star, np.zeros(25), permutations=30, seed=4).total
    plain = loss_differences(at, permutations=30, seed=4)
    np.testing.assert_array_equal(total.mean, plain.mean)
    np.testing.assert_array_equal(total.high, plain.high)


def test_different_lengths_are_refused():
    with pytest.raises(InputError, match="3, 2 and 3 entries"):
        neighborhood_differences([1.0, 2.0, 3.0], [1.0, 2.0], [0.0, 0.0, 0.0])
