"""The ways on which trainings came to their weights, as they show in the planes of the loss surface.

A training is repeated from its seed, as it was: what it ends at is held against the weights that were stored. Of each
of some steps two coordinates in each plane are kept, how far the weights lie from it, and how far they have come.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stillscape._errors import InputError, MemoryShortError
from stillscape._folders import Folder
from stillscape.curvature import Plane
from stillscape.experiments.bench import Bench, Cell
from stillscape.experiments.cell import OUT_OF_MEMORY
from stillscape.experiments.extras import Measured, missing_of, store_extra
from stillscape.experiments.landscape import KIND as SURFACES
from stillscape.experiments.landscape import Through, View, through_star, view_key, views_of
from stillscape.experiments.probe import FOLD, State, between, trained_weights
from stillscape.experiments.store import Store, content_key
from stillscape.models import trained_state
from stillscape.training import fit

VERSION = 1  # raise when the numbers change
KIND = "trajectories"
MOST_POINTS = 40
MOST_SIZES = 3  # the smallest, the middle and the largest k
SAME = 1e-3  # of the way; a replay that ends further from the stored weights is not believed


def trajectory_key(bench: Bench, cells: Store, adapt: str) -> str | None:
    """Return the key of an adaptation's record; None where the plan asks for no surface, or has none."""
    keys = [view_key(bench, cells, view) for view in views_of(bench, cells) if view.adapt == adapt]
    return content_key(["trajectory", VERSION, MOST_POINTS, MOST_SIZES, keys]) if keys else None


def missing_trajectories(bench: Bench, folder: Folder) -> list[str]:
    """Return the adaptations whose ways are asked for and not in the run folder yet."""
    cells = Store(folder)
    return missing_of(Store(folder, KIND), bench.plan.adapt, lambda adapt: trajectory_key(bench, cells, adapt))


def run_trajectory(bench: Bench, folder: Folder, adapt: str) -> None:
    """Replay one adaptation's trainings and store their ways; where they can't be had, the record says why."""
    cells = Store(folder)
    key = trajectory_key(bench, cells, adapt)
    assert key is not None

    def measure() -> Measured:
        surfaces = Store(folder, SURFACES)
        trails = _measure(bench, cells, surfaces, adapt)
        lacking = {OUT_OF_MEMORY: True} if _is_short(bench, cells, surfaces, adapt) else {}
        return {"status": "ok", "version": VERSION, "trails": trails, **lacking}, None

    store_extra(Store(folder, KIND), key, measure, adapt=adapt)


def chosen_sizes(sizes: Sequence[int]) -> list[int]:
    """Return the sizes whose trainings are followed.

    >>> chosen_sizes([50, 100, 200, 400, 800]), chosen_sizes([50, 100])
    ([50, 200, 800], [50, 100])
    """
    places = np.unique(np.linspace(0, len(sizes) - 1, min(MOST_SIZES, len(sizes))).round().astype(int))
    return [int(sizes[place]) for place in places]


def kept_steps(steps: int) -> list[int]:
    """Return the numbers of steps after which the weights are looked at: denser at first, where they move fastest.

    >>> kept_steps(3), kept_steps(1000)[:5], len(kept_steps(1000))
    ([0, 1, 2, 3], [0, 1, 3, 6, 11], 40)
    """
    shares = np.linspace(0, 1, min(MOST_POINTS, steps + 1))
    power = 2 if steps >= MOST_POINTS else 1
    return np.unique((steps * shares**power).round().astype(int)).tolist()


@dataclass
class Trail:
    """Where weights lie in a plane as they are shown to it, how far from it, and how far from the first ones.

    Args:
        plane: the plane.

    Example:
        >>> import torch
        >>> axes = [{"w": torch.eye(3)[n]} for n in range(2)]
        >>> trail = Trail(Plane({"w": torch.zeros(3)}, *axes))
        >>> for step, w in enumerate(([0.0, 0.0, 0.0], [3.0, 0.0, 4.0])):
        ...     trail.see(step, {"w": torch.tensor(w)})
        >>> trail.points[1]
        {'step': 1, 'at': [3.0, 0.0], 'off': 4.0, 'moved': 5.0}
        >>> trail.hidden()
        0.64
    """

    plane: Plane
    points: list[dict[str, Any]] = field(default_factory=list)
    start: State = field(default_factory=dict)

    def see(self, step: int, state: State) -> None:
        """Take note of the weights after so many steps; they are not kept."""
        self.start = self.start or state
        a, b, off = self.plane.coordinates(state)
        moved = between(state, self.start)[0]
        self.points.append({"step": step, "at": [_short(a), _short(b)], "off": _short(off), "moved": _short(moved)})

    def hidden(self) -> float:
        """Return the share of the squared way from the first weights to the last that the plane doesn't show.

        It is 1 - ||a first + b second||^2 / ||w_end - w_0||^2, with (a, b) the difference of their coordinates.
        """
        begin, end = self.points[0], self.points[-1]
        a, b = (end["at"][i] - begin["at"][i] for i in range(2))
        first, second = self.plane.first, self.plane.second
        inside = sum(float((a * first[n].double() + b * second[n].double()).square().sum()) for n in first)
        return _short(min(max(1 - inside / end["moved"] ** 2, 0.0), 1.0)) if end["moved"] else 0.0


