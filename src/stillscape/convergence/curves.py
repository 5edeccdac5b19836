"""A curve over dataset sizes, with its band and what kind of knowledge it is."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError

KINDS = ("measured", "identity", "closed form", "plug-in bound", "estimate", "forecast")


@dataclass(frozen=True)
class Curve:
    """A quantity over dataset sizes.

    Attributes:
        k: sizes, increasing.
        mean: one value for each size.
        low: lower end of the band, or None where there is none.
        high: upper end of the band, or None where there is none.
        kind: "measured"; "identity" (true for any model); "closed form"; "plug-in bound" (a bound with measured
            constants, hence no certificate); "estimate" (by a theory that may not hold here);
            "forecast" (beyond what was measured).
        unit: "nats", "share" (0..1), "distance", "curvature" (nats per squared distance).

    >>> Curve([1, 2], [0.5, float("nan")], None, None, "measured", "nats").to_dict()["mean"]
    [0.5, None]
    """

    k: ArrayLike
    mean: ArrayLike
    low: ArrayLike | None
    high: ArrayLike | None
    kind: str
    unit: str

    def __post_init__(self) -> None:
        """Refuse columns of different lengths and kinds that the report doesn't know."""
        _checks.one_of("kind", self.kind, KINDS)
        lengths = {len(np.atleast_1d(c)) for c in (self.k, self.mean, self.low, self.high) if c is not None}
        if len(lengths) != 1:
            raise InputError(f"k, mean, low and high have lengths {sorted(lengths)}; they must be one for each size.")

    def to_dict(self) -> dict:
        """Return plain lists for JSON; numbers that are not finite become None."""
        return {
            "k": [int(k) for k in np.atleast_1d(self.k)],
            "mean": _plain(np.atleast_1d(self.mean)),
            "low": None if self.low is None else _plain(np.atleast_1d(self.low)),
            "high": None if self.high is None else _plain(np.atleast_1d(self.high)),
            "kind": self.kind,
            "unit": self.unit,
        }


def curve_from_draws(
    k: ArrayLike, mean: ArrayLike, draws: Float[np.ndarray, "draws sizes"], *, level: float, unit: str
) -> Curve:
    """Return the measured curve whose band holds the middle `level` of the bootstrap draws at each size.

    A share can't leave 0..1 and a loss can't fall under 0, so the band is cut there, and it always holds the mean.

    Args:
        k: sizes.
        mean: the measured value at each size.
        draws: as from `bootstrap_curve`.
        level: share of the draws inside the band.
        unit: "share", "nats" or another; shares are cut to 0..1, nats to 0 and above.

    Returns:
        the curve, of kind "measured".

    Raises:
        InputError: lengths that differ, or a level outside 0..1.

    >>> curve_from_draws([5], [0.9], np.array([[0.5], [1.5]]), level=0.9, unit="share").high.tolist()
    [1.0]
    """
    _checks.fraction("level", level)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    least, most = {"share": (0.0, 1.0), "nats": (0.0, math.inf)}.get(unit, (-math.inf, math.inf))
    middle = np.asarray(mean, dtype=np.float64)
    return Curve(
        k,
        middle,
        np.minimum(np.clip(low, least, most), middle),
        np.maximum(np.clip(high, least, most), middle),
        "measured",
        unit,
    )


def _plain(values: Iterable[float]) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]
