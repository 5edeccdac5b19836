"""Losses after retraining: on the images learned from, and on held-out ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape.report import style, words
from stillscape.report.displays.base import Display, Table, draw_series, padded
from stillscape.report.series import Series, entry_of, needed_series, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS: dict[str, dict[str, Any]] = {
    "heldout": {"color": style.COLORS["blue"], "marker": "o"},
    "train": {"color": style.COLORS["orange"], "marker": "s", "linestyle": (0, (5, 2))},
}


@dataclass
class LossCurveDisplay(Display):
    """Held-out and training loss of the retrained model against the number of training images.

    Args:
        adapt: what was trained.
        heldout: held-out loss, nats.
        train: training loss, nats, or None.
        level: of the intervals.
    """

    adapt: str
    heldout: Series
    train: Series | None
    level: float | None

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None) -> Self:
        """Read the two curves of one adaptation.

        Raises:
            InputError: there is no such adaptation, or it has no held-out loss.
        """
        entry = entry_of(result, adapt)
        level = (result.get("question") or {}).get("level")
        return cls(entry["adapt"], needed_series(entry, "heldout_loss"), series_of(entry, "train_loss"), level)

    def title(self) -> str:
        """Return the figure's title."""
        return "Loss after retraining"

    def caption(self) -> str:
        """Return what to see in the figure."""
        text = f"Cross-entropy of the retrained model; bands are {words.percent(self.level)} intervals. "
        if self.train is None:
            return text + "Each point is a model of its own, retrained on k images."
        gap = self.heldout.mean[-1] - self.train.mean[-1]
        return text + (
            f"The gap between the lines is what the model knows about its own images only: "
            f"{words.change(gap, 'heldout_loss', signed=False)} at {words.images(self.heldout.k[-1])}. "
            "A wide gap says that the model could still use more images."
        )

    def table(self) -> Table:
        """Return sizes and both losses with intervals."""
        header = ("images", "held-out loss", "low", "high", "training loss")
        train = {} if self.train is None else dict(zip(self.train.k, self.train.mean, strict=True))
        return header, [(*row, train.get(row[0], np.nan)) for row in self.heldout.rows()]

    def _draw(self, ax: "Axes") -> None:
        style.label_axes(ax, "Loss, nats per image")
        style.size_axis(ax, self.heldout.k)
        drawn = [self.heldout]
        draw_series(ax, self.heldout, "held-out images", **_LOOKS["heldout"])
        if self.train is not None:
            drawn.append(self.train)
            draw_series(ax, self.train, "images learned from", **_LOOKS["train"])
        low, high = padded([part for series in drawn for part in (series.mean, series.low, series.high)], below=0.0)
        style.value_axis(ax, min(low, 0.0), high, percent=False)
