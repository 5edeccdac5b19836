"""The Hessian's spectrum at w* as images are counted in: eigenvalues, effective rank, and which parameters hold it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float

from stillscape._errors import InputError, RecordError
from stillscape.report import style, words
from stillscape.report.displays.base import Display, Table
from stillscape.report.series import entry_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COMB = 0.8  # of a size's room that its eigenvalues take
_OUTLIER, _BULK, _NEGATIVE = "above the bulk", "in the bulk", "negative, by size"
_LOOKS: dict[str, dict[str, Any]] = {
    _OUTLIER: {"color": style.COLORS["blue"], "marker": "o", "markersize": 3.2},
    _BULK: {"color": style.COLORS["muted"], "marker": "s", "markersize": 2.4},
    _NEGATIVE: {"color": style.COLORS["vermillion"], "marker": "v", "markersize": 3.2, "fillstyle": "none"},
}
_GROUP_LOOKS = (
    ("blue", "o"), ("vermillion", "s"), ("green", "^"), ("purple", "D"), ("orange", "v"), ("sky", "P"), ("ink", "o"),
)  # fmt: skip
_BETWEEN = "between groups"


@dataclass(frozen=True)
class AtSize:
    """What was measured of mean(H_1..H_k).

    Attributes:
        k: the size.
        values: eigenvalues, those of largest magnitude first.
        errors: their standard errors over images; NaN for a single image.
        outliers: how many positive ones lie above the bulk; None where no gap says where that begins.
        numbers: further ones by name, NaN where one is not known.
        blocks: share of the squared norm with its standard error, by group of parameters.
        between: the same of what couples groups.
    """

    k: int
    values: Float[np.ndarray, " count"]
    errors: Float[np.ndarray, " count"]
    outliers: int | None
    numbers: dict[str, float]
    blocks: dict[str, tuple[float, float]]
    between: tuple[float, float]

    def kinds(self) -> list[str]:
        """Return for each eigenvalue whether it is an outlier, in the bulk or negative."""
        outliers = self.outliers or 0
        above = set(np.flatnonzero(self.values > 0)[:outliers].tolist())
        return [
            _NEGATIVE if value < 0 else _OUTLIER if place in above else _BULK for place, value in enumerate(self.values)
        ]


@dataclass
class _SpectrumDisplay(Display):
    """What the displays of a spectrum share.

    Args:
        adapt: what was trained.
        sizes: what was measured at each k, smallest first.
        num_classes: of the data.
    """

    adapt: str
    sizes: list[AtSize]
    num_classes: int

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None) -> Self:
        """Read one adaptation's spectra.

        Raises:
            InputError: there is no such adaptation, or its spectra were not measured.
            RecordError: what is written of them is damaged.
        """
        entry = entry_of(result, adapt)
        spectrum = entry.get("spectrum")
        if not spectrum:
            raise InputError(
                f"the spectrum of {entry['adapt']!r} was not measured; ask for `curvature` in the plan, and run again."
            )
        try:
            sizes = [_at_size(row) for row in spectrum["sizes"]]
            return cls(entry["adapt"], sorted(sizes, key=lambda at: at.k), int(spectrum["num_classes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"the spectrum of {entry['adapt']!r} can't be read ({error!r}); run again to rebuild the result."
            ) from None

    def _images(self) -> str:
        return f"the first k of {self.sizes[-1].k:,} held-out images in one random order"


class SpectrumDisplay(_SpectrumDisplay):
    """The largest eigenvalues of mean(H_1..H_k) at w*, a falling comb for each k, with standard errors over images."""

    def title(self) -> str:
        """Return the figure's title."""
        return "In how many directions the surface bends"

    def caption(self) -> str:
        """Return what to see in the figure."""
        found = ", ".join(
            f"{'not to be told' if at.outliers is None else at.outliers} at k = {at.k:,}" for at in self.sizes
        )
        return (
            f"Eigenvalues of the mean Hessian at w* over {self._images()}, largest first, with their standard errors "
            "over images. Blue: those before the widest gap, which stand out of the bulk. Classifiers have about as "
            f"many as classes ({self.num_classes}; dotted): {found}. Where neighboring combs have the same shape and "
            "height, more images no longer change how the surface bends. The largest eigenvalue of a mean of few "
            "images lies too high, and falls with k for any model."
        )

    def table(self) -> Table:
        """Return every eigenvalue with its standard error over images, and whether it stands out."""
        header = ("images", "rank", "eigenvalue", "standard error", "which")
        rows: list[tuple[Any, ...]] = [
            (at.k, str(place), float(value), float(error), kind)
            for at in self.sizes
            for place, (value, error, kind) in enumerate(zip(at.values, at.errors, at.kinds(), strict=True), 1)
        ]
        return header, rows

    def _draw(self, ax: "Axes") -> None:
        style.label_axes(ax, "eigenvalue, nats / distance²", "images counted in, k")
        most = max(len(at.values) for at in self.sizes)
        magnitudes = [np.abs(at.values) for at in self.sizes]
        floor = max(float(each.max()) for each in magnitudes) * 1e-5  # below it they are rounding
        tops = [each + np.nan_to_num(at.errors) for each, at in zip(magnitudes, self.sizes, strict=True)]
        style.log_value_axis(ax, np.concatenate([each[each > floor] for each in (*magnitudes, *tops)]))
        present = {kind for at in self.sizes for kind in at.kinds()}
        for kind in (kind for kind in _LOOKS if kind in present):
            ax.plot([], [], linestyle="none", label=kind, **_LOOKS[kind])
        for column, at in enumerate(self.sizes):
            for place, (size, error, kind) in enumerate(zip(np.abs(at.values), at.errors, at.kinds(), strict=True)):
                if size <= floor:
                    continue
                x, look = column + _COMB * ((place + 0.5) / most - 0.5), _LOOKS[kind]
                if np.isfinite(error):
                    low = max(size - error, ax.get_ylim()[0])
                    ax.plot([x, x], [low, size + error], color=look["color"], linewidth=0.9)
                ax.plot([x], [size], linestyle="none", **look)
        if self.num_classes < most:
            line: dict[str, Any] = {"color": style.COLORS["muted"], "linewidth": 0.8, "linestyle": (0, (1, 2.5))}
            for column in range(len(self.sizes)):
                ax.axvline(column + _COMB * (self.num_classes / most - 0.5), **line)
            ax.plot([], [], label="as many as classes", **line)
        ax.set_xlim(-0.5, len(self.sizes) - 0.5)
        ax.set_xticks(range(len(self.sizes)), [f"{at.k:,}" for at in self.sizes])


