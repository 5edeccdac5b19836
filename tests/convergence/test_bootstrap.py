"""Coverage by simulation, pairing, and what few repeats may and may not claim."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stillscape._errors import InputError
from stillscape.convergence import (
    bootstrap_curve,
    heldout_draws,
    mean_over_repeats,
    measured_scores,
    repeats_known,
    training_draws,
    variance_components,
)


def simulate(rng, permutations, images, training_sd, image_sd, seeds=1, seed_sd=0.0, group=1):
    """Scores (R, 3, n) around the truth 0, 0.1, 0.2: effects of permutation x size, seed, image x size, and groups."""
    truth = np.array([0.0, 0.1, 0.2])
    of_permutation = rng.normal(0, training_sd, (permutations, 1, 3, 1))
    of_seed = rng.normal(0, seed_sd, (permutations, seeds, 3, 1))
    shared = np.repeat(rng.normal(0, 1, (3, images // group)), group, axis=1)
    of_image = image_sd * np.sqrt(0.5) * (shared + rng.normal(0, 1, (3, images)))
    scores = truth[:, None] + of_permutation + of_seed + of_image
    ids = np.repeat(np.arange(permutations), seeds)
    return scores.reshape(-1, 3, images), ids, np.tile(np.arange(seeds), permutations), truth


def coverage(simulations, level=0.9, draws=300, grouped=False, **kwargs):
    """Share of simulations whose interval holds the truth: of the last score, and of the last gain."""
    rng = np.random.default_rng(0)
    inside = np.zeros((simulations, 2))
    for run in range(simulations):
        scores, ids, seeds, truth = simulate(rng, **kwargs)
        groups = np.arange(scores.shape[-1]) // kwargs.get("group", 1) if grouped else None
        drawn = bootstrap_curve(scores, groups, ids, seeds, draws=draws, seed=run)
        for at, (values, true) in enumerate(
            [(drawn[:, 2], truth[2]), (drawn[:, 2] - drawn[:, 1], truth[2] - truth[1])]
        ):
            low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            inside[run, at] = low <= true <= high
    return inside.mean(axis=0)


@pytest.mark.parametrize(
    "case",
    [
        {"permutations": 3, "images": 60, "training_sd": 0.2, "image_sd": 0.1},
        {"permutations": 5, "images": 60, "training_sd": 0.02, "image_sd": 1.0},
        {"permutations": 4, "images": 60, "training_sd": 0.1, "image_sd": 0.8, "seeds": 2, "seed_sd": 0.2},
    ],
    ids=["training noise", "image noise", "both, with seeds"],
)
def test_intervals_cover(case):
    # 300 runs: four standard errors of a share of 0.9 are 0.07.
    assert np.all(np.abs(coverage(300, **case) - 0.9) < 0.07)


@pytest.mark.slow
@pytest.mark.parametrize("permutations", [2, 3, 5, 10])
@pytest.mark.parametrize(("training_sd", "image_sd"), [(0.2, 0.01), (0.0, 1.0)], ids=["training", "images"])
def test_intervals_cover_fully(permutations, training_sd, image_sd):
    found = coverage(1000, draws=400, permutations=permutations, images=80, training_sd=training_sd, image_sd=image_sd)
    # Three standard errors of a share of 0.9 in 1000 runs, and a little for the quantiles of 400 draws.
    assert np.all(np.abs(found - 0.9) < 0.035), found


@pytest.mark.slow
@pytest.mark.parametrize("permutations", [2, 3, 5, 10])
def test_intervals_of_mixed_noise_err_on_the_wide_side(permutations):
    found = coverage(1000, draws=400, permutations=permutations, images=80, training_sd=0.1, image_sd=0.8)
    assert np.all((found > 0.875) & (found < 0.985)), found


def test_grouped_images_need_grouped_draws():
    """Six images a patient: drawing patients covers, drawing single images claims too much."""
    case = {"permutations": 5, "images": 120, "training_sd": 0.01, "image_sd": 1.0, "group": 6}
    assert np.all(coverage(300, grouped=True, **case) > 0.83)
    assert np.all(coverage(300, grouped=False, **case) < 0.75)


def test_training_quantiles_are_students():
    """Exactly: any contrast of the draws is t with P - 1 degrees of freedom around 0, scaled by s / sqrt(P)."""
    scores = np.array([[0.0, 1.0], [0.5, 1.9], [0.2, 1.1], [0.9, 1.2]])
    drawn = training_draws(scores, [0, 1, 2, 3], [0, 0, 0, 0], draws=40_000, seed=1)
    contrast, measured = drawn[:, 1] - drawn[:, 0], scores[:, 1] - scores[:, 0]
    scale = measured.std(ddof=1) / 2
    for share in (0.05, 0.25, 0.75, 0.95):
        assert np.quantile(contrast / scale, share) == pytest.approx(stats.t(3).ppf(share), abs=0.06)


def test_heldout_variance_is_the_sample_variance_over_n():
    scores = np.random.default_rng(0).exponential(size=(1, 2, 40))
    drawn = heldout_draws(scores, None, [0], draws=20_000)
    np.testing.assert_allclose(drawn.std(axis=0), scores[0].std(axis=1, ddof=1) / np.sqrt(40), rtol=0.03)


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_know_nothing_of_data_made_with_the_same_seed(seed):
    """default_rng([0, 0]) is default_rng(0): weights from it would follow data that were made with it."""
    data = np.random.default_rng(seed).random((1, 1, 1500))
    drawn = heldout_draws(data, None, [0], draws=400, seed=seed)
    assert drawn.std() == pytest.approx(data.std() / np.sqrt(1500), rel=0.15)


def test_sizes_are_paired():
    """Two sizes with the same outcomes on every image never differ, however noisy each is."""
    hits = (np.random.default_rng(0).random((3, 1, 50)) < 0.7).astype(float)
    drawn = bootstrap_curve(np.repeat(hits, 2, axis=1), None, [0, 1, 2], [0, 0, 0], draws=50)
    np.testing.assert_allclose(drawn[:, 0], drawn[:, 1], atol=1e-12)
    assert drawn[:, 0].std() > 0.01


def test_adaptations_are_paired_and_a_repeat_more_keeps_the_images():
    rng = np.random.default_rng(0)
    first, more = rng.random((2, 2, 30)), rng.random((3, 2, 30))
    more[:2] = first
    a = heldout_draws(first[:1], None, [0], draws=5, seed=3)
    np.testing.assert_allclose(a, heldout_draws(more[:1], None, [0], draws=5, seed=3))
    shifted = bootstrap_curve(first + 0.25, None, [0, 1], [0, 0], draws=20, seed=3)
    np.testing.assert_allclose(shifted - bootstrap_curve(first, None, [0, 1], [0, 0], draws=20, seed=3), 0.25)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 4), st.booleans())
def test_a_function_of_weights_agrees_with_values(seed, repeats, grouped):
    values = np.random.default_rng(seed).random((repeats, 2, 12))
    groups = np.arange(12) // (3 if grouped else 1)
    ids = np.arange(repeats), np.zeros(repeats)

    def weighted(weights):
        return values @ weights / weights.sum()

    by_function = bootstrap_curve(weighted, groups, *ids, draws=7, seed=seed)
    np.testing.assert_allclose(by_function, bootstrap_curve(values, groups, *ids, draws=7, seed=seed), atol=1e-12)


def test_undefined_draws_are_drawn_anew():
    labels = np.array([0, 0, 1, 1])

    def share_of_ones(weights):
        if not weights[labels == 1].any() or not weights[labels == 0].any():
            return np.full((1, 1), np.nan)
        return np.full((1, 1), weights[labels == 1].sum() / weights.sum())

    assert np.isfinite(heldout_draws(share_of_ones, np.arange(4), [0], draws=50)).all()

    def only_as_it_is(weights):
        return np.full((1, 1), 0.5 if np.all(weights == 1) else np.nan)

    with pytest.raises(InputError, match="undefined under most draws"):
        heldout_draws(only_as_it_is, np.arange(40), [0], draws=5)


def test_a_single_repeat_has_no_training_noise_and_says_so():
    assert not repeats_known([4, 4])
    assert repeats_known([4, 5])
    assert np.all(training_draws(np.array([[0.1, 0.9]]), [0], [0], draws=9) == 0)
    assert training_draws(np.array([[0.1, 0.9], [0.2, 0.8]]), [0, 0], [0, 1], draws=9).std() > 0


def test_each_permutation_counts_alike():
    assert mean_over_repeats(np.array([0.0, 0.0, 0.0, 1.0]), [7, 7, 7, 9]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("score", "groups", "ids", "match"),
    [
        (np.ones((2, 3, 4)), None, ([0], [0]), r"score gives shape \(2, 3\)"),
        (np.ones((2, 3, 4)), None, ([0, 0], [1, 1]), "name a repeat twice"),
        (np.full((1, 2, 3), np.nan), None, ([0], [0]), r"score\[0, 0\] is nan"),
        (np.ones((1, 2, 3)), [0, 1], ([0], [0]), "groups has 2 codes for 3"),
        (np.ones((1, 2, 3)), [5, 5, 5], ([0], [0]), "single group"),
        (lambda weights: np.ones((1, 1)), None, ([0], [0]), "groups is None"),
    ],
)
def test_bad_input_is_named(score, groups, ids, match):
    with pytest.raises(InputError, match=match):
        bootstrap_curve(score, groups, *ids, draws=3)


def test_measured_scores_are_plain_means():
    values = np.random.default_rng(0).random((2, 3, 5))
    np.testing.assert_allclose(measured_scores(values, None, [0, 1], [0, 0]), values.mean(axis=2))


def test_variance_components_find_what_was_put_in():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        scores = rng.normal(0, 0.3, (6, 1, 1)) + rng.normal(0, 0.2, (1, 5, 1)) + rng.normal(0, 0.1, (6, 5, 1))
        parts = variance_components(scores)
        found.append([parts.permutations[0] ** 2, parts.seeds[0] ** 2, parts.interaction[0] ** 2])
    np.testing.assert_allclose(np.mean(found, axis=0), [0.09, 0.04, 0.01], rtol=0.12)


def test_variance_components_by_hand():
    # Rows 1, 1 and 3, 3: permutation means 1 and 3 with variance 2; seeds and rest add nothing.
    parts = variance_components(np.array([[[1.0], [1.0]], [[3.0], [3.0]]]))
    assert parts.permutations[0] == pytest.approx(np.sqrt(2))
    assert parts.seeds[0] == 0
    assert parts.interaction[0] == pytest.approx(0)
    # Pure interaction: the plain variances of the means are 0, so the mean squares' difference is clipped.
    crossed = variance_components(np.array([[[1.0], [-1.0]], [[-1.0], [1.0]]]))
    assert crossed.permutations[0] == crossed.seeds[0] == 0
    assert crossed.interaction[0] == pytest.approx(2)


def test_variance_of_one_permutation_or_one_seed():
    one_seed = variance_components(np.array([[[1.0]], [[3.0]]]))
    assert one_seed.permutations[0] == pytest.approx(np.sqrt(2))
    assert one_seed.seeds is None
    one_permutation = variance_components(np.array([[[1.0], [3.0]]]))
    assert one_permutation.permutations is None
    assert one_permutation.seeds[0] == pytest.approx(np.sqrt(2))
    with pytest.raises(InputError, match="every score finite"):
        variance_components(np.array([[[np.nan]]]))
