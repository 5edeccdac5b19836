"""A vision transformer of one block whose Hessian the exact calculus gives: post-norm, one head, mean over tokens."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from stillscape.hessian import CrossEntropy, ExactHessian, transformer_block

BIASES = ("b_Q", "b_K", "b_V", "b_O")


class TinyVit(nn.Module):
    """Patches, one transformer block, the mean over tokens, a linear head; in float64.

    Args:
        pixels: of a patch.
        tokens: patches in an image.
        dim: of a token.
        width: of the feed-forward network.
        classes: of the head.
        seed: of the start, N(0, 1 / inputs) for matrices and zero for biases.
        plain: without the attention's output matrix and biases, as in the drafts.
    """

    places: Tensor
    none: Tensor

    def __init__(
        self, pixels: int, tokens: int, dim: int, width: int, classes: int, seed: int, plain: bool = False
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def matrix(rows: int, columns: int) -> nn.Parameter:
            drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            return nn.Parameter(drawn / math.sqrt(rows))

        def constant(size: int, value: float) -> nn.Parameter:
            return nn.Parameter(torch.full((size,), value, dtype=torch.float64))

        square = {name: matrix(dim, dim) for name in ("W_Q", "W_K", "W_V", *(() if plain else ("W_O",)))}
        feed = {
            "W_1": matrix(dim, width),
            "b_1": constant(width, 0),
            "W_2": matrix(width, dim),
            "b_2": constant(dim, 0),
        }
        norms = {name: constant(dim, float(name[0] == "g")) for name in ("gamma_1", "beta_1", "gamma_2", "beta_2")}
        biases = {name: constant(dim, 0) for name in (() if plain else BIASES)}
        self.block = nn.ParameterDict({**square, **biases, **feed, **norms})
        self.embedding, self.W_h, self.b_h = matrix(pixels, dim), matrix(dim, classes), constant(classes, 0)
        self.register_buffer("places", sinusoids(tokens, dim))
        self.register_buffer("none", torch.zeros(dim, dtype=torch.float64))

    def embed(self, x: Float[Tensor, "n tokens pixels"]) -> Float[Tensor, "n tokens dim"]:
        """Return the tokens that the block takes."""
        return x @ self.embedding + self.places

    def forward(self, x: Float[Tensor, "n tokens pixels"]) -> Float[Tensor, "n classes"]:
        """Return class scores."""
        return self.pooled(x) @ self.W_h + self.b_h

    def pooled(self, x: Float[Tensor, "n tokens pixels"]) -> Float[Tensor, "n dim"]:
        """Return the mean over tokens that the head takes."""
        w, X = self.block, self.embed(x)
        query, key, value = (X @ w[f"W_{name}"] + w.get(f"b_{name}", self.none) for name in "QKV")
        attended = (query @ key.transpose(-1, -2) / math.sqrt(X.shape[-1])).softmax(-1) @ value
        if "W_O" in w:
            attended = attended @ w["W_O"] + w["b_O"]
        Y = F.layer_norm(X + attended, X.shape[-1:], w["gamma_1"], w["beta_1"])
        out = F.gelu(Y @ w["W_1"] + w["b_1"]) @ w["W_2"] + w["b_2"]
        return F.layer_norm(Y + out, Y.shape[-1:], w["gamma_2"], w["beta_2"]).mean(1)

    def exact(self, x: Float[Tensor, "n tokens pixels"], labels: Int[Tensor, " n"]) -> ExactHessian:
        """Return the exact Hessian of each image's cross-entropy in the parameters of the block."""
        with torch.no_grad():
            loss = CrossEntropy(labels, self.W_h.detach(), self.b_h.detach(), pool="mean")
            return transformer_block(self.embed(x).detach(), {k: v.detach() for k, v in self.block.items()}, loss=loss)


def sinusoids(tokens: int, dim: int) -> Float[Tensor, "tokens dim"]:
    """Return sine and cosine positions (Vaswani et al., 2017, section 3.5).

    >>> sinusoids(1, 4).tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """
    place = torch.arange(tokens, dtype=torch.float64)[:, None]
    rate = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return torch.stack([(place * rate).sin(), (place * rate).cos()], -1).flatten(1)[:, :dim]


def train(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    steps: tuple[int, ...],
    look: Callable[[int], None],
    *,
    batch: int,
    learning_rate: float,
    seed: int,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    momentum: bool = True,
) -> None:
    """Train by Adam, or plain SGD without `momentum`, on batches of shuffled epochs; call `look` at some steps."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if momentum:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    else:
        optimizer = torch.optim.SGD(parameters, lr=learning_rate)
    generator, order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.int64)
    for step in range(steps[-1] + 1):
        if step in steps:
            look(step)
        if step == steps[-1]:
            return
        if len(order) == 0:
            order = torch.randperm(len(x), generator=generator)
        rows, order = order[:batch], order[batch:]
        optimizer.zero_grad()
        loss(model(x[rows]), labels[rows]).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
