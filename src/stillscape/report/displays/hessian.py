"""How curved the loss surface is at w*, and how far one more image's curvature lies from that of those before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stillscape._errors import InputError
from stillscape.report import style
from stillscape.report.displays.base import Display, Table, draw_series, labelled_rows
from stillscape.report.series import Series, entry_of, series_among

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASH, _DOT = (0, (4, 2.5)), (0, (1, 2))
_LOOKS: dict[str, dict[str, Any]] = {
    "hessian_difference": {"color": style.COLORS["blue"], "marker": "s"},
    "hessian_norm": {"color": style.COLORS["green"], "marker": "o"},
    "hessian_difference_frobenius": {"color": style.COLORS["blue"], "linestyle": _DASH, "linewidth": 1.1},
    "hessian_norm_frobenius": {"color": style.COLORS["green"], "linestyle": _DASH, "linewidth": 1.1},
    "hessian_bound": {"color": style.COLORS["vermillion"], "linestyle": _DOT, "marker": "^"},
}
_LABELS = {
    "hessian_difference": "new image against the mean",
    "hessian_norm": "the mean itself",
    "hessian_difference_frobenius": "new image, Frobenius norm",
    "hessian_norm_frobenius": "the mean, Frobenius norm",
    "hessian_bound": "bound on every image's (exact calculus)",
}
_BANDED = ("hessian_difference", "hessian_norm")


@dataclass
class HessianDisplay(Display):
    """Norms of H_{k+1} - mean(H_1..H_k) and of the mean, at w*, against k, both logarithmic.

    Args:
        adapt: what was trained.
        series: curves by name, in drawing order; those absent are left out.
    """

    adapt: str
    series: dict[str, Series]

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None) -> Self:
        """Read whichever of the curves one adaptation has.

        Raises:
            InputError: there is no such adaptation, or its Hessians were not measured.
        """
        entry = entry_of(result, adapt)
        found = series_among(entry, _LOOKS)
        if "hessian_difference" not in found:
            raise InputError(f"the Hessians of {entry['adapt']!r} were not measured; ask for `curvature` in the plan.")
        return cls(entry["adapt"], found)

    def title(self) -> str:
        """Return the figure's title."""
        return "Curvature at the optimum, image by image"

    def caption(self) -> str:
        """Return what to see in the figure."""
        text = (
            "Norms of Hessians at w* over held-out images in random orders; lines are spectral norms, broken ones "
            "Frobenius. The mean surface (green) has settled where its line is level; its band closes at the right end "
            "for any surface, since there all orders hold the same images. What one more image brings (blue) need not "
            "get smaller with k: it counts with a weight of 1/(k+1)."
        )
        bound = " Dotted: what the exact Hessian of a linear head can reach at any weights."
        return text + (bound if "hessian_bound" in self.series else "")

    def table(self) -> Table:
        """Return name, kind, size, mean and interval of every curve, thinned."""
        return ("curve", "kind", "images", "norm", "low", "high"), labelled_rows(self.series, _LABELS)

    def _draw(self, ax: "Axes") -> None:
        style.label_axes(ax, "norm, nats / distance²", "images counted in, k")
        every = list(self.series.values())
        style.log_size_axis(ax, min(c.k[0] for c in every), max(c.k[-1] for c in every))
        ends = [np.concatenate([c.mean, c.low[np.isfinite(c.low)], c.high[np.isfinite(c.high)]]) for c in every]
        style.log_value_axis(ax, np.concatenate(ends))
        for name, curve in self.series.items():
            draw_series(ax, curve, _LABELS[name], band=name in _BANDED, **_LOOKS[name])
