"""What the trained surface forecasts of the next doubling, beside what doublings were measured to bring."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape._errors import InputError
from stillscape.report import style
from stillscape.report.displays.base import Display, Table, draw_series, labelled_rows
from stillscape.report.series import Series, entry_of, series_among

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASH = (0, (4, 2.5))
_LOOKS: dict[str, dict[str, Any]] = {
    "takeuchi_gain": {"color": style.COLORS["vermillion"], "marker": "^", "linestyle": _DASH, "linewidth": 1.1},
    "optimism_gain": {"color": style.COLORS["muted"], "marker": "s", "linestyle": _DASH, "linewidth": 1.1},
    "next_doubling_gain": {"color": style.COLORS["green"], "marker": "D"},
    "heldout_loss_gain": {"color": style.COLORS["blue"], "marker": "o", "linewidth": 2.0},
}
_LABELS = {
    "takeuchi_gain": "Takeuchi: curvature and gradients",
    "optimism_gain": "a quarter of the optimism gap",
    "next_doubling_gain": "one more image, carried on",
    "heldout_loss_gain": "measured",
}
_BANDED = ("next_doubling_gain", "heldout_loss_gain")


@dataclass
class SurfaceEvidenceDisplay(Display):
    """Gain of the next doubling in held-out loss: forecasts of the surface, and the measured one.

    Args:
        adapt: what was trained.
        series: curves by name, in drawing order; those absent are left out.
    """

    adapt: str
    series: dict[str, Series]

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None) -> Self:
        """Read whichever of the curves one adaptation has.

        Raises:
            InputError: there is no such adaptation, or it has no forecast.
        """
        entry = entry_of(result, adapt)
        found = series_among(entry, _LOOKS)
        if not found.keys() - {"heldout_loss_gain"}:
            raise InputError(f"the result of {entry['adapt']!r} holds no forecast of the surface; run it again.")
        return cls(entry["adapt"], found)

    def title(self) -> str:
        """Return the figure's title."""
        return "What the surface says of the next doubling"

    def caption(self) -> str:
        """Return what to see in the figure."""
        text = (
            "Fall of the held-out loss from k to 2k images: measured (blue), and forecast at the weights trained on k. "
            "Forecasts go one doubling further than what was measured, and have no vote in the verdict: on "
            "ten real tasks none but one image more told anything that the curve itself doesn't. A quarter of the "
            "optimism gap is too little where a penalty holds the weights back."
        )
        if "takeuchi_gain" in self.series:
            text += " Takeuchi's holds for k far above the parameters that matter, and is too high below."
        if "next_doubling_gain" in self.series:
            text += " The green band spans losses that fall like 1/k and ones that fall by as much at each doubling."
        return text

    def table(self) -> Table:
        """Return name, kind, size, mean and interval of every curve."""
        return ("forecast", "kind", "images", "gain of a doubling, nats", "low", "high"), labelled_rows(
            self.series, _LABELS
        )

    def _draw(self, ax: "Axes") -> None:
        style.label_axes(ax, "gain of the next doubling, nats")
        style.size_axis(ax, np.unique(np.concatenate([curve.k for curve in self.series.values()])))
        means = np.concatenate([curve.mean for curve in self.series.values()])
        style.log_value_axis(ax, means[means > 0] if np.any(means > 0) else np.array([1.0]))
        for name, curve in self.series.items():
            draw_series(
                ax, curve, _LABELS[name], band=name in ("next_doubling_gain", "heldout_loss_gain"), **_LOOKS[name]
            )
