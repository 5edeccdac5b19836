"""Hessians by automatic differentiation, in every way that is right in PyTorch 2.13: what the closed form must beat.

Each way returns some rows of the Hessian. The value is a scalar function of theta: (P,) for one Hessian, or (n, P) with
a copy of the parameters for each sample, whose rows are then those of n Hessians at once. Rows are columns, for a
Hessian is symmetric, and are written where they belong, so that nothing is copied at the end.

`torch.func.hessian` and whatever else has an inner `jacrev` is left out: it is wrong through an affine LayerNorm.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jacfwd, jvp, vmap
from torch.nn import functional

Value = Callable[[Tensor], Tensor]
Way = Callable[[Value, Tensor, Tensor], Tensor]

CHUNKS = (4, 8, 16, 32, 64, 128, 256)


def forward_over_reverse(value: Value, theta: Tensor, columns: Tensor) -> Tensor:
    """One tangent after the other through the gradient."""
    out = _empty(theta, columns)
    for i, column in enumerate(columns):
        out[..., i, :] = jvp(grad(value), (theta,), (_units(theta, column[None])[0],))[1]
    return out


def forward_over_reverse_batched(chunk: int) -> Way:
    """Return the same with `chunk` tangents at once, by vmap."""

    def way(value: Value, theta: Tensor, columns: Tensor) -> Tensor:
        out, filled = _empty(theta, columns), 0
        for some in columns.split(chunk):
            found = vmap(lambda v: jvp(grad(value), (theta,), (v,))[1])(_units(theta, some))
            out[..., filled : filled + len(some), :] = found.movedim(0, -2)
            filled += len(some)
        return out

    return way


def double_backward(value: Value, theta: Tensor, columns: Tensor) -> Tensor:
    """One entry of the gradient after the other, differentiated once more."""
    out, leaf, first = _with_graph(value, theta, columns)
    for i, column in enumerate(columns):
        (out[..., i, :],) = torch.autograd.grad(first[..., column].sum(), leaf, retain_graph=True)
    return out


def double_backward_batched(chunk: int) -> Way:
    """Return the same with `chunk` entries at once."""

    def way(value: Value, theta: Tensor, columns: Tensor) -> Tensor:
        out, leaf, first = _with_graph(value, theta, columns)
        filled = 0
        for some in columns.split(chunk):
            (found,) = torch.autograd.grad(
                first, leaf, grad_outputs=_units(theta, some), retain_graph=True, is_grads_batched=True
            )
            out[..., filled : filled + len(some), :] = found.movedim(0, -2)
            filled += len(some)
        return out

    return way


def jacfwd_of_grad(one: Callable[..., Tensor], data: tuple[Tensor, ...], samples: int) -> Way:
    """Return jacfwd(grad) of one sample's loss under vmap, `samples` at once; always all columns."""

    def way(value: Value, theta: Tensor, columns: Tensor) -> Tensor:
        return vmap(jacfwd(grad(one)), chunk_size=samples)(theta, *data)

    return way


def ways(columns: int) -> dict[str, Way]:
    """Return every way that needs nothing but the value, for so many columns."""
    found: dict[str, Way] = {"loop of jvp(grad)": forward_over_reverse, "loop of double backward": double_backward}
    for chunk in [chunk for chunk in CHUNKS if chunk <= max(columns, CHUNKS[0])]:
        found[f"vmap of jvp(grad), {chunk} at once"] = forward_over_reverse_batched(chunk)
        found[f"double backward, {chunk} at once"] = double_backward_batched(chunk)
    return found


def attention_losses(theta: Tensor, X: Tensor, target: Tensor, d_K: int) -> Tensor:
    """Return the mean squared error of each sample of softmax attention, theta = W_Q, W_K, W_V; with PyTorch's own ops.

    theta has an axis of samples or not, and so has X.
    """
    d, d_V = X.shape[-1], target.shape[-1]
    Q, K, V = (X @ W for W in _cut(theta, [(d, d_K), (d, d_K), (d, d_V)]))
    F = torch.softmax(Q @ K.mT / d_K**0.5, -1) @ V
    return (F - target).square().mean((-2, -1))


def block_shapes(d: int, d_K: int, d_f: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a block's parameters, in the order of the Hessian."""
    shapes: dict[str, tuple[int, ...]] = {"W_Q": (d, d_K), "W_K": (d, d_K), "W_V": (d, d)}
    shapes |= {"W_1": (d, d_f), "b_1": (d_f,), "W_2": (d_f, d), "b_2": (d,)}
    return shapes | dict.fromkeys(("gamma_1", "beta_1", "gamma_2", "beta_2"), (d,))


def block_losses(theta: Tensor, X: Tensor, labels: Tensor, head: tuple[Tensor, Tensor], sizes: tuple) -> Tensor:
    """Return the mean-pooled cross-entropy of each sample of a post-norm GELU block; with PyTorch's own ops."""
    d, d_K, d_f, eps = sizes
    W_Q, W_K, W_V, W_1, b_1, W_2, b_2, gamma_1, beta_1, gamma_2, beta_2 = _cut(
        theta, list(block_shapes(d, d_K, d_f).values())
    )
    A = torch.softmax(X @ W_Q @ (X @ W_K).mT / d_K**0.5, -1)
    Y = functional.layer_norm(X + A @ (X @ W_V), (d,), gamma_1, beta_1, eps)
    Z = functional.layer_norm(Y + functional.gelu(Y @ W_1 + b_1) @ W_2 + b_2, (d,), gamma_2, beta_2, eps)
    return functional.cross_entropy(Z.mean(-2) @ head[0] + head[1], labels, reduction="none")


def _cut(theta: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    parts = theta.split([int(torch.Size(shape).numel()) for shape in shapes], -1)
    return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]


def _empty(theta: Tensor, columns: Tensor) -> Tensor:
    return theta.new_empty(*theta.shape[:-1], len(columns), theta.shape[-1])


def _units(theta: Tensor, columns: Tensor) -> Tensor:
    """Return the unit vectors of `columns`, the same for every sample."""
    units = torch.zeros(len(columns), *[1] * (theta.ndim - 1), theta.shape[-1], dtype=theta.dtype, device=theta.device)
    units[torch.arange(len(columns)), ..., columns] = 1.0
    return units.expand(len(columns), *theta.shape)


def _with_graph(value: Value, theta: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    leaf = theta.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(value(leaf), leaf, create_graph=True)
    return _empty(theta, columns), leaf, first
