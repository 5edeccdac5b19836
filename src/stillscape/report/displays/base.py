"""What the displays share: the way of `plot`, and a curve with its band."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape.report import style
from stillscape.report.series import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]


class Display(ABC):
    """A figure that keeps its numbers.

    Attributes:
        ax_: the axes, after `plot`.
        figure_: the figure of these axes, after `plot`.
    """

    ax_: "Axes"
    figure_: "Figure"

    def plot(self, ax: "Axes | None" = None, *, legend: bool = True) -> Self:
        """Draw.

        Args:
            ax: axes to draw on, in their own look; None makes a figure in the house look.
            legend: whether to draw a legend.

        Returns:
            self, with `ax_` and `figure_` set.
        """
        if ax is None:
            with style.house_style():
                self._draw_on(style.new_axes())
                if legend:
                    style.add_legend(self.ax_)
        else:
            self._draw_on(ax)
            if legend:
                ax.legend()
        return self

    def _draw_on(self, ax: "Axes") -> None:
        self._draw(ax)
        self.ax_ = ax
        figure = ax.get_figure(root=True)
        assert figure is not None
        self.figure_ = figure

    @abstractmethod
    def _draw(self, ax: "Axes") -> None: ...

    @abstractmethod
    def title(self) -> str:
        """Return the figure's title."""

    @abstractmethod
    def caption(self) -> str:
        """Return what to see in the figure, in plain words."""

    @abstractmethod
    def table(self) -> Table:
        """Return the numbers behind the figure: header and rows; NaN where a number is not known."""


def draw_series(ax: "Axes", series: Series, label: str, *, band: bool = True, **line: Any) -> None:
    """Draw a curve over its band; a long one gets a marker only here and there."""
    thin = series.thinned(120)
    if band and series.has_band:
        ax.fill_between(thin.k, thin.low, thin.high, color=line.get("color"), alpha=0.16, linewidth=0)
    if "marker" in line and len(thin.k) > 12:
        line.setdefault("markevery", max(1, len(thin.k) // 7))
    ax.plot(thin.k, thin.mean, label=label, **line)


def labelled_rows(series: Mapping[str, Series], labels: Mapping[str, str]) -> list[tuple[Any, ...]]:
    """Return label, kind, size, mean and interval of every curve, thinned."""
    return [(labels[name], curve.kind, *row) for name, curve in series.items() for row in curve.rows(9)]


def padded(values: list[np.ndarray], below: float = 0.12, above: float = 0.08) -> tuple[float, float]:
    """Return limits around all finite values given, widened by shares of their range."""
    every = np.concatenate([np.ravel(value) for value in values])
    every = every[np.isfinite(every)]
    low, high = float(every.min()), float(every.max())
    reach = (high - low) or max(abs(high), 1.0) * 0.1
    return low - below * reach, high + above * reach
