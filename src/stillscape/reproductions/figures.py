"""The figure of a reproduction, from its panels."""

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from stillscape.report.style import COLORS, adaptation_style, house_style, log_size_axis, log_value_axis
from stillscape.report.svg import file_bytes
from stillscape.report.words import number
from stillscape.reproductions.findings import Findings, Heat, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 2
# In inches: two panels side by side fill a page of a paper.
WIDTH, HEIGHT = 3.6, 2.9
LEFT, RIGHT, TOP, BOTTOM = 0.68, 0.12, 0.32, 0.5
LEGEND_ROW, LEGEND_LETTERS = 0.15, 52
TICKS = 8
STYLES = 6  # that adaptation_style tells apart
KINDS: dict[str, dict[str, Any]] = {
    "bound": {"color": COLORS["ink"], "linestyle": "--", "linewidth": 1.2},
    "closed form": {"color": COLORS["muted"], "linestyle": ":", "linewidth": 1.6},
    "published": {"color": COLORS["purple"], "linestyle": "-.", "marker": "x", "linewidth": 1.2},
}


def figure_files(found: Findings) -> dict[str, bytes]:
    """Return the figure as "svg" and "pdf"; the same findings give the same bytes."""
    figure = draw(found)
    return {kind: file_bytes(figure, kind) for kind in ("svg", "pdf")}


def draw(found: Findings) -> "Figure":
    """Return the figure: panels side by side, each with its legend below."""
    from matplotlib.figure import Figure

    rows = [found.panels[start : start + COLUMNS] for start in range(0, len(found.panels), COLUMNS)]
    strips = [0.1 + LEGEND_ROW * max(_legend_rows(panel) for panel in row) for row in rows]
    height = len(rows) * HEIGHT + sum(strips)
    with house_style(**{"axes.titlesize": 8.5, "axes.titlelocation": "left", "legend.fontsize": 7.0}):
        figure, top = Figure(figsize=(COLUMNS * WIDTH, height)), height
        for row, strip in zip(rows, strips, strict=True):
            top -= HEIGHT + strip
            for column, panel in enumerate(row):
                place = (column * WIDTH + LEFT, top + strip + BOTTOM, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
                ax = figure.add_axes(tuple(np.array(place) / np.array([COLUMNS * WIDTH, height] * 2)))
                draw_panel = _heat if isinstance(panel, Heat) else _curves
                draw_panel(ax, panel)  # type: ignore[arg-type]
    return figure


def _legend_rows(panel: Panel | Heat) -> int:
    """Return how many rows a legend needs, or what the names under a table of colors do."""
    if isinstance(panel, Heat):
        return 2
    return sum(_wrapped(line.label).count("\n") + 1 for line in panel.lines)


def _wrapped(label: str) -> str:
    return textwrap.fill(label, LEGEND_LETTERS)


def _curves(ax: "Axes", panel: Panel) -> None:
    if "x" in panel.log:
        _log_x(ax, sorted({x for line in panel.lines for x in line.x}))
    if "y" in panel.log:
        log_value_axis(ax, np.concatenate([_array(line.y) for line in panel.lines]))
    measured = 0
    for line in panel.lines:
        style = KINDS.get(line.kind)
        if style is None:
            style = {**adaptation_style(measured), "markersize": 3.5, "linewidth": 1.3}
            if measured >= STYLES:  # the colors come round again
                style |= {"markerfacecolor": "white", "linewidth": 0.9}
            measured += 1
        x, y = np.array(line.x, dtype=float), _array(line.y)
        ax.plot(x, y, label=_wrapped(line.label), **style)
        if line.low:
            low, high = _array(line.low), _array(line.high)
            if "y" in panel.log:  # a band that reaches zero has no end on this axis
                low = np.where(low > 0, low, np.nanmin(np.where(y > 0, y, np.nan)) / 10)
            ax.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    ax.set_title(panel.title)
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    height = HEIGHT - TOP - BOTTOM
    ax.legend(loc="upper left", bbox_to_anchor=(-0.1, -BOTTOM / height), borderaxespad=0.0, labelspacing=0.2)


def _log_x(ax: "Axes", points: list[float]) -> None:
    """Make x logarithmic, with the points themselves as ticks where they are few; powers of ten would say less."""
    from matplotlib.ticker import NullLocator

    if len(points) > TICKS:
        log_size_axis(ax, points[0], points[-1])
        return
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(points, [number(point) for point in points])


def _heat(ax: "Axes", panel: Heat) -> None:
    values = np.array(panel.values, dtype=float)
    logs = np.log10(values)
    ax.imshow(logs, cmap="cividis")
    middle = (np.nanmin(logs) + np.nanmax(logs)) / 2
    for row, column in np.ndindex(values.shape):
        color = "white" if logs[row, column] < middle else COLORS["ink"]
        ax.text(column, row, number(float(values[row, column])), ha="center", va="center", fontsize=6.5, color=color)
    ax.set_xticks(range(len(panel.columns)), panel.columns, rotation=45, ha="right")
    ax.set_yticks(range(len(panel.rows)), panel.rows)
    ax.grid(False)
    ax.set_title(panel.title)


def _array(values: tuple[float | None, ...]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values])
