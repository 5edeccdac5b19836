"""What is right: products in float64 by double backward, extreme eigenvalues by Lanczos on them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from problem import Batches, flat, unflat
from torch import Tensor, nn


@dataclass(frozen=True)
class Eigenpair:
    """The eigenvalue of largest magnitude, its unit vector, the norm of its residual and the steps it took."""

    value: float
    vector: Tensor
    residual: float
    steps: int


def hessian(model: nn.Module, loss: nn.Module, batches: Batches) -> Callable[[Tensor], Tensor]:
    """Return v -> H v in float64, H the Hessian of the mean over all samples, whatever the sizes of the batches."""
    model = copy.deepcopy(model).double()
    params, total = list(model.parameters()), sum(len(y) for _, y in batches)

    def product(v: Tensor) -> Tensor:
        pieces, out = unflat(v.double(), model), torch.zeros(v.numel(), dtype=torch.float64)
        for x, y in batches:
            grads = torch.autograd.grad(loss(model(x.double()), y), params, create_graph=True)
            out += flat(torch.autograd.grad(grads, params, grad_outputs=pieces)) * (len(y) / total)
        return out

    return product


def top_eigenpair(product: Callable[[Tensor], Tensor], size: int, tol: float = 1e-6, most: int = 200) -> Eigenpair:
    """Return the eigenpair of largest magnitude, by Lanczos with full reorthogonalization (Parlett 1998, ch. 13)."""
    start = torch.randn(size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    basis, alphas, betas = [start / start.norm()], [], []
    while True:
        w = product(basis[-1])
        alphas.append(torch.dot(w, basis[-1]))
        for _ in range(2):
            for q in basis:
                w -= torch.dot(q, w) * q
        beta = w.norm()
        T = torch.diag(torch.stack(alphas))
        if betas:
            T += torch.diag(torch.stack(betas), 1) + torch.diag(torch.stack(betas), -1)
        values, coordinates = torch.linalg.eigh(T)
        best = values.abs().argmax()
        residual = (beta * coordinates[-1, best]).abs()
        if residual <= tol * values[best].abs() or len(alphas) == most:
            vector = torch.stack(basis, 1) @ coordinates[:, best]
            return Eigenpair(values[best].item(), vector, residual.item(), len(alphas))
        betas.append(beta)
        basis.append(w / beta)


def relative_residual(product: Callable[[Tensor], Tensor], value: float, vector: Tensor) -> float:
    """Return ||H u - value u|| / |value| for u the vector brought to length one, in float64."""
    u = vector.double() / vector.double().norm()
    return ((product(u) - value * u).norm() / abs(value)).item()
