"""A measured number against its limit, and what measuring takes: how many cases, random numbers, the worst of all."""

from dataclasses import dataclass

import numpy as np
import torch

EXACT = 1e-12
SLACK = 1 + 1e-9  # the truth of a bound has a rounding of its own


@dataclass(frozen=True)
class Check:
    """A measured number and the limit that it must keep: at most, or (for what is refuted) above."""

    what: str
    value: float
    limit: float
    above: bool = False

    @property
    def holds(self) -> bool:
        """Say whether the limit is kept."""
        return self.value > self.limit if self.above else self.value <= self.limit * SLACK

    def __str__(self) -> str:
        """Return what the table shows."""
        number = f"{self.value:.0e}" if 0 < self.value < 1e-3 else f"{self.value:.5g}"
        return f"{self.what} {number} ({'>' if self.above else '<='} {self.limit:g})"


Found = tuple[str, list[Check]]  # what was looked at, and what came out


def some(count: int, share: float) -> int:
    """Return how many cases to take."""
    return max(2, round(count * share))


def generator(seed: int) -> torch.Generator:
    """Return a generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(gen: torch.Generator, *shape: int) -> torch.Tensor:
    """Return standard normal numbers."""
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


def worst(values) -> float:
    """Return the largest number of a list, an array or a tensor; NaN, which `max` may lose, if one is among them."""
    return float(np.asarray(values).max())


def largest(what: str, values, limit: float = 1.0, above: bool = False) -> Check:
    """Return the check of the largest of many errors, or of many ratios of truth to bound."""
    return Check(what, worst(values), limit, above)
