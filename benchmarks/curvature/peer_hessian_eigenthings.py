"""hessian-eigenthings: `HessianOperator` by double backward or finite differences; `lanczos` of set length."""

from adapter import Adapter, Product, Solution, Solver, serve
from hessian_eigenthings import HessianOperator, lanczos
from problem import Batches
from torch import initial_seed, nn


def operator(model: nn.Module, loss: nn.Module, batches: Batches, method: str) -> HessianOperator:
    """Return the peer's operator; it weighs batches alike, whatever their sizes."""
    return HessianOperator(model, batches, lambda network, batch: loss(network(batch[0]), batch[1]), method=method)


def product(method: str):
    """Return what makes v -> H v."""

    def make(model: nn.Module, loss: nn.Module, batches: Batches) -> Product:
        return operator(model, loss, batches, method).matvec

    return make


def solver(method: str) -> Solver:
    """Return `lanczos` of one eigenvalue; a rung is `max_iter`, None the default (two steps)."""

    def solve(model: nn.Module, loss: nn.Module, batches: Batches, max_iter: int | None) -> Solution:
        found = lanczos(operator(model, loss, batches, method), k=1, max_iter=max_iter, seed=initial_seed())
        return Solution(found.eigenvalues[0].item(), found.eigenvectors[0], found.iterations)

    return Solver(solve, (None, *range(3, 13), 15, 20, 30))


if __name__ == "__main__":
    methods = {"autograd": "autograd", "finite differences": "finite_difference"}
    serve(
        Adapter(
            "hessian-eigenthings",
            {f"HessianOperator, {name}": product(method) for name, method in methods.items()},
            {f"lanczos, {name}": solver(method) for name, method in methods.items()},
        )
    )