def replay(bench: Bench, cells: Store, cell: Cell, see: Callable[[int, State], None]) -> None:
    """Repeat a cell's training, and show its weights at some steps, those that it ends with last.

    Raises:
        InputError: it ended elsewhere than when the cell was measured.

    Cost: one training.
    """
    stored = trained_weights(cells, bench.key(cell))
    if stored is None:
        raise InputError("the trained weights are too large to be kept")
    steps = cells.record(bench.key(cell))["folds"][FOLD]["steps"]
    wanted, seed = set(kept_steps(steps)) - {steps}, bench.training_seed(cell, FOLD)
    suffix, start = bench.split(cell.adapt, seed).suffix, {}

    def look(step: int) -> None:
        state = trained_state(suffix) if step in wanted else {}
        if step == 0:
            start.update(state)
        if state:
            see(step, state)

    rows = bench.training_rows(cell.k, cell.permutation, FOLD)
    recipe, precision = bench.plan.recipe(cell.adapt), bench.plan.precision
    fit(suffix, bench.inputs(cell.adapt), bench.labels, rows, recipe, seed=seed, precision=precision, watch=look)
    end = trained_state(suffix)  # of an early stop the best weights, of the head those that were polished
    apart, way = between(end, stored)[0], between(stored, start)[0]
    if apart > SAME * way:
        raise InputError(f"the training at k = {cell.k}, repeated, ends {apart:.3g} from where it ended before")
    see(steps, end)


def _measure(bench: Bench, cells: Store, surfaces: Store, adapt: str) -> list[dict[str, Any]]:
    planes = [
        (view.plane, _same_plane(bench, cells, surfaces, view))
        for view in views_of(bench, cells)
        if view.adapt == adapt and _is_there(bench, cells, surfaces, view)
    ]
    if not planes and _is_short(bench, cells, surfaces, adapt):
        raise MemoryShortError("no plane of the surface was measured")
    if not planes:
        raise InputError("no plane of the surface was measured")
    path = planes[0][1].path
    wanted = chosen_sizes([cell.k for cell in path])
    trails = []
    for cell in (cell for cell in path if cell.k in wanted):
        seen = {name: Trail(through.plane) for name, through in planes}

        def see(step: int, state: State, seen: dict[str, Trail] = seen) -> None:
            for trail in seen.values():
                trail.see(step, state)

        replay(bench, cells, cell, see)
        trails += [{"plane": n, "k": cell.k, "points": t.points, "hidden": t.hidden()} for n, t in seen.items()]
    return trails


def _is_there(bench: Bench, cells: Store, surfaces: Store, view: View) -> bool:
    key = view_key(bench, cells, view)
    return surfaces.has(key) and surfaces.record(key)["status"] == "ok"


def _is_short(bench: Bench, cells: Store, surfaces: Store, adapt: str) -> bool:
    """Whether memory ran out on a plane of the surface, so that its ways are to be had when it is measured again."""
    keys = [view_key(bench, cells, view) for view in views_of(bench, cells) if view.adapt == adapt]
    return any(surfaces.has(key) and surfaces.record(key).get(OUT_OF_MEMORY) for key in keys)


def _same_plane(bench: Bench, cells: Store, surfaces: Store, view: View) -> Through:
    """Return a plane laid once more, after holding it against what was recorded when its surface was measured.

    Raises:
        InputError: it is another one, as an eigenvector's sign may make it on another machine.
    """
    found, before = through_star(bench, cells, view), surfaces.record(view_key(bench, cells, view))["way"]
    now, then = (np.array([[*place["at"], place["off"]] for place in way]) for way in (found.way, before))
    if now.shape != then.shape or np.abs(now - then).max() > SAME * max(np.abs(then).max(), 1e-12):
        raise InputError(f"the {view.plane} plane, laid once more, is not the one that was measured")
    return found


def _short(number: float) -> float:
    return float(f"{number:.7g}")
