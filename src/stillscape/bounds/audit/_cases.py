"""Random layers and blocks, and the truth about them: automatic differentiation of plain forward passes.

Here every sample may have weights of its own, so that thousands of draws are differentiated at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jacfwd, vmap

from stillscape.hessian import reference
from stillscape.hessian.losses import MSE, CrossEntropy, Loss

LOSSES = ("mse", "mean", "cls", "token")
#: (L, d, d_K, d_V)
SIZES = ((2, 1, 1, 1), (3, 2, 1, 3), (4, 3, 2, 2), (2, 2, 1, 2), (5, 2, 3, 2))
#: The same with d = d_V, as the drafts have it.
SQUARE_SIZES = ((2, 2, 1, 2), (3, 2, 2, 2), (4, 3, 2, 3), (5, 2, 3, 2))
#: (L, d, d_K, d_f)
BLOCK_SIZES = ((2, 3, 1, 2), (3, 3, 2, 4), (4, 4, 2, 3))
_LARGEST_LOGIT = 8.0


@dataclass(frozen=True)
class Truth:
    """Derivatives of each sample's loss: J of the output, G and B of the loss there, H of both."""

    J: Float[Tensor, "n F P"]
    G: Float[Tensor, "n L m"]
    B: Float[Tensor, "n F F"]
    H: Float[Tensor, "n P P"]

    @property
    def outer(self) -> Float[Tensor, "n P P"]:
        """J'BJ."""
        return self.J.mT @ self.B @ self.J

    @property
    def functional(self) -> Float[Tensor, "n P P"]:
        """H - J'BJ."""
        return self.H - self.outer

    @property
    def norms(self) -> Float[Tensor, " n"]:
        """||H||."""
        return torch.linalg.eigvalsh(self.H).abs().amax(-1)


