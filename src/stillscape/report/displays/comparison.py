"""All adaptations on one pair of axes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape._errors import InputError
from stillscape.report import style, words
from stillscape.report.displays.base import Display, Table, draw_series, padded
from stillscape.report.series import Series, check_result, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class ComparisonDisplay(Display):
    """The question's metric on held-out images for every adaptation.

    Args:
        metric: name of the metric.
        series: curve of each adaptation, in the result's order; None where it is absent.
        level: of the intervals.
        target: value asked for, or None.
    """

    metric: str
    series: dict[str, Series | None]
    level: float | None
    target: float | None

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Self:
        """Read the curve of the question's metric of every adaptation.

        Raises:
            InputError: no adaptation has this curve.
        """
        check_result(result)
        question = result.get("question") or {}
        metric = question.get("metric") or "accuracy"
        series = {entry["adapt"]: series_of(entry, metric) for entry in result["results"]}
        if not any(series.values()):
            raise InputError(f"curve {metric!r} is in none of the results; there is nothing to compare.")
        return cls(metric, series, question.get("level"), question.get("target"))

    def title(self) -> str:
        """Return the figure's title."""
        return f"{words.sentence_case(words.curve_name(self.metric))} of each way to train"

    def caption(self) -> str:
        """Return what to see in the figure."""
        last = {adapt: series.mean[-1] for adapt, series in self.series.items() if series is not None}
        values = "; ".join(
            f"{words.adaptation_name(adapt)} {words.quantity(value, self.metric)}" for adapt, value in last.items()
        )
        return (
            f"Held-out {words.curve_name(self.metric)} against the number of images learned from, each with its "
            f"{words.percent(self.level)} interval. At the largest size: {values}. "
            "All curves are read on the same held-out images, so their intervals move together: "
            "curves whose bands overlap may still differ."
        )

    def table(self) -> Table:
        """Return sizes, means and intervals of each adaptation."""
        rows = [
            (words.adaptation_name(adapt), *row)
            for adapt, series in self.series.items()
            if series is not None
            for row in series.rows()
        ]
        return ("trained part", "images", self.metric, "low", "high"), rows

    def _draw(self, ax: "Axes") -> None:
        drawn = [series for series in self.series.values() if series is not None]
        style.label_axes(ax, words.sentence_case(words.curve_name(self.metric)))
        style.size_axis(ax, np.concatenate([series.k for series in drawn]))
        for index, (adapt, series) in enumerate(self.series.items()):
            if series is not None:
                draw_series(ax, series, words.adaptation_name(adapt), **style.adaptation_style(index))
        if self.target is not None:
            label = f"target {words.quantity(self.target, self.metric)}"
            ax.axhline(self.target, color=style.COLORS["ink"], linewidth=1, linestyle=(0, (4, 3)), label=label)
        extra = [] if self.target is None else [np.array([self.target])]
        limits = padded([part for series in drawn for part in (series.mean, series.low, series.high)] + extra)
        style.value_axis(ax, *limits, percent=words.in_percent(self.metric))
