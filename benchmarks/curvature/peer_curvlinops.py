"""curvlinops-for-pytorch: `HessianLinearOperator`, forward over reverse (jvp of jacrev); eigenvalues through SciPy."""

import numpy as np
from adapter import Adapter, Product, Solution, Solver, serve
from curvlinops import HessianLinearOperator
from problem import Batches
from scipy.sparse.linalg import eigsh
from torch import Tensor, as_tensor, nn


def operator(model: nn.Module, loss: nn.Module, batches: Batches, check: bool = False) -> HessianLinearOperator:
    """Return the peer's operator; its check for determinism costs products."""
    return HessianLinearOperator(model, loss, list(model.parameters()), batches, check_deterministic=check)


def product(model: nn.Module, loss: nn.Module, batches: Batches) -> Product:
    """Return v -> H v."""
    H = operator(model, loss, batches)

    def apply(v: Tensor) -> Tensor:
        return (H @ v).detach()

    return apply


def eigenvalue(
    model: nn.Module, loss: nn.Module, batches: Batches, tol: float, ncv: int | None, check: bool
) -> Solution:
    """Return the eigenvalue of largest magnitude by `eigsh`, in the operator's own precision."""
    H = operator(model, loss, batches, check).to_scipy(dtype=np.float32)
    start = np.random.standard_normal(H.shape[0]).astype(np.float32)  # noqa: NPY002 - the seed is set outside
    values, vectors = eigsh(H, k=1, which="LM", tol=tol, ncv=ncv, v0=start)
    return Solution(float(values[0]), as_tensor(vectors[:, 0].copy()))


def solver(ncv: int | None = None, check: bool = False) -> Solver:
    """Return `eigsh` with a size of its Krylov space (SciPy's own: 20), with the check or without."""
    return Solver(
        lambda model, loss, batches, tol: eigenvalue(model, loss, batches, tol, ncv, check), (1e-3, 1e-4), "forward"
    )


if __name__ == "__main__":
    serve(
        Adapter(
            "curvlinops-for-pytorch",
            {"HessianLinearOperator": product},
            {
                "to_scipy, eigsh": solver(),
                "to_scipy, eigsh of ncv 10": solver(ncv=10),
                "to_scipy, eigsh, check_deterministic": solver(check=True),
            },
        )
    )
