"""Symmetric matrices of low rank, given by few long rows: everything but the rows themselves is small and float64."""

import torch
from jaxtyping import Float
from torch import Tensor


def gram(rows: Float[Tensor, "a P"], others: Float[Tensor, "b P"] | None = None) -> Float[Tensor, "a b"]:
    """Return all inner products of long rows, in float64 from here on."""
    return (rows @ (rows if others is None else others).mT).double()


def combine(coefficients: Float[Tensor, "a b"], rows: Float[Tensor, "b P"]) -> Float[Tensor, "a P"]:
    """Return combinations of long rows, in their own precision."""
    return coefficients.to(rows.dtype) @ rows


def orthonormal(
    rows: Float[Tensor, "a P"], rank: int, width: int | None = None, scale: float = 0.0
) -> Float[Tensor, "rank P"]:
    """Return an orthonormal basis of the leading `rank` directions of `rows`; fewer where they have fewer.

    By the Gram matrix, twice: products of long rows are what processors do best, and the second time makes up for what
    the first loses. Directions shorter than the square root of rounding are dropped, for the Gram matrix doesn't know
    them: relative to the longest, or to `scale` where rows are what is left of a subtraction and may be rounding alone.
    Columns beyond `width` take part in combinations only.
    """
    least = 2 * torch.finfo(rows.dtype).eps ** 0.5
    for _ in range(2):
        squares, vectors = torch.linalg.eigh(gram(rows[:, :width]))
        squares, vectors = squares.flip(0)[:rank], vectors.flip(1)[:, :rank]
        tiny = max(scale**2, torch.finfo(torch.float64).tiny)
        known = squares > least**2 * squares[:1].clamp_min(tiny)
        rows, scale = combine((vectors[:, known] / squares[known].sqrt()).mT, rows), 1.0
    return rows


def symmetric_from(
    basis: Float[Tensor, "a P"], images: Float[Tensor, "a P"], rank: int
) -> tuple[Float[Tensor, "r P"], Float[Tensor, " r"]]:
    r"""Return the leading eigenvectors (rows) and eigenvalues of what a symmetric H is known to be on a subspace.

    With Q the orthonormal `basis` and B = H Q its images, the matrix is :math:`H - (1-QQ^\top) H (1-QQ^\top)`, which
    equals :math:`QB^\top + BQ^\top - Q(Q^\top B)Q^\top`: all of H but what lies outside the subspace on both sides.
    """
    inside = gram(basis, images)
    inside = (inside + inside.mT) / 2
    outside = images - combine(inside, basis)
    rest = orthonormal(outside, len(outside), scale=float(images.norm(dim=1).max()))
    coupling = gram(outside, rest)
    small = torch.cat(
        [
            torch.cat([inside, coupling], 1),
            torch.cat([coupling.mT, coupling.new_zeros(len(rest), len(rest))], 1),
        ]
    )
    return leading(small, torch.cat([basis, rest]), rank)


def add(
    rows: Float[Tensor, "a P"],
    values: Float[Tensor, " a"],
    more_rows: Float[Tensor, "b P"],
    more_values: Float[Tensor, " b"],
    rank: int,
    width: int | None = None,
) -> tuple[Float[Tensor, "r P"], Float[Tensor, " r"]]:
    """Return the leading eigenvectors and eigenvalues of the sum of two symmetric matrices of low rank.

    Columns beyond `width` take part in combinations only.
    """
    along = gram(more_rows[:, :width], rows[:, :width])
    outside = more_rows - combine(along, rows)
    rest = orthonormal(outside, len(outside), width, scale=1.0)
    new = torch.cat([along, gram(more_rows[:, :width], rest[:, :width])], 1)  # coordinates of the second's rows
    small = torch.einsum("ba,b,bc->ac", new, more_values, new)
    small[: len(values), : len(values)] += torch.diag(values)
    return leading(small, torch.cat([rows, rest]), rank)


def leading(
    small: Float[Tensor, "a a"], basis: Float[Tensor, "a P"], rank: int
) -> tuple[Float[Tensor, "r P"], Float[Tensor, " r"]]:
    """Return the eigenvectors and eigenvalues of largest magnitude of a matrix given in an orthonormal basis."""
    values, vectors = largest((small + small.mT) / 2, rank)
    return combine(vectors.mT, basis), values


def largest(small: Float[Tensor, "a a"], rank: int) -> tuple[Float[Tensor, " r"], Float[Tensor, "a r"]]:
    """Return the eigenvalues of largest magnitude of a symmetric matrix, the largest first, and their eigenvectors."""
    values, vectors = torch.linalg.eigh(small)
    order = values.abs().argsort(descending=True)[:rank]
    return values[order], vectors[:, order]