@dataclass(frozen=True)
class Case:
    """Samples with a map from parameters to outputs, and a loss: the package's, and the same as a plain function."""

    X: Float[Tensor, "n L d"]
    weights: dict[str, Float[Tensor, "n ..."]]
    forward: Callable[[Tensor, dict[str, Tensor]], Tensor]
    loss: Loss
    plain: Callable[..., Tensor]
    own: tuple[Tensor, ...]

    @property
    def shared(self) -> dict[str, Tensor]:
        """The weights of the first sample, for draws in which all samples have the same."""
        return {name: weight[0] for name, weight in self.weights.items()}

    @property
    def layer(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """X, W_Q, W_K, W_V of an attention layer with shared weights: what the package's functions take first."""
        weights = self.shared
        return self.X, weights["W_Q"], weights["W_K"], weights["W_V"]

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each weight."""
        return [weight[0].numel() for weight in self.weights.values()]

    def output(self, theta: Float[Tensor, " P"], X: Float[Tensor, "L d"]) -> Float[Tensor, "L m"]:
        """Return the output of one sample at a vector of parameters."""
        pieces = theta.split(self.sizes)
        shapes = [weight.shape[1:] for weight in self.weights.values()]
        return self.forward(X, {k: p.reshape(s) for k, p, s in zip(self.weights, pieces, shapes, strict=True)})

    @property
    def theta(self) -> Float[Tensor, "n P"]:
        """The parameters of each sample as a vector."""
        return torch.cat([weight.flatten(1) for weight in self.weights.values()], -1)

    def outputs(self) -> Float[Tensor, "n L m"]:
        """Return the output of every sample."""
        return vmap(self.output)(self.theta, self.X)

    def hessians(self) -> Float[Tensor, "n P P"]:
        """Return H of every sample."""

        def value(theta: Tensor, X: Tensor, *own: Tensor) -> Tensor:
            return self.plain(self.output(theta, X), *own)

        return vmap(jacfwd(grad(value)))(self.theta, self.X, *self.own)

    def truth(self) -> Truth:
        """Return all derivatives by automatic differentiation."""
        F = self.outputs()
        G = vmap(grad(self.plain))(F, *self.own)
        B = vmap(jacfwd(grad(self.plain)))(F, *self.own)
        size = F[0].numel()
        J = vmap(jacfwd(self.output))(self.theta, self.X)
        return Truth(J.flatten(1, 2), G, B.reshape(len(F), size, size), self.hessians())

    def second(self) -> Float[Tensor, "n F P P"]:
        """Return the second derivatives of the output."""
        return vmap(jacfwd(jacfwd(self.output)))(self.theta, self.X).flatten(1, 2)


def attend(X: Float[Tensor, "*n L d"], weights: dict[str, Tensor]) -> Float[Tensor, "*n L d_V"]:
    """Return softmax attention of one sample, or of many."""
    return attention(X, weights) @ X @ weights["W_V"]


def attention(X: Float[Tensor, "*n L d"], weights: dict[str, Tensor]) -> Float[Tensor, "*n L L"]:
    """Return A = softmax(X W_Q W_K' X' / sqrt(d_K))."""
    T = (X @ weights["W_Q"]) @ (X @ weights["W_K"]).mT / math.sqrt(weights["W_Q"].shape[-1])
    return T.softmax(-1)


def attention_case(
    gen: torch.Generator,
    sizes: tuple[int, int, int, int],
    n: int,
    loss: str = "mse",
    shared: bool = True,
    ordinary: bool = False,
) -> Case:
    """Return n samples of an attention layer; log-uniform scales, or N(0, 1) tokens and Xavier weights."""
    L, d, d_K, d_V = sizes
    shapes = {"W_Q": (d, d_K), "W_K": (d, d_K), "W_V": (d, d_V)}
    X, weights = _normal((n, L, d), gen), {}
    if not ordinary:
        X = X * _scales((n, 1, 1), gen, -1, 1) + _normal((n, 1, d), gen) * _scales((n, 1, 1), gen, -2, 1)
    for name, (rows, columns) in shapes.items():
        lead = 1 if shared else n
        scale = math.sqrt(2.0 / (rows + columns)) if ordinary else _scales((lead, 1, 1), gen, -1.5, 0.7)
        weights[name] = (_normal((lead, rows, columns), gen) * scale).expand(n, -1, -1)
    return _with_loss(gen, X, weights, attend, loss, ordinary)


def block_case(
    gen: torch.Generator,
    sizes: tuple[int, int, int, int],
    n: int,
    loss: str = "mse",
    activation: str = "gelu",
    norm: str = "post",
    eps: float = 1e-3,
) -> Case:
    """Return n samples of a transformer block with shared parameters at scales around the usual start of training."""
    L, d, d_K, d_f = sizes
    shapes = {"W_Q": (d, d_K), "W_K": (d, d_K), "W_V": (d, d), "W_1": (d, d_f), "b_1": (d_f,), "W_2": (d_f, d)}
    shapes |= {"b_2": (d,), "gamma_1": (d,), "beta_1": (d,), "gamma_2": (d,), "beta_2": (d,)}
    X, weights = _normal((n, L, d), gen) * _scales((n, 1, 1), gen, -0.5, 0.5), {}
    for name, shape in shapes.items():
        value = _normal(shape, gen) * _scales((), gen, -0.7, 0.5) / math.sqrt(shape[0])
        value = value + 1.0 if name.startswith("gamma") else value
        weights[name] = value.expand(n, *shape)

    def forward(x: Tensor, params: dict[str, Tensor]) -> Tensor:
        return reference.transformer_block(x[None], params, activation, norm, eps=eps)[0]

    return _with_loss(gen, X, weights, forward, loss, True)


def pieces(matrix: Float[Tensor, "n P P"], case: Case) -> dict[tuple[str, str], Float[Tensor, "n p q"]]:
    """Return the blocks of a matrix by names of parameters."""
    found = {}
    for row, rows in zip(case.weights, matrix.split(case.sizes, -2), strict=True):
        for column, block in zip(case.weights, rows.split(case.sizes, -1), strict=True):
            found[row, column] = block
    return found


def probabilities(gen: torch.Generator, rows: int, tokens: int) -> Float[Tensor, "rows tokens"]:
    """Return softmax rows from flat to one-hot."""
    return (_normal((rows, tokens), gen) * _scales((rows, 1), gen, -1, 1.3)).softmax(-1)


def spread(total: int, kinds: int) -> int:
    """Return how many draws each of several kinds gets so that all get at least `total` together."""
    return max(2, -(-total // kinds))


def _with_loss(
    gen: torch.Generator, X: Tensor, weights: dict[str, Tensor], forward: Callable, loss: str, ordinary: bool
) -> Case:
    n = len(X)
    nothing = Case(X, weights, forward, MSE(X), torch.sum, ())
    if loss == "mse":
        F = nothing.outputs()
        target = F - _normal(tuple(F.shape), gen) * (1.0 if ordinary else _scales((n, 1, 1), gen, -3, 3))
        return Case(X, weights, forward, MSE(target), mean_square, (target,))
    F, classes = nothing.outputs(), int(torch.randint(2, 5, (), generator=gen))
    W_h, b_h = _normal((F.shape[-1], classes), gen), _normal((classes,), gen)
    W_h = W_h * (_LARGEST_LOGIT * float(_scales((), gen, -1, 0)) / float((F @ W_h).abs().max().clamp_min(1e-300)))
    labels = torch.randint(0, classes, (n, F.shape[1]) if loss == "token" else (n,), generator=gen)

    def plain(out: Tensor, y: Tensor) -> Tensor:
        pooled = {"mean": out.mean(0), "cls": out[0], "token": out}[loss]
        logits = pooled @ W_h + b_h
        # log(1 + sum over the other classes): p - y of a confident sample keeps its digits.
        below = logits - logits.gather(-1, y[..., None])
        others = torch.arange(classes) != y[..., None]
        return torch.log1p((below.exp() * others).sum(-1)).mean()

    return Case(X, weights, forward, CrossEntropy(labels, W_h, b_h, loss), plain, (labels,))


def mean_square(out: Float[Tensor, "L m"], target: Float[Tensor, "L m"]) -> Float[Tensor, ""]:
    """Return the mean squared error of one sample."""
    return (out - target).square().mean()


def _normal(shape: tuple[int, ...], gen: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=gen, dtype=torch.float64)


def _scales(shape: tuple[int, ...], gen: torch.Generator, low: float, high: float) -> Tensor:
    """Return 10^u with u uniform on [low, high]."""
    return 10.0 ** (low + (high - low) * torch.rand(shape, generator=gen, dtype=torch.float64))
