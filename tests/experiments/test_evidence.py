"""What surfaces say of more data, measured on a run: stored, taken up, the same twice, and without a vote."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from stillscape._errors import InputError
from stillscape.evidence import SoftmaxHead, leave_one_out_losses
from stillscape.experiments import Cell, Silent, Store, make_plan, measure_evidence, run, set_up
from stillscape.experiments.evidence import missing_parts, parts_of

FAST = {"last-layers": {"steps": 4, "batch": 8}, "lora": {"steps": 4, "batch": 8}}
CHEAP = {"optimism_gap", "optimism_gain", "heldout_loss_gain"}
HEAD = {"takeuchi_gain", "next_doubling_gain", "alo_loss"}
DEEP = {"takeuchi_gain", "split_half_hessian", "split_half_gradient", "moving_optimum", "moving_optimum_null"}


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return make_plan(
        data=str(photos), model=str(tiny_vit), adapt=["head", "lora:2"], sizes=[6, 12, 24], repeats=2, seeds=1,
        folds=2, recipes=FAST, workers=1, probe_images=12, curvature_images=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence") / "out"
    return run(plan, folder), folder


@pytest.fixture(scope="module")
def rows(finished):
    return measure_evidence(finished[1])


def test_a_run_measures_what_is_cheap_and_gives_it_no_vote(finished):
    result, _ = finished
    head, lora = result["results"]
    assert head["curves"].keys() >= CHEAP | HEAD
    assert lora["curves"].keys() >= CHEAP
    assert not HEAD & lora["curves"].keys()
    for entry in result["results"]:
        gap, quarter = entry["curves"]["optimism_gap"], entry["curves"]["optimism_gain"]
        loss = np.array(entry["curves"]["heldout_loss"]["mean"]) - entry["curves"]["train_loss"]["mean"]
        np.testing.assert_allclose(gap["mean"], loss, atol=1e-12)
        np.testing.assert_allclose(np.array(quarter["mean"]) * 4, gap["mean"])
        assert entry["evidence"].keys() <= entry["curves"].keys()
        assert all(meaning["votes"] is False and meaning["meaning"] for meaning in entry["evidence"].values())
        assert entry["criteria"]["optimism_gain"]["assumes"]
        assert "optimism" not in entry["verdict"]["sentence"]
    assert head["criteria"]["next_doubling_gain"]["status"] in {"reached", "not_reached", "cannot_tell"}


def test_measured_gain_is_the_fall_of_the_loss(finished):
    for entry in finished[0]["results"]:
        loss, gain = entry["curves"]["heldout_loss"], entry["curves"]["heldout_loss_gain"]
        assert gain["k"] == [6, 12]
        np.testing.assert_allclose(gain["mean"], -np.diff(loss["mean"]), atol=1e-12)


def test_the_table_has_every_quantity_of_every_cell(rows):
    assert rows[0].keys() == {"adapt", "k", "permutation", "seed", "quantity", "value", "stderr"}
    for adapt, sizes in (("head", [6, 12, 24]), ("lora:2", [6, 12, 24])):
        for k in sizes:
            for permutation in (0, 1):
                found = {
                    row["quantity"]
                    for row in rows
                    if (row["adapt"], row["k"], row["permutation"]) == (adapt, k, permutation)
                }
                wanted = DEEP | (HEAD if adapt == "head" else set())
                assert (wanted if k < 24 else {name for name in wanted if "moving" not in name}) <= found
    assert all(np.isfinite(row["value"]) for row in rows)


def test_the_head_is_the_stored_one(rows, plan, finished):
    bench = set_up(plan, finished[1], Silent())[0]
    inputs, found = bench.inputs("head"), []
    for fold in (0, 1):
        own = bench.training_rows(12, 1, fold)
        kept = Store(finished[1]).weights(bench.key(Cell("head", 12, 1, 0)))
        weights = np.concatenate([kept[f"fold{fold}/weight"], kept[f"fold{fold}/bias"][:, None]], axis=1)
        x = np.concatenate([inputs[own], np.ones((len(own), 1))], axis=1)
        found.append(leave_one_out_losses(SoftmaxHead(x, bench.labels[own], weights, 1.0)).mean())
    said = [r for r in rows if (r["adapt"], r["k"], r["permutation"], r["quantity"]) == ("head", 12, 1, "alo_loss")]
    assert said[0]["value"] == pytest.approx(np.mean(found), rel=1e-9)


def test_a_second_call_measures_nothing_and_says_the_same(rows, plan, finished):
    bench = set_up(plan, finished[1], Silent())[0]
    parts = parts_of(bench, Store(finished[1]), deep=True)
    assert missing_parts(bench, finished[1], parts) == []
    assert measure_evidence(finished[1]) == rows
    chosen = measure_evidence(finished[1], adapt=["lora:2"], sizes=[12], parts=["split_half"])
    assert chosen == [
        row for row in rows if row["adapt"] == "lora:2" and row["k"] == 12 and "split_half" in row["quantity"]
    ]


def test_a_plan_that_asks_has_the_curves_and_no_other_verdict(rows, plan, finished, tmp_path):
    deep = run(plan.model_copy(update={"evidence": True}), finished[1])
    for entry, before in zip(deep["results"], finished[0]["results"], strict=True):
        curves = entry["curves"]
        assert curves.keys() >= DEEP
        assert entry["verdict"] == before["verdict"]
        assert curves["moving_optimum"]["k"] == [6, 12]
        of = [r["value"] for r in rows if (r["adapt"], r["k"], r["quantity"]) == (entry["adapt"], 6, "takeuchi_gain")]
        assert curves["takeuchi_gain"]["mean"][0] == pytest.approx(np.mean(of))
    again = run(plan.model_copy(update={"evidence": True}), tmp_path / "anew")
    assert json.dumps(again["results"]) == json.dumps(deep["results"])


def test_certificates_are_the_folds_own_joined(plan, finished):
    bench = set_up(plan, finished[1], Silent())[0]
    table, ends = Store(finished[1]).losses(bench.key(Cell("head", 12, 0, 0))), np.zeros(2)
    for fold in (0, 1):
        chosen = (table["fold"] == fold) & (table["role"] == "heldout")
        hits = (table["probabilities"][chosen].argmax(1) == table["label"][chosen]).sum()
        found = binomtest(int(hits), int(chosen.sum())).proportion_ci(0.95, "exact")  # 0.9 for both together
        ends += np.array([found.low, found.high]) * chosen.sum() / 52
    curve = finished[0]["results"][0]["curves"]["accuracy_certificate"]
    assert [curve["low"][1], curve["high"][1]] == pytest.approx(ends.tolist())


def test_what_names_nothing_is_refused(finished, tmp_path):
    with pytest.raises(InputError, match="adapt names 'full'"):
        measure_evidence(finished[1], adapt=["full"])
    with pytest.raises(InputError, match="holds no plan"):
        measure_evidence(tmp_path)
    with pytest.raises(InputError, match="images is 3"):
        measure_evidence(finished[1], images=3)
