"""Counting: how often and how far something is off, and how to say it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stillscape.bounds.audit.statement import Finding

Numbers = Tensor | np.ndarray | float

#: Relative error up to which a closed form counts as exact in float64; sums of a few thousand products stay far below.
EXACT = 1e-10
#: What a bound may be exceeded by: the truth itself is computed with rounding, and cancels where a loss is flat.
SLACK = 1e-8


class Errors:
    """Relative errors of a closed form against automatic differentiation."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, got: Tensor, want: Tensor, scale: Tensor | None = None) -> None:
        """Note ||got - want||_F / ||scale||_F for every sample; leading axis of samples. `scale` is `want` if left out.

        A shape that doesn't fit is an infinite error.
        """
        if got.shape != want.shape:
            self.values.append(float("inf"))
            return
        size = _frobenius(want if scale is None else scale).clamp_min(torch.finfo(want.dtype).tiny)
        self.values.extend((_frobenius(got - want) / size).tolist())

    @property
    def worst(self) -> float:
        """The largest error."""
        return max(float("inf") if value != value else value for value in self.values)

    @property
    def holds(self) -> bool:
        """Whether every error is rounding."""
        return self.worst <= EXACT

    def text(self) -> str:
        """Say draws, violations and the worst error."""
        beyond = sum(not value <= EXACT for value in self.values)
        return f"{len(self.values)} draws, {beyond} off by more than {EXACT:.0e}, worst relative error {self.worst:.1e}"

    def tightness(self) -> str:
        """Say that nothing is lost."""
        return "exact"

    def numbers(self) -> dict[str, float]:
        """Return the number that a row keeps."""
        return {"worst": self.worst}


class Ratios:
    """Truths against their bounds."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, truth: Numbers, bound: Numbers) -> None:
        """Note truth/bound of every sample; a truth of zero under a bound of zero is 0."""
        both = (torch.as_tensor(value, dtype=torch.float64) for value in (truth, bound))
        found, allowed = torch.broadcast_tensors(*both)
        ratio = torch.where((found == 0) & (allowed >= 0), torch.zeros_like(found), found / allowed)
        self.values.extend(ratio.flatten().tolist())

    @property
    def violations(self) -> int:
        """How many truths are above their bound."""
        return sum(not value <= 1.0 + SLACK for value in self.values)

    @property
    def holds(self) -> bool:
        """Whether no truth is above its bound."""
        return self.violations == 0

    @property
    def largest(self) -> float:
        """The largest truth/bound."""
        return max(float("inf") if value != value else value for value in self.values)

    @property
    def median(self) -> float:
        """The median of bound/truth over the truths that are not zero."""
        positive = sorted(1.0 / value for value in self.values if value > 0)
        return positive[len(positive) // 2] if positive else float("inf")

    def text(self) -> str:
        """Say draws, violations and the largest truth/bound."""
        return f"{len(self.values)} draws, {self.violations} violations, largest truth/bound {self.largest:.6g}"

    def tightness(self) -> str:
        """Say median and best bound/truth."""
        return f"bound/truth: median {self.median:.3g}, best {1.0 / self.largest if self.largest else float('inf'):.6g}"

    def numbers(self) -> dict[str, float]:
        """Return the number that a row keeps."""
        return {"largest": self.largest}


def finding(
    verdict: str,
    evidence: str,
    mended: Errors | Ratios,
    numbers: dict[str, float] | None = None,
    *,
    measured: str = "",
    tightness: str = "",
    also: bool = True,
) -> Finding:
    """Return the finding on a corrected statement that one collection of errors or ratios decides.

    Args:
        verdict: on the printed statement.
        evidence: for it.
        mended: what was measured of the corrected statement: an exact form's errors, or truths against a bound.
        numbers: what the row keeps; that of `mended` stands last, unless it is named among them.
        measured: words in place of `mended`'s own, where it isn't all that was measured.
        tightness: likewise.
        also: what has to hold besides.
    """
    texts = measured or mended.text(), tightness or mended.tightness()
    return Finding(verdict, evidence, *texts, mended.holds and also, (numbers or {}) | mended.numbers())


def share(count: int, total: int) -> str:
    """Say a count out of a total."""
    return f"{count} of {total}"


def size_of(matrix: Tensor) -> str:
    """Say a matrix's shape."""
    return "x".join(str(length) for length in matrix.shape)


def misfit(named: Sequence[tuple[str, Tensor]]) -> str | None:
    """Return where a product of matrices, taken from the left, stops to conform, or None if it conforms."""
    (text, product), *others = named
    for name, factor in others:
        if product.shape[1] != factor.shape[0]:
            return f"{text} is {size_of(product)} and {name} is {size_of(factor)}"
        product, text = product @ factor, f"{text} {name}"
    return None


def _frobenius(matrix: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrix.flatten(1), dim=-1)
