"""Classes that are short of data, classes with too few images, models that learned nothing, and what more would do."""

import numpy as np
import pytest

from stillscape.convergence import bootstrap_curve, heldout_draws, measured_scores
from stillscape.sufficiency import assemble, class_statuses, classes_sentence, gains, interval_outlook, shared_variance

SIZES = [50, 100, 200]
CLASSES = ("moss", "rust", "fern")


def hits(shares, counts, repeats=4, seed=0):
    """Hits of each class at its shares; one hidden difficulty for each image."""
    rng = np.random.default_rng(seed)
    parts, labels = [], []
    for number, (share, count) in enumerate(zip(shares, counts, strict=True)):
        difficulty = rng.permutation((np.arange(count) + 0.5) / count)
        luck = 0.95 * difficulty + 0.05 * rng.random((repeats, 1, count))
        parts.append(luck <= np.asarray(share)[None, :, None])
        labels += [number] * count
    return np.concatenate(parts, axis=2), np.array(labels)


def statuses(shares, counts, repeats=4, **given):
    values, labels = hits(shares, counts, repeats)
    return class_statuses(
        values, labels, CLASSES, sizes=SIZES, permutation_ids=np.arange(repeats), seed_ids=np.zeros(repeats),
        **({"groups": None, "epsilon": 0.03, "level": 0.9, "draws": 400} | given),
    )  # fmt: skip


def test_short_enough_and_too_few_to_tell():
    rows = statuses([[0.5, 0.6, 0.75], [0.8, 0.9, 0.9], [0.5, 0.6, 0.7]], [600, 600, 8])
    assert [row["status"] for row in rows] == ["short", "enough", "cannot_tell"]
    assert [row["count"] for row in rows] == [600, 600, 8]
    assert all(
        low <= r <= high for row in rows for low, r, high in zip(row["low"], row["recall"], row["high"], strict=True)
    )
    said = classes_sentence(rows, 0.03, level=0.9)
    assert "more than 3 points for moss, not for rust, it can't be told for fern" in said
    assert said.count(".") == 1


def test_classes_of_no_image_one_image_and_no_change():
    rows = statuses([[0.5, 0.6, 0.7], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]], [300, 30, 1])
    assert [row["status"] for row in rows] == ["short", "cannot_tell", "cannot_tell"]  # 30 right ones prove no 3 points
    assert rows[1]["gain"]["high"] > 0.03
    none = statuses([[0.5, 0.6, 0.7], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]], [300, 300, 0])
    assert none[1]["status"] == "enough"
    assert none[2]["recall"] == [None] * 3


def test_one_permutation_tells_nothing():
    rows = statuses([[0.5, 0.6, 0.75]] * 3, [600] * 3, repeats=1)
    assert {row["status"] for row in rows} == {"cannot_tell"}


def test_groups_count_as_one_image():
    alone = statuses([[1.0, 1.0, 1.0]] * 3, [400] * 3)
    grouped = statuses([[1.0, 1.0, 1.0]] * 3, [400] * 3, groups=np.arange(1200) // 40)
    assert {row["status"] for row in alone} == {"enough"}
    assert {row["status"] for row in grouped} == {"cannot_tell"}


def test_claims_hold_over_all_classes_together():
    """Gains just at the tolerance: no class may be called short or enough more often than the level allows, in all."""
    names, wrong, trials = tuple(map(str, range(12))), 0, 60
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        values = rng.random((4, 2, 12 * 50)) < np.array([0.5, 0.6])[None, :, None]
        rows = class_statuses(
            values, np.repeat(np.arange(12), 50), names, sizes=[50, 100], groups=None, permutation_ids=np.arange(4),
            seed_ids=np.zeros(4), epsilon=0.1, level=0.9, draws=400,
        )  # fmt: skip
        wrong += any(row["status"] != "cannot_tell" for row in rows)
    assert wrong / trials <= 0.1 + 3 * np.sqrt(0.09 / trials)


# ---- a model that has learned nothing


def panel(values, baseline, **question):
    asked = {"metric": "accuracy", "epsilon": 0.03, "epsilon_loss": 0.05, "target": None, "level": 0.9} | question
    return assemble(
        "head", question=asked, sizes=SIZES, scores={"accuracy": values, "heldout_loss": np.ones(values.shape)},
        groups=None, permutation_ids=np.arange(len(values)), seed_ids=np.zeros(len(values)), baseline=baseline,
        draws=400,
    ).result  # fmt: skip


@pytest.mark.parametrize("question", [{}, {"target": 0.5}, {"cost_per_image": 1.0, "value_per_point": 1.0}])
def test_a_flat_curve_at_the_baseline_is_never_reached(question):
    values, _ = hits([[0.6, 0.6, 0.6]], [800])
    learned = panel(values, 0.4, **question)
    assert learned["verdict"]["status"] == "reached"
    assert learned["baseline"]["above"]
    nothing = panel(values, 0.6, **question)
    assert nothing["verdict"]["status"] == "cannot_tell"
    assert nothing["verdict"]["k_star"] is None
    assert "not above the 60 % of always naming the most frequent class" in nothing["verdict"]["sentence"]
    assert "reached" not in {c["status"] for n, c in nothing["criteria"].items() if n.startswith("accuracy")}


def test_a_rising_curve_under_the_baseline_says_so():
    values, _ = hits([[0.3, 0.4, 0.5]], [800])
    found = panel(values, 0.6)["verdict"]
    assert found["status"] == "not_reached"
    assert "Beware: at 200 images accuracy is 50" in found["sentence"]


# ---- what more would do


def test_the_outlook_is_what_more_data_would_do():
    """The prediction from few images and repeats against the width that twice as many have, on average."""

    def one(images, repeats, seed):
        rng = np.random.default_rng(seed)
        moves = rng.normal(0, 0.02, repeats)
        base = rng.random((1, 1, images))
        values = (base + 0.2 * rng.random((repeats, 2, images))) < 0.7 + np.stack(
            [np.zeros(repeats), 0.05 + moves], axis=1
        )[:, :, None]
        ids, zeros = np.arange(repeats), np.zeros(repeats)
        draws = bootstrap_curve(values, None, ids, zeros, 600, seed)
        scores = measured_scores(values, None, ids, zeros)
        (step,) = gains([100, 200], draws, scores.mean(axis=0), 0.9, True)
        now = (step["high"] - step["low"]) / 2
        heldout = heldout_draws(values, None, ids, 600, seed)
        return interval_outlook(
            [100, 200], heldout, scores, ids, level=0.9, now=now, shared=shared_variance(values, [100, 200], None, ids)
        )

    few = [one(200, 4, seed) for seed in range(60)]
    mean = {name: np.mean([found[name] for found in few]) for name in few[0]}
    more_images = np.mean([one(400, 4, seed)["now"] for seed in range(60)])
    more_repeats = np.mean([one(200, 8, seed)["now"] for seed in range(60)])
    assert mean["twice_heldout"] == pytest.approx(more_images, rel=0.15)
    assert mean["twice_repeats"] == pytest.approx(more_repeats, rel=0.15)
    assert max(mean["twice_heldout"], mean["twice_repeats"]) < mean["now"]


def test_no_outlook_from_one_permutation():
    assert interval_outlook([5, 10], np.zeros((9, 2)), np.zeros((2, 2)), [0, 0], level=0.9, now=0.1) is None
