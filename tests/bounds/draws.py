"""Random layers and blocks, and the truth about them: Hessians by automatic differentiation of plain forward passes."""

import math
from dataclasses import dataclass

import torch
from torch.func import grad, jacfwd, vmap

from stillscape.bounds._attention_norms import ROUNDING, Layer, block_matrix_norm
from stillscape.bounds.attention import pair_norms
from stillscape.hessian.losses import MSE, CrossEntropy, Expansion, OutputLoss

LOSSES = ("mse", "mean", "cls", "token", "output")


@dataclass(frozen=True)
class Problem:
    """A loss of the package, and the same loss of one sample as a plain function of (output, *its own tensors)."""

    loss: object
    plain: object
    own: tuple  # tensors with a leading axis of samples


def forward(X, W_Q, W_K, W_V):
    """Return softmax attention of one sample or of many."""
    T = (X @ W_Q) @ (X @ W_K).mT / math.sqrt(W_Q.shape[-1])
    return T.softmax(-1) @ X @ W_V


def normalize(S, gamma, beta, eps):
    """Return layer normalization over features, with the biased variance."""
    centered = S - S.mean(-1, keepdim=True)
    return gamma * centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt() + beta


def block_forward(X, p, activation, eps):
    """Return the post-norm block of one sample or of many."""
    sigma = {"gelu": torch.nn.functional.gelu, "relu": torch.relu, "linear": lambda u: u}[activation]
    Y = normalize(X + forward(X, p["W_Q"], p["W_K"], p["W_V"]), p["gamma_1"], p["beta_1"], eps)
    V = Y + sigma(Y @ p["W_1"] + p["b_1"]) @ p["W_2"] + p["b_2"]
    return normalize(V, p["gamma_2"], p["beta_2"], eps)


def hessians(output, sizes, vectors, own_inputs, problem):
    """Return the Hessians of many samples in their flattened parameters, (n, P, P).

    `output(pieces, X)` computes one sample; `vectors` is (n, P), or (P,) where the samples share their parameters.
    """

    def value(vector, X, own):
        return problem.plain(output(vector.split(sizes), X), *own)

    shared = 0 if vectors.ndim == 2 else None
    return vmap(jacfwd(grad(value)), (shared, 0, 0))(vectors, own_inputs, problem.own)


def attention_hessians(X, W_Q, W_K, W_V, problem):
    """Return (n, P, P) in the order W_Q, W_K, W_V; weights may have a leading axis of samples."""
    weights = (W_Q, W_K, W_V)
    shapes = [w.shape[-2:] for w in weights]

    def output(pieces, x):
        return forward(x, *(piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)))

    vectors = torch.cat([w.flatten(-2) for w in weights], -1)
    return hessians(output, [s.numel() for s in shapes], vectors, X, problem)


def block_hessians(X, params, activation, eps, problem):
    """Return (n, P, P) in the order of `params`."""
    shapes = [w.shape for w in params.values()]

    def output(pieces, x):
        named = {k: v.reshape(s) for k, v, s in zip(params, pieces, shapes, strict=True)}
        return block_forward(x, named, activation, eps)

    return hessians(output, [s.numel() for s in shapes], torch.cat([w.flatten() for w in params.values()]), X, problem)


def spectral(H):
    """Return the norm of each symmetric matrix."""
    return torch.linalg.eigvalsh(H).abs().amax(-1)


def blocks_of(H, sizes):
    """Return the spectral norm of every block of H, (n, len(sizes), len(sizes))."""
    rows = H.split(sizes, -2)
    return torch.stack(
        [torch.stack([torch.linalg.matrix_norm(b, ord=2) for b in r.split(sizes, -1)], -1) for r in rows], -2
    )


def make_problem(name, F, gen, scale=None, W_h=None):
    """Return a random problem for outputs F (n, L, m); `scale` (n,) is the size of residual or gradient."""
    n, L, m = F.shape
    scale = torch.ones(n, dtype=F.dtype) if scale is None else scale
    if name in ("mse", "output"):
        noise = scale[:, None, None] * torch.randn(F.shape, generator=gen, dtype=F.dtype)
        if name == "mse":
            return Problem(MSE(F - noise), mean_square, (F - noise,))
        B = torch.randn(n, L * m, L * m, generator=gen, dtype=F.dtype)
        B = (B + B.mT) * scale[:, None, None] ** 0.5
        return Problem(OutputLoss(noise, B), quadratic, (F, noise, B))
    b_h = torch.randn(W_h.shape[1], generator=gen, dtype=F.dtype)
    labels = torch.randint(0, W_h.shape[1], (n, L) if name == "token" else (n,), generator=gen)

    def cross_entropy(out, y):
        logits = {"mean": out.mean(0), "cls": out[0], "token": out}[name] @ W_h + b_h
        return (torch.logsumexp(logits, -1) - logits.gather(-1, y[..., None]).squeeze(-1)).mean()

    return Problem(CrossEntropy(labels, W_h, b_h, name), cross_entropy, (labels,))


def mean_square(out, target):
    return (out - target).square().mean()


def quadratic(out, at, G, B):
    step = (out - at).flatten()
    return (G.flatten() * step).sum() + 0.5 * step @ B @ step


def random_head(features, gen):
    """Return W_h of two to four classes at a log-uniform scale."""
    classes = int(torch.randint(2, 5, (), generator=gen))
    return torch.randn(features, classes, generator=gen, dtype=torch.float64) * log_uniform((), gen, -1, 1)


