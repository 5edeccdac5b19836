"""The surface to turn and to play: what the page hands to plotly, as data that no markup can get out of."""

import base64
import gzip
import hashlib
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from stillscape.report import words
from stillscape.report.displays.base import Table
from stillscape.report.displays.settling import SettlingSurfaceDisplay
from stillscape.report.landscape import PLANE_NAMES, QUANTITIES, Landscape, Trail, landscapes_of

MOST_POINTS = 31  # along each direction of a surface on the page; of more, every second one is shown
FLOOR = 0.1  # of the tolerance: differences are drawn on a logarithmic scale, which has no zero


@dataclass(frozen=True)
class Interactive:
    """One adaptation's surface on the page.

    Attributes:
        name: prefix of ids.
        planes: name and words of each plane.
        quantities: name and words of what can be shown over it.
        sizes: of the first plane's slider.
        caption: plain text.
        label: what a screen reader says of the picture.
        data: JSON for the script, safe inside of an element.
        tables: words and table of each plane.
        trails: whether ways of trainings can be shown.
    """

    name: str
    planes: list[tuple[str, str]]
    quantities: list[tuple[str, str]]
    sizes: list[int]
    caption: str
    label: str
    data: str
    tables: list[tuple[str, Table]]
    trails: bool


@dataclass(frozen=True)
class Script:
    """What the page needs to draw: its own code, plotly's compressed, and the policy that lets nothing else run."""

    own: str
    plotly: str
    policy: str


def interactive(entry: Mapping[str, Any], name: str) -> Interactive | None:
    """Return what the page shows of one adaptation's surface, or None where it was not measured."""
    found = landscapes_of(entry)
    if not found:
        return None
    first = next(iter(found.values()))
    planes = [(plane, _plane_name(plane)) for plane in found]
    tolerance = f"{words.number(first.tolerance)} nats"
    caption = (
        "The mean loss Lₖ of the first k held-out images over a plane through the weights w* trained at the largest "
        f"size, for k up to {first.k[-1]:,}. The scales stay the same for all k; what rises above them is cut off. "
        "Points: weights trained on fewer images, at the nearest point of the plane. The differences have a "
        "logarithmic scale, cut off at a tenth of the tolerance, and are blue where they are within the tolerance of "
        f"{tolerance}. Drag the picture to turn it. The surface stands still for any model, at a rate of 1/k: this "
        "picture shows what one more image does to it, and has no vote in the verdict."
    )
    label = (
        f"Surface of the mean loss of the first k of {first.k[-1]:,} held-out images over two directions of the "
        "weights; the numbers stand in the tables below."
    )
    data = {"tolerance": first.tolerance, "planes": [_content(plane) for plane in found.values()]}
    tables = []
    for plane, at in found.items():
        display = SettlingSurfaceDisplay(entry["adapt"], at)
        tables.append((_plane_name(plane), display.table()))
        if at.trails:
            tables.append((f"{_plane_name(plane)}: ways of trainings", display.ways()))
    trails = any(at.trails for at in found.values())
    return Interactive(
        name, planes, list(QUANTITIES.items()), first.k.tolist(), caption + (_TRAILS if trails else ""), label,
        as_json(data), tables, trails,
    )  # fmt: skip


_TRAILS = (
    " Lines: how some trainings moved the weights, on the surface at the nearest points of the plane. How much of that "
    "the plane does not show is said beside them."
)


def _plane_name(plane: str) -> str:
    return words.sentence_case(PLANE_NAMES.get(plane, "a plane"))


def as_json(content: Any) -> str:
    r"""Return JSON that stands safely inside of a script element: nothing in it ends the element or begins another.

    >>> as_json({"name": "</script><img src=x>&"})
    '{"name":"\\u003c/script\\u003e\\u003cimg src=x\\u003e\\u0026"}'
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


@cache
def script() -> Script:
    """Return the page's scripts; plotly's is compressed to a third, and unpacked by the browser."""
    own, plotly = (
        content.decode()
        for content in (pkgutil.get_data("stillscape", "report/surface.js"), pkgutil.get_data("plotly", _PLOTLY))
        if content is not None
    )
    own = f"\n{own}"
    packed = base64.b64encode(gzip.compress(plotly.encode(), mtime=0)).decode()
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (own, plotly))
    return Script(own, packed, f"script-src {hashes}")


_PLOTLY = "package_data/plotly.min.js"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _content(at: Landscape) -> dict[str, Any]:
    step = 2 if max(len(at.first), len(at.second)) > MOST_POINTS else 1
    values = {name: getattr(at, name)[:, ::step, ::step] for name in QUANTITIES}
    # Script reads rows along the second direction, as plotly does.
    packed = {name: _packed(np.moveaxis(each, 1, 2)) for name, each in values.items()}
    half = len(at.k) // 2
    tops = {name: float(np.nanmax(each[half:])) for name, each in values.items()}
    return {
        "name": at.plane,
        "axes": list(at.axes),
        "first": at.first[::step].tolist(),
        "second": at.second[::step].tolist(),
        "k": at.k.tolist(),
        "low": float(values["losses"].min()),
        "top": {**tops, "losses": at.ceiling()},
        "share": at.share[0].tolist(),
        "within": [float((each <= at.tolerance).mean()) for each in at.to_whole],
        "way": [list(place) for place in at.way],
        "trails": [_trail(trail) for trail in at.trails],
        "hidden": at.hidden(),
        **packed,
    }


def _trail(trail: Trail) -> dict[str, Any]:
    columns = (trail.steps, *trail.places.T, trail.off)
    return {"k": trail.k, "points": [list(point) for point in zip(*(each.tolist() for each in columns), strict=True)]}


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()
