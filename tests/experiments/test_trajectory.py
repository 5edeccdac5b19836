"""Ways of trainings in planes: a known path, a replay that ends at the stored bits, and what makes it disbelieved."""

import shutil

import numpy as np
import pytest
import torch

from stillscape._errors import InputError
from stillscape.curvature import Plane, filter_normalized
from stillscape.experiments import Store, landscape, make_plan, trajectory
from stillscape.experiments.bench import Cell
from stillscape.experiments.collect import collect
from stillscape.experiments.landscape import View, run_view, through_star, view_key, views_of
from stillscape.experiments.landscape_result import measured_landscape
from stillscape.experiments.probe import trained_weights
from stillscape.experiments.trajectory import (
    KIND,
    Trail,
    kept_steps,
    missing_trajectories,
    replay,
    run_trajectory,
    trajectory_key,
)
from tests.experiments.small import bench_with_cells

STEPS = 4
ADAPTS = ["head", "last-layers:1"]


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return make_plan(
        data=str(photos), model=str(tiny_vit), adapt=ADAPTS, sizes=[6, 12, 24], repeats=1, seeds=1, folds=2,
        recipes={"last-layers": {"steps": STEPS, "batch": 8}}, workers=1, probe_images=6, curvature_images=2,
        surface=8, surface_points=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(plan, tmp_path_factory):
    """Return a bench and a folder with its cells, surfaces and ways, and nothing else."""
    folder = tmp_path_factory.mktemp("run")
    bench = bench_with_cells(plan, folder)
    for view in views_of(bench, Store(folder)):
        run_view(bench, folder, view)
    assert missing_trajectories(bench, folder) == ADAPTS
    for adapt in ADAPTS:
        run_trajectory(bench, folder, adapt)
    return bench, folder


@pytest.fixture
def bench(measured):
    return measured[0]


@pytest.fixture
def folder(measured):
    return measured[1]


def test_a_known_path_in_a_skewed_plane():
    """Points are made from coordinates and a step across the plane, and those are what is found of them."""
    generator = torch.Generator().manual_seed(0)
    star = {"w": torch.randn(4, 3, generator=generator).double(), "b": torch.randn(4, generator=generator).double()}
    first, second = (
        filter_normalized({n: torch.randn(w.shape, generator=generator).double() for n, w in star.items()}, star)
        for _ in range(2)
    )
    plane, trail = Plane(star, first, second), None
    across = {"w": torch.zeros(4, 3).double(), "b": torch.ones(4).double() / 2}  # biases do not move in such planes
    trail = Trail(plane)
    known = [(0, 0.5, -0.25, 0.0), (3, 0.25, 0.5, 1.0), (7, -1.0, 2.0, 3.0)]
    for step, a, b, off in known:
        trail.see(step, {n: w + off * across[n] for n, w in plane.at(a, b).items()})
    for (step, a, b, off), point in zip(known, trail.points, strict=True):
        assert point["step"] == step
        np.testing.assert_allclose([*point["at"], point["off"]], [a, b, off], atol=1e-6)
    moved = sum(float((-1.5 * first[n] + 2.25 * second[n]).square().sum()) for n in star)
    assert trail.points[-1]["moved"] == pytest.approx((moved + 9) ** 0.5, rel=1e-6)
    assert trail.hidden() == pytest.approx(9 / (moved + 9), rel=1e-5)


def test_steps_that_are_kept():
    assert kept_steps(0) == [0]
    assert kept_steps(39) == list(range(40))
    for steps in (40, 100, 5000):
        kept = kept_steps(steps)
        assert (kept[0], kept[-1]) == (0, steps)
        assert len(kept) <= trajectory.MOST_POINTS
        assert (np.diff(np.diff(kept)) >= -1).all()  # denser at first, up to rounding


def test_a_replay_ends_at_the_stored_bits(bench, folder):
    cells = Store(folder)
    for adapt in ADAPTS:
        cell, seen = Cell(adapt, 12, 0, 0), []
        replay(bench, cells, cell, lambda step, state, seen=seen: seen.append((step, state)))
        stored = trained_weights(cells, bench.key(cell))
        assert all(torch.equal(seen[-1][1][name], stored[name]) for name in stored)
        steps = cells.record(bench.key(cell))["folds"][0]["steps"]
        assert [step for step, _ in seen] == kept_steps(steps)
        start = bench.split(adapt, bench.training_seed(cell, 0)).suffix
        for name, parameter in start.named_parameters():
            if name in stored:
                begin = torch.zeros_like(parameter) if adapt == "head" else parameter
                assert torch.equal(seen[0][1][name], begin)


def test_trails_of_the_result(bench, folder):
    for adapt in ADAPTS:
        for plane in measured_landscape(collect(bench, Store(folder), adapt))[0]["planes"]:
            assert [trail["k"] for trail in plane["trails"]] == [6, 12, 24]
            through = through_star(bench, Store(folder), View(adapt, plane["name"]))
            way = {at["k"]: at for at in plane["way"]}
            for trail in plane["trails"]:
                end = trail["points"][-1]
                np.testing.assert_allclose([*end["at"], end["off"]],
                                           [*way[trail["k"]]["at"], way[trail["k"]]["off"]], atol=1e-4)  # fmt: skip
                assert trail["points"][0]["moved"] == 0
                assert 0 <= trail["hidden"] <= 1
                if plane["name"] == "random":  # two of many directions hold next to nothing of a way
                    assert trail["hidden"] > 0.5
            # By Pythagoras: what is moved is what shows and what doesn't; all start at one point.
            a, b = np.subtract(plane["trails"][-1]["points"][-1]["at"], plane["trails"][-1]["points"][0]["at"])
            inside = float(sum((a * through.plane.first[n] + b * through.plane.second[n]).square().sum()
                               for n in through.plane.first))  # fmt: skip
            last = plane["trails"][-1]
            assert last["hidden"] == pytest.approx(1 - inside / last["points"][-1]["moved"] ** 2, abs=1e-4)


def test_what_is_there_is_not_followed_again(bench, folder):
    assert missing_trajectories(bench, folder) == []


def test_a_folder_without_ways_is_told_as_before(bench, folder, monkeypatch):
    """Records of surfaces that an earlier version made hold no ways; the result then has none, and no note."""
    monkeypatch.setattr(trajectory, "KIND", "none")
    monkeypatch.setattr("stillscape.experiments.landscape_result.TRAJECTORIES", "none")
    surface, notes = measured_landscape(collect(bench, Store(folder), "head"))
    assert notes == []
    assert all(plane["trails"] == [] for plane in surface["planes"])


def test_another_training_is_not_believed(bench, folder, monkeypatch):
    cells, real = Store(folder), trajectory.fit
    monkeypatch.setattr(trajectory, "fit", lambda *a, seed, **k: real(*a, seed=seed + 1, **k))
    with pytest.raises(InputError, match=r"ends .* from where it ended before"):
        replay(bench, cells, Cell("last-layers:1", 12, 0, 0), lambda *_: None)


def test_another_plane_is_not_believed(bench, folder, monkeypatch, tmp_path):
    cells, surfaces = Store(folder), Store(folder, landscape.KIND)
    view = next(view for view in views_of(bench, cells) if view.plane == "path")
    record = surfaces.record(view_key(bench, cells, view))
    record["way"][0]["at"] = [-record["way"][0]["at"][0] - 1, record["way"][0]["at"][1]]
    monkeypatch.setattr(surfaces, "record", lambda _: record)
    with pytest.raises(InputError, match="not the one that was measured"):
        trajectory._same_plane(bench, cells, surfaces, view)


def test_where_it_cannot_be_had_the_record_says_why(bench, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectory, "trained_weights", lambda *_: None)
    for name in ("cells", landscape.KIND):
        shutil.copytree(folder / name, tmp_path / name)
    trajectory.run_trajectory(bench, tmp_path, "head")
    record = Store(tmp_path, KIND).record(trajectory_key(bench, Store(tmp_path), "head"))
    assert (record["status"], record["reason"]) == ("missing", "the trained weights are too large to be kept")
