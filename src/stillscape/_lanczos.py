"""Lanczos with full reorthogonalization, for a batch of symmetric operators at once."""

from collections.abc import Callable

import torch
from torch import Tensor


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, count: int, tol: float, max_steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values (batch, count), vectors (batch, count, P) and residuals (batch, count) of a batch of operators."""
    basis = [start / start.norm(dim=-1, keepdim=True)]
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    while True:
        w = product(basis[-1])
        alphas.append((w * basis[-1]).sum(-1))
        stacked = torch.stack(basis, 1)
        for _ in range(2):  # twice is enough (Parlett 1998, sec. 6.9): the basis stays orthogonal to working precision
            w = w - torch.einsum("bsp,bs->bp", stacked, torch.einsum("bsp,bp->bs", stacked, w))
        beta = w.norm(dim=-1)
        values, coordinates = _ritz(alphas, betas)
        kept = min(count, len(alphas))
        order = values.abs().argsort(-1, descending=True)[:, :kept]
        values = values.gather(-1, order)
        coordinates = coordinates.gather(-1, order[:, None, :].expand(-1, len(alphas), -1))
        residuals = beta[:, None] * coordinates[:, -1].abs()
        scale = values.abs().amax(-1)
        done = (residuals <= tol * scale[:, None]).all() and kept == count
        exhausted = bool((beta <= 1e-6 * scale.clamp_min(torch.finfo(beta.dtype).tiny)).all())
        if done or exhausted or len(alphas) == max_steps:
            return values, torch.einsum("bsp,bsc->bcp", stacked, coordinates), residuals
        # An operator whose Krylov space is used up stands still as zeros, while others of the batch go on: rounding
        # noise, normalized, would be no member of an orthonormal basis.
        alive = beta > 100 * torch.finfo(beta.dtype).eps * scale
        betas.append(torch.where(alive, beta, 0.0))
        basis.append(torch.where(alive[:, None], w / beta.clamp_min(torch.finfo(beta.dtype).tiny)[:, None], 0.0))


def _ritz(alphas: list[Tensor], betas: list[Tensor]) -> tuple[Tensor, Tensor]:
    tridiagonal = torch.diag_embed(torch.stack(alphas, -1))
    if betas:
        off = torch.stack(betas, -1)
        tridiagonal = tridiagonal + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    return torch.linalg.eigh(tridiagonal)
