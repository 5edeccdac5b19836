"""The whole path on a small folder of images: what is measured, that it repeats, resumes and is reused."""

import json
import shutil

import numpy as np
import pytest

from stillscape._errors import InputError, RecordError
from stillscape.experiments import Silent, Store, hessian_curve, make_plan, read_result, run, set_up
from stillscape.experiments.cost import estimate, fit_budget, wall_seconds
from stillscape.experiments.probe import all_probes, probe_key

FAST = {"last-layers": {"steps": 4, "batch": 8}, "lora": {"steps": 4, "batch": 8}, "full": {"steps": 4, "batch": 8}}


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return make_plan(
        data=str(photos), model=str(tiny_vit), adapt=["head", "last-layers:1", "lora:2"], sizes=[6, 12, 24],
        repeats=2, seeds=1, folds=2, recipes=FAST, workers=1, probe_images=12, curvature_images=2, curvature=10,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    return run(plan, folder), folder


@pytest.fixture
def bench(plan, finished):
    return set_up(plan, finished[1], Silent())[0]


def test_the_folder_holds_what_the_design_says(finished):
    result, folder = finished
    assert json.loads((folder / "result.json").read_text()) == result == read_result(folder)
    assert make_plan(folder / "plan.toml").adapt == ("head", "last-layers:1", "lora:2")
    assert "written" in json.loads((folder / "provenance.json").read_text())
    keys = list((folder / "cells").iterdir())
    assert len(keys) == 3 * 3 * 2
    for path in keys:
        assert {p.name for p in path.iterdir()} == {"record.json", "losses.parquet", "adapter.safetensors"}


def test_the_result_has_every_curve_and_criterion(finished):
    result, _ = finished
    assert result["schema"] == 1
    assert [part["adapt"] for part in result["results"]] == ["head", "last-layers:1", "lora:2"]
    assert result["verdict"]["status"] in {"reached", "not_reached", "cannot_tell"}
    for part in result["results"]:
        assert {
            "accuracy", "heldout_loss", "train_loss", "distance", "fixed_surface", "fixed_surface_closed_form",
            "neighbourhood", "neighbourhood_loss_part", "neighbourhood_gradient_part",
            "neighbourhood_remainder_part", "path", "theorem3_printed", "theorem3_rigorous",
        } <= part["curves"].keys()  # fmt: skip
        assert part["criteria"]["fixed_surface"]["is_null"]
        assert not part["criteria"]["accuracy"]["is_null"]
        assert part["curves"]["accuracy"]["k"] == [6, 12, 24]
        assert part["curves"]["distance"]["mean"][-1] == 0
        assert part["verdict"]["sentence"]
    text = json.dumps(result)
    assert "/tmp" not in text
    assert "seconds" not in text


def test_hessians_over_sizes(bench, finished):
    """Curves, constants and bounds of the Hessians at w*; the bound of the head holds for every order."""
    for part in finished[0]["results"]:
        curves, constants = part["curves"], part["constants"]
        difference, norm = curves["hessian_difference"], curves["hessian_norm"]
        assert difference["k"] == norm["k"]
        assert difference["k"][-1] == 9
        assert all(
            0 < low <= mean <= high for low, mean, high in zip(*(norm[n] for n in ("low", "mean", "high")), strict=True)
        )
        larger = np.array(curves["hessian_difference_frobenius"]["mean"]) / np.array(difference["mean"])
        assert (larger > 0.97).all()  # both err by some per cent
        assert constants["hessian_curve_error"]["value"] < 0.2
        assert ("hessian_bound" in curves) == (part["adapt"] == "head")
        assert curves["theorem3_second_order"]["kind"] == "plug-in bound"
    head = finished[0]["results"][0]["curves"]
    assert max(head["hessian_difference"]["high"]) < head["hessian_bound"]["mean"][0]


def test_spectra_stand_in_the_result(finished):
    for part in finished[0]["results"]:
        assert [row["k"] for row in part["spectrum"]["sizes"]] == [2, 5, 6, 10]
        assert part["spectrum"]["images"] == 10


def test_hessians_too_large_are_left_out_and_said(bench, finished, monkeypatch):
    monkeypatch.setattr(hessian_curve, "MEMORY_BYTES", 10)
    found = hessian_curve._point(bench, Store(finished[1]), "lora:2")
    assert found["status"] == "missing"
    assert "parameters would take" in found["reason"]


def test_no_image_is_scored_by_a_model_that_saw_it(bench, finished):
    store = Store(finished[1])
    for cell in bench.cells():
        table = store.losses(bench.key(cell))
        held_out = table["role"] == "heldout"
        assert sorted(table["sample"][held_out]) == list(range(len(bench.labels)))
        for fold in bench.fold_numbers:
            inside = table["fold"] == fold
            trained, scored = set(table["sample"][inside & ~held_out]), set(table["sample"][inside & held_out])
            assert len(trained) == cell.k
            assert not trained & scored
            assert not set(bench.groups[list(trained)]) & set(bench.groups[list(scored)])


def test_subsets_are_nested_and_orders_differ(bench):
    for fold in bench.fold_numbers:
        small, large = (set(bench.training_rows(k, 0, fold)) for k in (6, 24))
        assert small < large
        assert small != set(bench.training_rows(6, 1, fold))


def test_stored_losses_are_those_of_the_stored_weights(bench, finished):
    """The probe scores w* anew from its stored weights; the cell scored it when it was trained."""
    cells, probes = Store(finished[1]), Store(finished[1], "probes")
    for probe in all_probes(bench, cells):
        again = probes.losses(probe_key(bench, probe))
        first = cells.losses(bench.key(probe.cells()[-1]))
        rows = (first["role"] == "heldout") & np.isin(first["sample"], again["sample"]) & (first["fold"] == 0)
        order = np.argsort(first["sample"][rows])
        np.testing.assert_allclose(again["star"], first["loss"][rows][order], rtol=1e-5, atol=1e-6)


def test_slopes_are_the_derivatives_of_the_losses(bench, finished):
    """A small step along the direction must change each loss as its slope says, up to the third order."""
    from stillscape.experiments.probe import gaussian_direction, trained_weights
    from stillscape.models import load_trained_state
    from stillscape.training import directional_slopes, score

    cells = Store(finished[1])
    probe = all_probes(bench, cells)[2]
    star = trained_weights(cells, bench.key(probe.cells()[-1]))
    suffix = bench.split(probe.adapt).suffix
    where = (bench.inputs(probe.adapt), bench.labels, bench.held_out_rows(0))
    direction = gaussian_direction(star, 0.03, bench, probe.permutation, 0)
    load_trained_state(suffix, star)
    slopes = directional_slopes(suffix, *where, direction)
    ends = []
    for sign in (1, -1):
        load_trained_state(suffix, {name: star[name] + sign * direction[name] for name in star})
        ends.append(score(suffix, *where).losses)
    assert np.abs((ends[0] - ends[1]) / 2 - slopes).max() < 0.01 * np.abs(slopes).max()


def test_the_same_plan_gives_the_same_numbers(plan, finished, tmp_path):
    assert run(plan, tmp_path / "again") == finished[0]


def test_two_workers_give_the_same_numbers(plan, finished, tmp_path):
    assert run(plan.model_copy(update={"workers": 2}), tmp_path / "two") == finished[0]


def test_a_run_goes_on_from_what_is_there(plan, finished, tmp_path):
    folder = tmp_path / "resumed"
    shutil.copytree(finished[1], folder)
    cells = sorted((folder / "cells").iterdir())
    for path in cells[::3]:
        shutil.rmtree(path)
    (folder / "result.json").unlink()
    (folder / "cells" / ".half-made").mkdir()
    kept = {path: (path / "record.json").stat().st_mtime_ns for path in cells if path.exists()}
    assert run(plan, folder) == finished[0]
    assert {path: (path / "record.json").stat().st_mtime_ns for path in kept} == kept
    assert not (folder / "cells" / ".half-made").exists()


def test_a_longer_plan_uses_the_cells_that_are_there(plan, finished, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(finished[1], folder)
    before = {path.name for path in (folder / "cells").iterdir()}
    longer = plan.model_copy(update={"sizes": (6, 12, 20, 24), "adapt": ("head",), "epsilon": 0.2})
    result = run(longer, folder)
    after = {path.name for path in (folder / "cells").iterdir()}
    assert before < after
    assert len(after) == len(before) + 2
    at = [result["results"][0]["curves"]["accuracy"]["mean"][i] for i in (0, 1, 3)]
    assert at == finished[0]["results"][0]["curves"]["accuracy"]["mean"]


def test_another_plan_in_the_same_folder_is_refused(plan, finished):
    with pytest.raises(InputError, match=r"another plan made .*folds was 2, is 3"):
        run(plan.model_copy(update={"folds": 3}), finished[1])


def test_a_diverging_training_is_recorded_and_left_out(plan, tmp_path):
    wild = make_plan(
        **{**plan.model_dump(), "adapt": ["head", "full"], "sizes": [6, 12], "epsilon_loss": None, "target": None}
        | {"recipes": {"full": {"steps": 4, "learning_rate": 1e30, "clip": 0.0, "warmup": 0.0}}}
    )
    result = run(wild, tmp_path / "wild")
    head, full = result["results"]
    assert {cell["status"] for cell in full["cells"]} == {"failed"}
    assert all("finite" in cell["reason"] or "loss is" in cell["reason"] for cell in full["cells"])
    assert full["verdict"]["status"] == "cannot_tell"
    assert full["curves"] == {}
    assert {cell["status"] for cell in head["cells"]} == {"ok"}
    assert result["verdict"]["adapt"] == "head"


def test_groups_are_never_split(plan, tmp_path):
    grouped = plan.model_copy(update={"groups": r"(patient\d+)_", "sizes": (8, 16), "adapt": ("head",)})
    bench, images = set_up(grouped, tmp_path / "grouped", Silent())
    assert images.groups is not None
    for fold in bench.fold_numbers:
        rows = bench.training_rows(16, 0, fold)
        assert len(rows) <= 16
        assert not set(bench.groups[rows]) & set(bench.groups[bench.held_out_rows(fold)])
    result = run(grouped, tmp_path / "grouped")
    assert result["question"]["num_groups"] == len(np.unique(images.groups))


def test_a_held_out_set_is_fixed_once(plan, tmp_path):
    fixed = plan.model_copy(update={"evaluation": "holdout", "sizes": (6, 12), "adapt": ("head",), "held_out": 0.3})
    bench, _ = set_up(fixed, tmp_path, Silent())
    assert not bench.cross_fitted
    assert list(bench.fold_numbers) == [0]
    assert abs(len(bench.scored) - 0.3 * len(bench.labels)) <= 2
    assert run(fixed, tmp_path / "out")["question"]["evaluation"] == f"held-out set of {len(bench.scored)}"


def test_sizes_that_do_not_fit(plan, tmp_path):
    with pytest.raises(InputError, match="only 26 images are left to train on"):
        run(plan.model_copy(update={"sizes": (6, 100)}), tmp_path / "a")
    with pytest.raises(InputError, match="under the number of classes"):
        run(plan.model_copy(update={"sizes": (1, 12)}), tmp_path / "b")
    assert not (tmp_path / "a").exists()


def test_costs_count_what_the_plan_asks_for(plan, tmp_path):
    bench, images = set_up(plan, tmp_path, Silent())
    costs = {cost.adapt: cost for cost in estimate(bench, images)}
    assert costs["lora:2"].cells == 6
    assert costs["lora:2"].trainings == 12
    assert costs["lora:2"].sample_passes == 12 * 4 * 8 + 2 * (3 * 52 + 2 * 42)
    assert costs["head"].cache_bytes == 52 * 16 * 4
    assert all(cost.seconds > 0 for cost in costs.values())
    assert wall_seconds(bench, list(costs.values())) > sum(c.cache_seconds for c in costs.values())


def test_a_budget_cuts_the_plan_or_says_that_nothing_fits(plan, tmp_path):
    bench, images = set_up(plan.model_copy(update={"seeds": 3}), tmp_path, Silent())
    assert fit_budget(bench, images, 1e6)[0].seeds == 3
    with pytest.raises(InputError, match=r"budget is 0\.0 minutes"):
        fit_budget(bench, images, 0.1)


def test_a_budget_is_kept_when_a_run_goes_on(plan, finished, tmp_path):
    folder = tmp_path / "budget"
    shutil.copytree(finished[1], folder)
    asked = plan.model_copy(update={"repeats": 9})
    assert run(asked, folder, budget_s=1e6)["question"]["repeats"] == 2


def test_results_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"no result\.json"):
        read_result(tmp_path)
    for text in ("{", "[]", '{"schema": 99}'):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(RecordError, match=r"result\.json"):
            read_result(tmp_path)
