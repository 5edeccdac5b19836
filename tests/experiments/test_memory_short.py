"""One image that memory can't take: the cell fails by name wherever it meets it, and nothing else is lost."""

import pytest
import torch

from stillscape._errors import MemoryShortError, RunError
from stillscape.experiments import Store, cell, evidence, hessian_curve, landscape, probe, run, spectrum
from stillscape.training import score
from tests.experiments.small import Said, small_plan

SAID = "out of memory with a single image"


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return small_plan(photos, tiny_vit)


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    return run(plan, tmp_path_factory.mktemp("whole") / "out")


def failing(original, calls, at):
    """Return a function that runs out of memory at the calls of these numbers."""

    def measured(*args, **kwargs):
        calls.append(None)
        if len(calls) in at:
            raise MemoryShortError("memory ran out with one image at a time")
        return original(*args, **kwargs)

    return measured


@pytest.mark.parametrize("where", ["fit", "score"])
def test_a_cell_fails_by_name_and_is_measured_again(plan, whole, tmp_path, monkeypatch, where, fault):
    calls, folder, said = [], tmp_path / "out", Said()
    monkeypatch.setattr(cell, where, failing(getattr(cell, where), calls, {4}))
    result = run(plan, folder, progress=said)
    monkeypatch.undo()
    failed = [each for part in result["results"] for each in part["cells"] if each["status"] == "failed"]
    assert len(failed) == 1
    assert [line for line in said.lines if "failed: fold 1: " + SAID in line and "adapt=" in line]
    records = [Store(folder).record(key) for key in Store(folder).all_keys()]
    assert sum(record.get("out_of_memory", False) for record in records) == 1
    assert len(records) == 8
    said = Said()
    assert run(plan, folder, progress=said) == whole
    assert sum("ran out of memory before and is measured again" in line for line in said.lines) == 1
    fault("memory too short for a single image", 1)


def test_training_and_scoring_say_it_alike(plan, tmp_path, monkeypatch):
    """As the memory itself does it: no image goes through the model of the last layers."""
    original = torch.nn.functional.cross_entropy

    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", no_memory)
    result = run(plan.model_copy(update={"adapt": ("last-layers:1",)}), tmp_path / "out")
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", original)
    (part,) = result["results"]
    assert {each["status"] for each in part["cells"]} == {"failed"}
    records = [Store(tmp_path / "out").record(key) for key in Store(tmp_path / "out").all_keys()]
    assert all(record["out_of_memory"] and "single image" in record["reason"] for record in records)


@pytest.mark.parametrize("name", ["score", "directional_slopes"])
def test_a_probe_is_left_out_by_name_and_measured_again(plan, whole, tmp_path, monkeypatch, name):
    calls, folder, said = [], tmp_path / "out", Said()
    monkeypatch.setattr(probe, name, failing(getattr(probe, name), calls, {2}))
    result = run(plan, folder, progress=said)
    monkeypatch.undo()
    assert sum("was left out: memory ran out" in line and "adapt=" in line for line in said.lines) == 1
    assert result["results"][1]["verdict"] == whole["results"][1]["verdict"]
    assert run(plan, folder) == whole


def test_no_probe_at_all_is_no_lost_run(plan, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "score", failing(probe.score, [], set(range(1000))))
    result = run(plan, tmp_path / "out")
    monkeypatch.undo()
    for part, other in zip(result["results"], whole["results"], strict=True):
        assert "The neighborhood of w* was not probed: memory ran out." in part["notes"]
        assert part["curves"]["accuracy"] == other["curves"]["accuracy"]
    assert run(plan, tmp_path / "out") == whole


@pytest.fixture(scope="module")
def looking_around(photos, tiny_vit):
    asked = {"adapt": ["last-layers:1"], "curvature": 6, "surface": 6, "surface_points": 3, "evidence": True}
    return small_plan(photos, tiny_vit, **asked)


@pytest.fixture(scope="module")
def all_around(looking_around, tmp_path_factory):
    return run(looking_around, tmp_path_factory.mktemp("all-around") / "out")


EXTRAS = {"hessians": hessian_curve, "spectra": spectrum, "evidence": evidence, "surfaces": landscape}
OF_TORCH, OF_NUMPY = torch.OutOfMemoryError("CUDA out of memory."), MemoryError()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "error"),
    [("hessians", OF_TORCH), ("spectra", OF_NUMPY), ("evidence", OF_TORCH), ("surfaces", OF_NUMPY)],
    ids=EXTRAS,
)
def test_what_is_looked_at_besides_is_left_out_and_measured_again(
    looking_around, all_around, tmp_path, monkeypatch, kind, error
):
    original, calls = EXTRAS[kind]._measure, []

    def short(*args):
        calls.append(None)
        if len(calls) == 1:
            raise error
        return original(*args)

    folder, said = tmp_path / "out", Said()
    monkeypatch.setattr(EXTRAS[kind], "_measure", short)
    lacking = run(looking_around, folder)
    assert lacking["results"][0]["verdict"] == all_around["results"][0]["verdict"]
    monkeypatch.undo()
    store = Store(folder, kind)
    records = [store.record(key) for key in store.all_keys()]
    (left_out,) = [record for record in records if record["status"] == "missing"]
    assert left_out["out_of_memory"]
    assert left_out["reason"].endswith("memory ran out")
    assert run(looking_around, folder, progress=said) == all_around
    assert any(f"{kind}/" in line and "is measured again" in line for line in said.lines)


def test_other_errors_of_a_probe_are_not_taken_for_it(plan, tmp_path, monkeypatch):
    def odd(*_args, **_kwargs):
        raise RuntimeError("odd")

    monkeypatch.setattr(probe, "score", odd)
    with pytest.raises(RuntimeError, match="odd"):
        run(plan, tmp_path / "out")


def test_who_only_scores_is_told(photos):
    """Alone, without a cell that could fail, it stays an error that says what to do."""
    import numpy as np

    class Small(torch.nn.Linear):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(RunError, match="memory ran out with one image at a time") as told:
        score(Small(3, 2), np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1]), np.arange(4))
    assert isinstance(told.value, MemoryShortError)
