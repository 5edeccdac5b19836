"""What a doctor or a manager reads."""

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape.sufficiency import Criterion, adaptation_verdict, in_words, overall_verdict
from stillscape.sufficiency.wording import amount, span, value

QUESTION = {"metric": "accuracy", "epsilon": 0.01, "epsilon_loss": 0.05, "target": None, "level": 0.9}
GAINS = [
    {"from": 50, "to": 100, "mean": 0.08, "low": 0.06, "high": 0.1},
    {"from": 100, "to": 200, "mean": 0.006, "low": -0.002, "high": 0.012},
    {"from": 200, "to": 400, "mean": 0.004, "low": -0.003, "high": 0.009},
]


def criterion(name="accuracy", status="reached", k_star=100, low=100, high=200, null=False, bound=False):
    if status != "reached":
        k_star = low = high = None
    return Criterion(name, status, k_star, low, high, 0.01, (), null, f"WHY {name}", f"DO {name}", bound)


def sentence(*criteria, question=QUESTION, steps=GAINS):
    return adaptation_verdict("lora:4", {c.name: c for c in criteria}, steps, question)["sentence"]


def test_reached_in_full():
    assert sentence(criterion(), criterion("heldout_loss")) == (
        "For LoRA of rank 4, 100 images are enough: from there on no doubling of the data that was tried raised "
        "accuracy by more than 1 point. At 90 % confidence the number lies between 100 and 200 images. "
        "To be on the safe side, plan with 200. The last doubling, from 200 to 400 images, changed accuracy by "
        "+0.4 points (90 % interval: -0.3 to +0.9 points). Together, the doublings from 100 to 400 images changed it "
        "by +1 point. The held-out loss agrees: 100 images by that measure."
    )


def test_the_fewest_tried_is_said():
    assert "50 images, the fewest tried, are enough" in sentence(criterion(k_star=50, low=50, high=50))


def test_only_votes_are_named():
    voters = criterion("fixed_surface", null=True), criterion("theorem3_rigorous", bound=True)
    text = sentence(criterion(), *voters, criterion("heldout_loss", "cannot_tell"))
    assert text == sentence(criterion())


@pytest.mark.parametrize(
    ("deciding", "other", "says"),
    [
        ("reached", criterion("heldout_loss", "not_reached"), "The held-out loss disagrees: WHY heldout_loss."),
        ("reached", criterion("heldout_loss", k_star=400, low=400, high=400), "another number: 400 images"),
        ("not_reached", criterion("heldout_loss", "not_reached"), "The held-out loss agrees that it is not yet enough"),
        ("not_reached", criterion("heldout_loss"), "The held-out loss disagrees: 100 images would be enough"),
        ("cannot_tell", criterion("heldout_loss"), "The held-out loss says yes: 100 images would be enough"),
        ("cannot_tell", criterion("heldout_loss", "not_reached"), "The held-out loss says not yet: WHY heldout_loss"),
    ],
)
def test_agreement_and_conflict(deciding, other, says):
    assert says in sentence(criterion(status=deciding), other)


def test_not_reached_says_what_to_do():
    text = sentence(criterion(status="not_reached"))
    assert text == "For LoRA of rank 4, 400 images are not yet enough: WHY accuracy. What to do: DO accuracy."


def test_cannot_tell_says_why_and_what_would_help():
    text = sentence(criterion(status="cannot_tell"))
    assert "this run cannot tell how many images are enough: WHY accuracy. What would help: DO accuracy." in text


def test_worse_with_more_is_said():
    worse = [{"from": 200, "to": 400, "mean": -0.1, "low": -0.12, "high": -0.08}]
    assert "more images made it worse" in sentence(criterion(k_star=200), steps=worse)


def test_target_decides_where_there_is_one():
    question = QUESTION | {"target": 0.9}
    met = sentence(criterion("accuracy_target"), criterion("accuracy", "not_reached"), question=question)
    assert "100 images are enough for the target of 90 % in accuracy" in met
    assert "More data still helps: WHY accuracy." in met
    assert "fewest" not in met


def test_a_flat_curve_under_its_target_says_both():
    question = QUESTION | {"target": 0.99}
    text = sentence(criterion("accuracy_target", "not_reached"), criterion(), question=question)
    assert "What to do: DO accuracy_target." in text
    assert "From 100 images on, a doubling no longer raises accuracy by more than 1 point." in text