class EffectiveRankDisplay(_SpectrumDisplay):
    """Stable rank, intrinsic dimension and number of outliers of mean(H_1..H_k) against k."""

    def title(self) -> str:
        """Return the figure's title."""
        return "The effective rank of the curvature"

    def caption(self) -> str:
        """Return what to see in the figure."""
        return (
            f"How many directions as stiff as the stiffest would make up the mean Hessian over {self._images()}: by "
            "its Frobenius norm (stable rank) and by the trace of its outer part (intrinsic dimension). "
            "Bars: standard errors of the estimates by random vectors, the largest eigenvalue taken as known. "
            f"Triangles: eigenvalues above the bulk; dotted: the number of classes, {self.num_classes}. Level lines "
            "say that more images add no new stiff directions."
        )

    def table(self) -> Table:
        """Return rank, dimension, outliers, trace and Frobenius norm at each size, with standard errors."""
        names = [name for name in _NUMBERS if name != "gap"]
        header = ("images", "eigenvalues above the bulk", "widest gap, ratio",
                  *[name.replace("_stderr", ", standard error").replace("_", " ") for name in names])  # fmt: skip
        rows: list[tuple[Any, ...]] = [
            (at.k, words.DASH if at.outliers is None else str(at.outliers), at.numbers["gap"],
             *[at.numbers[name] for name in names])
            for at in self.sizes
        ]  # fmt: skip
        return header, rows

    def _draw(self, ax: "Axes") -> None:
        style.label_axes(ax, "directions", "images counted in, k")
        k = [at.k for at in self.sizes]
        style.size_axis(ax, k)
        tops = [float(self.num_classes)]
        for name, label, color, marker in (
            ("intrinsic_dimension", "intrinsic dimension", "green", "s"),
            ("stable_rank", "stable rank", "blue", "o"),
        ):
            values = np.array([[at.numbers[name], at.numbers[f"{name}_stderr"]] for at in self.sizes])
            _draw_with_errors(ax, k, values, label, {"color": style.COLORS[color], "marker": marker})
            tops.append(float(np.nanmax(values.sum(1), initial=0.0)))
        outliers = np.array([np.nan if at.outliers is None else at.outliers for at in self.sizes])
        if np.isfinite(outliers).any():
            look: dict[str, Any] = {"color": style.COLORS["vermillion"], "marker": "^", "linestyle": "none"}
            ax.plot(k, outliers, label="eigenvalues above the bulk", **look)
            tops.append(float(np.nanmax(outliers)))
        line: dict[str, Any] = {"color": style.COLORS["muted"], "linewidth": 1, "linestyle": (0, (1, 2))}
        ax.axhline(self.num_classes, label="number of classes", **line)
        style.value_axis(ax, 0.0, 1.1 * max(tops), percent=False)


