"""Precision and deterministic kernels of a run: kept apart from other records, recorded, and old keys unchanged."""

import json
import os

import numpy as np
import pytest
import torch

from stillscape._errors import InputError
from stillscape.experiments import Store, content_key, make_plan, run, set_up
from stillscape.experiments.bench import METHOD
from stillscape.experiments.progress import Silent
from stillscape.experiments.provenance import circumstances, numbers_from
from stillscape.experiments.threads import CUBLAS, deterministic, plans_settings, ready_cublas
from tests.experiments.small import Said, small_plan


@pytest.fixture(scope="module")
def bench(photos, tiny_vit, tmp_path_factory):
    return set_up(small_plan(photos, tiny_vit), tmp_path_factory.mktemp("bench"), Silent())[0]


@pytest.fixture
def no_cublas(monkeypatch):
    monkeypatch.delenv(CUBLAS, raising=False)


def test_keys_of_old_records_are_what_they_were(bench):
    plan, cell = bench.plan, bench.cells()[0]
    before = {
        "method": METHOD, "data": bench.data_fingerprint, "model": bench.model_fingerprint,
        "evaluation": ["folds", plan.folds, plan.split_seed], "recipe": plan.recipe(cell.adapt).model_dump(mode="json"),
        "threads": plan.threads, "cell": [cell.adapt, cell.k, cell.permutation, cell.seed],
    }  # fmt: skip
    assert bench.key(cell) == content_key(before)
    others = [{"precision": "bf16"}, {"deterministic": True}, {"precision": "bf16", "deterministic": True}]
    keys = [bench.with_plan(plan.model_copy(update=other)).key(cell) for other in others]
    assert len({bench.key(cell), *keys}) == 4


def test_provenance_names_what_is_not_the_default(bench):
    assert not {"precision", "deterministic"} & set(numbers_from(bench))
    asked = bench.with_plan(bench.plan.model_copy(update={"precision": "bf16", "deterministic": True}))
    assert {"precision": "bf16", "deterministic": True}.items() <= numbers_from(asked).items()
    assert {"precision": "float32", "deterministic": False}.items() <= circumstances(bench, 1).items()


def test_deterministic_kernels_are_asked_for_inside_the_block_alone(no_cublas):
    assert not torch.are_deterministic_algorithms_enabled()
    with plans_settings(make_plan(data="digits", deterministic=True)):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert os.environ[CUBLAS] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_the_variable_of_cublas_is_set_once_and_said(no_cublas, monkeypatch):
    assert ready_cublas().startswith("CUBLAS_WORKSPACE_CONFIG is set to :4096:8")
    assert ready_cublas() == ""
    monkeypatch.setenv(CUBLAS, ":16:8")
    assert ready_cublas() == ""
    assert os.environ[CUBLAS] == ":16:8"


@pytest.mark.slow
def test_reruns_are_equal_to_the_bit_and_precisions_do_not_mix(photos, tiny_vit, tmp_path, no_cublas):
    half = {"precision": "bf16", "deterministic": True, "adapt": ["last-layers:1"], "curvature": 6}
    plan, progress = small_plan(photos, tiny_vit, **half), Said()
    results = [run(plan, tmp_path / name, progress=progress) for name in ("one", "two")]
    assert results[0] == results[1]
    assert results[0]["provenance"]["precision"] == "bf16"
    assert sum("CUBLAS_WORKSPACE_CONFIG is set" in line for line in progress.lines) == 1
    stores = [Store(tmp_path / name) for name in ("one", "two")]
    assert set(stores[0].all_keys()) == set(stores[1].all_keys())
    for key in stores[0].all_keys():
        one, two = (store.losses(key) for store in stores)
        np.testing.assert_array_equal(one["loss"], two["loss"])
        assert one["loss"].dtype == np.float64
        assert one["probabilities"].dtype == np.float32
    recorded = json.loads((tmp_path / "one" / "provenance.json").read_text())
    assert (recorded["precision"], recorded["deterministic"]) == ("bf16", True)
    with pytest.raises(InputError, match="precision was 'bf16', is 'float32'"):
        run(small_plan(photos, tiny_vit, **half | {"precision": "float32"}), tmp_path / "one")
    plain = run(small_plan(photos, tiny_vit, **half | {"precision": "float32"}), tmp_path / "plain")
    assert plain["results"] != results[0]["results"]


def test_fp16_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match=r"precision is 'fp16' on the CPU"):
        set_up(make_plan(data=str(tmp_path / "nothing"), precision="fp16"), tmp_path, Silent())
    with pytest.raises(InputError, match="precision is 'int8'"):
        make_plan(data="digits", precision="int8")
