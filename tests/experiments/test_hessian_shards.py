"""A pass over Hessians that is shared out gives the record of one worker, to the bit, whatever became of its shards."""

import shutil

import pytest

from stillscape.curvature import DifferenceSketch, difference, runner
from stillscape.experiments import Store, run, set_up
from stillscape.experiments.hessian_curve import curve_key, run_hessian_curve, run_hessian_share
from stillscape.experiments.hessian_shards import KIND, Share, shares
from stillscape.experiments.progress import Silent
from tests.experiments.small import small_plan

ADAPT, IMAGES, CHUNK = "last-layers:1", 18, 4


@pytest.fixture(scope="module")
def done(photos, tiny_vit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    plan = small_plan(photos, tiny_vit, adapt=[ADAPT], repeats=1, curvature=IMAGES)
    run(plan, folder)
    return set_up(plan, folder, Silent())[0], folder


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(runner, "MOST", CHUNK)
    monkeypatch.setattr(difference, "AT_ONCE", CHUNK)


def measured(bench, folder):
    store = Store(folder, "hessians")
    key = curve_key(bench, Store(folder), ADAPT)
    shutil.rmtree(store.place / key)
    run_hessian_curve(bench, folder, ADAPT)
    return {name: value for name, value in store.record(key).items() if name not in ("seconds", "peak_memory_bytes")}


@pytest.mark.slow
def test_shared_out_as_undivided(done, small_chunks, monkeypatch):
    bench, folder = done
    whole = measured(bench, folder)
    assert (whole["status"], whole["images"]) == ("ok", IMAGES)
    key, shards = curve_key(bench, Store(folder), ADAPT), Store(folder, KIND)
    assert shards.all_keys() == []
    for number in range(2):
        run_hessian_share(bench, folder, Share(ADAPT, number, 2))
    assert shards.all_keys() == sorted(f"{key}-{start}" for start in range(0, IMAGES, CHUNK))
    extended = []
    extend = DifferenceSketch.extend

    def noted(self, hv, rows, progress=None):
        extended.append(list(rows))
        extend(self, hv, rows, progress)

    monkeypatch.setattr(DifferenceSketch, "extend", noted)
    assert measured(bench, folder) == whole
    assert extended == []
    assert shards.all_keys() == []  # they are let go when the curve is recorded
    # One shard missing, one damaged: those images alone are measured again.
    for number in range(2):
        run_hessian_share(bench, folder, Share(ADAPT, number, 2))
    shutil.rmtree(shards.place / f"{key}-4")
    path = shards.place / f"{key}-12" / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-9] + b"otherbyte")
    assert measured(bench, folder) == whole
    assert extended == [[4, 5, 6, 7], [12, 13, 14, 15]]


def test_only_long_passes_are_shared_out_over_workers_to_spare(done):
    bench, _ = done
    four = bench.with_plan(bench.plan.model_copy(update={"workers": 4, "curvature": 50}))
    long, short = 10**6, 10**3  # parameters: one image at a time, and all at once
    assert shares(four, {"lora:4": long}) == [Share("lora:4", number, 4) for number in range(4)]
    assert shares(four, {"lora:4": long, "head": short}) == [Share("lora:4", number, 2) for number in range(2)]
    assert shares(four, {"lora:4": short}) == []
    assert shares(bench, {"lora:4": long}) == []  # one worker: the pass stays whole
    assert shares(four, {}) == []
