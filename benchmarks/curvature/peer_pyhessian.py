"""PyHessian 0.1: double backward, over a data loader or one batch whose graph is kept; power iteration."""

import torch
from adapter import Adapter, Product, Solution, Solver, serve
from problem import Batches, flat, unflat
from pyhessian import hessian
from pyhessian.utils import hessian_vector_product
from torch import Tensor, nn

TOLERANCES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7)


def over_batches(model: nn.Module, loss: nn.Module, batches: Batches) -> hessian:
    """Return the peer's object for a data loader."""
    return hessian(model, loss, dataloader=batches, cuda=False)


def one_batch(model: nn.Module, loss: nn.Module, batches: Batches) -> hessian:
    """Return the peer's object for one batch of all samples; it keeps the graph of the gradient."""
    model.zero_grad(set_to_none=True)
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return hessian(model, loss, data=(inputs, targets), cuda=False)


def loader_product(model: nn.Module, loss: nn.Module, batches: Batches) -> Product:
    """Return v -> H v over a data loader."""
    computer = over_batches(model, loss, batches)

    def apply(v: Tensor) -> Tensor:
        return flat(computer.dataloader_hv_product(unflat(v, model))[1])

    return apply


def batch_product(model: nn.Module, loss: nn.Module, batches: Batches) -> Product:
    """Return v -> H v over one batch of all samples."""
    computer = one_batch(model, loss, batches)

    def apply(v: Tensor) -> Tensor:
        return flat(hessian_vector_product(computer.gradsH, computer.params, unflat(v, model)))

    return apply


def solver(make, batches_at_once: bool) -> Solver:
    """Return `eigenvalues()`; a rung is its `tol`, which is on the change of the value."""

    def solve(model: nn.Module, loss: nn.Module, batches: Batches, tol: float) -> Solution:
        values, vectors = make(model, loss, batches).eigenvalues(tol=tol)
        return Solution(float(values[0]), flat(vectors[0]))

    return Solver(solve, TOLERANCES, "graph of all" if batches_at_once else "graph")


if __name__ == "__main__":
    serve(
        Adapter(
            "pyhessian",
            {"data loader": loader_product, "one batch, graph kept": batch_product},
            {
                "eigenvalues, data loader": solver(over_batches, batches_at_once=False),
                "eigenvalues, one batch, graph kept": solver(one_batch, batches_at_once=True),
            },
        )
    )
