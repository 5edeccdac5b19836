"""The rules by hand, their statuses, and their behavior under the tolerance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillscape._errors import InputError
from stillscape.convergence import bootstrap_curve
from stillscape.sufficiency import doubling_matrix, gain_criterion, gains, smallest_resolution, target_criterion

SIZES = [50, 100, 200, 400]


def noisy(mean, sd, draws=2000, seed=0):
    return np.asarray(mean) + np.random.default_rng(seed).normal(0, sd, (draws, len(mean)))


def gain(mean, sd=0.0, epsilon=0.01, sizes=SIZES, name="accuracy", higher=True, known=True, **kwargs):
    return gain_criterion(
        name,
        sizes,
        noisy(mean, sd),
        mean,
        epsilon=epsilon,
        level=0.9,
        higher_is_better=higher,
        repeats_known=known,
        **kwargs,
    )


def target(mean, goal, sd=0.0, name="accuracy_target", higher=True, known=True):
    return target_criterion(
        name, SIZES, noisy(mean, sd), mean, target=goal, level=0.9, higher_is_better=higher, repeats_known=known
    )


# ---- doublings


def test_doublings_by_hand():
    found = gains(SIZES, np.array([[0.5, 0.7, 0.8, 0.85]] * 3), [0.5, 0.7, 0.8, 0.85], 0.9, True)
    assert [(g["from"], g["to"]) for g in found] == [(50, 100), (100, 200), (200, 400)]
    np.testing.assert_allclose([g["mean"] for g in found], [0.2, 0.1, 0.05])


def test_scores_between_sizes_are_linear_in_log_k():
    # 100 lies half-way from 50 to 200 in log k: 0.5 + (0.7 - 0.5) / 2
    _, ends, matrix = doubling_matrix([50, 200])
    assert ends.tolist() == [100]
    assert (matrix @ [0.5, 0.7])[0] == pytest.approx(0.1)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=9, unique=True), st.floats(-2, 2))
def test_a_curve_that_is_straight_in_log_k_gains_the_same_at_every_doubling(sizes, slope):
    k = np.sort(sizes)
    starts, ends, matrix = doubling_matrix(k)
    np.testing.assert_allclose(matrix @ (slope * np.log2(k)), slope, atol=1e-9)
    np.testing.assert_allclose(matrix.sum(axis=1), 0, atol=1e-9)
    assert np.all(starts < ends)
    assert set(starts) == {s for s in k if 2 * s <= 1.05 * k[-1] and s < k[-1]}


def test_whole_groups_may_leave_the_largest_size_a_little_short():
    starts, ends, _ = doubling_matrix([99, 198, 394])
    assert list(zip(starts, ends, strict=True)) == [(99, 198), (198, 394)]
    assert doubling_matrix([100, 200, 370])[0].tolist() == [100]


def test_losses_gain_when_they_fall():
    draws = np.array([[0.9, 0.6]] * 4)
    assert gains([10, 20], draws, [0.9, 0.6], 0.9, False)[0]["mean"] == pytest.approx(0.3)
    assert gains([10, 20], draws, [0.9, 0.6], 0.9, True)[0]["mean"] == pytest.approx(-0.3)


# ---- the gain


def test_gain_by_hand():
    found = gain([0.5, 0.8, 0.805, 0.807])
    assert (found.status, found.k_star, found.low, found.high, found.is_null) == ("reached", 100, 100, 100, False)


def test_an_early_plateau_does_not_count():
    # 50 -> 100 gains nothing, 100 -> 200 a lot: "for every k' >= k" must not stop at 50.
    assert gain([0.5, 0.5, 0.8, 0.802]).k_star == 200


def test_a_gain_of_just_epsilon_is_no_more_than_epsilon():
    # 0.91 - 0.90 is 0.010000000000000009 in floating point.
    assert gain([0.89, 0.90, 0.91, 0.91], epsilon=0.01).k_star == 50


def test_still_rising_is_not_reached():
    found = gain([0.5, 0.6, 0.7, 0.8], sd=0.01)
    assert (found.status, found.k_star, found.high) == ("not_reached", None, None)
    assert "+10 points" in found.reason
    assert "more than the tolerance of 1 point" in found.reason
    assert "collect more images" in found.advice


def test_tolerance_under_the_noise_cannot_tell():
    found = gain([0.5, 0.8, 0.805, 0.807], sd=0.03)
    assert (found.status, found.k_star, found.high) == ("cannot_tell", None, None)
    # half-width 1.645 * 0.03 * sqrt(2) = 7 points, hence about 49 times as much
    assert "smaller than the noise, which is plus or minus 7" in found.reason
    assert "times as many held-out images and repeats" in found.advice


def test_advised_tolerance_would_have_been_confirmed():
    mean = [0.5, 0.8, 0.805, 0.807]
    assert gain(mean, sd=0.03).status == "cannot_tell"
    high = gains(SIZES, noisy(mean, 0.03), mean, 0.9, True)[-1]["high"]
    assert gain(mean, sd=0.03, epsilon=high * 1.01).status == "reached"
    assert gain(mean, sd=0.03, epsilon=high * 0.97).status == "cannot_tell"


def test_near_the_tolerance_cannot_tell():
    found = gain([0.5, 0.8, 0.85, 0.86], sd=0.002, epsilon=0.01)
    assert found.status == "cannot_tell"
    assert "too close to the tolerance of 1 point" in found.reason


def test_less_than_a_doubling_cannot_tell():
    found = gain([0.5, 0.6], sizes=[50, 80])
    assert found.status == "cannot_tell"
    assert "50 to 80 images, span less than one doubling" in found.reason


def test_unknown_repeats_cannot_tell_even_without_noise():
    found = gain([0.5, 0.8, 0.805, 0.807], known=False)
    assert (found.status, found.k_star, found.low, found.high) == ("cannot_tell", None, None, None)
    assert "single choice of training images" in found.reason


def test_draws_without_scatter_are_not_believed_on_a_small_held_out_set():
    flat = [0.9, 0.9, 0.9, 0.9]
    assert gain(flat, resolution=0.0).status == "reached"
    small = gain(flat, resolution=smallest_resolution(50, 0.9))
    assert small.status == "cannot_tell"
    assert "could hide a gain of 5.8 points" in small.reason
    # The advice is enough: ln(0.05) / ln(0.99) = 298.07
    assert "about 299 independent held-out images" in small.advice
    assert gain(flat, resolution=smallest_resolution(299, 0.9)).status == "reached"
    assert gain([0.9, 0.9, 0.9, 0.8], resolution=0.058).status == "reached"


def test_resolution_is_the_zero_count_limit():
    # With no success in n, the 95 % upper limit p solves (1 - p)^n = 0.05.
    assert (1 - smallest_resolution(40, 0.9)) ** 40 == pytest.approx(0.05)


def test_losses_are_turned():
    found = gain([2.0, 0.5, 0.49, 0.485], epsilon=0.05, name="heldout_loss", higher=False)
    assert (found.status, found.k_star) == ("reached", 100)
    rising = gain([2.0, 1.0, 0.5, 0.25], epsilon=0.05, name="heldout_loss", higher=False)
    assert rising.status == "not_reached"
    assert "changed the held-out loss by -0.25 nats" in rising.reason


def test_interval_holds_k_star_and_widens_with_noise():
    mean = [0.5, 0.7, 0.72, 0.725]
    quiet, loud = gain(mean, sd=0.001, epsilon=0.03), gain(mean, sd=0.008, epsilon=0.03)
    assert (quiet.k_star, quiet.low, quiet.high) == (100, 100, 100)
    assert loud.k_star == 100
    assert loud.low <= 100 < loud.high


curves = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(curves, st.floats(0, 0.1), st.floats(1e-4, 0.5), st.floats(1, 20))
def test_a_larger_tolerance_never_asks_for_more(mean, sd, epsilon, factor):
    """k*, low and high never grow with epsilon, and what was reached stays reached."""
    small, large = gain(mean, sd, epsilon), gain(mean, sd, epsilon * factor)
    if small.status == "reached":
        assert large.status == "reached"
        assert large.k_star <= small.k_star
        assert large.low <= small.low
        assert large.high <= small.high
    if large.status == "not_reached":
        assert small.status == "not_reached"


@settings(deadline=None, derandomize=True, max_examples=100)
@given(curves, st.floats(0, 0.1), st.floats(0.01, 0.9), st.floats(0, 0.5))
def test_a_harder_target_never_asks_for_less(mean, sd, goal, more):
    easy, hard = target(mean, goal, sd), target(mean, goal + more, sd)
    if hard.status == "reached":
        assert easy.status == "reached"
        assert easy.k_star <= hard.k_star
        assert easy.high <= hard.high


@settings(deadline=None, derandomize=True, max_examples=100)
@given(curves, st.floats(0, 0.1), st.floats(1e-4, 0.5))
def test_turning_the_sign_turns_nothing_else(mean, sd, epsilon):
    up = gain(mean, sd, epsilon)
    turned = gain_criterion(
        "accuracy", SIZES, -noisy(mean, sd), [-m for m in mean], epsilon=epsilon, level=0.9, higher_is_better=False,
        repeats_known=True,
    )  # fmt: skip
    assert (up.status, up.k_star, up.low, up.high) == (turned.status, turned.k_star, turned.low, turned.high)


@pytest.mark.parametrize("images", [60, 200])
def test_false_claims_are_rare_where_the_truth_is_on_the_edge(images):
    """The last doubling truly gains just epsilon: "reached" and "not_reached" may each come up in 5 % of the runs."""
    rng = np.random.default_rng(0)
    truth, runs, said = np.array([0.0, 0.3, 0.4]), 200, []
    for run in range(runs):
        noise = rng.normal(0, 0.05, (4, 3, 1)) + rng.normal(0, 0.5, (3, images))
        scores = truth[:, None] + noise
        draws = bootstrap_curve(scores, None, range(4), [0] * 4, draws=300, seed=run)
        mean = scores.mean(axis=(0, 2))
        found = gain_criterion(
            "accuracy", [50, 100, 200], draws, mean, epsilon=0.1, level=0.9, higher_is_better=True, repeats_known=True
        )
        said.append(found.status)
    # 0.05 and four standard errors
    assert said.count("reached") / runs < 0.11
    assert said.count("not_reached") / runs < 0.11
    assert said.count("cannot_tell") / runs > 0.8


def test_interval_of_k_star_covers_it():
    """Gains of 0.3, 0.1 and 0.02 against a tolerance of 0.06: k* is 200, and 100 is just within the noise."""
    rng = np.random.default_rng(1)
    truth, runs, hits, reached = np.array([0.0, 0.3, 0.4, 0.42]), 200, 0, 0
    for run in range(runs):
        scores = truth[:, None] + rng.normal(0, 0.02, (5, 4, 1)) + rng.normal(0, 0.05, (4, 200))
        draws = bootstrap_curve(scores, None, range(5), [0] * 5, draws=300, seed=run)
        found = gain_criterion(
            "accuracy", SIZES, draws, scores.mean(axis=(0, 2)), epsilon=0.06, level=0.9, higher_is_better=True,
            repeats_known=True,
        )  # fmt: skip
        if found.status == "reached":
            reached += 1
            hits += found.low <= 200 <= found.high
    assert reached > runs / 2
    assert hits / reached > 0.83


# ---- the target


def test_target_by_hand():
    found = target([0.5, 0.8, 0.79, 0.9], 0.8)
    assert (found.status, found.k_star) == ("reached", 400)
    assert target([0.5, 0.8, 0.85, 0.9], 0.8).k_star == 100


def test_target_already_met_is_said():
    found = target([0.85, 0.86, 0.87, 0.9], 0.8)
    assert found.k_star == 50
    assert "already at the smallest size tried, 50 images" in found.reason


def test_target_missed():
    found = target([0.5, 0.6, 0.7, 0.75], 0.9, sd=0.01)
    assert found.status == "not_reached"
    assert "at 400 images accuracy is 75 %" in found.reason
    assert "short of the target of 90 %" in found.reason


def test_a_flat_curve_under_its_target_is_not_told_to_collect():
    flat, near = [0.7, 0.75, 0.759, 0.76], [0.7, 0.72, 0.74, 0.76]
    assert "train more of the model" in target(flat, 0.9, sd=0.001).advice
    assert "collect more images" in target(near, 0.8, sd=0.001).advice


def test_target_inside_the_noise():
    found = target([0.5, 0.6, 0.7, 0.8], 0.81, sd=0.02)
    assert (found.status, found.k_star) == ("cannot_tell", None)


def test_target_of_a_loss_is_met_from_above():
    found = target([1.0, 0.5, 0.3, 0.2], 0.4, name="heldout_loss_target", higher=False)
    assert (found.status, found.k_star) == ("reached", 200)
    assert "target of 0.4 nats" in found.reason


def test_target_with_unknown_repeats():
    assert target([0.5, 0.8, 0.85, 0.9], 0.8, known=False).status == "cannot_tell"


def test_to_dict_has_the_keys_of_the_result_file():
    assert set(gain([0.5, 0.8, 0.805, 0.807]).to_dict()) == {
        "status", "k_star", "low", "high", "epsilon", "assumes", "is_null", "reason",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"level": 1.5}, "level is 1.5"),
        ({"sizes": [50, 100, 100, 400]}, "sizes is"),
        ({"mean": [0.5, 0.6]}, "mean 2"),
        ({"draws": np.zeros((3, 2))}, r"draws has shape \(3, 2\)"),
        ({"draws": np.full((3, 4), np.nan)}, "not finite"),
        ({"mean": [0.5, np.nan, 1, 1]}, r"mean\[1\] is nan"),
    ],
)
def test_bad_input_is_named(change, match):
    given = {"sizes": SIZES, "draws": np.zeros((3, 4)), "mean": [0.5, 0.6, 0.7, 0.8], "epsilon": 0.01, "level": 0.9}
    given |= change
    with pytest.raises(InputError, match=match):
        gain_criterion(
            "accuracy", given.pop("sizes"), given.pop("draws"), given.pop("mean"), **given, higher_is_better=True,
            repeats_known=True,
        )  # fmt: skip
