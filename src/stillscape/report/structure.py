"""Figures of a structure sweep: norms, bounds and k* of Theorem 3 along one size of the network."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape import _files
from stillscape._errors import InputError
from stillscape.report import style, svg, words
from stillscape.report.displays.base import Display, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stillscape.bounds.structure import Panel, Slope, Sweep

AXES = {
    "L": "tokens L",
    "d": "features d",
    "d_K": "width of keys d_K",
    "heads": "heads, d_K = d/heads",
    "d_f": "hidden width d_f",
    "depth": "blocks",
}
LOSSES = {"cross_entropy": "cross-entropy, nats", "mse": "squared error"}
_SOLID, _DASH, _DOT = "solid", (0, (4, 2.5)), (0, (1, 2))
_BLUE, _RED, _GREEN, _ORANGE, _PURPLE = (style.COLORS[c] for c in ("blue", "vermillion", "green", "orange", "purple"))
_LOOKS: dict[str, dict[str, Any]] = {
    "exact": {"color": _BLUE, "marker": "o"},
    "token": {"color": _GREEN, "marker": "^"},
    "data": {"color": _ORANGE, "marker": "v"},
    "a_priori": {"color": _RED, "marker": "s"},
    "value_block": {"color": _PURPLE, "marker": "D"},
}
_LABELS = {
    "exact": "exact norm, 10\N{EN DASH}90\N{NO-BREAK SPACE}% band",
    "token": "bound, by token",
    "data": "bound, from the data",
    "a_priori": "bound, a priori",
    "value_block": "exact, values alone",
}
_FORMULA_OF = {"a_priori": "a_priori", "value_block": "value_block", "law": "exact"}
# In points: two losses side by side, norms above and k* below, as wide as every figure of the house.
_LEFT, _GAP, _RIGHT, _TOP, _PANEL, _BETWEEN, _BOTTOM, _ROW = 38.0, 60.0, 26.0, 34.0, 140.0, 46.0, 34.0, 12.5
_HEADER = (
    "axis", "value", "loss", "place", "curve", "kind", "median", "low", "high", "largest", "k* printed",
    "k* rigorous", "slope", "slope standard error", "leading power",
)  # fmt: skip


@dataclass
class StructureDisplay(Display):
    """Norms and bounds (above), and k* of Theorem 3 (below), against one size of the network, all logarithmic.

    Args:
        sweep: what `bounds.structure.structure_sweep` returned.

    Attributes:
        axes_: after `plot`, the axes by (loss, "norm" or "k*"); those of a single loss where axes were given.
    """

    sweep: "Sweep"

    @classmethod
    def from_sweep(cls, sweep: "Sweep") -> Self:
        """Take the numbers of a sweep.

        Raises:
            InputError: it isn't a sweep, or is one of an unknown axis.
        """
        if getattr(sweep, "axis", None) not in AXES or not getattr(sweep, "panels", None):
            raise InputError(
                f"sweep is a {type(sweep).__name__}; it must be what bounds.structure.structure_sweep returns."
            )
        return cls(sweep)

    def plot(self, ax: "Axes | None" = None, *, legend: bool = True) -> Self:
        """Draw.

        Args:
            ax: axes for the norms under the first loss, in their own look; None makes the whole figure.
            legend: whether to draw a legend.

        Returns:
            self, with `ax_`, `axes_` and `figure_` set.
        """
        if ax is not None:
            super().plot(ax, legend=legend)
            self.axes_ = {(self._losses()[0], "norm"): ax}
            return self
        with style.house_style():
            self._draw_whole(legend)
        return self

    def title(self) -> str:
        """Return the figure's title."""
        return f"Hessian, bounds and sufficient size against {AXES[self.sweep.axis].split(',')[0]}"

    def caption(self) -> str:
        """Return what to see in the figure."""
        s = self.sweep
        parts = [
            f"Above: spectral norm of one sample's Hessian (median and 10\N{EN DASH}90\N{NO-BREAK SPACE}% of {s.draws} "
            f"random networks with {s.samples} samples each) and the medians of true bounds on it. Dashed: what theory "
            "expects at Xavier initialization. Numbers at the ends: fitted powers of the size. "
            f"Below: k* of Theorem 3 at tolerance {words.number(s.epsilon)} and radius {words.number(s.radius)}, "
            "rigorous (lines) and printed (dots), from each norm; measured maxima stand in for its constants."
        ]
        parts += [self._slopes(panel) for panel in s.panels]
        return " ".join(parts)

    def table(self) -> Table:
        """Return every number: one row for each panel, curve and value; NaN where there is none."""
        rows = [row for panel in self.sweep.panels for row in (*self._measured(panel), *self._expected(panel))]
        return _HEADER, rows

    def _measured(self, panel: "Panel") -> Iterable[tuple[Any, ...]]:
        none = [float("nan")] * len(self.sweep.values)
        for name, spread in panel.norms.items():
            slope, k_star = panel.slopes[name], panel.k_star_samples
            columns = (
                spread.median, spread.low, spread.high, spread.largest,
                k_star["printed"].get(name, none), k_star["rigorous"].get(name, none),
            )  # fmt: skip
            kind = "measured" if name in ("exact", "value_block") else "bound"
            for value, *numbers in zip(self.sweep.values, *columns, strict=True):
                yield (self.sweep.axis, value, panel.loss, panel.place, name, kind, *numbers, *_slope(slope), np.nan)

    def _expected(self, panel: "Panel") -> Iterable[tuple[Any, ...]]:
        for name, formula in panel.formulas.items():
            power = np.nan if formula.exponent is None else formula.exponent
            for value, number in zip(self.sweep.values, formula.values, strict=True):
                place = (self.sweep.axis, value, panel.loss, panel.place, name, "formula")
                yield (*place, number, *[np.nan] * 5, *_slope(panel.slopes[f"{name} formula"]), power)

    def _slopes(self, panel: "Panel") -> str:
        exact = panel.slopes["exact"]
        text = (
            f"{words.sentence_case(LOSSES[panel.loss].split(',')[0])}, {panel.place}: the exact norm goes as the power "
            f"{words.number(exact.value, 2)} ± {words.number(exact.standard_error, 1)} of {self.sweep.axis}"
        )
        for name in ("a_priori", "law"):
            if name in panel.formulas:
                power = panel.formulas[name].exponent
                expected = words.number(panel.slopes[f"{name} formula"].value, 2)
                what = "the a-priori bound's formula" if name == "a_priori" else "theory"
                leading = "" if power is None else f" (its leading term as {words.number(power)})"
                text += f", {what} as {expected}{leading}"
        return text + "."

    def _losses(self) -> list[str]:
        return list(dict.fromkeys(panel.loss for panel in self.sweep.panels))

    def _panels(self, loss: str) -> list["Panel"]:
        return [panel for panel in self.sweep.panels if panel.loss == loss]

    def _draw(self, ax: "Axes") -> None:
        self._draw_norms(ax, self._losses()[0])

    def _draw_whole(self, legend: bool) -> None:
        from matplotlib.figure import Figure

        losses = self._losses()
        handles = self._legend_rows()
        strip = _ROW * ((len(handles) + 1) // 2) + 8 if legend else 0.0
        height = _TOP + 2 * _PANEL + _BETWEEN + _BOTTOM + strip
        figure = Figure(figsize=(style.WIDTH / 72, height / 72))
        width = (style.WIDTH - _LEFT - _RIGHT - _GAP * (len(losses) - 1)) / len(losses)
        self.axes_ = {}
        for row, what in enumerate(("norm", "k*")):
            bottom = strip + _BOTTOM + (1 - row) * (_PANEL + _BETWEEN)
            for column, loss in enumerate(losses):
                left = _LEFT + column * (width + _GAP)
                ax = figure.add_axes((left / style.WIDTH, bottom / height, width / style.WIDTH, _PANEL / height))
                self.axes_[loss, what] = ax
                (self._draw_norms if what == "norm" else self._draw_sizes)(ax, loss)
        self.ax_, self.figure_ = self.axes_[losses[0], "norm"], figure
        if legend:
            figure.legend(
                *zip(*handles, strict=True), loc="lower left", bbox_to_anchor=(0.01, 0.0), ncols=2, borderaxespad=0.3,
                labelspacing=0.35, handlelength=2.6,
            )  # fmt: skip

    def _draw_norms(self, ax: "Axes", loss: str) -> None:
        panels = self._panels(loss)
        self._label(ax, f"{LOSSES[loss].split(',')[0]}: norm")
        drawn, ends = [], []
        for panel in panels:
            for name, spread in panel.norms.items():
                look = self._look(name, panel)
                if name == "exact":
                    ax.fill_between(
                        self.sweep.values, spread.low, spread.high, color=look["color"], alpha=0.16, linewidth=0
                    )
                    drawn += [spread.low, spread.high]
                ax.plot(self.sweep.values, spread.median, label=self._name(name, panel), **look)
                drawn.append(spread.median)
                ends.append((spread.median[-1], panel.slopes[name].value, look["color"]))
            for name, formula in panel.formulas.items():
                line = {**self._look(_FORMULA_OF[name], panel), "marker": "none", "linestyle": _DASH, "linewidth": 1.1}
                ax.plot(self.sweep.values, formula.values, **line)
                drawn.append(formula.values)
        style.log_value_axis(ax, np.concatenate([np.asarray(each) for each in drawn]))
        _end_labels(ax, ends)

    def _draw_sizes(self, ax: "Axes", loss: str) -> None:
        unit = " nats" if loss == "cross_entropy" else ""
        self._label(ax, f"k*, tolerance {words.number(self.sweep.epsilon)}{unit}")
        drawn = []
        for panel in self._panels(loss):
            for name, sizes in panel.k_star_samples["rigorous"].items():
                look, printed = self._look(name, panel), panel.k_star_samples["printed"][name]
                ax.plot(self.sweep.values, sizes, label=self._name(name, panel), **look)
                ax.plot(self.sweep.values, printed, **{**look, "marker": "none", "linestyle": _DOT})
                drawn += [sizes, printed]
        style.log_value_axis(ax, np.concatenate([np.asarray(each) for each in drawn]))

    def _label(self, ax: "Axes", y: str) -> None:
        ax.annotate(
            y, (0, 1), (4 - _LEFT, 9), xycoords="axes fraction", textcoords="offset points", annotation_clip=False
        )
        ax.set_xlabel(AXES[self.sweep.axis], loc="right", labelpad=3)
        style.size_axis(ax, self.sweep.values)

    def _look(self, name: str, panel: "Panel") -> dict[str, Any]:
        """Return the look of a curve; where two places share the axes, the last block is hollow."""
        look = _LOOKS[name] | {"linestyle": _SOLID, "linewidth": 1.4, "markersize": 4.0}
        if panel.place == "last block":
            look |= {"color": _PURPLE if name == "exact" else _GREEN, "fillstyle": "none"}
        return look

    def _name(self, name: str, panel: "Panel") -> str:
        return _LABELS[name] if "block" not in panel.place.split()[1:] else f"{_short(name)}, {panel.place}"

    def _legend_rows(self) -> list[tuple[Any, str]]:
        """Return handles and labels: every curve once, and what dashes and dots are."""
        from matplotlib.lines import Line2D

        panels, muted = self._panels(self._losses()[0]), style.COLORS["muted"]
        rows: list[tuple[Any, str]] = [
            (Line2D([], [], **self._look(name, panel)), self._name(name, panel))
            for panel in panels
            for name in panel.norms
        ]
        rows.append((Line2D([], [], color=muted, linestyle=_DASH, linewidth=1.1), "theory, at initialization"))
        rows.append((Line2D([], [], color=muted, linestyle=_DOT), "k* as printed (lines: rigorous)"))
        return rows


def structure_figures(sweeps: "Iterable[Sweep]", folder: str | Path) -> list[Path]:
    """Write figures/structure-<axis>.svg and .pdf, and a CSV of the numbers, for each sweep; return their paths.

    Args:
        sweeps: one sweep for each axis.
        folder: where "figures" is or will be.

    Raises:
        InputError: one is no sweep, two are of the same axis, or the folder can't be written.

    Cost: about 0.5 s for each sweep.
    """
    displays = [StructureDisplay.from_sweep(sweep) for sweep in sweeps]
    axes = [display.sweep.axis for display in displays]
    if len(set(axes)) < len(axes):
        raise InputError(f"sweeps holds the axes {', '.join(axes)}; two of one axis would overwrite each other.")
    written = []
    for display in displays:
        stem = Path(folder) / "figures" / f"structure-{display.sweep.axis}"
        figure = display.plot().figure_
        contents = {kind: svg.file_bytes(figure, kind) for kind in ("svg", "pdf")} | {"csv": _csv(display.table())}
        for kind, content in contents.items():
            path = stem.with_name(f"{stem.name}.{kind}")
            _files.write_whole(path, content)
            written.append(path)
    return written


def _csv(table: Table) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table[0])
    writer.writerows(["" if isinstance(cell, float) and np.isnan(cell) else cell for cell in row] for row in table[1])
    return text.getvalue().encode()


def _slope(slope: "Slope") -> tuple[float, float]:
    return slope.value, slope.standard_error


def _short(name: str) -> str:
    return {"exact": "exact", "data": "bound"}.get(name, _LABELS[name])


def _end_labels(ax: "Axes", ends: list[tuple[float, float, str]]) -> None:
    """Write each curve's fitted power beside its last point, moved apart where two would touch."""
    low, high = np.log(ax.get_ylim())
    step, last = 0.072 * (high - low), -np.inf
    ax.annotate(
        "power", (1, 1), (1, 2), xycoords="axes fraction", textcoords="offset points", fontsize=7,
        color=style.COLORS["muted"], annotation_clip=False,
    )  # fmt: skip
    for height, slope, color in sorted(ends):
        at = max(float(np.log(height)), last + step)
        last = at
        ax.annotate(
            f"{words.MINUS if slope < 0 else '+'}{abs(slope):.2f}", (1, (at - low) / (high - low)), (1, 0),
            xycoords="axes fraction", textcoords="offset points", va="center", fontsize=7, color=color,
            annotation_clip=False,
        )  # fmt: skip
