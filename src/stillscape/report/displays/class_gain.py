"""Which classes are short of data: what the last doubling did to the recall of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape._errors import InputError
from stillscape.report import style, words
from stillscape.report.displays.base import Display, Table, padded
from stillscape.report.series import entry_of
from stillscape.report.tables import CLASS_STATUSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 16  # shown; the table has them all
_NAME_LETTERS = 14
_NAME_ROOM = 0.17  # of the axes
_LOOKS: dict[str, dict[str, Any]] = {
    "short": {"color": style.COLORS["vermillion"], "marker": "^"},
    "enough": {"color": style.COLORS["green"], "marker": "o"},
    "cannot_tell": {"color": style.COLORS["muted"], "marker": "s"},
}


@dataclass(frozen=True)
class ClassGain:
    """What the last doubling did to one class; NaN where it is not known."""

    name: str
    status: str
    count: int
    mean: float
    low: float
    high: float


@dataclass
class ClassGainDisplay(Display):
    """Gain of the last doubling in each class's recall, with intervals that hold for all classes together.

    Args:
        adapt: what was trained.
        classes: those whose gain is known, the largest first.
        sizes: of the doubling: from, to.
        epsilon: tolerance on the gain.
        level: of the intervals, over all classes.
    """

    adapt: str
    classes: list[ClassGain]
    sizes: tuple[int, int]
    epsilon: float | None
    level: float | None

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None) -> Self:
        """Read the classes of one adaptation.

        Raises:
            InputError: there is no such adaptation, or no class's gain is known.
        """
        entry, question = entry_of(result, adapt), result.get("question") or {}
        known = [row for row in entry.get("per_class") or [] if row.get("gain")]
        if not known:
            raise InputError(f"the result of {entry['adapt']!r} holds no gain of a class; it needs a doubling.")
        classes = [
            ClassGain(str(row["class"]), row["status"], row["count"], *(_number(row["gain"], end) for end in _ENDS))
            for row in known
        ]
        first = known[0]["gain"]
        ranked = sorted(classes, key=lambda each: -each.mean)
        return cls(entry["adapt"], ranked, (first["from"], first["to"]), question.get("epsilon"), question.get("level"))

    def title(self) -> str:
        """Return the figure's title."""
        return "Which classes are short of data"

    def caption(self) -> str:
        """Return what to see in the figure."""
        counts = {status: sum(each.status == status for each in self.classes) for status in _LOOKS}
        said = ", ".join(f"{count} {CLASS_STATUSES[status]}" for status, count in counts.items() if count)
        more = len(self.classes) - MOST_CLASSES
        hidden = f" {more} more with smaller gains stand in the table." if more > 0 else ""
        return (
            f"What going from {self.sizes[0]:,} to {self.sizes[1]:,} images, all classes in their share, did to the "
            f"recall of each class, in points. A class is short of data where its interval lies right of the dashed "
            f"tolerance, and has enough where it lies left of it: {said}. The intervals hold for all classes together "
            f"at {words.percent(self.level)}, and so are wider than each alone would be.{hidden}"
        )

    def table(self) -> Table:
        """Return every class with its held-out images, gain and interval in points, and status."""
        rows: list[tuple[Any, ...]] = [
            (each.name, each.count, 100 * each.mean, 100 * each.low, 100 * each.high, CLASS_STATUSES[each.status])
            for each in self.classes
        ]
        return ("class", "held-out images", "gain, points", "low", "high", "last doubling"), rows

    def _draw(self, ax: "Axes") -> None:
        ax.set_axis_off()
        inner = ax.inset_axes((_NAME_ROOM, 0, 1 - _NAME_ROOM, 1))
        shown = self.classes[:MOST_CLASSES]
        ends = [np.array([100 * each.low, 100 * each.mean, 100 * each.high]) for each in shown]
        style.label_axes(inner, "", "gain in recall, points")
        inner.set_xlim(*padded([*ends, np.zeros(1)]))
        inner.set_ylim(len(shown) - 0.5, -0.5)
        inner.set_yticks(range(len(shown)), [_short(each.name) for each in shown])
        inner.grid(False)
        inner.axvline(0.0, color=style.COLORS["rule"], linewidth=0.8)
        if self.epsilon is not None:
            line: dict[str, Any] = {"color": style.COLORS["ink"], "linewidth": 1, "linestyle": (0, (4, 3))}
            inner.axvline(100 * self.epsilon, **line)
            ax.plot([], [], label=f"tolerance, {words.change(self.epsilon, 'accuracy', signed=False)}", **line)
        for place, (each, (low, mean, high)) in enumerate(zip(shown, ends, strict=True)):
            look = _LOOKS[each.status]
            inner.plot([low, high], [place, place], color=look["color"], linewidth=1.4)
            inner.plot([mean], [place], linestyle="none", label=each.name, **look)
        for status, look in _LOOKS.items():
            if any(each.status == status for each in shown):
                ax.plot([], [], label=CLASS_STATUSES[status], **look)


_ENDS = ("mean", "low", "high")


def _number(gain: Mapping[str, Any], end: str) -> float:
    return float("nan") if gain.get(end) is None else float(gain[end])


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 1]}…"
