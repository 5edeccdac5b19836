"""Spectra and blocks by k of a run: against dense Hessians, bounded, resumed, and left out where they can't be had."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillscape.curvature import PerSampleHessian
from stillscape.curvature.groups import kind_of
from stillscape.experiments import Store, make_plan, spectrum
from stillscape.experiments.bench import Cell
from stillscape.experiments.collect import collect
from stillscape.experiments.hessian_curve import hessian_rows
from stillscape.experiments.probe import trained_weights
from stillscape.experiments.spectrum import KIND, missing_spectra, run_spectrum, sizes_among, spectrum_key
from stillscape.experiments.spectrum_result import measured_spectrum
from stillscape.models import load_trained_state
from tests.experiments.small import bench_with_cells

ADAPTS = ["head", "last-layers:1"]
IMAGES = 12


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return make_plan(
        data=str(photos), model=str(tiny_vit), adapt=ADAPTS, sizes=[6, 12, 24], repeats=1, seeds=1,
        folds=2, recipes={"last-layers": {"steps": 4, "batch": 8}}, workers=1, probe_images=6, curvature_images=2,
        curvature=IMAGES,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(plan, tmp_path_factory):
    """Return a bench and a folder with its cells and spectra, and nothing else."""
    folder = tmp_path_factory.mktemp("run")
    bench = bench_with_cells(plan, folder)
    assert missing_spectra(bench, folder) == ADAPTS
    for adapt in ADAPTS:
        run_spectrum(bench, folder, adapt)
    return bench, folder


@pytest.fixture
def bench(measured):
    return measured[0]


@pytest.fixture
def folder(measured):
    return measured[1]


@pytest.fixture
def found(bench, folder):
    return [measured_spectrum(collect(bench, Store(folder), adapt))[0] for adapt in ADAPTS]


def operator(bench, folder, adapt):
    star = trained_weights(Store(folder), bench.key(Cell(adapt, 24, 0, 0)))
    suffix, rows = bench.split(adapt).suffix, hessian_rows(bench)
    load_trained_state(suffix, star)
    x, y = torch.from_numpy(np.array(bench.inputs(adapt)[rows])), torch.from_numpy(bench.labels[rows])
    return PerSampleHessian(suffix, F.cross_entropy, x, y)


def dense(bench, folder, adapt):
    """Return each held-out image's Hessian at w*, by products with every unit vector."""
    hv = operator(bench, folder, adapt)
    return hv.sample_matmat(range(hv.num_samples), torch.eye(hv.num_parameters)).double()


def test_eigenvalues_and_errors_of_the_head_are_those_of_dense_hessians(bench, folder, found):
    head = found[0]
    each = dense(bench, folder, "head")
    assert [row["k"] for row in head["sizes"]] == sizes_among(bench.sizes, IMAGES) == [3, 6, 12]
    for row in head["sizes"]:
        mean = each[: row["k"]].mean(0)
        values, vectors = torch.linalg.eigh((mean + mean.mT) / 2)
        order = values.abs().argsort(descending=True)[: len(row["values"])]
        np.testing.assert_allclose(row["values"], values[order].numpy(), atol=2e-2 * float(values.max()))
        assert row["values"][0] == pytest.approx(values[order[0]].item(), rel=1e-3)
        along = torch.einsum("pj,ipq,qj->ij", vectors[:, order[:1]], each[: row["k"]], vectors[:, order[:1]])
        assert row["values_stderr"][0] == pytest.approx(float(along.std(0)[0]) / row["k"] ** 0.5, rel=0.02)
        assert abs(row["trace"] - mean.trace().item()) <= 4 * row["trace_stderr"] + 1e-5 * mean.trace().item()
        assert row["converged"]
        assert row["outliers"] is None or 0 <= row["outliers"] <= len(row["values"])


@pytest.mark.slow
def test_blocks_of_the_last_layers_are_those_of_dense_hessians(bench, folder, found):
    last = found[1]["sizes"][-1]
    groups = [each["group"] for each in last["blocks"]]
    assert {"query", "key", "value", "feed-forward", "LayerNorm", "head"} <= set(groups)
    hv = operator(bench, folder, "last-layers:1")
    mean = hv.mean_matmat(torch.eye(hv.num_parameters)).double()
    places = {group: [] for group in groups}
    for name, place in hv.slices.items():
        places[kind_of(name)] += range(place.start, place.stop)
    whole = mean.square().sum().item()
    shares = [mean[places[group]][:, places[group]].square().sum().item() / whole for group in groups]
    for share, each in zip(shares, last["blocks"], strict=True):
        assert abs(each["norm_share"] - share) <= 4 * each["norm_share_stderr"] + 1e-6
    assert abs(last["between_blocks"] - 1 + sum(shares)) <= 4 * last["between_blocks_stderr"] + 1e-6
    assert sum(each["norm_share"] for each in last["blocks"]) + last["between_blocks"] == pytest.approx(1)


def test_a_head_alone_is_one_group(found):
    blocks = found[0]["sizes"][-1]["blocks"]
    assert [each["group"] for each in blocks] == ["head"]
    assert blocks[0]["norm_share"] == pytest.approx(1)


def test_no_times_enter_the_result(bench, folder, found):
    text = json.dumps(found)
    assert "seconds" not in text
    assert "memory" not in text
    assert missing_spectra(bench, folder) == []


def test_products_stay_within_what_is_stated(found):
    for each in found:
        groups = len(each["sizes"][0]["blocks"])
        most = spectrum.PRODUCTS + groups * (2 * spectrum.BLOCK_VECTORS + spectrum.BLOCK_STEPS)
        assert each["num_sample_products"] <= most * sum(row["k"] for row in each["sizes"])


@pytest.mark.parametrize(
    ("patched", "value", "reason"),
    [("MEMORY_BYTES", 10, "parameters would take"), ("trained_weights", lambda *_: None, "too large to be kept")],
)
def test_what_is_left_out_is_said(bench, folder, tmp_path, monkeypatch, patched, value, reason):
    monkeypatch.setattr(spectrum, patched, value)
    shutil.copytree(folder / "cells", tmp_path / "cells")
    run_spectrum(bench, tmp_path, "head")
    key = spectrum_key(bench, Store(tmp_path), "head")
    record = Store(tmp_path, KIND).record(key)
    assert record["status"] == "missing"
    assert reason in record["reason"]


def test_a_plan_without_curvature_has_no_spectrum(plan, bench, folder):
    quiet = bench.with_plan(plan.model_copy(update={"curvature": 0}))
    assert spectrum_key(quiet, Store(folder), "head") is None
    assert missing_spectra(quiet, folder) == []


def test_the_cap_on_images_holds(bench, folder, monkeypatch):
    monkeypatch.setattr(spectrum, "MOST_IMAGES", 8)
    found = spectrum._measure(bench, Store(folder), "head")
    assert found["images"] == found["sizes"][-1]["k"] == 8
