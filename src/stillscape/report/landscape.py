"""What the displays read of a loss surface in result.json: L_k over a plane for growing k, and the weights' way."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from stillscape._errors import InputError, RecordError
from stillscape.report import words
from stillscape.report.series import entry_of

PLANE_NAMES = {
    "curvature": "two directions of largest curvature",
    "path": "way of the weights and largest curvature",
    "random": "two random directions",
}
AXIS_NAMES = {
    "curvature 1": "largest curvature",
    "curvature 2": "2nd largest curvature",
    "path": "way of the weights",
    "random 1": "random direction",
    "random 2": "another random direction",
}
_SIGN = f"\N{NO-BREAK SPACE}{words.MINUS}\N{NO-BREAK SPACE}"
TO_WHOLE, NEXT_STEP = f"|Lₘ{_SIGN}Lₖ|", f"|Lₖ₊₁{_SIGN}Lₖ|"
QUANTITIES = {
    "losses": "the surface, Lₖ",
    "to_whole": f"distance from the last, {TO_WHOLE}",
    "next_step": f"what one more image moves, {NEXT_STEP}",
}


ALMOST_ALL = 0.999


@dataclass(frozen=True)
class Trail:
    """The way on which one training came to its weights, as it shows in a plane.

    Attributes:
        k: images that were trained on.
        steps: after which the weights were looked at.
        places: nearest points of the plane, two coordinates each.
        off: distances from the plane.
        moved: distances from the start.
        hidden: share of the squared way from start to end that is across the plane.
    """

    k: int
    steps: Int[np.ndarray, " n"]
    places: Float[np.ndarray, "n 2"]
    off: Float[np.ndarray, " n"]
    moved: Float[np.ndarray, " n"]
    hidden: float


@dataclass(frozen=True)
class Landscape:
    """One plane through one adaptation's w*; the first axis of each surface is k, then come the two directions.

    Attributes:
        plane: its name.
        axes: what the two directions are, in words.
        first: places along the first one.
        second: places along the second one.
        k: sizes; the last is m.
        losses: L_k, nats.
        to_whole: |L_m - L_k|, nats.
        next_step: |L_{k+1} - L_k|, nats; NaN at m.
        share: of the plane that lies within the tolerance of L_m, over random orders: mean, low, high.
        settled: k from which on all of it does, in the order that is shown; None before m.
        way: (k, first, second, distance from the plane) of the weights trained on k.
        tolerance: nats.
        trails: ways of some trainings, of growing k; none in results of earlier versions.
    """

    plane: str
    axes: tuple[str, str]
    first: Float[np.ndarray, " p"]
    second: Float[np.ndarray, " q"]
    k: Int[np.ndarray, " K"]
    losses: Float[np.ndarray, "K p q"]
    to_whole: Float[np.ndarray, "K p q"]
    next_step: Float[np.ndarray, "K p q"]
    share: Float[np.ndarray, "3 K"]
    settled: int | None
    way: list[tuple[int, float, float, float]]
    tolerance: float
    trails: tuple[Trail, ...] = ()

    def hidden(self) -> str:
        """Return what the plane doesn't show of the trainings' ways, in words; empty where none was followed."""
        if not self.trails:
            return ""
        shares = [min(round(trail.hidden, 3), ALMOST_ALL) for trail in self.trails]
        low, high = (words.percent(end) for end in (min(shares), max(shares)))
        said = low if low == high else f"{low.removesuffix(words.PERCENT_SIGN)} to {high}"
        more = " or more" if max(shares) == ALMOST_ALL else ""  # 100 % would say that nothing shows
        sizes = ", ".join(f"{trail.k:,}" for trail in self.trails)
        hidden = f"{said}{more} is across the plane and does not show"
        return f"of the squared distance from start to end (k = {sizes}), {hidden}"

    def shown(self, count: int, *, last: bool = True) -> list[int]:
        """Return the places of about `count` sizes, evenly spread, the largest included or left out."""
        places = len(self.k) - (0 if last else 1)
        return np.unique(np.linspace(0, places - 1, min(count, places)).round().astype(int)).tolist()

    def ceiling(self) -> float:
        """Return the top of the common scale of losses: what the largest third of the sizes reaches.

        A mean over a few images can be many times as high somewhere; beside it all other surfaces would look flat.
        """
        return float(self.losses[2 * len(self.k) // 3 :].max())

    def height(self, values: Float[np.ndarray, "p q"], a: float, b: float) -> float:
        """Return the surface's height at a place between its points."""
        i, s = _between(self.first, a)
        j, t = _between(self.second, b)
        square = values[i : i + 2, j : j + 2]
        return float(np.array([1 - s, s]) @ square @ np.array([1 - t, t]))


