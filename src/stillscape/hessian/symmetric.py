"""Sums of (x x') (x) M with M symmetric: both factors are, so a quarter of the entries tells them all.

One half of a symmetric matrix, diagonal included, is kept row by row: (0, 0), (0, 1), ..., (1, 1), (1, 2), ...
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor


def half_size(size: int) -> int:
    """Return how many entries a half has.

    >>> half_size(3)
    6
    """
    return size * (size + 1) // 2


@lru_cache(maxsize=32)
def places(size: int, device: torch.device | None = None) -> Int[Tensor, "size size"]:
    """Return where in the half each entry of the whole is; it is remembered, and so not to be written to.

    >>> places(3).tolist()
    [[0, 1, 2], [1, 3, 4], [2, 4, 5]]
    """
    rows, columns = torch.triu_indices(size, size, device=device)
    found = torch.empty(size, size, dtype=torch.long, device=device)
    found[rows, columns] = found[columns, rows] = torch.arange(len(rows), device=device)
    return found


def half_of_squares(x: Float[Tensor, "N c"], out: Float[Tensor, "N half"]) -> Float[Tensor, "N half"]:
    """Write the half of every x x'."""
    size, start = x.shape[1], 0
    for i in range(size):
        torch.mul(x[:, i : i + 1], x[:, i:], out=out[:, start : start + size - i])
        start += size - i
    return out


def half_of(matrices: Float[Tensor, "N r r"], out: Float[Tensor, "N half"] | None = None) -> Float[Tensor, "N half"]:
    """Return the half of every matrix, written into `out` if that is given.

    >>> half_of(torch.tensor([[[1, 2], [2, 3]]])).tolist()
    [[1, 2, 3]]
    """
    kept = _kept(matrices.shape[1], matrices.device).expand(len(matrices), -1)
    return torch.gather(matrices.flatten(1), 1, kept, out=out)


@lru_cache(maxsize=32)
def _kept(size: int, device: torch.device) -> Int[Tensor, " half"]:
    """Return where in the flattened whole each entry of the half is; it is remembered, and so not to be written to."""
    rows, columns = torch.triu_indices(size, size, device=device)
    return rows * size + columns


def unpacked(
    packed: Float[Tensor, "xx rr"], of_x: Int[Tensor, "x y"], of_M: Int[Tensor, "r r"]
) -> Float[Tensor, "x y r r"]:
    """Return the entries at some places of the half of x x', and all of M."""
    some = packed.index_select(0, of_x.flatten())
    return some.index_select(1, of_M.flatten()).view(*of_x.shape, *of_M.shape)
