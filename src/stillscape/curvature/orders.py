"""The same norms for other orders of the samples, from small cores of one pass: bands over orders cost next to nothing.

A core holds what a sample's long vectors have in common with each other and with the random vectors, exactly; and a
short image of each long vector (Charikar, Chen, Farach-Colton 2002: every coordinate goes, with a random sign, into one
of `width` sums), from which inner products between different samples follow with a relative error of about
1 / sqrt(width). A difference is mostly its own new sample, which is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillscape._checks import at_least
from stillscape._errors import InputError
from stillscape.curvature.low_rank import add, gram
from stillscape.curvature.remainder import norms_of_new_and_mean


class Shortener:
    """Maps long vectors to short ones that keep inner products on average.

    Args:
        num_parameters: length of the long ones.
        width: length of the short ones.
        seed: of places and signs.
        device: of the long vectors.
    """

    def __init__(self, num_parameters: int, width: int, seed: int, device: torch.device | str) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.width = width
        self._place = torch.randint(width, (num_parameters,), generator=generator).to(device)
        self._sign = (2 * torch.randint(2, (num_parameters,), generator=generator) - 1).to(device, torch.float32)

    def __call__(self, rows: Float[Tensor, "a P"]) -> Float[Tensor, "a width"]:
        """Return the short images of long rows."""
        short = rows.new_zeros(len(rows), self.width)
        return short.index_add_(1, self._place, rows * self._sign.to(rows.dtype))


@dataclass(frozen=True)
class Core:
    """What is kept of one sample: its low-rank rows (first) and images of the random vectors (second), as products.

    Attributes:
        values: of the low-rank part.
        gram: inner products among its long vectors.
        overlap: with the random vectors.
        short: their short images.
        num_fitted: how many random vectors had a part in finding the low-rank part.
    """

    values: Float[Tensor, " e"]
    gram: Float[Tensor, "z z"]
    overlap: Float[Tensor, "z t"]
    short: Float[Tensor, "z width"]
    num_fitted: int


@dataclass(frozen=True)
class OrderCurves:
    """Norms for several orders of the samples, one order a row.

    Attributes:
        k: sizes.
        spectral: of H_{k+1} - mean(H_1..H_k).
        frobenius: likewise.
        mean_spectral: of mean(H_1..H_k).
        mean_frobenius: likewise.
    """

    k: Int[np.ndarray, " sizes"]
    spectral: Float[np.ndarray, "orders sizes"]
    frobenius: Float[np.ndarray, "orders sizes"]
    mean_spectral: Float[np.ndarray, "orders sizes"]
    mean_frobenius: Float[np.ndarray, "orders sizes"]


def curves_over_orders(
    cores: Sequence[Core], orders: int = 20, sizes: Sequence[int] | np.ndarray | None = None, seed: int = 0
) -> OrderCurves:
    """Return the norms at `sizes` for random orders of the samples whose cores are given.

    Args:
        cores: of all samples, from `DifferenceSketch` with a `width`.
        orders: how many.
        sizes: values of k, each from 1 to m - 1; all unless given.
        seed: of the orders.

    Raises:
        InputError: if there are fewer than two cores, or a size is out of range.

    Cost: some 10 ms for each order and size; no product.
    """
    m = len(cores)
    if m < 2:
        raise InputError(f"cores are of {m} samples; it takes two, and a DifferenceSketch with a width keeps them.")
    k = np.arange(1, m) if sizes is None else np.unique(np.asarray(sizes, dtype=np.int64))
    if len(k) == 0 or k[0] < 1 or k[-1] >= m:
        raise InputError(f"sizes are {list(k)}; each must lie between 1 and {m - 1}, one less than there are samples.")
    draws = np.random.default_rng(seed)
    found = [_one_order(cores, draws.permutation(m), k) for _ in range(at_least("orders", orders, 1))]
    return OrderCurves(k, *np.array(found).transpose(2, 0, 1))


def _one_order(cores: Sequence[Core], order: np.ndarray, sizes: np.ndarray) -> list[tuple[float, float, float, float]]:
    past, found, wanted = _Past(cores), [], set(sizes.tolist())
    for k, index in enumerate(order):
        if k in wanted:
            found.append(past.norms_with(cores[index], k))
        past.take(cores[index])
    return found


class _Past:
    """Sums over the samples of an order that have gone by; long vectors are known by their short images.

    Low-rank rows carry their overlaps with the random vectors behind their short images, as columns that take part in
    combinations but not in inner products.
    """

    def __init__(self, cores: Sequence[Core]) -> None:
        core, self.rank = cores[0], max(len(core.values) for core in cores)
        self.t, self.width = core.overlap.shape[1], core.short.shape[1]
        self.overlap, self.short = torch.zeros_like(core.overlap[-self.t :]), torch.zeros_like(core.short[-self.t :])
        self.rows = core.short.new_zeros(0, self.width + self.t)
        self.values = core.values[:0]

    def take(self, core: Core) -> None:
        e = len(core.values)
        self.overlap = self.overlap + core.overlap[-self.t :]
        self.short = self.short + core.short[-self.t :]
        rows = torch.cat([core.short[:e], core.overlap[:e].to(core.short.dtype)], 1)
        self.rows, self.values = add(self.rows, self.values, rows, core.values, 2 * self.rank, self.width)

    def norms_with(self, core: Core, k: int) -> tuple[float, float, float, float]:
        short = torch.cat([self.rows[:, : self.width], self.short])
        # Among what has gone by all products are of short images, though some are known better: a remainder is a
        # difference of sums, and can be no smaller than what its terms' products disagree by.
        cross, among = gram(core.short, short), gram(short)
        inner = torch.cat([torch.cat([core.gram, cross], 1), torch.cat([cross.mT, among], 1)])
        overlap = torch.cat([core.overlap, self.rows[:, self.width :].double(), self.overlap])
        precision = torch.finfo(short.dtype).eps
        difference, mean = norms_of_new_and_mean(
            inner, overlap, core.values, self.values, k, core.num_fitted, self.t // 4, precision
        )
        return difference.spectral, difference.frobenius, mean.spectral, mean.frobenius
