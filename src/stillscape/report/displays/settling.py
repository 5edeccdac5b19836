"""The loss surface over a plane as images are counted in: side by side, its differences, and the way of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape.report import style, words
from stillscape.report.displays.base import Display, Table
from stillscape.report.landscape import NEXT_STEP, PLANE_NAMES, TO_WHOLE, Landscape, Trail, landscape_from

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes

_LEVELS = 9
#: Told apart without color as well: the lightness falls from one to the next.
_STEPS = (("#cfe6f5", 1.0), ("#fbe3b0", 2.0), ("#f2b65c", 5.0), ("#d97a1e", 10.0), ("#9c3f0b", np.inf))
_GAP = 0.045  # between panels, in shares of the axes
_TITLE = 0.075  # above a panel
_LABEL_ROOM = 0.07
_BAR_ROOM = 0.14


@dataclass
class _PlaneDisplay(Display):
    """What the displays of a plane share.

    Args:
        adapt: what was trained.
        landscape: the plane.
    """

    adapt: str
    landscape: Landscape

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None, plane: str | None = None) -> Self:
        """Read one plane of one adaptation.

        Args:
            result: what result.json holds.
            adapt: what was trained; that of the overall verdict by default.
            plane: "curvature", "path" or "random"; by default the first of them that was measured.

        Raises:
            InputError: there is no such adaptation, or its surface was not measured on this plane.
        """
        return cls(*landscape_from(result, adapt, plane))

    def ways(self) -> Table:
        """Return where trainings led the weights, step by step, how far from the plane and from their start."""
        at = self.landscape
        header = ("images", "step", at.axes[0], at.axes[1], "distance from the plane", "distance from the start")
        rows: list[tuple[Any, ...]] = [
            (trail.k, str(step), *map(float, (*place, off, moved)))
            for trail in at.trails
            for step, place, off, moved in zip(trail.steps, trail.places, trail.off, trail.moved, strict=True)
        ]
        return header, rows

    def _panel(self, ax: "Axes", place: tuple[float, float, float, float], title: str) -> "Axes":
        panel = ax.inset_axes(place)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(False)
        for spine in panel.spines.values():
            spine.set_visible(True)
            spine.set_color(style.COLORS["muted"])
            spine.set_linewidth(0.5)
        panel.annotate(title, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", fontsize=7.5)
        return panel

    def _label(self, ax: "Axes") -> None:
        ax.set_axis_off()
        first, second = self.landscape.axes
        common: dict[str, Any] = {
            "xycoords": "axes fraction", "textcoords": "offset points", "color": style.COLORS["muted"],
            "annotation_clip": False,
        }  # fmt: skip
        ax.annotate(f"{first} →", (1, -0.02), (0, -6), ha="right", va="top", **common)
        ax.annotate(f"{second} →", (-0.01, 0), (-6, 0), rotation=90, ha="right", va="bottom", **common)


class SettlingSurfaceDisplay(_PlaneDisplay):
    """L_k over a plane through w* for six sizes k, on one scale."""

    def title(self) -> str:
        """Return the figure's title."""
        return f"The loss surface stands still: {PLANE_NAMES.get(self.landscape.plane, self.landscape.plane)}"

    def caption(self) -> str:
        """Return what to see in the figure."""
        return (
            f"Mean loss Lₖ of the first k held-out images, of {self.landscape.k[-1]:,} in one random order, over "
            "a plane through the weights w* trained at the largest size (cross). All panels share one scale; what lies "
            "above it has its last color. Dots: weights trained on fewer images, as they lie in the plane. "
            f"{_trails_said(self.landscape)}"
            "The surface stands still for any model: this shows how many images it takes to see its shape, not how "
            "many to train on."
        )

    def table(self) -> Table:
        """Return what each surface is like: least, mean and largest value, and how far it is from the last one."""
        header = ("images", "least loss, nats", "mean loss, nats", "largest loss, nats", f"largest {TO_WHOLE}, nats",
                  f"largest {NEXT_STEP}, nats", "share within tolerance", "low", "high")  # fmt: skip
        at = self.landscape
        rows = []
        for i, k in enumerate(at.k):
            surface = at.losses[i]
            step = float(at.next_step[i].max()) if i < len(at.k) - 1 else float("nan")
            summary = (surface.min(), surface.mean(), surface.max(), at.to_whole[i].max(), step, *at.share[:, i])
            rows.append((int(k), *map(float, summary)))
        return header, rows

    def animate(self) -> "go.Figure":
        """Return the surface to turn and to play, for a notebook: a plotly figure with a frame for each k.

        The page has the same with its own controls, and needs no notebook.
        """
        import plotly.graph_objects as go

        at = self.landscape

        def surface(i: int) -> go.Surface:
            return go.Surface(
                x=at.first, y=at.second, z=at.losses[i].T, cmin=float(at.losses.min()), cmax=at.ceiling(),
                colorscale="Cividis", colorbar_title_text="nats",
            )  # fmt: skip

        frames = [go.Frame(name=str(k), data=[surface(i)]) for i, k in enumerate(at.k)]
        still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
        steps = [{"label": f"{k:,}", "method": "animate", "args": [[str(k)], still]} for k in at.k]
        figure = go.Figure(data=[surface(len(at.k) - 1)], frames=frames)
        figure.update_layout(
            scene={
                "xaxis_title_text": at.axes[0],
                "yaxis_title_text": at.axes[1],
                "zaxis": {"title_text": "mean loss, nats", "range": [min(0.0, float(at.losses.min())), at.ceiling()]},
            },
            sliders=[{"active": len(steps) - 1, "steps": steps, "currentvalue": {"prefix": "k = "}}],
        )
        return figure

    def _draw(self, ax: "Axes") -> None:
        self._label(ax)
        at, places = self.landscape, self.landscape.shown(6)
        low, high = float(at.losses.min()), at.ceiling()
        # Evenly spread in the square root: near the optimum, where the surface is low, steps are finer.
        levels = np.linspace(low**0.5, max(high, low + 1e-9) ** 0.5, _LEVELS + 1) ** 2
        width, height = (1 - _BAR_ROOM - 2 * _GAP) / 3, (1 - 2 * _TITLE - _GAP) / 2
        for n, i in enumerate(places):
            # One shape tells all sizes: the surface changes from panel to panel, the ways of the weights don't.
            left, bottom = (n % 3) * (width + _GAP), (1 - n // 3) * (height + _TITLE + _GAP)
            panel = self._panel(ax, (left, bottom, width, height), f"k = {at.k[i]:,}")
            drawn = panel.contourf(
                at.first, at.second, np.minimum(at.losses[i], levels[-1]).T, levels=levels, cmap="cividis"
            )
            draw_way(panel, at)
        bar = ax.inset_axes((1 - _BAR_ROOM + 0.035, 0, 0.025, 1 - _TITLE))
        figure = ax.get_figure(root=True)
        assert figure is not None
        colors = figure.colorbar(drawn, cax=bar, ticks=levels[::3])
        names = ["0" if level < high / 1000 else words.number(level, 2) for level in levels[::3]]
        colors.ax.set_yticklabels(names, fontsize=7)
        colors.outline.set_visible(False)
        bar.annotate("nats", (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=7.5)
        for line, trail in zip(_TRAIL_LINES, at.trails, strict=False):
            color = style.COLORS["vermillion"]
            ax.plot([], [], color=color, linestyle=line, label=f"training on {trail.k:,} images")


class SurfaceDifferenceDisplay(_PlaneDisplay):
    """|L_m - L_k| (above) and |L_{k+1} - L_k| (below) over a plane, with the region where the tolerance is met."""

    def title(self) -> str:
        """Return the figure's title."""
        return "How far the surface still moves"

    def caption(self) -> str:
        """Return what to see in the figure."""
        at = self.landscape
        tolerance = f"{words.number(at.tolerance)} nats"
        i = self._half()
        mean, low, high = (words.percent(round(float(each), 3)) for each in at.share[:, i])
        text = (
            f"Above: how far the surface over k images is from that over all {at.k[-1]:,}. Below: how far one more "
            f"image moves it. Pale blue, within the black line: at most the tolerance of {tolerance}. "
            f"At k = {at.k[i]:,}, over random orders, {mean} of the plane lies within the tolerance of the last "
            f"surface ({low} to {high}). "
        )
        whole = f"k = {at.settled:,}" if at.settled is not None else f"no k under {at.k[-1]:,}"
        return text + f"In the order shown, all of it does from {whole} on. Both differences shrink for any model."

    def table(self) -> Table:
        """Return the share of the plane within the tolerance, for both differences, and the largest of each."""
        at = self.landscape
        header = ("images", f"share of {TO_WHOLE} within", f"largest {TO_WHOLE}, nats",
                  f"share of {NEXT_STEP} within", f"largest {NEXT_STEP}, nats")  # fmt: skip
        rows = []
        for i, k in enumerate(at.k[:-1]):
            pair = [(float((each[i] <= at.tolerance).mean()), float(each[i].max())) for each in self._differences()]
            rows.append((int(k), *pair[0], *pair[1]))
        return header, rows

    def _differences(self) -> tuple[np.ndarray, np.ndarray]:
        return self.landscape.to_whole, self.landscape.next_step

    def _half(self) -> int:
        return int(np.searchsorted(self.landscape.k, self.landscape.k[-1] / 2))

    def _draw(self, ax: "Axes") -> None:
        from matplotlib.patches import Rectangle

        self._label(ax)
        at, places = self.landscape, self.landscape.shown(4, last=False)
        bounds = np.array([0.0, *(step * at.tolerance for _, step in _STEPS[:-1])])
        top = max(float(at.to_whole.max()), float(np.nanmax(at.next_step)), 2 * bounds[-1])
        width, height = (1 - 3 * _GAP) / 4, (1 - 2 * _TITLE - _GAP) / 2
        for row, (values, name) in enumerate(zip(self._differences(), (TO_WHOLE, NEXT_STEP), strict=True)):
            for column, i in enumerate(places):
                place = (column * (width + _GAP), (1 - row) * (height + _TITLE + _GAP), width, height)
                title = f"{name}, k = {at.k[i]:,}" if column == 0 else f"k = {at.k[i]:,}"
                panel = self._panel(ax, place, title)
                panel.contourf(
                    at.first, at.second, values[i].T, levels=[*bounds, top], colors=[color for color, _ in _STEPS]
                )
                if values[i].min() < at.tolerance < values[i].max():
                    panel.contour(
                        at.first, at.second, values[i].T, levels=[at.tolerance], colors=style.COLORS["ink"],
                        linewidths=0.9,
                    )  # fmt: skip
        names = [f"within the tolerance, {words.number(at.tolerance)} nats"]
        names += [f"up to {words.number(step * at.tolerance)}" for _, step in _STEPS[1:-1]] + ["above"]
        for (color, _), name in zip(_STEPS, names, strict=True):
            ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=color, edgecolor="none", label=name))