def log_uniform(shape, gen, low, high):
    """Return 10^u with u uniform on [low, high]."""
    return 10.0 ** (low + (high - low) * torch.rand(shape, generator=gen, dtype=torch.float64))


def random_layers(sizes, n, gen, shared):
    """Return X, W_Q, W_K, W_V at log-uniform scales; weights of one draw, or of each sample."""
    L, d, d_K, d_V = sizes
    lead = () if shared else (n,)
    X = torch.randn(n, L, d, generator=gen, dtype=torch.float64) * log_uniform((n, 1, 1), gen, -1, 1)
    X = X + torch.randn(n, 1, d, generator=gen, dtype=torch.float64) * log_uniform((n, 1, 1), gen, -2, 1)
    shapes = (d, d_K), (d, d_K), (d, d_V)
    weights = [
        torch.randn(*lead, *s, generator=gen, dtype=torch.float64) * log_uniform((*lead, 1, 1), gen, -1.5, 0.7)
        for s in shapes
    ]
    return X, *weights


def random_attention_case(name, sizes, n, gen, shared=True):
    """Return (X, W_Q, W_K, W_V) and a problem for their output, residuals at log-uniform scales."""
    X, W_Q, W_K, W_V = random_layers(sizes, n, gen, shared)
    W_h = random_head(sizes[-1], gen)
    if name in ("mean", "cls", "token"):
        factor = tame(forward(X, W_Q, W_K, W_V) @ W_h, gen)
        W_V = W_V * (factor.amin() if shared else factor[:, None, None])
    problem = make_problem(name, forward(X, W_Q, W_K, W_V), gen, log_uniform((n,), gen, -3, 3), W_h)
    return (X, W_Q, W_K, W_V), problem


def random_block_case(name, sizes, n, gen, activation, eps):
    """Return X, params and a problem for the block's output; sizes = (L, d, d_K, d_f)."""
    X, params = random_block(sizes, n, gen)
    F, W_h = block_forward(X, params, activation, eps), random_head(sizes[1], gen)
    W_h = W_h * tame(F @ W_h, gen).amin()
    return X, params, make_problem(name, F, gen, log_uniform((n,), gen, -2, 1), W_h)


def tame(logits, gen):
    """Return factors, one for each sample, that bring its logits below 8.

    Beyond that p - y cancels: what is left of it, in the truth as well, is rounding.
    """
    return 8.0 * log_uniform((len(logits),), gen, -2, 0) / logits.abs().amax((-2, -1)).clamp_min(1e-300)


def random_block(sizes, n, gen):
    """Return X and the parameters of a block at log-uniform scales around the usual start of training."""
    L, d, d_K, d_f = sizes
    X = torch.randn(n, L, d, generator=gen, dtype=torch.float64) * log_uniform((n, 1, 1), gen, -0.7, 0.7)
    shapes = {"W_Q": (d, d_K), "W_K": (d, d_K), "W_V": (d, d), "W_1": (d, d_f), "b_1": (d_f,), "W_2": (d_f, d)}
    shapes |= {"b_2": (d,), "gamma_1": (d,), "beta_1": (d,), "gamma_2": (d,), "beta_2": (d,)}
    params = {}
    for name, shape in shapes.items():
        spread = log_uniform((), gen, -1, 0.7) / math.sqrt(shape[0])
        params[name] = torch.randn(shape, generator=gen, dtype=torch.float64) * spread
        if name.startswith("gamma"):
            params[name] = params[name] + log_uniform((), gen, -0.5, 0.5)
    return X, params


class FreeMeanSquare:
    """The mean squared error with a residual that gradients may flow through; MSE itself holds its target fixed."""

    def __init__(self, error):
        self.error = error

    def expand(self, output):
        """Return G = cE and B = cI."""
        n, L, m = output.shape
        scale = 2.0 / (L * m)
        return Expansion(None, scale * self.error, (scale * torch.eye(m, dtype=output.dtype)).expand(n, L, m, m))

    def take(self, rows):
        """Return the loss of some samples."""
        return FreeMeanSquare(self.error[rows])


def ascend(kind, sizes, restarts, steps, gen):
    """Return the largest ||H||/bound on the way up, for each of many random starts; Adam on X, weights and residual."""
    X, *weights = random_layers(sizes, restarts, gen, shared=False)
    error = torch.randn(*X.shape[:2], sizes[-1], generator=gen, dtype=X.dtype)
    error = error * log_uniform((restarts, 1, 1), gen, -2, 2)
    free = [tensor.clone().requires_grad_() for tensor in (X, *weights, error)]
    climber, best = torch.optim.Adam(free, lr=0.03), torch.zeros(restarts, dtype=X.dtype)
    for _ in range(steps):
        X, W_Q, W_K, W_V, error = free
        target = forward(X, W_Q, W_K, W_V) - error
        H = attention_hessians(X, W_Q, W_K, W_V, Problem(None, mean_square, (target,)))
        N = pair_norms(Layer(X, W_Q, W_K, W_V), FreeMeanSquare(error), kind)
        ratio = spectral(H) / (block_matrix_norm(N) * ROUNDING)
        best = torch.maximum(best, ratio.detach())
        climber.zero_grad()
        (-ratio.log().sum()).backward()
        for tensor in free:
            tensor.grad.nan_to_num_(0.0, 0.0, 0.0)
        climber.step()
    return best
