"""The data curve: what the model can do on held-out images, against the number of images it learned from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape._errors import InputError
from stillscape.report import style, words
from stillscape.report.displays.base import Display, Table, draw_series, padded
from stillscape.report.series import Series, entry_of, needed_series, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class DataCurveDisplay(Display):
    """A metric on held-out images against the number of training images, with the sufficient size.

    Args:
        adapt: what was trained.
        metric: name of the metric.
        series: its curve.
        verdict: status, k_star, low, high of this adaptation.
        level: of all intervals.
        noise_floor: standard error of the metric at the largest size from the held-out images alone, or None.
        target: value asked for, or None.
        runs: (k, metric) of each single run, shape (runs, 2).
        look: color and marker.
        ahead: the forecast beyond the largest size, or None.
    """

    adapt: str
    metric: str
    series: Series
    verdict: Mapping[str, Any]
    level: float | None
    noise_floor: float | None
    target: float | None
    runs: np.ndarray
    look: dict[str, Any]
    ahead: Series | None = None

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None, metric: str | None = None) -> Self:
        """Read the curve of one adaptation.

        Args:
            result: what result.json holds.
            adapt: adaptation; None takes the one that the overall verdict names.
            metric: curve to read; None takes the question's metric.

        Raises:
            InputError: there is no such adaptation or curve.
        """
        entry, question = entry_of(result, adapt), result.get("question") or {}
        asked = question.get("metric") or "accuracy"
        metric = metric or asked
        runs = [
            (cell["k"], cell[metric])
            for cell in entry.get("cells") or []
            if cell.get("status") == "ok" and not words.is_missing(cell.get(metric))
        ]
        return cls(
            adapt=entry["adapt"],
            metric=metric,
            series=needed_series(entry, metric),
            verdict=(entry.get("verdict") or {}) if metric == asked else {},
            level=question.get("level"),
            noise_floor=(entry.get("noise_floor") or {}).get("metric") if metric == asked else None,
            target=question.get("target") if metric == asked else None,
            runs=np.array(runs, dtype=float).reshape(-1, 2),
            look=style.adaptation_style([each["adapt"] for each in result["results"]].index(entry["adapt"])),
            ahead=series_of(entry, f"{metric}_forecast"),
        )

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        *,
        groups: Any = None,
        metric: str | None = None,
        **parameters: Any,
    ) -> Self:
        """Measure the curve of an estimator and draw it, in the way of scikit-learn's `LearningCurveDisplay`.

        Args:
            estimator: a scikit-learn classifier, or a `DataSufficiency`, which is fitted unless it is already.
            X: rows, or a dataset; not needed where the `DataSufficiency` is fitted.
            y: classes.
            groups: codes of rows that are never split.
            metric: curve to draw; None takes the question's.
            parameters: of `DataSufficiency`, for a classifier: sizes, repeats, epsilon, ...

        Returns:
            the display, drawn on a figure of its own.

        Raises:
            InputError: as in `DataSufficiency.fit`, or parameters for what has its own already.
        """
        from stillscape.experiments import DataSufficiency

        if not isinstance(estimator, DataSufficiency):
            estimator = DataSufficiency(estimator, **parameters)
        elif parameters:
            raise InputError(
                f"{', '.join(parameters)} given; a DataSufficiency has its own parameters, set them there."
            )
        if not hasattr(estimator, "result_"):
            estimator.fit(X, y, groups=groups)
        return cls.from_result(estimator.result_, metric=metric).plot()

    def title(self) -> str:
        """Return the figure's title."""
        return f"{words.sentence_case(words.curve_name(self.metric))} on held-out images"

    def caption(self) -> str:
        """Return what to see in the figure."""
        name, last = words.curve_name(self.metric), int(np.flatnonzero(np.isfinite(self.series.mean))[-1])
        parts = [
            f"Mean {name} after learning from k images"
            + (f", with its {words.percent(self.level)} interval" if self.series.has_band else "")
            + ("; small dots are single runs." if len(self.runs) else "."),
            f"At {words.images(self.series.k[last])} it is {words.quantity(self.series.mean[last], self.metric)}.",
        ]
        if self.noise_floor is not None:
            error = words.change(self.noise_floor, self.metric, signed=False)
            parts.append(
                f"The gray band around that value is ±{error}: what the choice of held-out images alone can do."
            )
        if self.ahead is not None:
            parts.append(
                f"Dashed, in the hatched band: the forecast, up to {words.images(self.ahead.k[-1])}; "
                "nothing there was measured."
            )
        if self.verdict.get("k_star") is not None:
            reach = words.span(self.verdict.get("low"), self.verdict.get("high"))
            parts.append(f"The diamond marks the sufficient size k* = {words.count(self.verdict['k_star'])} ({reach}).")
        return " ".join(parts)

    def table(self) -> Table:
        """Return sizes, means and intervals, and which of them are forecasts."""
        rows = [(*row, "measured") for row in self.series.rows()]
        ahead = [] if self.ahead is None else [(*row, "forecast") for row in self.ahead.rows()]
        return ("images", self.metric, "low", "high", "kind"), rows + ahead

    def _draw(self, ax: "Axes") -> None:
        percent = words.in_percent(self.metric)
        style.label_axes(ax, words.sentence_case(words.curve_name(self.metric)))
        style.size_axis(ax, self.series.k if self.ahead is None else np.union1d(self.series.k, self.ahead.k))
        self._draw_levels(ax)
        if len(self.runs):
            ax.plot(*self.runs.T, ".", color=self.look["color"], alpha=0.5, markersize=5.5, markeredgewidth=0)
        band = f", {words.percent(self.level)} interval" if self.series.has_band else ""
        draw_series(ax, self.series, f"mean of all runs{band}", **self.look)
        extra = [] if self.target is None else [np.array([self.target])]
        if self.ahead is not None:
            self._draw_ahead(ax, self.ahead)
            extra += [self.ahead.mean, self.ahead.low, self.ahead.high]
        seen = [self.series.mean, self.series.low, self.series.high, self.runs[:, 1], *extra]
        low, high = padded(seen, below=0.2)
        value_ceiling = 1.02 if not words.is_nats(self.metric) else np.inf
        style.value_axis(ax, low, min(high, value_ceiling), percent=percent)
        self._draw_k_star(ax)

    def _draw_ahead(self, ax: "Axes", ahead: Series) -> None:
        color = self.look["color"]
        ax.fill_between(
            ahead.k, ahead.low, ahead.high, facecolor="none", edgecolor=color, alpha=0.35, linewidth=0, hatch="///"
        )
        ax.plot(ahead.k, ahead.mean, color=color, linestyle=(0, (5, 3)), label="forecast, with its interval")

    def _draw_levels(self, ax: "Axes") -> None:
        finite = self.series.mean[np.isfinite(self.series.mean)]
        if self.noise_floor is not None:
            low, high = finite[-1] - self.noise_floor, finite[-1] + self.noise_floor
            label = "±1 standard error from the held-out images"
            ax.axhspan(low, high, color=style.COLORS["muted"], alpha=0.16, linewidth=0, label=label)
        if self.target is not None:
            ax.axhline(
                self.target, color=style.COLORS["ink"], linewidth=1, linestyle=(0, (4, 3)),
                label=f"target {words.quantity(self.target, self.metric)}",
            )  # fmt: skip

    def _draw_k_star(self, ax: "Axes") -> None:
        # Height in shares of the axes: the mark belongs to the size axis, not to a value of the metric.
        base, ink, k_star = ax.get_xaxis_transform(), style.COLORS["ink"], self.verdict.get("k_star")
        if k_star is None:
            if self.verdict.get("status"):
                text = words.status_name(self.verdict["status"]).lower()
                ax.text(0.985, 0.05, text, transform=ax.transAxes, ha="right", color=style.COLORS["muted"])
            return
        low, high = self.verdict.get("low") or k_star, self.verdict.get("high") or ax.get_xlim()[1]
        ax.plot([low, high], [0.06, 0.06], transform=base, color=ink, linewidth=3.5, alpha=0.3)
        ax.plot([k_star, k_star], [0, 0.06], transform=base, color=ink, linewidth=0.8)
        ax.plot(
            [k_star], [0.06], transform=base, color=ink, marker="D", markersize=5.5, linestyle="none",
            label="sufficient size k* and its interval",
        )  # fmt: skip
        ax.annotate(
            f"k* = {words.count(k_star)}",
            (k_star, 0.06),
            (0, 7),
            xycoords=base,
            textcoords="offset points",
            ha="center",
        )
