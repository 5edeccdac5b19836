"""Extreme eigenvalues from products alone: Lanczos with full reorthogonalization, stopped on the residual."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import at_least, positive
from stillscape._lanczos import lanczos, leading_pairs
from stillscape.curvature.per_sample import PerSampleHessian


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues of largest magnitude, with the evidence that they are.

    Attributes:
        values: largest magnitude first.
        vectors: unit eigenvectors, one a row.
        residuals: norms of ``H v - value v``, in the unit of the eigenvalue.
        converged: whether every residual is under ``tol`` times the largest magnitude, and, where the Krylov space was
            used up, steps were left to see that nothing as large lies outside of it.
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

    Lanczos (1950) from one start, half of it random and half the mean gradient; the residual of a Ritz pair is the last
    off-diagonal entry times the last entry of its coordinate vector (Parlett 1998, sec. 13.2), so that testing it costs
    no product. Where the space that the start spans is used up, as by repeated eigenvalues or a rank below `count`,
    Lanczos begins again orthogonal to it. Before that happens, copies of an eigenvalue beside the first don't show:
    they are found where few eigenvalues are distinct, and may be missed among many.

    Args:
        hv: the operator; its mean over samples is taken.
        count: how many; no more than P are returned.
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
    generator = torch.Generator().manual_seed(seed)
    with hv.linearized():
        start = _toward_gradient(hv, generator)
        found = leading_pairs(hv.mean_matmat, start, min(count, hv.num_parameters), tol, steps, generator)
    spent = hv.num_sample_products - before
    return Eigenpairs(found.values[0], found.vectors[0], found.residuals[0], bool(found.complete), spent)


def spectral_norms(
    hv: PerSampleHessian, rows: list[int], tol: float = 1e-2, max_steps: int = 20, seed: int = 0
) -> Float[Tensor, " rows"]:
    """Return the spectral norm of H_i for each of `rows`, all samples stepping together.

    A Ritz value never exceeds the largest magnitude, so each number is a lower estimate that `tol` makes tight.

    Cost: at most `max_steps` products for each sample; memory steps x rows x P.
    """
    steps = min(max_steps, hv.num_parameters)
    start = _start(len(rows), hv, torch.Generator().manual_seed(seed))
    with hv.linearized():
        values, _, _ = lanczos(lambda v: hv.products(rows, v), start, 1, tol, steps)
    return values[:, 0].abs()


def _toward_gradient(hv: PerSampleHessian, generator: torch.Generator) -> Tensor:
    """Return a random vector with the mean gradient added, both of length 1.

    Gradients lie mostly along the leading eigenvectors (Gur-Ari, Roberts and Dyer 2018), so that this saves a product
    or two; what is random in it is what makes every eigenvector found, at a minimum as well.
    """
    start = _start(1, hv, generator)
    start, gradient = start / start.norm(), hv.mean_gradient()
    length = gradient.norm()
    if length == 0:
        return start
    # On the same side, so that they can't cancel each other, as they may where parameters are few.
    return start + torch.copysign(gradient.new_ones(()), start[0] @ gradient) * gradient / length


def _start(batch: int, hv: PerSampleHessian, generator: torch.Generator) -> Tensor:
    start = torch.randn(batch, hv.num_parameters, generator=generator, dtype=hv.dtype)
    return start.to(hv.device)
