"""The nulls and the bounds: right numbers, and never a vote."""

import numpy as np
import pytest

from stillscape import bounds
from stillscape._errors import InputError
from stillscape.sufficiency import bound_criterion, fixed_surface_criterion, neighborhood_criterion


def test_closed_form_by_hand():
    # MAD of 0, 0, 4, 4 is 2; 2 / (k + 1) <= 0.1 from k = 19 on.
    found = fixed_surface_criterion([0.0, 0.0, 4.0, 4.0], epsilon=0.1)
    assert (found.status, found.k_star, found.is_null, found.votes) == ("reached", 19, True, False)
    assert "slope -1 for any model" in found.assumes[0]
    assert "beyond the 4 held-out images" in found.reason


def test_an_overfitted_model_needs_one_image_by_it():
    """Why it never votes: losses of next to nothing make it ask for a single image."""
    assert fixed_surface_criterion(np.full(50, 1e-6), epsilon=0.01).k_star == 1


def test_interval_covers_the_true_spread():
    """Exponential losses of mean 1 have MAD 2/e; the interval of k* + 1 scales with it."""
    rng = np.random.default_rng(0)
    truth = 2 / np.e
    inside = 0
    for seed in range(200):
        found = fixed_surface_criterion(rng.exponential(size=150), epsilon=0.001, draws=200, seed=seed)
        inside += found.low <= truth / 0.001 <= found.high
        assert found.low <= found.k_star <= found.high
    assert 0.8 <= inside / 200 <= 0.97


def test_grouped_losses_widen_the_interval():
    losses = np.repeat(np.random.default_rng(0).exponential(size=20), 10)
    alone = fixed_surface_criterion(losses, epsilon=0.01)
    grouped = fixed_surface_criterion(losses, epsilon=0.01, groups=np.repeat(np.arange(20), 10))
    assert grouped.k_star == alone.k_star
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_neighborhood_has_its_own_reason():
    losses = np.random.default_rng(0).exponential(size=30)
    fixed, near = (f(losses, epsilon=0.01) for f in (fixed_surface_criterion, neighborhood_criterion))
    assert near.name == "neighbourhood"
    assert near.k_star == fixed.k_star
    assert near.is_null
    assert near.reason != fixed.reason
    assert len(near.assumes) > len(fixed.assumes)


@pytest.mark.parametrize("kind", ["printed", "rigorous"])
def test_bound_is_the_inverted_theorem(kind):
    constants = {"loss_bound": 3.0, "hessian_bound": 5.0, "radius": 0.5, "gradient_bound": 1.0}
    size = bounds.sufficient_size(0.05, **constants, kind=kind)
    enough = bound_criterion("b", epsilon=0.05, **constants, kind=kind, available=size)
    short = bound_criterion("b", epsilon=0.05, **constants, kind=kind, available=size - 1)
    assert (enough.status, enough.k_star) == ("reached", size)
    assert (short.status, short.k_star) == ("vacuous_bound", size)
    assert "says nothing" in short.reason
    assert any("no certificates" in premise for premise in enough.assumes)
    assert not enough.votes
    assert not enough.is_null


def test_bad_input_is_named():
    with pytest.raises(InputError, match="epsilon is 0"):
        fixed_surface_criterion([1.0, 2.0], epsilon=0)
    with pytest.raises(InputError, match=r"groups has shape \(3,\) for 2 losses"):
        fixed_surface_criterion([1.0, 2.0], epsilon=0.1, groups=[0, 1, 2])
    with pytest.raises(InputError, match="available is 0"):
        bound_criterion("b", epsilon=0.1, loss_bound=1, hessian_bound=1, radius=1, available=0)
