"""The figure of a comparison: the data curves of all runs on one pair of axes, each with its k* and its forecast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape._errors import InputError
from stillscape.report import style, words
from stillscape.report.displays.base import Display, Table, draw_series, padded
from stillscape.report.series import Series, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = 6  # of the house; from the seventh curve on, lines are dotted and colors begin anew


@dataclass
class RunsDisplay(Display):
    """A metric on held-out images for every contender of a comparison.

    Args:
        metric: name of the metric.
        series: measured curve of each contender, by its label.
        ahead: forecast of each that has one.
        verdicts: status, k_star, low, high of each.
        level: of the intervals; None where the runs differ in it.
    """

    metric: str
    series: dict[str, Series]
    ahead: dict[str, Series]
    verdicts: dict[str, Mapping[str, Any]]
    level: float | None

    @classmethod
    def from_comparison(cls, comparison: Mapping[str, Any]) -> Self:
        """Read the curves from what `stillscape.experiments.compare_runs` returns.

        Raises:
            InputError: the runs have no metric in common.
        """
        metric = comparison["metric"]
        if metric is None:
            raise InputError("the runs have no metric in common, so no figure can hold them all.")
        entries = {contender["label"]: contender for contender in comparison["contenders"]}
        series = {label: series_of(each, metric) for label, each in entries.items()}
        ahead = {label: series_of(each, f"{metric}_forecast") for label, each in entries.items()}
        levels = {(run["question"] or {}).get("level") for run in comparison["runs"]}
        return cls(
            metric,
            {label: curve for label, curve in series.items() if curve is not None},
            {label: curve for label, curve in ahead.items() if curve is not None},
            {label: each["verdict"] for label, each in entries.items()},
            levels.pop() if len(levels) == 1 else None,
        )

    def title(self) -> str:
        """Return the figure's title."""
        return f"{words.sentence_case(words.curve_name(self.metric))} of all runs"

    def caption(self) -> str:
        """Return what to see in the figure."""
        band = "interval" if self.level is None else f"{words.percent(self.level)} interval"
        parts = [f"Mean {words.curve_name(self.metric)} on held-out images, each with its {band}."]
        if self.ahead:
            parts.append("Dashed lines are forecasts, drawn without their intervals; those stand in the table below.")
        if any(verdict.get("k_star") is not None for verdict in self.verdicts.values()):
            parts.append(
                "Diamonds on the size axis mark the k* of each run, by its own question, with its interval as a bar."
            )
        return " ".join(parts)

    def table(self) -> Table:
        """Return sizes, means and intervals of each contender, and which of them are forecasts."""
        rows = [
            (label, *row, kind)
            for kind, curves in (("measured", self.series), ("forecast", self.ahead))
            for label, curve in curves.items()
            for row in curve.rows()
        ]
        return ("run", "images", self.metric, "low", "high", "kind"), rows

    def _draw(self, ax: "Axes") -> None:
        style.label_axes(ax, words.sentence_case(words.curve_name(self.metric)))
        every = [*self.series.values(), *self.ahead.values()]
        style.size_axis(ax, np.concatenate([curve.k for curve in every]))
        for place, label in enumerate(self.verdicts):
            look = style.adaptation_style(place)
            line = look if place < _COLORS else {**look, "linestyle": ":"}
            if label in self.series:
                draw_series(ax, self.series[label], label, **line)
            if label in self.ahead and label in self.series:
                self._draw_ahead(ax, self.series[label], self.ahead[label], look["color"])
            self._draw_k_star(ax, place, self.verdicts[label], look["color"])
        seen = [part for curve in self.series.values() for part in (curve.mean, curve.low, curve.high)]
        low, high = padded(seen + [curve.mean for curve in self.ahead.values()], below=0.1 + 0.05 * len(self.verdicts))
        ceiling = np.inf if words.is_nats(self.metric) else 1.02
        style.value_axis(ax, low, min(high, ceiling), percent=words.in_percent(self.metric))

    def _draw_ahead(self, ax: "Axes", measured: Series, ahead: Series, color: str) -> None:
        beyond = ahead.k >= measured.k[-1]
        ax.plot(ahead.k[beyond], ahead.mean[beyond], color=color, linestyle=(0, (5, 3)), linewidth=1.1)

    def _draw_k_star(self, ax: "Axes", place: int, verdict: Mapping[str, Any], color: str) -> None:
        # One row for each contender, above the axis, in shares of the axes: intervals of different runs may overlap.
        k_star = verdict.get("k_star")
        if k_star is None:
            return
        base, height = ax.get_xaxis_transform(), 0.035 + 0.04 * place
        low, high = verdict.get("low") or k_star, verdict.get("high") or ax.get_xlim()[1]
        ax.plot([low, high], [height, height], transform=base, color=color, linewidth=3, alpha=0.4)
        ax.plot([k_star], [height], transform=base, color=color, marker="D", markersize=4.5, linestyle="none")
