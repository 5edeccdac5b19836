"""The look of the figures: one size, Okabe-Ito colors with markers of their own, axes with few and fixed ticks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from stillscape.report.words import PERCENT_SIGN, number, superscript

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008), told apart under the common kinds of color blindness. The page maps each hex code to a CSS
# variable, so that no two names may share one.
COLORS = {
    "ink": "#1f2933",
    "muted": "#697684",
    "rule": "#dde1e5",
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
}
_CYCLE = (("blue", "o"), ("vermillion", "s"), ("green", "^"), ("purple", "D"), ("orange", "v"), ("sky", "P"))

# In points. One shape for every figure: 360 points fill a phone without shrinking the letters.
WIDTH, HEIGHT = 360.0, 244.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 12.0, 24.0, 34.0
_LEGEND_ROW = 12.5

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": COLORS["ink"],
    "text.parse_math": False,  # names from data may hold a dollar sign
    "axes.facecolor": "none",  # the page's own ground shows through, light or dark
    "axes.edgecolor": COLORS["muted"],
    "axes.labelcolor": COLORS["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": COLORS["rule"],
    "grid.linewidth": 0.8,
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "svg.hashsalt": "stillscape",  # else ids, and with them the bytes, change from run to run
}


@contextmanager
def house_style(**extra: Any) -> Iterator[None]:
    """Draw in this look, whatever the user's own matplotlib settings are; they are restored afterwards."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        mpl.rcParams.update(cast("Any", extra))
        yield


def adaptation_style(index: int) -> dict[str, Any]:
    """Return color and marker of the adaptation at this place of the result."""
    color, marker = _CYCLE[index % len(_CYCLE)]
    return {"color": COLORS[color], "marker": marker}


def new_axes() -> "Axes":
    """Return the axes of a new figure; no pyplot, so that nothing global is kept."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(WIDTH / 72, HEIGHT / 72)).add_axes((0, 0, 1, 1))
    _place(axes, HEIGHT, 0.0)
    return axes


def add_legend(ax: "Axes") -> None:
    """Set the legend under the axes of a figure made by `new_axes`, in a strip added for it."""
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    columns = 1 if max(map(len, labels)) > 38 or len(labels) == 1 else 2
    strip = _LEGEND_ROW * math.ceil(len(labels) / columns) + 8
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.set_size_inches(WIDTH / 72, (HEIGHT + strip) / 72)
    _place(ax, HEIGHT + strip, strip)
    figure.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0.01, 0.0), ncols=columns, borderaxespad=0.3,
        labelspacing=0.35, handlelength=2.6,
    )  # fmt: skip


def _place(ax: "Axes", height: float, strip: float) -> None:
    ax.set_position(
        (
            _LEFT / WIDTH,
            (strip + _BOTTOM) / height,
            (WIDTH - _LEFT - _RIGHT) / WIDTH,
            (HEIGHT - _TOP - _BOTTOM) / height,
        )
    )


def label_axes(ax: "Axes", y: str, x: str = "images to learn from") -> None:
    """Write the quantity level above the axes, where it reads without turning the head, and x at the right end."""
    ax.annotate(
        y, (0, 1), (4 - _LEFT, 9), xycoords="axes fraction", textcoords="offset points", color=COLORS["ink"],
        annotation_clip=False,
    )  # fmt: skip
    ax.set_xlabel(x, loc="right", labelpad=3)


def size_axis(ax: "Axes", sizes: Sequence[float] | np.ndarray, *, pad: float = 0.06) -> None:
    """Make x logarithmic with a tick at each size, or as many as can be read."""
    sizes = np.unique(np.asarray(sizes, dtype=float))
    low, high = math.log(sizes[0]), math.log(sizes[-1])
    width = (high - low) or math.log(2)
    ax.set_xscale("log")
    ax.set_xlim(math.exp(low - pad * width), math.exp(high + pad * width))
    ticks = [sizes[-1]]  # the largest size is the one that must be there
    for size in sizes[-2::-1]:
        if math.log(ticks[-1] / size) > width / 9:
            ticks.append(size)
    _fix(ax.xaxis, ticks, [f"{tick:,.0f}" for tick in ticks])


def log_size_axis(ax: "Axes", low: float, high: float) -> None:
    """Make x logarithmic with a tick at each power of ten and at the end."""
    low, high = max(low, 1.0), max(high, 2.0 * low, 2.0)
    ax.set_xscale("log")
    ax.set_xlim(low * (low / high) ** 0.02, high * (high / low) ** 0.03)
    ticks = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    ticks = [tick for tick in ticks if math.log(high / tick) > math.log(high / low) / 9] + [high]
    _fix(ax.xaxis, ticks, [f"{tick:,.0f}" for tick in ticks])


def log_value_axis(ax: "Axes", values: np.ndarray) -> None:
    """Make y logarithmic over the positive values given."""
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    ax.set_yscale("log")
    ax.set_ylim(low * 0.7, high * 1.4)
    first, last = math.ceil(math.log10(low * 0.7)), math.floor(math.log10(high * 1.4))
    if last - first >= 2:
        powers = range(first, last + 1, max(1, math.ceil((last - first) / 6)))
        _fix(ax.yaxis, [10.0**power for power in powers], [power_of_ten(power) for power in powers])
        return
    ticks = [m * 10.0**p for p in range(first - 1, last + 1) for m in (1, 2, 5) if low * 0.7 < m * 10.0**p < high * 1.4]
    _fix(ax.yaxis, ticks, [number(tick) for tick in ticks])


def value_axis(ax: "Axes", low: float, high: float, *, percent: bool) -> None:
    """Make y linear between two values, with about five round ticks."""
    from matplotlib.ticker import MaxNLocator

    ticks = [tick for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high]
    ax.set_ylim(low, high)
    _fix(ax.yaxis, ticks, [f"{100 * tick:.4g}{PERCENT_SIGN}" if percent else number(tick) for tick in ticks])


def power_of_ten(power: int) -> str:
    """Return a power of ten as it is read on an axis.

    >>> power_of_ten(-1), power_of_ten(2), power_of_ten(-5)
    ('0.1', '100', '10⁻⁵')
    """
    return number(10.0**power) if -3 <= power <= 4 else f"10{superscript(power)}"


def _fix(axis: Any, ticks: Sequence[float], labels: Sequence[str]) -> None:
    # Fixed ticks also draw several times faster than matplotlib's logarithmic locators.
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    order = np.argsort(ticks)
    axis.set_major_locator(FixedLocator([ticks[i] for i in order]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FixedFormatter([labels[i] for i in order]))
