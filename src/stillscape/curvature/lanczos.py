"""Extreme eigenvalues from products alone: Lanczos with full reorthogonalization, stopped on the residual."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import at_least, positive
from stillscape.curvature.per_sample import PerSampleHessian


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues of largest magnitude, with the evidence that they are.

    Attributes:
        values: largest magnitude first.
        vectors: unit eigenvectors, one a row.
        residuals: norms of ``H v - value v``, in the unit of the eigenvalue.
        converged: whether every residual is under ``tol`` times the largest magnitude.
        num_sample_products: products of one sample with one vector that were spent.
    """

    values: Float[Tensor, " count"]
    vectors: Float[Tensor, "count P"]
    residuals: Float[Tensor, " count"]
    converged: bool
    num_sample_products: int


def top_eigenvalues(
    hv: PerSampleHessian, count: int = 1, tol: float = 1e-3, max_steps: int = 100, seed: int = 0
) -> Eigenpairs:
    """Return the `count` eigenvalues of the mean Hessian that are largest in magnitude.

    Lanczos (1950) from one random start; the residual of a Ritz pair is the last off-diagonal entry times the last
    entry of its coordinate vector (Parlett 1998, sec. 13.2), so that testing it costs no product.

    Args:
        hv: the operator; its mean over samples is taken.
        count: how many.
        tol: stop when all residuals are below this share of the largest magnitude.
        max_steps: products of the mean with a vector that may be spent.
        seed: of the start vector.

    Raises:
        InputError: if `count` or `tol` is out of range.

    Cost: one pass over the samples for each step; memory steps x P.
    """
    at_least("count", count, 1)
    positive("tol", tol)
    before = hv.num_sample_products
    steps = min(max(at_least("max_steps", max_steps, 1), count), hv.num_parameters)
    values, vectors, residuals = _lanczos(
        lambda v: hv.mean_matvec(v[0])[None], _start(1, hv, seed), min(count, hv.num_parameters), tol, steps
    )
    converged = bool((residuals[0] <= tol * values[0].abs().max()).all())
    return Eigenpairs(values[0], vectors[0], residuals[0], converged, hv.num_sample_products - before)


def spectral_norms(
    hv: PerSampleHessian, rows: list[int], tol: float = 1e-2, max_steps: int = 20, seed: int = 0
) -> Float[Tensor, " rows"]:
    """Return the spectral norm of H_i for each of `rows`, all samples stepping together.

    A Ritz value never exceeds the largest magnitude, so each number is a lower estimate that `tol` makes tight.

    Cost: at most `max_steps` products for each sample; memory steps x rows x P.
    """
    steps = min(max_steps, hv.num_parameters)
    start = _start(len(rows), hv, seed)
    values, _, _ = _lanczos(lambda v: hv.products(rows, v), start, 1, tol, steps)
    return values[:, 0].abs()


def _start(batch: int, hv: PerSampleHessian, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(batch, hv.num_parameters, generator=generator, dtype=hv.dtype)
    return start.to(hv.device)


def _lanczos(
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
        betas.append(beta)
        basis.append(w / beta.clamp_min(torch.finfo(beta.dtype).tiny)[:, None])


def _ritz(alphas: list[Tensor], betas: list[Tensor]) -> tuple[Tensor, Tensor]:
    tridiagonal = torch.diag_embed(torch.stack(alphas, -1))
    if betas:
        off = torch.stack(betas, -1)
        tridiagonal = tridiagonal + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    return torch.linalg.eigh(tridiagonal)