class BlockShareDisplay(_SpectrumDisplay):
    """Each group of parameters' share of the mean Hessian's squared norm against k."""

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None) -> Self:
        """Read one adaptation's blocks.

        Raises:
            InputError: there is no such adaptation, its blocks were not measured, or all it trains is one group.
            RecordError: what is written of them is damaged.
        """
        found = super().from_result(result, adapt)
        if len(found.sizes[0].blocks) < 2:
            raise InputError(f"{found.adapt!r} trains one group of parameters alone; there are no blocks to compare.")
        return found

    def title(self) -> str:
        """Return the figure's title."""
        return "Which parameters bend the surface"

    def caption(self) -> str:
        """Return what to see in the figure."""
        last = self.sizes[-1]
        most = max(last.blocks, key=lambda group: last.blocks[group][0])
        share, error = last.blocks[most]
        return (
            "Share of the squared Frobenius norm of the mean Hessian at w*, over "
            f"{self._images()}, that lies in the block of each group of parameters; broken: in the blocks between two "
            f"groups. At k = {last.k:,} most of any group lies in {most}: {words.percent(round(share, 3))}, give or "
            f"take {words.percent(round(error, 3))}. Bars: standard errors of the estimates by random vectors; they do "
            "not hold which images came first. Level lines say that more images only sharpen what is there."
        )

    def table(self) -> Table:
        """Return each group's share with its standard error at each size, and that of what lies between groups."""
        rows: list[tuple[Any, ...]] = [
            (at.k, group, *share) for at in self.sizes for group, share in [*at.blocks.items(), (_BETWEEN, at.between)]
        ]
        return ("images", "parameters", "share of squared norm", "standard error"), rows

    def _draw(self, ax: "Axes") -> None:
        style.label_axes(ax, "share of squared norm", "images counted in, k")
        k = [at.k for at in self.sizes]
        style.size_axis(ax, k)
        tops = []
        for number, group in enumerate([*self.sizes[-1].blocks, _BETWEEN]):
            values = np.array(
                [at.between if group == _BETWEEN else at.blocks.get(group, (np.nan, np.nan)) for at in self.sizes]
            )
            color, marker = _GROUP_LOOKS[number % len(_GROUP_LOOKS)]
            look: dict[str, Any] = {"color": style.COLORS[color], "marker": marker}
            if number >= len(_GROUP_LOOKS):
                look["fillstyle"] = "none"
            if group == _BETWEEN:
                look = {"color": style.COLORS["muted"], "marker": "none", "linestyle": (0, (4, 2.5))}
            _draw_with_errors(ax, k, values, group, look)
            tops.append(float(np.nanmax(values.sum(1))))
        style.value_axis(ax, 0.0, min(1.05 * max(tops), 1.02), percent=True)


_NUMBERS = (
    "gap", "stable_rank", "stable_rank_stderr", "intrinsic_dimension", "intrinsic_dimension_stderr", "trace",
    "trace_stderr", "frobenius", "frobenius_stderr",
)  # fmt: skip


def _at_size(row: Mapping[str, Any]) -> AtSize:
    values, errors = _floats(row["values"]), _floats(row["values_stderr"])
    if values.shape != errors.shape:
        raise ValueError(f"{len(values)} eigenvalues have {len(errors)} standard errors")
    return AtSize(
        k=int(row["k"]),
        values=values,
        errors=errors,
        outliers=None if row["outliers"] is None else int(row["outliers"]),
        numbers={name: float(_floats([row[name]])[0]) for name in _NUMBERS},
        blocks={
            str(each["group"]): (float(each["norm_share"]), float(each["norm_share_stderr"])) for each in row["blocks"]
        },
        between=(float(row["between_blocks"]), float(row["between_blocks_stderr"])),
    )


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _draw_with_errors(
    ax: "Axes", k: Sequence[int], values: Float[np.ndarray, "K 2"], label: str, look: Mapping[str, Any]
) -> None:
    """Draw a line with a bar of one standard error to each side."""
    ax.plot(k, values[:, 0], label=label, **look)
    for x, (value, error) in zip(k, values, strict=True):
        ax.plot([x, x], [max(value - error, 0.0), value + error], color=look["color"], linewidth=0.9)
