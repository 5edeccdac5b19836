"""From arrays to the whole answer, on data whose answer is known."""

import json

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape.convergence import Curve
from stillscape.sufficiency import assemble, fixed_surface_criterion, overall_verdict

SIZES = [50, 100, 200, 400]
QUESTION = {"metric": "accuracy", "epsilon": 0.03, "epsilon_loss": 0.05, "target": None, "level": 0.9}


def scores(accuracy, losses, repeats=5, images=1500, seed=0):
    """Hits from one hidden difficulty for each image, so that sizes and repeats are paired as in life."""
    rng = np.random.default_rng(seed)
    difficulty = rng.random(images)
    hits = np.empty((repeats, len(accuracy), images))
    for repeat in range(repeats):
        luck = 0.9 * difficulty + 0.1 * rng.random(images)
        for at, share in enumerate(accuracy):
            hits[repeat, at] = luck <= np.quantile(luck, share + rng.normal(0, 0.002))
    return {"accuracy": hits, "heldout_loss": np.multiply.outer(np.ones(repeats), np.outer(losses, 2 * difficulty))}


def panel(measured, adapt="head", **kwargs):
    repeats = len(measured["accuracy"])
    given = {"question": QUESTION, "groups": None, "permutation_ids": np.arange(repeats), "seed_ids": np.zeros(repeats)}
    return assemble(adapt, sizes=SIZES, scores=measured, draws=400, **(given | kwargs))


@pytest.mark.parametrize("asked", [{}, {"target": 0.8}])
def test_intervals_together_are_those_of_stricter_levels(asked):
    """The row for n intervals is what the same data say at 1 - (1 - level) / n; they widen with n."""
    rng = np.random.default_rng(3)
    hits = rng.random((6, 4, 300)) < np.array([0.7, 0.82, 0.85, 0.855])[:, None]
    question = {"metric": "accuracy", "epsilon": 0.05, "epsilon_loss": 0.1, "target": None, "level": 0.8, **asked}
    given = {"sizes": [50, 100, 200, 400], "scores": {"accuracy": hits}, "groups": None,
             "permutation_ids": [0, 0, 1, 1, 2, 2], "seed_ids": [0, 1] * 3}  # fmt: skip
    rows = assemble("head", question=question, **given).result["joint"]
    assert [row["intervals"] for row in rows] == list(range(2, 13))
    for row in rows:
        level = 1 - (1 - 0.8) / row["intervals"]
        alone = assemble("head", question={**question, "level": level}, **given).result["verdict"]
        assert (alone["status"], alone["low"], alone["high"]) == (row["status"], row["low"], row["high"])


def test_a_flat_curve_is_reached_and_a_rising_one_is_not():
    flat = panel(scores([0.7, 0.89, 0.9, 0.905], [0.5, 0.3, 0.28, 0.27])).result
    assert (flat["verdict"]["status"], flat["verdict"]["k_star"]) == ("reached", 100)
    rising = panel(scores([0.6, 0.7, 0.8, 0.9], [0.8, 0.6, 0.4, 0.2])).result
    assert rising["verdict"]["status"] == "not_reached"
    assert "The held-out loss agrees that it is not yet enough" in rising["verdict"]["sentence"]


def test_result_is_plain_json_of_the_agreed_shape():
    losses = np.random.default_rng(0).exponential(size=100)
    extra = fixed_surface_criterion(losses, epsilon=0.01)
    curve = Curve([1, 2], [0.2, 0.1], None, None, "identity", "nats")
    found = panel(
        scores([0.7, 0.8, 0.81, 0.82], [0.5, 0.4, 0.4, 0.4], images=300),
        extra_criteria=[extra],
        extra_curves={"fixed_surface": curve},
        question=QUESTION | {"target": 0.75},
    ).result
    found = json.loads(json.dumps(found, allow_nan=False))
    assert set(found) == {"adapt", "verdict", "criteria", "curves", "joint", "gains", "noise_floor", "variance"} | {
        "outlook",
        "baseline",
        "forecast",
        "stability",
    }
    assert set(found["criteria"]) == {"accuracy", "heldout_loss", "accuracy_target", "fixed_surface"}
    assert set(found["curves"]) == {"accuracy", "accuracy_forecast", "heldout_loss", "fixed_surface"}
    assert found["curves"]["accuracy"]["unit"] == "share"
    assert [row["k"] for row in found["variance"]] == SIZES
    assert [row["seeds"] for row in found["variance"]] == [None] * 4
    assert found["verdict"]["k_star"] == found["criteria"]["accuracy_target"]["k_star"]


