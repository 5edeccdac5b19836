"""Loss differences |L_{k+1} - L_k| at given weights: the identity, its closed form, the neighborhood and the bounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape._errors import InputError
from stillscape.report import style, words
from stillscape.report.displays.base import Display, Table, draw_series, labelled_rows
from stillscape.report.series import Series, entry_of, series_among

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASH, _DOT = (0, (4, 2.5)), (0, (1, 2))
# Drawn in this order. What is true of any model is gray: a null must not look like a finding.
_LOOKS: dict[str, dict[str, Any]] = {
    "fixed_surface": {"color": style.COLORS["muted"], "marker": "o", "linewidth": 2.4},
    "fixed_surface_closed_form": {"color": style.COLORS["ink"], "linestyle": _DASH, "linewidth": 1.0},
    "neighbourhood": {"color": style.COLORS["blue"], "marker": "s"},
    "neighbourhood_loss_part": {"color": style.COLORS["sky"], "linestyle": _DASH, "linewidth": 1.1},
    "neighbourhood_gradient_part": {"color": style.COLORS["orange"], "linestyle": _DASH, "linewidth": 1.1},
    "neighbourhood_remainder_part": {"color": style.COLORS["purple"], "linestyle": _DASH, "linewidth": 1.1},
    "path": {"color": style.COLORS["green"], "marker": "D"},
    "theorem3_printed": {"color": style.COLORS["vermillion"], "linestyle": _DOT, "marker": "v"},
    "theorem3_rigorous": {"color": style.COLORS["vermillion"], "linestyle": _DOT, "marker": "^"},
    "theorem3_second_order": {"color": style.COLORS["vermillion"], "linestyle": _DASH, "linewidth": 1.1},
}
_LABELS = {
    "fixed_surface": "weights fixed (identity)",
    "fixed_surface_closed_form": "its closed form",
    "neighbourhood": "away from the optimum",
    "neighbourhood_loss_part": "part: losses",
    "neighbourhood_gradient_part": "part: slopes",
    "neighbourhood_remainder_part": "part: curvature",
    "path": "toward the retrained weights",
    "theorem3_printed": "Theorem 3, printed (plug-in)",
    "theorem3_rigorous": "Theorem 3, corrected (plug-in)",
    "theorem3_second_order": "the same to second order, measured Hessians",
}
_BANDED = ("fixed_surface", "neighbourhood", "path")


@dataclass
class LossDifferenceDisplay(Display):
    """Mean size of L_{k+1} - L_k against k, both logarithmic, at weights that do not move.

    Args:
        adapt: what was trained.
        series: curves by name, in drawing order; those absent are left out.
        noise_floor: standard error of the held-out loss, nats, or None.
        epsilon: tolerance on the loss, nats, or None.
        level: of the bands.
    """

    adapt: str
    series: dict[str, Series]
    noise_floor: float | None
    epsilon: float | None
    level: float | None

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None) -> Self:
        """Read whichever of the curves one adaptation has.

        Raises:
            InputError: there is no such adaptation, or it has none of the curves.
        """
        entry, question = entry_of(result, adapt), result.get("question") or {}
        found = series_among(entry, _LOOKS)
        if not found:
            raise InputError(
                f"the result of {entry['adapt']!r} has no curve of loss differences ({', '.join(_LOOKS)})."
            )
        noise = (entry.get("noise_floor") or {}).get("heldout_loss")
        return cls(entry["adapt"], found, noise, question.get("epsilon_loss"), question.get("level"))

    def title(self) -> str:
        """Return the figure's title."""
        return "Loss differences at weights that do not move"

    def caption(self) -> str:
        """Return what to see in the figure."""
        parts = [
            "How much the mean loss changes when one more image is counted in, at fixed weights. "
            "The gray line falls as 1/k for any model, good or useless, and its closed form lies on it: "
            "this is an identity and no evidence that the data are enough."
        ]
        if "neighbourhood" in self.series:
            parts.append("In blue the same away from the optimum, in three parts (signed: their sizes don't add up).")
        if any(name.startswith("theorem3") for name in self.series):
            parts.append("The dotted bounds use measured maxima as constants: plug-in values, no certificates.")
        if self.noise_floor is not None:
            parts.append(f"Below {words.quantity(self.noise_floor, 'heldout_loss')} lies the held-out noise.")
        return " ".join(parts)

    def table(self) -> Table:
        """Return name, kind, size, mean and interval of every curve, thinned."""
        return ("curve", "kind", "images", "|difference|, nats", "low", "high"), labelled_rows(self.series, _LABELS)

    def _last_size(self) -> float:
        # The closed form may go on for ever; a little of it says as much, and leaves the rest room.
        ends = {name: float(curve.k[-1]) for name, curve in self.series.items()}
        measured = [end for name, end in ends.items() if name != "fixed_surface_closed_form"]
        return min(max(ends.values()), 5 * max(measured)) if measured else max(ends.values())

    def _draw(self, ax: "Axes") -> None:
        style.label_axes(ax, f"|L(k+1) {words.MINUS} L(k)|, nats", "images counted in, k")
        every = list(self.series.values())
        end = self._last_size()
        style.log_size_axis(ax, min(c.k[0] for c in every), end)
        levels = [level for level in (self.noise_floor, self.epsilon) if level]
        style.log_value_axis(ax, np.concatenate([c.mean[c.k <= end] for c in every] + [np.array(levels)]))
        if self.noise_floor:
            bottom = ax.get_ylim()[0]
            ax.axhspan(
                bottom, self.noise_floor, color=style.COLORS["muted"], alpha=0.16, linewidth=0, label="held-out noise"
            )
        if self.epsilon:
            label = f"tolerance {words.quantity(self.epsilon, 'heldout_loss')}"
            ax.axhline(self.epsilon, color=style.COLORS["ink"], linewidth=0.9, linestyle=_DOT, label=label)
        for name, curve in self.series.items():
            draw_series(ax, curve, _LABELS[name], band=name in _BANDED, **_LOOKS[name])
