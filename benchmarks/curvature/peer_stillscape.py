"""Stillscape: `PerSampleHessian`, reverse over reverse, with graphs kept in `linearized`; Lanczos; the curve over k."""

import argparse
import contextlib

import numpy as np
import problem
import torch
from adapter import Adapter, Product, Solution, Solver, seconds, serve, with_peak
from problem import Batches, SignedMean
from torch import Tensor, initial_seed, nn

from stillscape.curvature import PerSampleHessian, top_eigenvalues


def operator(model: nn.Module, loss: nn.Module, batches: Batches) -> PerSampleHessian:
    """Return the operator for all samples; how they are put in chunks is its own affair."""
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return PerSampleHessian(model, loss, inputs, targets)


def kept(hv: PerSampleHessian, linearized: bool) -> contextlib.AbstractContextManager:
    """Return the context in which graphs are kept, or one that does nothing."""
    return hv.linearized() if linearized else contextlib.nullcontext()


def product(model: nn.Module, loss: nn.Module, batches: Batches) -> Product:
    """Return v -> H v."""
    return operator(model, loss, batches).mean_matvec


def linearized_product(model: nn.Module, loss: nn.Module, batches: Batches) -> Product:
    """Return v -> H v with graphs kept until the process ends."""
    hv = operator(model, loss, batches)
    forever = contextlib.ExitStack()
    forever.enter_context(hv.linearized())

    def apply(v: Tensor, forever: contextlib.ExitStack = forever) -> Tensor:
        return hv.mean_matvec(v)

    return apply


def solver(linearized: bool) -> Solver:
    """Return `top_eigenvalues`; a rung is its `tol`, on the residual."""

    def solve(model: nn.Module, loss: nn.Module, batches: Batches, tol: float) -> Solution:
        if isinstance(loss, SignedMean):
            raise NotImplementedError("a difference has no loss of one sample; the curve is one call")
        hv = operator(model, loss, batches)
        with kept(hv, linearized):
            found = top_eigenvalues(hv, count=1, tol=tol, seed=initial_seed())
        return Solution(found.values[0].item(), found.vectors[0], found.num_sample_products / hv.num_samples)

    return Solver(solve, (1e-3, 1e-4))


def curve(options: argparse.Namespace) -> dict:
    """Take the whole curve over k in one call."""
    from stillscape.curvature import hessian_difference_curve

    sizes = problem.SMALL if options.small else problem.FULL
    model, images, labels = problem.load(options.folder)
    batches = problem.in_batches(images, labels, [sizes.curve + 1])
    gradient_seconds = [seconds(lambda: problem.gradient(model, nn.CrossEntropyLoss(), batches))[0] for _ in range(3)]
    hv = operator(model, nn.CrossEntropyLoss(), batches)
    (took, found), peak = with_peak(lambda: seconds(lambda: hessian_difference_curve(hv, rank=16, seed=options.seed)))
    columns = {name: np.asarray(getattr(found, name)) for name in ("k", "spectral", "frobenius", "spectral_stderr")}
    np.savez(options.folder / "curve.npz", **columns)
    rows = [int(np.flatnonzero(columns["k"] == k)[0]) for k in sizes.solved]
    return {
        "k": list(sizes.solved),
        "spectral": [float(columns["spectral"][row]) for row in rows],
        "spectral_stderr": [float(columns["spectral_stderr"][row]) for row in rows],
        "points": len(columns["k"]),
        "sample_products": found.num_sample_products,
        "seconds": took,
        "gradient_seconds": gradient_seconds,
        "peak_growth_bytes": peak,
    }


if __name__ == "__main__":
    serve(
        Adapter(
            "stillscape",
            {"mean_matvec": product, "mean_matvec, linearized": linearized_product},
            {"top_eigenvalues, linearized": solver(linearized=True), "top_eigenvalues": solver(linearized=False)},
            {"curve": curve},
        )
    )