def test_noise_floor_is_the_standard_error_of_the_held_out_mean():
    measured = scores([0.7, 0.8, 0.81, 0.82], [0.5, 0.4, 0.4, 0.4])
    found = assemble(
        "head", question=QUESTION, sizes=SIZES, scores=measured, groups=None, permutation_ids=np.arange(5),
        seed_ids=np.zeros(5), draws=4000,
    ).result["noise_floor"]  # fmt: skip
    for name, key in (("accuracy", "metric"), ("heldout_loss", "heldout_loss")):
        expected = measured[name][:, -1].mean(axis=0).std(ddof=1) / np.sqrt(1500)
        assert found[key] == pytest.approx(expected, rel=0.06)


def test_same_seed_same_result():
    measured = scores([0.7, 0.8, 0.81, 0.82], [0.5, 0.4, 0.4, 0.4], images=200)
    assert panel(measured).result == panel(measured).result


def test_one_permutation_cannot_tell():
    found = panel(scores([0.7, 0.9, 0.9, 0.9], [0.5, 0.3, 0.3, 0.3], repeats=1)).result
    assert found["verdict"]["status"] == "cannot_tell"
    assert found["variance"][0]["permutations"] is None


def test_all_right_on_few_images_is_not_proof():
    """Every held-out image right at the last two sizes: no scatter at all, and yet 40 images are too few to say."""
    hits = np.ones((3, 4, 40))
    hits[:, 0, :10] = 0
    measured = {"accuracy": hits, "heldout_loss": np.ones_like(hits)}
    assert panel(measured).result["criteria"]["accuracy"]["status"] == "cannot_tell"
    many = {name: np.repeat(values, 10, axis=2) for name, values in measured.items()}
    assert panel(many).result["criteria"]["accuracy"]["status"] == "reached"
    # Ten copies of each image are one group, and so are no more than 40 images.
    grouped = panel(many, groups=np.repeat(np.arange(40), 10)).result
    assert grouped["criteria"]["accuracy"]["status"] == "cannot_tell"


def test_panels_of_two_adaptations_are_paired():
    base = scores([0.7, 0.89, 0.9, 0.905], [0.5, 0.3, 0.28, 0.27], images=400)
    better = {"accuracy": base["accuracy"].copy(), "heldout_loss": base["heldout_loss"]}
    wrong = np.flatnonzero((better["accuracy"][:, -1] == 0).all(axis=0))[:12]
    better["accuracy"][:, -1, wrong] = 1
    a, b = panel(base, "head"), panel(better, "lora:4")
    # Each adaptation's own noise is larger than the 3 points between them; paired, the difference is plain.
    found = overall_verdict([a.result, b.result], {"head": a.best_draws, "lora:4": b.best_draws})
    assert found["adapt"] == "lora:4"
    assert np.mean(b.best_draws > a.best_draws) > 0.99


def test_missing_metric_is_named():
    measured = scores([0.7, 0.8, 0.81, 0.82], [0.5, 0.4, 0.4, 0.4], images=50)
    with pytest.raises(InputError, match="scores lacks auroc; it has accuracy, heldout_loss"):
        panel(measured, question=QUESTION | {"metric": "auroc"})


def test_a_model_without_probabilities_has_no_loss_and_an_answer_all_the_same():
    measured = scores([0.7, 0.89, 0.9, 0.905], [0.5, 0.3, 0.28, 0.27])
    with_loss = panel(measured).result
    del measured["heldout_loss"]
    found = panel(measured).result
    assert set(found["criteria"]) == {"accuracy"}
    assert set(found["curves"]) <= {"accuracy", "accuracy_forecast"}
    assert set(found["noise_floor"]) == {"metric"}
    assert found["verdict"]["k_star"] == with_loss["verdict"]["k_star"]
