"""From an adaptation's records of its loss surface to what its result says of them: L_k over planes, for growing k."""

import base64
from typing import Any

import numpy as np

from stillscape._errors import InputError
from stillscape.convergence import geometric_sizes, settling_surface, share_within
from stillscape.experiments.collect import Collected
from stillscape.experiments.landscape import KIND, Axis, grid_of, view_key, views_of
from stillscape.experiments.store import Store
from stillscape.experiments.trajectory import KIND as TRAJECTORIES
from stillscape.experiments.trajectory import trajectory_key

SIZES = 14  # of k, evenly spread in log k; a few of the smallest fall together


def measured_landscape(collected: Collected) -> tuple[dict[str, Any] | None, list[str]]:
    """Return what was measured of an adaptation's surface, and notes; None where the plan asks for nothing."""
    bench, store = collected.bench, Store(collected.store.place.parent, KIND)
    planes: list[dict[str, Any]] = []
    notes: list[str] = []
    ways = _trails(collected, notes)
    for view in views_of(bench, collected.store):
        key = view_key(bench, collected.store, view)
        if view.adapt != collected.adapt or not store.has(key):
            continue
        record = store.record(key)
        try:
            if record["status"] != "ok":
                raise InputError(record["reason"])
            plane = _plane(view.plane, record, store.losses(key)["losses"], bench.plan.loss_tolerance)
            planes.append({**plane, "trails": [trail for name, trail in ways if name == view.plane]})
        except InputError as error:
            notes.append(f"The loss surface has no {view.plane} plane ({str(error).rstrip('.')}).")
    if not planes:
        return None, notes
    return {"images": planes[0]["k"][-1], "tolerance": bench.plan.loss_tolerance, "planes": planes}, notes


def _trails(collected: Collected, notes: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the ways of trainings, each with its plane's name; none where they could not be followed."""
    bench, store = collected.bench, Store(collected.store.place.parent, TRAJECTORIES)
    key = trajectory_key(bench, collected.store, collected.adapt)
    if key is None or not store.has(key):
        return []
    record = store.record(key)
    if record["status"] != "ok":
        notes.append(f"The surface shows no way of a training ({record['reason'].rstrip('.')}).")
        return []
    return [(trail.pop("plane"), trail) for trail in record["trails"]]


def _plane(name: str, record: dict[str, Any], losses: np.ndarray, tolerance: float) -> dict[str, Any]:
    """Return one plane: its axes, L_k with both differences, how much of it has settled, and the way of the weights."""
    axes = [Axis(**axis) for axis in record["axes"]]
    points = record["points"]
    grid, sizes = losses.reshape(points, points, -1), geometric_sizes(record["images"], SIZES)
    found = settling_surface(grid, sizes)
    share = share_within(grid, sizes, tolerance)
    return {
        "name": name,
        "axes": [{**axis.__dict__, "at": [float(f"{a:.7g}") for a in grid_of(axis, points)]} for axis in axes],
        "k": found.k.tolist(),
        "losses": packed(found.losses),
        "next_step": packed(found.next_step),
        "to_whole": packed(found.to_whole),
        "share_within": {end: getattr(share, end).tolist() for end in ("mean", "low", "high")},
        "settled": found.settled(tolerance),
        "way": record["way"],
    }


def packed(array: np.ndarray) -> dict[str, Any]:
    """Return numbers as base64 of little-endian float32, with their shape: a fifth of what digits would take.

    >>> packed(np.zeros((1, 2)))
    {'dtype': 'f4', 'shape': [1, 2], 'base64': 'AAAAAAAAAAA='}
    """
    raw = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return {"dtype": "f4", "shape": list(array.shape), "base64": base64.b64encode(raw).decode()}
