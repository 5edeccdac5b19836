"""The loss surface over planes through w*, image by image: measured once, from it every k by running sums.

w* is the first order's model at the largest size, in one fold; all images are held out there, as in the probes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from stillscape._errors import InputError
from stillscape._folders import Folder
from stillscape.curvature import Eigenpairs, PerSampleHessian, Plane, across, filter_normalized, top_eigenvalues, unit
from stillscape.experiments.bench import METHOD, Bench, Cell
from stillscape.experiments.extras import Measured, missing_of, store_extra
from stillscape.experiments.operators import MEMORY_BYTES, hessians_of, too_large
from stillscape.experiments.probe import FOLD, State, between, trained_weights
from stillscape.experiments.store import Store, content_key
from stillscape.models import load_trained_state
from stillscape.training import score

VERSION = 1  # raise when the numbers change
KIND = "surfaces"
PLANES = ("curvature", "path", "random")
CURVATURE_IMAGES = 128  # of those on the surface; directions need no more
STEPS = 30  # of Lanczos
RISE = 0.2  # nats; by so much the second order lets the loss rise at the edge of the plane
MARGIN = 0.25  # around the way that the weights took, of its length


@dataclass(frozen=True)
class View:
    """One plane through one adaptation's w*.

    Attributes:
        adapt: the adaptation.
        plane: "curvature", the two directions of largest curvature at w*; "path", from w* to the optimum at the next
            smaller size, and the direction of largest curvature across it; "random", two filter-normalized directions.
    """

    adapt: str
    plane: str


@dataclass(frozen=True)
class Axis:
    """Where the points lie along one direction: from `low` to `high` times a direction of length `length`."""

    name: str
    low: float
    high: float
    length: float
    curvature: float | None


@dataclass(frozen=True)
class Through:
    """A plane through w*, and what it was laid through.

    Attributes:
        plane: itself.
        names: of its directions.
        curvatures: along them, where known.
        path: cells whose weights it shows, of growing size.
        way: where these lie in it.
        suffix: the model, at w*.
        x: inputs of the images on the surface.
        y: their labels.
    """

    plane: Plane
    names: tuple[str, str]
    curvatures: tuple[float | None, float | None]
    path: list[Cell]
    way: list[dict[str, Any]]
    suffix: nn.Module
    x: np.ndarray
    y: np.ndarray


def views_of(bench: Bench, cells: Store) -> list[View]:
    """Return the planes that the plan asks for, of adaptations whose two largest cells did not fail."""
    if bench.plan.surface < 2:
        return []
    adapts = [adapt for adapt in bench.plan.adapt if len(_path(bench, cells, adapt, bench.sizes[-2:])) == 2]
    return [View(adapt, plane) for adapt in adapts for plane in PLANES]


def view_key(bench: Bench, cells: Store, view: View) -> str:
    """Return the content hash of everything that decides the numbers of a view."""
    keys = [bench.key(cell) for cell in _path(bench, cells, view.adapt, bench.sizes)]
    plan = bench.plan
    settings = [view.plane, plan.surface, plan.surface_points, plan.split_seed, CURVATURE_IMAGES, STEPS, RISE, MARGIN]
    return content_key(["surface", METHOD, VERSION, keys, settings])


def missing_views(bench: Bench, folder: Folder) -> list[View]:
    """Return those that the run folder does not hold yet."""
    cells = Store(folder)
    return missing_of(Store(folder, KIND), views_of(bench, cells), lambda view: view_key(bench, cells, view))


def run_view(bench: Bench, folder: Folder, view: View) -> None:
    """Measure one plane and store it; where it can't be had, the record says why."""
    cells, named = Store(folder), {"adapt": view.adapt, "plane": view.plane}
    store, key = Store(folder, KIND), view_key(bench, cells, view)
    store_extra(store, key, lambda: _measure(bench, cells, view), before=f"{view.plane}: ", view=named)


def grid_of(axis: Axis, points: int) -> np.ndarray:
    """Return the places along one axis at which the surface is measured."""
    return np.linspace(axis.low, axis.high, points)


