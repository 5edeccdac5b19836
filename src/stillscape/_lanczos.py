"""Lanczos with full reorthogonalization, for a batch of symmetric operators at once."""

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]  # (batch, P) to (batch, P)


class Krylov:
    """An orthonormal basis of a Krylov space that grows, and the tridiagonal matrix of the operator in it."""

    def __init__(self, product: Product, start: Tensor) -> None:
        self._product = product
        self.basis = [start / start.norm(dim=-1, keepdim=True)]
        self.alphas: list[Tensor] = []
        self.betas: list[Tensor] = []
        self._next = start
        self.beta = torch.zeros_like(start[:, 0])

    def multiply(self) -> None:
        """Apply the operator to the newest vector, and orthogonalize what comes of it."""
        w = self._product(self.basis[-1])
        self.alphas.append((w * self.basis[-1]).sum(-1))
        stacked = torch.stack(self.basis, 1)
        for _ in range(2):  # twice is enough (Parlett 1998, sec. 6.9): the basis stays orthogonal to working precision
            w = w - torch.einsum("bsp,bs->bp", stacked, torch.einsum("bsp,bp->bs", stacked, w))
        self._next, self.beta = w, w.norm(dim=-1)

    def extend(self, scale: Tensor) -> None:
        """Take the orthogonalized product as the next vector; `scale` is the size of the operator.

        An operator whose Krylov space is used up stands still as zeros, while others of the batch go on: rounding
        noise, normalized, would be no member of an orthonormal basis.
        """
        alive = self.beta > 100 * torch.finfo(self.beta.dtype).eps * scale
        self.betas.append(torch.where(alive, self.beta, 0.0))
        tiny = torch.finfo(self.beta.dtype).tiny
        self.basis.append(torch.where(alive[:, None], self._next / self.beta.clamp_min(tiny)[:, None], 0.0))

    def is_used_up(self, scale: Tensor) -> bool:
        """Return whether no operator's product has brought in anything new."""
        return bool((self.beta <= 1e-6 * scale.clamp_min(torch.finfo(scale.dtype).tiny)).all())

    def matrix(self) -> Tensor:
        """Return the tridiagonal matrices, (batch, s, s)."""
        tridiagonal = torch.diag_embed(torch.stack(self.alphas, -1))
        if self.betas:
            off = torch.stack(self.betas, -1)
            tridiagonal = tridiagonal + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
        return tridiagonal


def lanczos(product: Product, start: Tensor, count: int, tol: float, max_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return values (batch, count), vectors (batch, count, P) and residuals (batch, count) of a batch of operators."""
    krylov = Krylov(product, start)
    while True:
        krylov.multiply()
        steps = len(krylov.alphas)
        values, coordinates = torch.linalg.eigh(krylov.matrix())
        kept = min(count, steps)
        order = values.abs().argsort(-1, descending=True)[:, :kept]
        values = values.gather(-1, order)
        coordinates = coordinates.gather(-1, order[:, None, :].expand(-1, steps, -1))
        residuals = krylov.beta[:, None] * coordinates[:, -1].abs()
        scale = values.abs().amax(-1)
        done = (residuals <= tol * scale[:, None]).all() and kept == count
        if done or krylov.is_used_up(scale) or steps == max_steps:
            return values, torch.einsum("bsp,bsc->bcp", torch.stack(krylov.basis, 1), coordinates), residuals
        krylov.extend(scale)


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
