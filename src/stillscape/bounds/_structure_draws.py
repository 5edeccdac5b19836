"""Random layers, blocks and chains of given sizes at Xavier initialization, and what is measured on them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.bounds import attention, block
from stillscape.bounds._attention_norms import Layer, spectral
from stillscape.bounds._structure_formula import Sizes
from stillscape.bounds.heads import multi_head_attention
from stillscape.hessian import MSE, CrossEntropy, ExactHessian, self_attention, transformer_chain
from stillscape.hessian.losses import Loss

LAYER_KINDS = ("a_priori", "data", "token")
_TOLERANCE = 1e-3  # of Lanczos: the value is then right to about 1e-6


@dataclass(frozen=True)
class Measured:
    """One draw of weights, seen by all samples: norms by curve, each (n,), and what Theorem 3 asks for.

    Attributes:
        norms: "exact" and the bounds of each sample.
        loss_bound: largest loss.
        gradient_bound: twice the largest distance of a gradient from their mean.
        parameters: P.
    """

    norms: dict[str, np.ndarray]
    loss_bound: float
    gradient_bound: float
    parameters: int


def measure(s: Sizes, axis: str, samples: int, seed: tuple[int, ...]) -> dict[tuple[str, str], Measured]:
    """Return what one draw of weights and samples shows, by (loss, place)."""
    gen = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    X = torch.randn(samples, s.L, s.d, generator=gen, dtype=torch.float64)
    head = _xavier(s.d, s.classes, gen)
    labels = torch.randint(0, s.classes, (samples,), generator=gen)
    target = torch.randn(samples, s.L, s.d, generator=gen, dtype=torch.float64)
    losses: dict[str, Loss] = {"cross_entropy": CrossEntropy(labels, head), "mse": MSE(target)}
    if axis in ("d_f", "depth"):
        blocks = [_block(s, gen) for _ in range(s.depth)]
        return dict(_chain(X, blocks, losses, axis))
    weights = [_xavier(s.d, s.heads * s.d_K, gen), _xavier(s.d, s.heads * s.d_K, gen), _xavier(s.d, s.d, gen)]
    W_O = _xavier(s.d, s.d, gen) if s.projected else None
    return {(name, "layer"): _layer(X, weights, W_O, s.heads, loss) for name, loss in losses.items()}


def _layer(X: Tensor, weights: list[Tensor], W_O: Tensor | None, heads: int, loss: Loss) -> Measured:
    W_Q, W_K, W_V = weights
    h = self_attention(X, W_Q, W_K, W_V, loss=loss, heads=heads, W_O=W_O)
    if W_O is None and heads == 1:
        bounds = {kind: attention.self_attention(X, W_Q, W_K, W_V, loss=loss, kind=kind) for kind in LAYER_KINDS}
        return _measured(h, bounds | {"value_block": _value_block(X, weights, loss)})
    return _measured(h, {
        kind: multi_head_attention(X, W_Q, W_K, W_V, loss=loss, heads=heads, W_O=W_O, kind=kind) for kind in LAYER_KINDS
    })  # fmt: skip


def _value_block(X: Tensor, weights: list[Tensor], loss: Loss) -> Float[Tensor, " n"]:
    """Return ||H(W_V, W_V)|| exactly: ||M||^2 ||B|| where B = cI, |M's|^2 ||B||/|s|^2 where it reads s'F alone."""
    _, M, F = Layer(X, *weights).attend()
    beta = loss.expand(F).spectral_norm()
    if isinstance(loss, CrossEntropy):
        s = loss.pooling(X.shape[1])
        return beta / s.square().sum() * (s @ M).square().sum(-1)
    return beta * spectral(M) ** 2


def _chain(
    X: Tensor, blocks: list[dict[str, Tensor]], losses: dict[str, Loss], axis: str
) -> Iterator[tuple[tuple[str, str], Measured]]:
    """Yield the Hessian in the first and in the last block of a chain; of a single block, in that."""
    places = {"block": 0} if axis == "d_f" else {"first block": 0, "last block": len(blocks) - 1}
    for name, loss in losses.items():
        for place, j in places.items():
            h = transformer_chain(X, blocks, wrt=j, loss=loss)
            entering, seen = h.effective_loss() if len(blocks) > 1 else (X, loss)
            # The last block meets the loss itself, of which more is known than its derivatives.
            seen = loss if j == len(blocks) - 1 else seen
            yield (name, place), _measured(h, {"data": block.transformer_block(entering, blocks[j], loss=seen)})


def _measured(h: ExactHessian, bounds: dict[str, Float[Tensor, " n"]]) -> Measured:
    gradients, losses = h.gradient(), h.losses()
    assert losses is not None  # both losses here know their values
    apart = torch.linalg.vector_norm(gradients - gradients.mean(0), dim=-1).max()
    norms = {"exact": h.spectral_norm(tol=_TOLERANCE)} | bounds
    return Measured(
        norms={name: value.numpy() for name, value in norms.items()},
        loss_bound=float(losses.max()),
        gradient_bound=2.0 * float(apart),
        parameters=h.num_parameters,
    )


def _block(s: Sizes, gen: torch.Generator) -> dict[str, Tensor]:
    def filled(value: float, width: int) -> Tensor:
        return torch.full((width,), value, dtype=torch.float64)

    weights = {"W_Q": (s.d, s.d_K), "W_K": (s.d, s.d_K), "W_V": (s.d, s.d), "W_1": (s.d, s.d_f), "W_2": (s.d_f, s.d)}
    shifts = {"b_1": s.d_f, "b_2": s.d, "beta_1": s.d, "beta_2": s.d}
    return (
        {name: _xavier(*shape, gen) for name, shape in weights.items()}
        | {name: filled(0.0, width) for name, width in shifts.items()}
        | {name: filled(1.0, s.d) for name in ("gamma_1", "gamma_2")}
    )


def _xavier(rows: int, columns: int, gen: torch.Generator) -> Float[Tensor, "rows columns"]:
    return torch.randn(rows, columns, generator=gen, dtype=torch.float64) * (2.0 / (rows + columns)) ** 0.5
