"""Bound over truth for what is said of means: of Hessians at w*, and of losses around it."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from stillscape import bounds
from stillscape.hessian import MSE

LEVEL = 0.95


def mean_hessian_ratio(hessians: Float[Tensor, "n P P"], k: int, orders: int, seed: int) -> float:
    """Return matrix Bernstein's bound over the 95 % quantile of ||mean of k - mean of all||, over random orders."""
    mean = hessians.mean(0)
    away = hessians - mean
    variance = torch.linalg.matrix_norm((away @ away).mean(0), 2)
    largest = torch.linalg.matrix_norm(away, 2).max()
    bound = bounds.matrix_bernstein(
        k, variance_norm=float(variance), largest=float(largest), dimension=len(mean), level=LEVEL
    )
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(np.stack([rng.permutation(len(hessians))[:k] for _ in range(orders)]))
    found = [float(torch.linalg.matrix_norm(away[row].mean(0), 2)) for row in rows]
    return float(bound) / float(np.quantile(found, LEVEL))


def loss_difference_ratios(
    model: nn.Module,
    X: Float[Tensor, "n L d"],
    target: Float[Tensor, "n L v"],
    exact: Float[Tensor, " n"],
    radius: float,
    directions: int,
    seed: int,
) -> dict[str, Float[np.ndarray, " sizes"]]:
    """Return Theorem 3's bounds, at each k, over the largest |L_{k+1}(w) - L_k(w)| of some w at a distance from w*.

    Args:
        model: an attention layer with matrices W_Q, W_K and W_V, at w*.
        X: tokens.
        target: of the mean squared error.
        exact: norms of the samples' Hessians at w*, which the printed form takes for those around it.
        radius: the distance.
        directions: how many w, drawn evenly.
        seed: of the draws.
    """
    star = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return (functional_call(model, weights, (x[None],))[0] - y).square().mean()

    each, slopes = vmap(loss, (None, 0, 0)), vmap(grad(loss), (None, 0, 0))(star, X, target)
    gradients = torch.cat([part.flatten(1) for part in slopes.values()], 1)
    around = bounds.self_attention(
        X, star["W_Q"], star["W_K"], star["W_V"], loss=MSE(target), kind="a_priori", radius=radius
    )
    generator = torch.Generator().manual_seed(seed)
    largest = np.zeros(len(X) - 1)
    k = np.arange(1, len(X))
    for _ in range(directions):
        step = {name: torch.randn(w.shape, generator=generator, dtype=w.dtype) for name, w in star.items()}
        length = torch.stack([part.square().sum() for part in step.values()]).sum().sqrt()
        values = each({name: star[name] + radius / length * step[name] for name in star}, X, target).numpy()
        means = np.cumsum(values) / np.arange(1, len(values) + 1)
        largest = np.maximum(largest, np.abs(np.diff(means)))
    loss_bound = float(each(star, X, target).max())
    spread = 2 * float((gradients - gradients.mean(0)).norm(dim=1).max())
    norms = {"rigorous": float(around.max()), "printed": float(exact.max())}
    bound = {
        kind: bounds.loss_difference(
            k, loss_bound=loss_bound, hessian_bound=norm, radius=radius, gradient_bound=spread, kind=kind
        )
        for kind, norm in norms.items()
    }
    return {kind: np.asarray(values) / largest for kind, values in bound.items()}
