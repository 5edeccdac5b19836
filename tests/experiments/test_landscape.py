"""The loss surface of a run: measured once for all k, resumed, reused, and left out where it can't be had."""

import json
import shutil

import numpy as np
import pytest
import torch

from stillscape._errors import InputError
from stillscape.convergence import settling_surface
from stillscape.curvature import Plane
from stillscape.experiments import Silent, Store, landscape, make_plan, run, set_up
from stillscape.experiments.bench import Cell
from stillscape.experiments.cost import estimate
from stillscape.experiments.landscape import (
    KIND,
    PLANES,
    Axis,
    View,
    grid_losses,
    grid_of,
    missing_views,
    run_view,
    view_key,
    views_of,
)
from stillscape.experiments.landscape_result import packed
from stillscape.experiments.probe import trained_weights
from stillscape.models import load_trained_state
from stillscape.report.landscape import landscapes_of, unpacked
from stillscape.training import score

FAST = {"last-layers": {"steps": 4, "batch": 8}}
POINTS, IMAGES = 5, 12


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return make_plan(
        data=str(photos), model=str(tiny_vit), adapt=["head", "last-layers:1"], sizes=[6, 12, 24], repeats=1, seeds=1,
        folds=2, recipes=FAST, workers=1, probe_images=6, curvature_images=2, surface=IMAGES, surface_points=POINTS,
        epsilon_loss=0.05,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    return run(plan, folder), folder


@pytest.fixture
def bench(plan, finished):
    return set_up(plan, finished[1], Silent())[0]


def records(bench, folder):
    cells, store = Store(folder), Store(folder, KIND)
    keys = [(view, view_key(bench, cells, view)) for view in views_of(bench, cells)]
    return {view: (store.record(key), store.losses(key)) for view, key in keys}


def test_every_adaptation_has_its_planes(bench, finished):
    found = records(bench, finished[1])
    assert [(view.adapt, view.plane) for view in found] == [(a, p) for a in bench.plan.adapt for p in PLANES]
    for record, table in found.values():
        assert record["status"] == "ok"
        assert table["losses"].shape == (POINTS**2, IMAGES)
        assert table["losses"].dtype == np.float32


def test_the_center_has_the_losses_that_were_stored_when_w_star_was_trained(bench, finished):
    """Odd numbers of points have w* itself in the middle; its held-out losses were scored when it was trained."""
    order = np.random.default_rng([bench.plan.split_seed, *b"surfaces"]).permutation(bench.held_out_rows(0))[:IMAGES]
    for view, (record, table) in records(bench, finished[1]).items():
        if view.plane == "path":
            continue
        assert sum(abs(axis["low"] + axis["high"]) for axis in record["axes"]) == 0
        cell = Store(finished[1]).losses(bench.key(Cell(view.adapt, 24, 0, 0)))
        held_out = (cell["role"] == "heldout") & (cell["fold"] == 0)
        of_image = dict(zip(cell["sample"][held_out], cell["loss"][held_out], strict=True))
        np.testing.assert_allclose(table["losses"][POINTS**2 // 2], [of_image[row] for row in order], rtol=1e-4)


def test_the_result_is_the_running_sum_of_the_record(bench, finished):
    for view, (_, table) in records(bench, finished[1]).items():
        entry = next(part for part in finished[0]["results"] if part["adapt"] == view.adapt)
        at = landscapes_of(entry)[view.plane]
        direct = settling_surface(table["losses"].reshape(POINTS, POINTS, -1), at.k)
        for name in ("losses", "to_whole", "next_step"):
            np.testing.assert_array_equal(getattr(at, name), getattr(direct, name).astype(np.float32))
        assert at.k[-1] == IMAGES
        assert at.tolerance == 0.05
        assert at.settled == direct.settled(0.05)


def test_the_way_of_the_weights(bench, finished):
    for view, (record, _) in records(bench, finished[1]).items():
        way = record["way"]
        assert [place["k"] for place in way] == [6, 12, 24]
        np.testing.assert_allclose([*way[-1]["at"], way[-1]["off"]], 0, atol=1e-6)
        for axis, place in ((axis, place["at"][n]) for n, axis in enumerate(record["axes"]) for place in way):
            assert axis["low"] <= place <= axis["high"]
        if view.plane == "path":  # the two largest sizes lie in the plane, as far apart as their weights
            states = [trained_weights(Store(finished[1]), bench.key(Cell(view.adapt, k, 0, 0))) for k in (12, 24)]
            distance = float(sum((states[0][n] - states[1][n]).square().sum() for n in states[0])) ** 0.5
            np.testing.assert_allclose([*way[1]["at"], way[1]["off"]], [distance, 0, 0], atol=1e-4)


def test_curvature_directions_bend_as_their_eigenvalues_say(bench, finished):
    """Second differences along the axes, near w*, are the eigenvalues: to a per cent, in single precision."""
    view = View("head", "curvature")
    record, _ = records(bench, finished[1])[view]
    cells = Store(finished[1])
    star = trained_weights(cells, bench.key(Cell("head", 24, 0, 0)))
    suffix = bench.split("head", bench.training_seed(Cell("head", 24, 0, 0), 0)).suffix
    load_trained_state(suffix, star)
    rows = landscape._rows(bench)
    x, y = np.array(bench.inputs("head")[rows]), bench.labels[rows]
    hv = landscape.PerSampleHessian(suffix, torch.nn.functional.cross_entropy, torch.tensor(x), torch.tensor(y))
    plane, _, _ = landscape._plane("curvature", hv, [star], 0)
    step = 0.05
    for n, axis in enumerate(record["axes"]):
        at = [(0.0, 0.0), *[((s, 0.0) if n == 0 else (0.0, s)) for s in (-step, step)]]
        middle, low, high = (grid_losses(suffix, plane, *np.array(ab)[:, None], x, y).mean(dtype=float) for ab in at)
        assert (high + low - 2 * middle) / step**2 == pytest.approx(axis["curvature"], rel=0.02)


def test_the_grid_is_scored_point_by_point(bench):
    suffix = bench.split("head").suffix
    star = {n: p.detach().clone() for n, p in suffix.named_parameters() if p.requires_grad}
    plane = Plane(star, *({n: torch.randn(w.shape) for n, w in star.items()} for _ in range(2)))
    x, y = np.array(bench.inputs("head")[:7]), bench.labels[:7]
    first, second = np.array([-1.0, 0.0]), np.array([0.5, 1.0, 2.0])
    found = grid_losses(suffix, plane, first, second, x, y)
    assert found.shape == (2, 3, 7)
    load_trained_state(suffix, plane.at(-1.0, 2.0))
    np.testing.assert_allclose(found[0, 2], score(suffix, x, y, np.arange(7)).losses, rtol=1e-6)


def test_a_second_run_measures_nothing_and_says_the_same(plan, finished, monkeypatch):
    def forbidden(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(landscape, "_measure", forbidden)
    assert run(plan, finished[1]) == finished[0]


def test_only_what_is_missing_is_measured_again(plan, bench, finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[1], folder)
    gone = View("head", "random")
    shutil.rmtree(Store(folder, KIND).place / view_key(bench, Store(folder), gone))
    assert missing_views(bench, folder) == [gone]
    assert run(plan, folder) == finished[0]


def test_without_the_option_there_is_no_surface(plan, finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[1], folder)
    result = run(plan.model_copy(update={"surface": 0}), folder)
    assert all(part["surface"] is None for part in result["results"])
    assert {part["adapt"]: part["verdict"] for part in result["results"]} == {
        part["adapt"]: part["verdict"] for part in finished[0]["results"]
    }


def test_the_key_knows_what_decides_the_numbers(bench, finished):
    cells, view = Store(finished[1]), View("head", "random")
    keys = {view_key(bench, cells, view), view_key(bench, cells, View("head", "path"))}
    for change in ({"surface": 13}, {"surface_points": 7}, {"split_seed": 1}, {"sizes": (12, 24)}):
        keys.add(view_key(bench.with_plan(bench.plan.model_copy(update=change)), cells, view))
    assert len(keys) == 6
    same = bench.with_plan(bench.plan.model_copy(update={"epsilon": 0.3, "workers": 2}))
    assert view_key(same, cells, view) == view_key(bench, cells, view)


def test_curvature_that_is_too_large_is_left_out_and_said(bench, finished, monkeypatch, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[1], folder)
    shutil.rmtree(folder / KIND)
    monkeypatch.setattr(landscape, "MEMORY_BYTES", 10)
    result = run(bench.plan, folder)
    part = result["results"][0]
    assert [plane["name"] for plane in part["surface"]["planes"]] == ["random"]
    assert sum("has no curvature plane" in note or "has no path plane" in note for note in part["notes"]) == 2
    assert json.dumps(result)


def test_weights_that_lie_on_one_another_have_no_path(bench, finished, monkeypatch):
    star = trained_weights(Store(finished[1]), bench.key(Cell("head", 24, 0, 0)))
    monkeypatch.setattr(landscape, "trained_weights", lambda *_: star)
    with pytest.raises(InputError, match="length 0"):
        landscape._measure(bench, Store(finished[1]), View("head", "path"))


def test_a_grid_holds_both_ends():
    assert grid_of(Axis("path", -1.0, 3.0, 1.0, None), 5).tolist() == [-1, 0, 1, 2, 3]


def test_numbers_come_back_as_they_were_packed():
    numbers = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    numbers[1, 2, 3] = np.nan
    np.testing.assert_array_equal(unpacked(packed(numbers)), numbers)


def test_the_cost_knows_of_the_surface(plan, finished):
    bench, images = set_up(plan, finished[1], Silent())
    without = bench.with_plan(plan.model_copy(update={"surface": 0}))
    with_surface = bench.with_plan(plan.model_copy(update={"surface": 26, "surface_points": 201}))
    dear, cheap = (sum(cost.seconds for cost in estimate(b, images)) for b in (with_surface, without))
    assert dear > 3 * cheap


def test_an_operator_without_second_derivative_stops_nothing_else(bench, finished, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(finished[1], folder)
    shutil.rmtree(folder / KIND)

    def refuse(*_args, **_kwargs):
        raise RuntimeError("no derivative")

    monkeypatch.setattr(landscape, "top_eigenvalues", refuse)
    cells, store, found = Store(folder), Store(folder, KIND), {}
    for view in missing_views(bench, folder):
        run_view(bench, folder, view)
        found[view.plane] = store.record(view_key(bench, cells, view))
    assert found["random"]["status"] == "ok"
    assert found["curvature"]["reason"] == "curvature: no derivative"
