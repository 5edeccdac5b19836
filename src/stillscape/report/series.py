"""What the page reads from result.json: entries, and curves as arrays in which null is NaN and so is not drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from stillscape._errors import InputError, RecordError

SCHEMA = 1


@dataclass(frozen=True)
class Series:
    """One curve in the number of images; NaN where the record holds null.

    Attributes:
        k: sizes.
        mean: values.
        low: lower ends of the intervals; all NaN where there are none.
        high: upper ends of the intervals.
        kind: "measured", "identity", "closed form", "plug-in bound", "estimate" or "forecast".
    """

    k: Float[np.ndarray, " sizes"]
    mean: Float[np.ndarray, " sizes"]
    low: Float[np.ndarray, " sizes"]
    high: Float[np.ndarray, " sizes"]
    kind: str = "measured"

    @property
    def has_band(self) -> bool:
        """Whether any point has an interval."""
        return bool(np.any(np.isfinite(self.low) & np.isfinite(self.high)))

    def thinned(self, limit: int) -> "Series":
        """Return at most `limit` points, evenly spread over log k, both ends kept."""
        if len(self.k) <= limit:
            return self
        wanted = np.geomspace(1, len(self.k), limit).round().astype(int) - 1
        rows = np.unique(wanted)
        return Series(self.k[rows], self.mean[rows], self.low[rows], self.high[rows], self.kind)

    def rows(self, limit: int = 40) -> list[tuple[float, ...]]:
        """Return (k, mean, low, high) for at most `limit` sizes."""
        thin = self.thinned(limit)
        return list(zip(thin.k.tolist(), thin.mean.tolist(), thin.low.tolist(), thin.high.tolist(), strict=True))


def check_result(result: Any) -> None:
    """Refuse what is not a result of this version's schema.

    Raises:
        RecordError: it isn't a mapping, or is of another schema, or holds no results.
    """
    if not isinstance(result, Mapping):
        raise RecordError(f"the result is a {type(result).__name__}; it must be the mapping that result.json holds.")
    if result.get("schema") != SCHEMA:
        raise RecordError(
            f"the result's schema is {result.get('schema')!r}; this version reads schema {SCHEMA}. Run again."
        )
    if not result.get("results"):
        raise RecordError("the result holds no adaptation under 'results'; there is nothing to draw.")


def entry_of(result: Mapping[str, Any], adapt: str | None = None) -> Mapping[str, Any]:
    """Return the result of one adaptation; without a name, the one that the overall verdict names.

    Raises:
        InputError: there is no such adaptation.
    """
    check_result(result)
    names = [entry["adapt"] for entry in result["results"]]
    if adapt is None:
        adapt = (result.get("verdict") or {}).get("adapt") or names[0]
    if adapt not in names:
        raise InputError(f"adapt is {adapt!r}; this result holds {', '.join(names)}. Name one of these.")
    return result["results"][names.index(adapt)]


def series_of(entry: Mapping[str, Any], name: str) -> Series | None:
    """Return the named curve, or None where it is absent or holds no number."""
    curve = (entry.get("curves") or {}).get(name)
    if not curve or not curve.get("k"):
        return None
    k = _floats(curve["k"])
    mean, low, high = (_floats(curve.get(key), len(k)) for key in ("mean", "low", "high"))
    if len(mean) != len(k) or not np.isfinite(mean).any():
        return None
    return Series(k, mean, low, high, curve.get("kind") or "measured")


def series_among(entry: Mapping[str, Any], names: Iterable[str]) -> dict[str, Series]:
    """Return those of the named curves that are there, in the order of the names."""
    return {name: curve for name in names if (curve := series_of(entry, name)) is not None}


def needed_series(entry: Mapping[str, Any], name: str) -> Series:
    """Return the named curve.

    Raises:
        InputError: this adaptation has no such curve.
    """
    series = series_of(entry, name)
    if series is None:
        held = ", ".join(entry.get("curves") or {}) or "none"
        raise InputError(f"curve {name!r} is not in the result of {entry['adapt']!r}; it holds {held}.")
    return series


def _floats(values: Sequence[float | None] | None, length: int = 0) -> np.ndarray:
    if values is None:
        return np.full(length, np.nan)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