def test_verdict_repeats_the_deciding_numbers():
    found = adaptation_verdict("head", {"accuracy": criterion()}, GAINS, QUESTION)
    assert (found["status"], found["k_star"], found["low"], found["high"]) == ("reached", 100, 100, 200)
    assert set(found) == {"status", "k_star", "low", "high", "sentence"}


def test_missing_criterion_is_named():
    with pytest.raises(InputError, match="no 'accuracy'"):
        adaptation_verdict("head", {"heldout_loss": criterion("heldout_loss")}, GAINS, QUESTION)


# ---- several adaptations


def result(adapt, status="reached"):
    verdict = {"status": status, "k_star": 100, "low": 100, "high": 200, "sentence": f"VERDICT {adapt}."}
    return {"adapt": adapt, "verdict": verdict}


def overall(**scores):
    names = {"head": "head", "lora": "lora:4", "block": "last-layers:1", "full": "full"}
    rng = np.random.default_rng(0)
    draws = {names[name]: mean + sd * rng.normal(size=4000) for name, (mean, sd) in scores.items()}
    return overall_verdict([result(name) for name in draws], draws, level=0.9)


def test_clear_winner():
    found = overall(head=(0.8, 0.01), lora=(0.9, 0.01))
    assert found["adapt"] == "lora:4"
    assert found["sentence"] == (
        "VERDICT lora:4. LoRA of rank 4 did best, with 90 % in accuracy at the largest size, and is better than every "
        "other way of training with a probability of more than 99 %."
    )


def test_within_noise_the_simplest_is_taken():
    found = overall(full=(0.902, 0.02), block=(0.901, 0.02), head=(0.9, 0.02), lora=(0.7, 0.01))
    assert found["adapt"] == "head"
    assert found["sentence"].startswith("VERDICT head.")
    assert "cannot be told from" in found["sentence"]
    assert "The simplest of them is training the head alone" in found["sentence"]
    assert "LoRA" not in found["sentence"]


def test_order_of_simplicity():
    assert overall(full=(0.9, 0.02), block=(0.9, 0.02))["adapt"] == "last-layers:1"
    assert overall(block=(0.9, 0.02), lora=(0.9, 0.02))["adapt"] == "lora:4"


def test_equal_draws_count_as_a_toss():
    same = np.full(50, 0.9)
    found = overall_verdict([result("full"), result("lora:8"), result("lora:2")], dict.fromkeys(
        ["full", "lora:8", "lora:2"], same))  # fmt: skip
    assert found["adapt"] == "lora:2"


def test_losses_are_better_when_low():
    draws = {"head": np.linspace(0.5, 0.6, 50), "full": np.linspace(0.1, 0.2, 50)}
    found = overall_verdict([result("head"), result("full")], draws, metric="heldout_loss", higher_is_better=False)
    assert found["adapt"] == "full"
    assert "0.15 nats in the held-out loss" in found["sentence"]


def test_one_adaptation_keeps_its_own_sentence():
    found = overall(lora=(0.9, 0.01))
    assert (found["adapt"], found["sentence"], found["status"]) == ("lora:4", "VERDICT lora:4.", "reached")


def test_draws_must_match():
    with pytest.raises(InputError, match="best_draws has"):
        overall_verdict([result("head"), result("full")], {"head": np.zeros(3)})
    with pytest.raises(InputError, match="best_draws has"):
        overall_verdict([result("head"), result("full")], {"head": np.zeros(3), "full": np.zeros(4)})


# ---- numbers in words


@pytest.mark.parametrize(
    ("metric", "difference", "text"),
    [
        ("accuracy", 0.01, "1 point"),
        ("accuracy", 0.0004, "0.04 points"),
        ("accuracy", 0.1, "10 points"),
        ("heldout_loss", 0.05, "0.05 nats"),
        ("heldout_loss", 0.0001234, "0.00012 nats"),
        ("auroc", 0.012, "0.012"),
    ],
)
def test_tolerances_are_never_rounded_away(metric, difference, text):
    assert amount(metric, difference) == text


def test_small_changes_are_rounded_and_never_minus_zero():
    assert amount("accuracy", -0.0001, signed=True) == "0 points"
    assert span("accuracy", -0.01, 0.0001) == "-1 to 0 points"
    assert value("accuracy", 1.0) == "100 %"


def test_adaptations_in_words():
    assert in_words("last-layers:2") == "training the last 2 blocks"
    assert in_words("something") == "something"
