"""The loss surface over planes through w*, image by image: measured once, from it every k by running sums.

w* is the first order's model at the largest size, in one fold; all images are held out there, as in the probes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillscape._errors import InputError, SelfCheckError
from stillscape.curvature import Eigenpairs, PerSampleHessian, Plane, across, filter_normalized, top_eigenvalues, unit
from stillscape.experiments.bench import METHOD, Bench, Cell
from stillscape.experiments.cell import peak_memory_bytes
from stillscape.experiments.probe import FOLD, State, between, trained_weights
from stillscape.experiments.store import Store, content_key
from stillscape.models import load_trained_state
from stillscape.training import score

VERSION = 1  # raise when the numbers change
KIND = "surfaces"
PLANES = ("curvature", "path", "random")
CURVATURE_IMAGES = 128  # of those on the surface; directions need no more
STEPS = 30  # of Lanczos
MEMORY_BYTES = 6 * 2**30  # beyond it Lanczos is not begun
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


def missing_views(bench: Bench, folder: Path) -> list[View]:
    """Return those that the run folder does not hold yet."""
    cells, store = Store(folder), Store(folder, KIND)
    return [view for view in views_of(bench, cells) if not store.has(view_key(bench, cells, view))]


def run_view(bench: Bench, folder: Path, view: View) -> None:
    """Measure one plane and store it; where it can't be had, the record says why."""
    cells, store, started = Store(folder), Store(folder, KIND), time.perf_counter()
    table: dict[str, Any] | None = None
    try:
        record, table = _measure(bench, cells, view)
    except (RuntimeError, NotImplementedError, SelfCheckError, InputError) as error:
        # An operator without second derivative, or optima that lie on one another.
        record = {"status": "missing", "reason": f"{view.plane}: {str(error).splitlines()[0]}"}
    spent = {"seconds": time.perf_counter() - started, "peak_memory_bytes": peak_memory_bytes()}
    content = {"reason": "", "view": {"adapt": view.adapt, "plane": view.plane}, **record, **spent}
    store.write(view_key(bench, cells, view), content, table)


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


def _measure(bench: Bench, cells: Store, view: View) -> tuple[dict[str, Any], dict[str, Any] | None]:
    path = _path(bench, cells, view.adapt, bench.sizes)
    states = [trained_weights(cells, bench.key(cell)) for cell in path]
    kept = [state for state in states if state is not None]
    if len(kept) < len(states):
        return {"status": "missing", "reason": "the trained weights are too large to be kept"}, None
    rows = _rows(bench)
    x, y = np.array(bench.inputs(view.adapt)[rows]), bench.labels[rows]
    suffix = bench.split(view.adapt, bench.training_seed(path[-1], FOLD)).suffix
    load_trained_state(suffix, kept[-1])
    images, labels = (torch.from_numpy(array[:CURVATURE_IMAGES]) for array in (x, y))
    hv = PerSampleHessian(suffix.eval(), F.cross_entropy, images, labels)
    plane, names, curvatures = _plane(view.plane, hv, kept, bench.plan.split_seed)
    way = [plane.coordinates(state) for state in kept]
    axes = [
        _axis(
            names[i], [at[i] for at in way], (plane.first, plane.second)[i], curvatures[i], symmetric=names[i] != "path"
        )
        for i in range(2)
    ]
    first, second = (grid_of(axis, bench.plan.surface_points) for axis in axes)
    losses = grid_losses(suffix, plane, first, second, x, y)
    record = {
        "status": "ok",
        "images": len(rows),
        "points": bench.plan.surface_points,
        "axes": [axis.__dict__ for axis in axes],
        "way": [{"k": c.k, "at": at[:2], "off": at[2]} for c, at in zip(path, way, strict=True)],
    }
    flat = pa.FixedSizeListArray.from_arrays(pa.array(losses.reshape(-1)), len(rows))
    return record, {"point": np.arange(first.size * second.size), "losses": flat}


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
    bent = [{n: v[place].reshape(star[n].shape) for n, place in hv.slices.items()} for v in found.vectors]
    values = found.values.tolist()
    if kind == "curvature":
        return Plane(star, bent[0], bent[1]), ("curvature 1", "curvature 2"), (values[0], values[1])
    along = unit(between(states[-2], star)[1])
    return Plane(star, along, across(bent[0], along)), ("path", "curvature 1"), (None, values[0])


def _top(hv: PerSampleHessian, count: int) -> Eigenpairs:
    needed = STEPS * 4 * hv.num_parameters
    if needed > MEMORY_BYTES:
        raise InputError(
            f"curvature of {hv.num_parameters:,} parameters would take {needed / 2**30:.0f} GiB of memory; "
            f"{MEMORY_BYTES / 2**30:.0f} GiB is the most that is used"
        )
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
