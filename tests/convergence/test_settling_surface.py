"""The surface for every k in one pass: against direct evaluation, and a quadratic loss in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillscape._errors import InputError
from stillscape.convergence import geometric_sizes, ordered_differences, settling_surface, share_within

TOLERANCE = 0.05


def plane_of(m: int, points: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.exponential(0.4, size=(points, points - 1, m))


def test_a_quadratic_loss_in_closed_form():
    """l_i(w) = ||w - c_i||^2 / 2 has mean ||w - mean c||^2 / 2 + half the scatter of the centers around their mean."""
    centers = np.random.default_rng(1).normal(size=(30, 2))
    at = np.linspace(-2, 2, 7)
    places = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1)
    losses = 0.5 * ((places[..., None, :] - centers) ** 2).sum(-1)
    found = settling_surface(losses, [1, 4, 17])
    for k, surface, away in zip(found.k, found.losses, found.to_whole, strict=True):
        exact, whole = (closed_form(places, centers[:n]) for n in (k, 30))
        np.testing.assert_allclose(surface, exact, atol=1e-12)
        np.testing.assert_allclose(away, np.abs(whole - exact), atol=1e-12)


def closed_form(places, centers):
    scatter = 0.5 * ((centers - centers.mean(0)) ** 2).sum(1).mean()
    return 0.5 * ((places - centers.mean(0)) ** 2).sum(-1) + scatter


@given(st.integers(2, 40), st.integers(0, 5))
def test_running_sums_are_the_means_at_each_k(m, seed):
    losses, sizes = plane_of(m, seed=seed), geometric_sizes(m, 6)
    found = settling_surface(losses, sizes)
    assert found.k[-1] == m
    for row, k in enumerate(found.k):
        np.testing.assert_allclose(found.losses[row], losses[..., :k].mean(-1), rtol=1e-12)
        np.testing.assert_allclose(found.to_whole[row], np.abs(losses.mean(-1) - losses[..., :k].mean(-1)), atol=1e-13)
        if k < m:
            step = np.abs(losses[..., : k + 1].mean(-1) - losses[..., :k].mean(-1))
            np.testing.assert_allclose(found.next_step[row], step, atol=1e-13)
    assert np.isnan(found.next_step[-1]).all()
    assert (found.to_whole[-1] == 0).all()


def test_one_point_is_the_curve_at_fixed_weights():
    losses = plane_of(20)
    steps = settling_surface(losses, np.arange(1, 20)).next_step[:-1, 2, 1]
    np.testing.assert_allclose(steps, np.abs(ordered_differences(losses[2, 1])), rtol=1e-10)


def test_chunks_change_nothing(monkeypatch):
    import sys

    whole = settling_surface(plane_of(12), [1, 3, 5])
    monkeypatch.setattr(sys.modules["stillscape.convergence.settling_surface"], "_NUMBERS_AT_ONCE", 25)
    parts = settling_surface(plane_of(12), [1, 3, 5])
    for name in ("losses", "next_step", "to_whole"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_single_precision_is_summed_in_double():
    losses = np.full((2, 2, 5000), 0.1, dtype=np.float32)
    assert np.abs(settling_surface(losses, [1]).to_whole).max() < 1e-12


def test_where_the_tolerance_is_met():
    losses = plane_of(200)
    found = settling_surface(losses, geometric_sizes(200, 12))
    direct = np.array([np.abs(losses.mean(-1) - losses[..., :k].mean(-1)) <= TOLERANCE for k in found.k])
    np.testing.assert_array_equal(found.within(TOLERANCE), direct)
    everywhere = direct.all((1, 2))
    first = next(k for n, k in enumerate(found.k) if everywhere[n:].all())
    assert found.settled(TOLERANCE) == (first if first < 200 else None)
    assert found.settled(10.0) == 1
    assert found.settled(1e-9) is None


def test_settled_means_from_there_on():
    """Within the tolerance at 1 and at 3, outside of it at 2: settled from 3 on."""
    losses = np.array([[[1.0, 3.0, -1.0, 1.0]]])
    assert settling_surface(losses, [1, 2, 3]).settled(0.5) == 3


def test_the_share_of_the_plane():
    losses = plane_of(60)
    band = share_within(losses, [5, 20], TOLERANCE, orders=30)
    assert band.mean.shape == (3,)
    assert (band.low <= band.mean).all()
    assert (band.mean <= band.high).all()
    assert band.mean[0] < band.mean[1] < band.mean[2] == 1
    again = share_within(losses, [5, 20], TOLERANCE, orders=30)
    np.testing.assert_array_equal(band.mean, again.mean)
    one = np.random.default_rng(0).permutation(60)
    direct = settling_surface(losses[..., one], [5, 20]).within(TOLERANCE).mean((1, 2))
    np.testing.assert_allclose(share_within(losses, [5, 20], TOLERANCE, orders=1).mean, direct)


@pytest.mark.parametrize(
    ("losses", "sizes", "words"),
    [
        ([1.0, 2.0], [1], "losses is float64 of shape"),
        ([[1.0]], [1], "at least"),
        ([[1.0, np.nan]], [1], "not finite"),
        ([["a", "b"]], [1], "must be numbers"),
        ([[1.0, 2.0]], [3], "within 1..2"),
        ([[1.0, 2.0]], [0, 1], "within 1..2"),
        ([[1.0, 2.0, 3.0]], [2, 2], "increasing"),
        ([[1.0, 2.0]], [1.5], "whole numbers"),
        ([[1.0, 2.0]], [], "whole numbers"),
    ],
)
def test_bad_input(losses, sizes, words):
    with pytest.raises(InputError, match=words):
        settling_surface(losses, sizes)


def test_bad_shares():
    with pytest.raises(InputError, match="tolerance"):
        share_within(plane_of(5), [1], 0.0)
    with pytest.raises(InputError, match="orders"):
        share_within(plane_of(5), [1], 0.1, orders=0)
