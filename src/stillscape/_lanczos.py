"""Lanczos with full reorthogonalization, for a batch of symmetric operators at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]  # (batch, P) to (batch, P)
USED_UP = 1e-6  # a new direction shorter than this share of the operator's size brings in nothing


@dataclass(frozen=True)
class Pairs:
    """Leading Ritz pairs of a batch of operators.

    Attributes:
        values: (batch, count), largest magnitude first.
        vectors: (batch, count, P).
        residuals: (batch, count), norms of H v - value v.
        complete: (batch,), whether residuals are within the tolerance and no pair can have been passed over because a
            Krylov space ended.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    complete: Tensor


class Krylov:
    """An orthonormal basis of a Krylov space that grows, and the tridiagonal matrix of the operator in it.

    Where a space is used up another can be begun beside it: the matrix is then made of one block for each.
    """

    def __init__(self, product: Product, start: Tensor) -> None:
        self._product = product
        self.basis = [start / start.norm(dim=-1, keepdim=True)]
        self.alphas: list[Tensor] = []
        self.betas: list[Tensor] = []
        self._lost: list[Tensor] = []
        self._next = start
        self.beta = torch.zeros_like(start[:, 0])
        self.first = torch.zeros_like(self.beta, dtype=torch.int64)  # the step that began the present block

    def multiply(self) -> None:
        """Apply the operator to the newest vector, and orthogonalize what comes of it."""
        w = self._product(self.basis[-1])
        self.alphas.append((w * self.basis[-1]).sum(-1))
        self._next = self._orthogonal(w)
        self.beta = self._next.norm(dim=-1)

    def extend(self, scale: Tensor) -> None:
        """Take the orthogonalized product as the next vector; `scale` is the size of the operator.

        An operator whose Krylov space is used up stands still as zeros, while others of the batch go on: rounding
        noise, normalized, would be no member of an orthonormal basis.
        """
        alive = self.beta > 100 * torch.finfo(self.beta.dtype).eps * scale
        self._append(alive, torch.zeros_like(self._next))

    def restart(self, used_up: Tensor, generator: torch.Generator) -> None:
        """Extend; where a Krylov space is used up begin another, from a random vector orthogonal to the basis."""
        like = self._next
        random = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
        random = self._orthogonal(random)
        self._append(~used_up, random / random.norm(dim=-1, keepdim=True))
        self.first = torch.where(used_up, len(self.alphas), self.first)

    def is_used_up(self, scale: Tensor) -> bool:
        """Return whether no operator's product has brought in anything new."""
        return bool((self.beta <= USED_UP * scale.clamp_min(torch.finfo(scale.dtype).tiny)).all())

    def matrix(self) -> Tensor:
        """Return the tridiagonal matrices, (batch, s, s)."""
        tridiagonal = torch.diag_embed(torch.stack(self.alphas, -1))
        if self.betas:
            off = torch.stack(self.betas, -1)
            tridiagonal = tridiagonal + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
        return tridiagonal

    def present_block(self) -> Tensor:
        """Return the matrices with zeros where blocks that are finished stand."""
        belongs = torch.arange(len(self.alphas), device=self.first.device) >= self.first[:, None]
        return self.matrix() * belongs[:, :, None] * belongs[:, None, :]

    def leading(self, matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return values of largest magnitude, coordinates (batch, s, count) and residuals of a matrix in the basis.

        The last vector's image leaves the basis by `beta`, as the last of a finished block does by what was dropped
        there, so that residuals are sums over coordinates (Parlett 1998, sec. 13.2) and cost no product.
        """
        values, coordinates = torch.linalg.eigh(matrix)
        order = values.abs().argsort(-1, descending=True)[:, :count]
        coordinates = coordinates.gather(-1, order[:, None, :].expand(-1, matrix.shape[-1], -1))
        leaves = torch.stack([*self._lost, self.beta], -1)
        return values.gather(-1, order), coordinates, (leaves[:, :, None] * coordinates.abs()).sum(1)

    def vectors(self, coordinates: Tensor) -> Tensor:
        """Return combinations of the basis, (batch, count, P)."""
        return torch.einsum("bsp,bsc->bcp", torch.stack(self.basis, 1), coordinates)

    def _append(self, alive: Tensor, otherwise: Tensor) -> None:
        self.betas.append(torch.where(alive, self.beta, 0.0))
        self._lost.append(torch.where(alive, 0.0, self.beta))
        tiny = torch.finfo(self.beta.dtype).tiny
        self.basis.append(torch.where(alive[:, None], self._next / self.beta.clamp_min(tiny)[:, None], otherwise))

    def _orthogonal(self, w: Tensor) -> Tensor:
        stacked = torch.stack(self.basis, 1)
        for _ in range(2):  # twice is enough (Parlett 1998, sec. 6.9): the basis stays orthogonal to working precision
            w = w - torch.einsum("bsp,bs->bp", stacked, torch.einsum("bsp,bp->bs", stacked, w))
        return w


def lanczos(product: Product, start: Tensor, count: int, tol: float, max_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values, vectors and residuals of `leading_pairs`, new Krylov spaces begun from seed 0."""
    found = leading_pairs(product, start, count, tol, max_steps, torch.Generator().manual_seed(0))
    return found.values, found.vectors, found.residuals


def leading_pairs(
    product: Product, start: Tensor, count: int, tol: float, max_steps: int, generator: torch.Generator
) -> Pairs:
    """Return the `count` pairs of largest magnitude of a batch of operators.

    A Krylov space holds one eigenvector of each eigenvalue, however often it is repeated. Where it is used up and more
    than one pair is wanted, another is begun orthogonal to it, from a random vector. That one sees every eigenvalue
    that is left, and no new one: when its largest is no larger than the last pair wanted, nothing is missing.

    Args:
        product: of each operator with its own vector.
        start: (batch, P), of the first Krylov spaces.
        count: of pairs, at most P and `max_steps`.
        tol: stop when residuals are below this share of the largest magnitude.
        max_steps: products that may be spent.
        generator: of vectors that new spaces begin from.
    """
    krylov = Krylov(product, start)
    max_steps = min(max_steps, start.shape[-1])
    while True:
        krylov.multiply()
        steps = len(krylov.alphas)
        values, coordinates, residuals = krylov.leading(krylov.matrix(), count)
        scale = values[:, 0].abs()
        complete = (residuals <= tol * scale[:, None]).all(-1) & (values.shape[1] == count)
        used_up = krylov.beta <= _least(tol, scale)
        if count > 1 and steps < start.shape[-1]:
            complete &= _none_is_left(krylov, used_up, values[:, -1].abs(), tol * scale)
        ended = count == 1 and krylov.is_used_up(scale)
        if complete.all() or ended or steps == max_steps:
            return Pairs(values, krylov.vectors(coordinates), residuals, complete)
        if count > 1:
            krylov.restart(used_up, generator)
        else:
            krylov.extend(scale)


def _least(tol: float, scale: Tensor) -> Tensor:
    """Return how short a new direction may be before its space counts as used up: never so long as to spoil `tol`."""
    return max(100 * torch.finfo(scale.dtype).eps, min(USED_UP, tol)) * scale


def _none_is_left(krylov: Krylov, used_up: Tensor, smallest: Tensor, error: Tensor) -> Tensor:
    """Return for each operator whether what lies outside of finished blocks can't displace the smallest pair wanted.

    In the first block, as long as it goes on, residuals are all there is to ask: a random start has a share in every
    eigenvector. At its end, and in every later block, the largest magnitude must be known and be no larger.
    """
    top, _, residual = krylov.leading(krylov.present_block(), 1)
    is_known = (residual[:, 0] <= error) & (top[:, 0].abs() <= smallest + error)
    return is_known | ((krylov.first == 0) & ~used_up)


def tridiagonal(product: Product, start: Tensor, steps: int) -> Tensor:
    """Return the tridiagonal matrices (batch, s, s) after s steps; fewer if all spaces are used up."""
    krylov = Krylov(product, start)
    while True:
        krylov.multiply()
        matrix = krylov.matrix()
        scale = torch.linalg.eigvalsh(matrix).abs().amax(-1)
        if krylov.is_used_up(scale) or len(krylov.alphas) == steps:
            return matrix
        krylov.extend(scale)
