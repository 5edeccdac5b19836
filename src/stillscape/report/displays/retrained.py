"""What retraining changes, beside what the fixed surface would make one believe."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float

from stillscape._errors import InputError
from stillscape.report import style
from stillscape.report.displays.base import Display, Table, draw_series
from stillscape.report.series import Series, entry_of, needed_series, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class RetrainedAgainstFixedDisplay(Display):
    """Change of the held-out loss per added image: retrained, and at fixed weights.

        retrained between measured sizes a < b:   (L(w_a) - L(w_b)) / (b - a), drawn at sqrt(a b)
        at fixed weights:                         |L_{k+1}(w) - L_k(w)|, an identity, 1/k for any model

    Args:
        adapt: what was trained.
        sizes: consecutive measured sizes, shape (pairs, 2).
        change: fall of the held-out loss per added image, nats; negative where it rose.
        fixed: the fixed-surface curve, or None.
    """

    adapt: str
    sizes: Float[np.ndarray, "pairs 2"]
    change: Float[np.ndarray, " pairs"]
    fixed: Series | None

    @classmethod
    def from_result(cls, result: Mapping[str, Any], adapt: str | None = None) -> Self:
        """Read held-out loss and fixed surface of one adaptation.

        Raises:
            InputError: there is no such adaptation, or its held-out loss is known at fewer than two sizes.
        """
        entry = entry_of(result, adapt)
        heldout = needed_series(entry, "heldout_loss")
        known = np.isfinite(heldout.mean)
        if known.sum() < 2:
            raise InputError(f"the held-out loss of {entry['adapt']!r} is known at {known.sum()} size; it takes two.")
        k, loss = heldout.k[known], heldout.mean[known]
        sizes = np.column_stack([k[:-1], k[1:]])
        return cls(entry["adapt"], sizes, -np.diff(loss) / np.diff(k), series_of(entry, "fixed_surface"))

    @property
    def middle(self) -> Float[np.ndarray, " pairs"]:
        """The size at which each pair is drawn."""
        return np.sqrt(self.sizes.prod(axis=1))

    def title(self) -> str:
        """Return the figure's title."""
        return "Retrained, against the fixed surface"

    def caption(self) -> str:
        """Return what to see in the figure."""
        rose = int((self.change < 0).sum())
        hollow = f" Hollow points: the loss rose ({rose} of {len(self.change)} steps)." if rose else ""
        return (
            "What one more image changes in the held-out loss. Points: the model is retrained at each size, and the "
            "fall is spread over the images added. Gray line: the same weights throughout, which falls as 1/k whatever "
            f"was learned. Only the points speak of learning; where they leave the line, the line misleads.{hollow}"
        )

    def table(self) -> Table:
        """Return each pair of sizes with its fall per image, and the fixed surface at the middle."""
        fixed = self._fixed_at_middle()
        rows = [(a, b, c, f) for (a, b), c, f in zip(self.sizes.tolist(), self.change.tolist(), fixed, strict=True)]
        return ("from images", "to images", "retrained: fall per image, nats", "fixed weights: |change|, nats"), rows

    def _fixed_at_middle(self) -> list[float]:
        if self.fixed is None:
            return [np.nan] * len(self.change)
        known = self.fixed.mean > 0
        k, mean = np.log(self.fixed.k[known]), np.log(self.fixed.mean[known])
        return np.exp(np.interp(np.log(self.middle), k, mean, left=np.nan, right=np.nan)).tolist()

    def _draw(self, ax: "Axes") -> None:
        style.label_axes(ax, "Change of the loss per added image, nats")
        low, high = self.sizes.min(), self.sizes.max()
        style.size_axis(ax, np.append(self.sizes[:, 0], high))
        values = [np.abs(self.change)]
        if self.fixed is not None:
            near = (self.fixed.k >= low * 0.9) & (self.fixed.k <= high * 1.1)
            part = Series(*(array[near] for array in (self.fixed.k, self.fixed.mean, self.fixed.low, self.fixed.high)))
            values.append(part.mean)
            if near.any():
                draw_series(ax, part, "weights fixed: an identity", color=style.COLORS["muted"], linewidth=2.4)
        style.log_value_axis(ax, np.concatenate(values))
        ax.plot(self.middle, np.abs(self.change), color=style.COLORS["blue"], linewidth=1.0)
        for (a, b), c in zip(self.sizes, np.abs(self.change), strict=True):
            ax.plot([a, b], [c, c], color=style.COLORS["blue"], linewidth=3, alpha=0.3)
        fell = self.change >= 0
        dot: dict[str, Any] = {"color": style.COLORS["blue"], "marker": "o", "linestyle": "none", "markersize": 6.5}
        ax.plot(self.middle[fell], self.change[fell], label="retrained: the loss fell", **dot)
        if not fell.all():
            ax.plot(self.middle[~fell], -self.change[~fell], label="retrained: the loss rose", fillstyle="none", **dot)