class WeightPathDisplay(_PlaneDisplay):
    """Where the weights trained on k images lie in a plane, on the surface over all images."""

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None, plane: str | None = "path") -> Self:
        """Read one plane of one adaptation; the one along the way of the weights by default.

        Raises:
            InputError: there is no such adaptation, or its surface was not measured on this plane.
        """
        return super().from_result(result, adapt, plane)

    def title(self) -> str:
        """Return the figure's title."""
        return "Where more images take the weights"

    def caption(self) -> str:
        """Return what to see in the figure."""
        at = self.landscape
        off = max(distance for *_, distance in at.way)
        return (
            f"Weights trained on k images (dots, with k), on the surface over {at.k[-1]:,} held-out images, in nats. "
            "The plane holds the weights at the two largest sizes; the others are shown at the point that is nearest, "
            f"and lie up to {words.number(off)} away from it: where two dots lie close, their weights need not. "
            f"{_trails_said(at)}"
        ).rstrip()

    def table(self) -> Table:
        """Return where the weights lie, how far from the plane, and the surface's height at the nearest point of it."""
        at = self.landscape
        header = ("images", at.axes[0], at.axes[1], "distance from the plane", "loss in the plane, nats")
        rows: list[tuple[Any, ...]] = [(k, a, b, off, at.height(at.losses[-1], a, b)) for k, a, b, off in at.way]
        return header, rows

    def _draw(self, ax: "Axes") -> None:
        at = self.landscape
        surface = at.losses[-1]
        style.label_axes(ax, f"{at.axes[1]} (distance)", f"{at.axes[0]} (distance)")
        ax.grid(False)
        levels = np.linspace(float(surface.min()), float(surface.max()), _LEVELS + 1)
        if levels[-1] > levels[0]:
            ax.contourf(at.first, at.second, surface.T, levels=levels, cmap="cividis", alpha=0.35)
            lines = ax.contour(at.first, at.second, surface.T, levels=levels[1:-1], colors=style.COLORS["muted"],
                               linewidths=0.6)  # fmt: skip
            ax.clabel(lines, np.asarray(lines.levels)[::2], fontsize=7, fmt=lambda level: words.number(level, 2))
        draw_trails(ax, at, color="blue", linewidth=1.3, labels=True)
        xs, ys = [a for _, a, _, _ in at.way], [b for _, _, b, _ in at.way]
        ax.plot(xs, ys, color=style.COLORS["vermillion"], marker="o", label="weights trained on k images")
        for n, (k, a, b, _) in enumerate(at.way):  # above and below in turn, so that close ones stay apart
            ax.annotate(f"{k:,}", (a, b), (0, -13 if n % 2 else 6), textcoords="offset points", ha="center", fontsize=8)
        style.value_axis(ax, float(at.second[0]), float(at.second[-1]), percent=False)
        ax.set_xlim(float(at.first[0]), float(at.first[-1]))