def grid_losses(
    suffix: nn.Module, plane: Plane, first: np.ndarray, second: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Return each image's loss at each point of a plane, as (first, second, images); nats, float32.

    Cost: one forward pass of every image at every point; each point's weights are put in place once.
    """
    rows = np.arange(len(y))
    found = np.empty((len(first), len(second), len(y)), dtype=np.float32)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            load_trained_state(suffix, plane.at(float(a), float(b)))
            found[i, j] = score(suffix, x, y, rows).losses
    return found


def _path(bench: Bench, cells: Store, adapt: str, sizes: Sequence[int]) -> list[Cell]:
    """Return the first repeat's cells at these sizes, without those that failed."""
    found = [Cell(adapt, k, 0, 0) for k in sizes]
    keys = {cell: bench.key(cell) for cell in found}
    return [cell for cell in found if not cells.has(keys[cell]) or cells.record(keys[cell])["status"] == "ok"]


def through_star(bench: Bench, cells: Store, view: View) -> Through:
    """Return a view's plane with what it was laid through; the same weights give the same plane.

    Raises:
        InputError: weights were not kept, the directions would take too much memory, or span no plane.
    """
    path = _path(bench, cells, view.adapt, bench.sizes)
    states = [trained_weights(cells, bench.key(cell)) for cell in path]
    kept = [state for state in states if state is not None]
    if len(kept) < len(states):
        raise InputError("the trained weights are too large to be kept")
    rows = _rows(bench)
    x, y = np.array(bench.inputs(view.adapt)[rows]), bench.labels[rows]
    suffix = bench.split(view.adapt, bench.training_seed(path[-1], FOLD)).suffix
    load_trained_state(suffix, kept[-1])
    hv = hessians_of(suffix.eval(), x, y, slice(CURVATURE_IMAGES))
    plane, names, curvatures = _plane(view.plane, hv, kept, bench.plan.split_seed)
    way = [
        {"k": cell.k, "at": at[:2], "off": at[2]} for cell, at in zip(path, map(plane.coordinates, kept), strict=True)
    ]
    return Through(plane, names, curvatures, path, way, suffix, x, y)


def _measure(bench: Bench, cells: Store, view: View) -> Measured:
    found, points = through_star(bench, cells, view), bench.plan.surface_points
    directions = (found.plane.first, found.plane.second)
    axes = [
        _axis(name, [at["at"][i] for at in found.way], directions[i], found.curvatures[i], symmetric=name != "path")
        for i, name in enumerate(found.names)
    ]
    first, second = (grid_of(axis, points) for axis in axes)
    losses = grid_losses(found.suffix, found.plane, first, second, found.x, found.y)
    record = {
        "status": "ok",
        "images": len(found.y),
        "points": points,
        "axes": [axis.__dict__ for axis in axes],
        "way": found.way,
    }
    flat = pa.FixedSizeListArray.from_arrays(pa.array(losses.reshape(-1)), len(found.y))
    return record, {"point": np.arange(points**2), "losses": flat}


def _rows(bench: Bench) -> np.ndarray:
    order = np.random.default_rng([bench.plan.split_seed, *b"surfaces"]).permutation(bench.held_out_rows(FOLD))
    return order[: bench.plan.surface]


def _plane(
    kind: str, hv: PerSampleHessian, states: list[State], seed: int
) -> tuple[Plane, tuple[str, str], tuple[float | None, float | None]]:
    """Return the plane, what its directions are called, and the curvatures along them."""
    star = states[-1]
    if kind == "random":
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, *b"plane"]).generate_state(1)[0]))
        drawn = [{n: torch.randn(w.shape, generator=generator) for n, w in star.items()} for _ in range(2)]
        first, second = (filter_normalized(direction, star) for direction in drawn)
        return Plane(star, first, second), ("random 1", "random 2"), (None, None)
    found = _top(hv, 2 if kind == "curvature" else 1)
    bent = [{n: v[place].reshape(star[n].shape) for n, place in hv.slices.items()} for v in found.vectors.cpu()]
    values = found.values.tolist()
    if kind == "curvature":
        return Plane(star, bent[0], bent[1]), ("curvature 1", "curvature 2"), (values[0], values[1])
    along = unit(between(states[-2], star)[1])
    return Plane(star, along, across(bent[0], along)), ("path", "curvature 1"), (None, values[0])


def _top(hv: PerSampleHessian, count: int) -> Eigenpairs:
    if reason := too_large("curvature", STEPS, hv.num_parameters, MEMORY_BYTES):
        raise InputError(reason)
    found = top_eigenvalues(hv, count, tol=1e-2, max_steps=STEPS)
    if len(found.values) < count:
        raise InputError(f"the surface bends in {len(found.values)} directions only")
    return found


def _axis(
    name: str, way: list[float], direction: Mapping[str, Tensor], curvature: float | None, *, symmetric: bool
) -> Axis:
    """Return an axis that shows the way of the weights and, where a curvature is known, a rise by `RISE`."""
    length = float(sum(float(d.double().square().sum()) for d in direction.values()) ** 0.5)
    if not symmetric:
        room = MARGIN * (max(way) - min(way))
        return Axis(name, min(way) - room, max(way) + room, length, curvature)
    # Filter-normalized directions have a step of their own: 1 moves every filter by its length.
    least = 1.0 if curvature is None else float(np.sqrt(2 * RISE / max(abs(curvature), 1e-12)))
    reach = max(least, (1 + MARGIN) * max(abs(place) for place in way))
    return Axis(name, -reach, reach, length, curvature)
