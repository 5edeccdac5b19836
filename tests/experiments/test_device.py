"""Where a run computes: known by name, kept apart from other records, and followed by every tensor of a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stillscape._errors import InputError, RunError
from stillscape.experiments import devices, make_plan, set_up
from stillscape.experiments.local import num_workers
from stillscape.experiments.progress import Silent
from stillscape.experiments.provenance import circumstances, numbers_from
from stillscape.experiments.threads import deterministic, plans_settings
from tests.experiments.small import small_plan

ROOT = Path(__file__).parents[2]
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")


@pytest.fixture(scope="module")
def bench(photos, tiny_vit, tmp_path_factory):
    return set_up(small_plan(photos, tiny_vit, workers=None), tmp_path_factory.mktemp("bench"), Silent())[0]


@pytest.mark.parametrize("name", ["gpu", "cuda:", "", "meta", "cuda:x"])
def test_names_that_are_no_device(name):
    with pytest.raises(InputError, match=r"device is .*it must be cpu, cuda, cuda:1, or another device"):
        make_plan(data="digits", device=name)


@no_cuda
def test_a_device_that_is_not_here(photos, tiny_vit, tmp_path):
    with pytest.raises(InputError, match=r"device is 'cuda', which can't be used here \(.+\)\. Leave it out"):
        set_up(small_plan(photos, tiny_vit, device="cuda"), tmp_path, Silent())


def test_ray_chooses_the_gpu_itself():
    with pytest.raises(
        InputError, match=r"device is 'cuda:1' with executor 'ray', which chooses the GPU; write 'cuda'"
    ):
        make_plan(data="digits", device="cuda:1", executor="ray")
    assert make_plan(data="digits", device="cuda", executor="ray").device == "cuda"


def test_records_of_devices_are_kept_apart_by_kind_and_not_by_number(bench):
    cell, plan = bench.cells()[0], bench.plan
    keys, inputs = [], []
    for device in ("cpu", "cuda", "cuda:1", "cpu:0"):
        other = bench.with_plan(plan.model_copy(update={"device": device}))
        other._boundaries.update(dict.fromkeys(plan.adapt, "as before"))
        keys.append(other.key(cell))
        inputs.append(other.input_path(plan.adapt[0]))
    assert keys[0] != keys[1] == keys[2]
    assert inputs[0] != inputs[1] == inputs[2]
    assert (keys[3], inputs[3]) == (keys[0], inputs[0])
    assert keys[0] == bench.key(cell)
    moved = [plan.model_copy(update={"device": device}).without_revisable() for device in ("cuda:0", "cuda:1", "cpu")]
    assert moved[0] == moved[1] != moved[2]


def test_provenance_names_the_device(bench, monkeypatch):
    assert "device" not in numbers_from(bench)  # as in results of earlier versions
    assert circumstances(bench, 1)["device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    there = bench.with_plan(bench.plan.model_copy(update={"device": "cuda:1"}))
    assert numbers_from(there)["device"] == "cuda"
    assert circumstances(there, 1)["device"] == "cuda:1 (card 1)"


def test_one_worker_on_a_gpu_unless_more_are_asked_for(bench, monkeypatch):
    monkeypatch.setattr("stillscape.experiments.local.available_cores", lambda: 8)
    there = bench.with_plan(bench.plan.model_copy(update={"device": "cuda"}))
    asked = bench.with_plan(bench.plan.model_copy(update={"device": "cuda", "workers": 3}))
    assert [num_workers(each, 100) for each in (bench, there, asked)] == [8, 1, 3]


def test_a_gpu_that_stands_idle_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "--device cuda" in devices.unused("cpu")
    assert devices.unused("cuda") == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.unused("cpu") == ""


def test_no_shorter_floats_inside_a_run():
    before = torch.backends.cudnn.allow_tf32
    with plans_settings(make_plan(data="digits")):
        assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cudnn.allow_tf32 is before


def test_an_operation_without_deterministic_kernel_is_named():
    with (
        pytest.raises(RunError, match=r"put_ has no kernel that repeats to the bit.*Leave it out"),
        deterministic(True),
    ):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    with pytest.raises(RuntimeError, match="odd"), deterministic(True):
        raise RuntimeError("odd")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
@pytest.mark.alone
def test_a_run_on_another_device_is_the_run_on_the_cpu(photos, tiny_vit, tmp_path):
    """To the last bit, since the device computes by the kernels of the CPU; see `tests.experiments.board`."""
    command = [sys.executable, "-m", "tests.experiments.board", str(photos), str(tiny_vit), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["different"] == ["/provenance/device: None and 'board'"]