_TRAIL_LINES: tuple[Any, ...] = ((0, (1, 1.2)), (0, (4, 1.6)), "solid")


def draw_trails(panel: "Axes", at: Landscape, *, color: str, linewidth: float, labels: bool) -> None:
    """Draw the ways on which trainings came to their weights; what lies beyond the plane's edge is cut off."""
    for line, trail in zip(_TRAIL_LINES, at.trails, strict=False):
        label = f"training on {trail.k:,} images" if labels else "_"
        panel.plot(*trail.places.T, color=style.COLORS[color], linestyle=line, linewidth=linewidth, label=label)


def _trails_said(at: Landscape) -> str:
    """Return a sentence on the ways of trainings, with what the plane doesn't show of them; empty without any."""
    if not at.trails:
        return ""
    outside = "; what lies beyond the edge is cut off" if any(beyond(at, trail).any() for trail in at.trails) else ""
    return f"Lines: how training moved the weights; {at.hidden()}{outside}. "


def beyond(at: Landscape, trail: Trail) -> np.ndarray:
    """Tell which places of a training's way lie beyond the edge of the plane that is drawn."""
    ends = np.array([[at.first[0], at.second[0]], [at.first[-1], at.second[-1]]])
    return ((trail.places < ends[0]) | (trail.places > ends[1])).any(1)


def draw_way(panel: "Axes", at: Landscape) -> None:
    """Draw the weights trained on fewer images as dots, and w* as a cross."""
    draw_trails(panel, at, color="vermillion", linewidth=0.8, labels=False)
    *before, star = at.way
    edge: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 0.5}
    panel.plot([a for _, a, _, _ in before], [b for _, _, b, _ in before], marker="o", markersize=2.6,
               color=style.COLORS["vermillion"], **edge)  # fmt: skip
    panel.plot([star[1]], [star[2]], marker="P", markersize=4.2, color=style.COLORS["ink"], **edge)
    panel.set_xlim(float(at.first[0]), float(at.first[-1]))
    panel.set_ylim(float(at.second[0]), float(at.second[-1]))