def landscapes_of(entry: Mapping[str, Any]) -> dict[str, Landscape]:
    """Return an adaptation's planes by name; none where its surface was not measured.

    Raises:
        RecordError: the record is damaged.
    """
    surface = entry.get("surface")
    if not surface:
        return {}
    try:
        return {plane["name"]: _landscape(plane, float(surface["tolerance"])) for plane in surface["planes"]}
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise RecordError(
            f"the loss surface of {entry['adapt']!r} can't be read ({error!r}); run again to rebuild the result."
        ) from None


def landscape_from(result: Mapping[str, Any], adapt: str | None, plane: str | None) -> tuple[str, Landscape]:
    """Return an adaptation's name and one of its planes, the first one by default.

    Raises:
        InputError: there is no such adaptation, or its surface was not measured on this plane.
    """
    entry = entry_of(result, adapt)
    found = landscapes_of(entry)
    if not found:
        raise InputError(f"the loss surface of {entry['adapt']!r} was not measured; ask for `surface` in the plan.")
    plane = next(iter(found)) if plane is None else plane
    if plane not in found:
        held = ", ".join(found)
        raise InputError(f"plane is {plane!r}; the surface of {entry['adapt']!r} was measured over {held}. Name one.")
    return entry["adapt"], found[plane]


def unpacked(content: Mapping[str, Any]) -> np.ndarray:
    """Return the numbers that a result holds as base64 of little-endian float32.

    >>> unpacked({"dtype": "f4", "shape": [1, 2], "base64": "AAAAAAAAAAA="})
    array([[0., 0.]], dtype=float32)
    """
    raw = base64.b64decode(content["base64"], validate=True)
    return np.frombuffer(raw, dtype="<f4").reshape(content["shape"])


def _landscape(plane: Mapping[str, Any], tolerance: float) -> Landscape:
    first, second = (np.array(axis["at"], dtype=np.float64) for axis in plane["axes"])
    k = np.array(plane["k"], dtype=np.int64)
    surfaces = {name: unpacked(plane[name]) for name in QUANTITIES}
    wanted = (len(k), len(first), len(second))
    for name, values in surfaces.items():
        if values.shape != wanted:
            raise ValueError(f"{name} has shape {values.shape}, not {wanted}")
    share = np.array([plane["share_within"][end] for end in ("mean", "low", "high")], dtype=np.float64)
    way = [(int(at["k"]), float(at["at"][0]), float(at["at"][1]), float(at["off"])) for at in plane["way"]]
    names = [AXIS_NAMES.get(axis["name"], "a direction") for axis in plane["axes"]]
    return Landscape(
        plane["name"], (names[0], names[1]), first, second, k, **surfaces, share=share, settled=plane["settled"],
        way=way, tolerance=tolerance, trails=tuple(_trail(trail) for trail in plane.get("trails") or ()),
    )  # fmt: skip


def _trail(trail: Mapping[str, Any]) -> Trail:
    points = trail["points"]
    places = np.array([point["at"] for point in points], dtype=np.float64)
    if places.shape != (len(points), 2):
        raise ValueError(f"the way of a training has places of shape {places.shape}")
    off, moved = (np.array([point[name] for point in points], dtype=np.float64) for name in ("off", "moved"))
    steps = np.array([point["step"] for point in points], dtype=np.int64)
    return Trail(int(trail["k"]), steps, places, off, moved, float(trail["hidden"]))


def _between(places: np.ndarray, at: float) -> tuple[int, float]:
    i = int(np.clip(np.searchsorted(places, at) - 1, 0, len(places) - 2))
    return i, float(np.clip((at - places[i]) / (places[i + 1] - places[i]), 0.0, 1.0))
