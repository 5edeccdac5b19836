"""landscaper: its `PyHessian`, double backward with the graphs of all batches kept or not; power iteration."""

from adapter import Adapter, Product, Solution, Solver, serve
from landscaper import PyHessian
from problem import Batches, flat, unflat
from torch import Tensor, nn


def product(try_cache: bool):
    """Return what makes v -> H v."""

    def make(model: nn.Module, loss: nn.Module, batches: Batches) -> Product:
        computer = PyHessian(model, loss, batches, "cpu", try_cache=try_cache)

        def apply(v: Tensor) -> Tensor:
            return flat(computer.hv_product(unflat(v, model))[1])

        return apply

    return make


def solver(try_cache: bool) -> Solver:
    """Return `eigenvalues()`; a rung is its `tol`, which is on the change of the value."""

    def solve(model: nn.Module, loss: nn.Module, batches: Batches, tol: float) -> Solution:
        values, vectors = PyHessian(model, loss, batches, "cpu", try_cache=try_cache).eigenvalues(tol=tol)
        return Solution(float(values[0]), flat(vectors[0]))

    return Solver(solve, (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7))


if __name__ == "__main__":
    ways = {"PyHessian": False, "PyHessian, try_cache": True}
    serve(
        Adapter(
            "landscaper",
            {name: product(cached) for name, cached in ways.items()},
            {f"eigenvalues of {name}": solver(cached) for name, cached in ways.items()},
        )
    )
