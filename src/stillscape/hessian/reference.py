r"""The slow, obvious oracle: layers and losses as the paper writes them, their Hessians by automatic differentiation.

Nothing here is fast, nothing is checked at the door. Every closed form of this room is tested against it, and a reader
can do the same with weights of their own:

    losses = lambda p: reference.mse(reference.self_attention(X, p["W_Q"], p["W_K"], p["W_V"]), target)
    reference.hessian(losses, {"W_Q": W_Q, "W_K": W_K, "W_V": W_V})      (n, P, P)

No second derivative here has an inner `jacrev`, as `torch.func.hessian` has: through an affine `torch.nn.LayerNorm`
that is wrong in PyTorch 2.13 (tests/hessian/test_torch_layer_norm.py). LayerNorm is written out for the same reason.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stillscape._checks import one_of

Params = Mapping[str, Tensor]
Losses = Callable[[dict[str, Tensor]], Tensor]
Mask = Bool[Tensor, "*n L L"] | None

BIASES = ("b_Q", "b_K", "b_V", "b_O")


@runtime_checkable
class RowWeights(Protocol):
    """An attention activation of the caller's own, as far as a forward pass needs it."""

    def value(self, scores: Float[Tensor, "*rows L"], mask: Bool[Tensor, "*rows L"] | None) -> Tensor:
        """Return the row of attention for each row of scores."""


def self_attention(
    X: Float[Tensor, "n L d"],
    W_Q: Float[Tensor, "d hK"],
    W_K: Float[Tensor, "d hK"],
    W_V: Float[Tensor, "d hV"],
    attention: str | RowWeights = "softmax",
    mask: Mask = None,
    heads: int = 1,
    W_O: Float[Tensor, "hV m"] | None = None,
    biases: Params | None = None,
) -> Float[Tensor, "n L m"]:
    r"""Return F = concat_h(A_h V_h) W_O + b_O with A_h = a(Q_h K_h' / sqrt(d_K)), one head after the other.

    Q = X W_Q + b_Q, K = X W_K + b_K, V = X W_V + b_V; head h owns the h-th run of columns of each (docs/theory,
    section 2).

    Args:
        X: n samples of L tokens.
        W_Q: queries, all heads beside each other.
        W_K: keys.
        W_V: values.
        attention: "softmax", "linear" (A = T), or an object with `value(scores, mask)`.
        mask: (L, L) or (n, L, L), True where the token of the row may attend to that of the column.
        heads: number of heads.
        W_O: output projection; None: the heads stay beside each other.
        biases: any of b_Q, b_K, b_V, b_O; None: none.

    Returns:
        the output of the layer, without a residual connection.

    Raises:
        InputError: `attention` is a name that is not known.

    Cost: O(heads n L^2 (d_K + d_V)) beside the projections.

    >>> X = torch.tensor([[[1.0], [0.0]]])
    >>> one = torch.ones(1, 1)
    >>> self_attention(X, 0 * one, one, one).flatten().tolist()  # all scores are 0: every token gets the mean
    [0.5, 0.5]
    >>> self_attention(X, one, one, one, attention="linear").flatten().tolist()  # X X' X
    [1.0, 0.0]
    """
    given = {} if biases is None else biases
    queries, keys, values = (
        _affine(X, W, given.get(name)).unflatten(-1, (heads, -1))
        for W, name in ((W_Q, "b_Q"), (W_K, "b_K"), (W_V, "b_V"))
    )
    outputs = []
    for head in range(heads):
        Q, K, V = queries[..., head, :], keys[..., head, :], values[..., head, :]
        T = Q @ K.mT / math.sqrt(K.shape[-1])
        outputs.append(attention_weights(T, attention, mask) @ V)
    F = torch.cat(outputs, -1)
    F = F if W_O is None else F @ W_O
    return F + given["b_O"] if given.get("b_O") is not None else F


def attention_weights(
    T: Float[Tensor, "n L L"], attention: str | RowWeights = "softmax", mask: Mask = None
) -> Float[Tensor, "n L L"]:
    r"""Return A, row by row from the scores T; 0 wherever the mask is False, so a row with nothing allowed is 0.

    softmax: a_j = exp(t_j) / sum of exp(t_k) over what is allowed;   linear: a = t.

    >>> attention_weights(torch.zeros(1, 2, 2), mask=torch.tensor([[True, False], [True, True]])).tolist()
    [[[1.0, 0.0], [0.5, 0.5]]]
    """
    if not isinstance(attention, str):
        return attention.value(T, None if mask is None else mask.expand(T.shape))
    allowed = torch.ones_like(T, dtype=torch.bool) if mask is None else mask
    if one_of("attention", attention, ("softmax", "linear")) == "linear":
        return T.masked_fill(~allowed, 0.0)
    hidden = T.masked_fill(~allowed, -torch.inf)
    # Written out, because softmax of a row of -inf is NaN; the shift is 0 there, and changes nothing elsewhere.
    shift = hidden.detach().amax(-1, keepdim=True)
    weights = torch.exp(hidden - shift.masked_fill(shift == -torch.inf, 0.0))
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, torch.ones_like(total))


def layer_norm(
    S: Float[Tensor, "*n m"], gamma: Float[Tensor, " m"], beta: Float[Tensor, " m"], eps: float = 1e-5
) -> Float[Tensor, "*n m"]:
    r"""Return gamma (s - mean(s)) / sqrt(var(s) + eps) + beta for each row s, var the mean of squares.

    (docs/theory, section 5.1)

    >>> layer_norm(torch.tensor([[3.0, 1.0]]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 5.0]), eps=0.0).tolist()
    [[1.0, 3.0]]
    """
    centered = S - S.mean(-1, keepdim=True)
    variance = (centered * centered).mean(-1, keepdim=True)
    return gamma * centered / torch.sqrt(variance + eps) + beta


def feed_forward(
    Y: Float[Tensor, "*n m"],
    W_1: Float[Tensor, "m f"],
    b_1: Float[Tensor, " f"],
    W_2: Float[Tensor, "f m"],
    b_2: Float[Tensor, " m"],
    activation: str = "gelu",
) -> Float[Tensor, "*n m"]:
    r"""Return sigma(Y W_1 + b_1) W_2 + b_2; "gelu" is u Phi(u) by the error function.

    >>> one, zero = torch.ones(1, 1), torch.zeros(1)
    >>> feed_forward(torch.tensor([[2.0], [-2.0]]), one, zero, 3 * one, zero + 1, "relu").tolist()
    [[7.0], [1.0]]
    """
    U = Y @ W_1 + b_1
    one_of("activation", activation, ("relu", "gelu", "linear"))
    if activation == "relu":
        U = torch.relu(U)
    if activation == "gelu":
        U = 0.5 * U * (1.0 + torch.erf(U / math.sqrt(2.0)))
    return U @ W_2 + b_2


def transformer_block(
    X: Float[Tensor, "n L d"],
    params: Mapping[str, Any],
    activation: str = "gelu",
    norm: str = "post",
    attention: str | RowWeights = "softmax",
    mask: Mask = None,
    heads: int = 1,
    eps: float = 1e-5,
) -> Float[Tensor, "n L d"]:
    r"""Return the output of one transformer block.

        post:  Y = LN_1(X + SA(X)),     Z = LN_2(Y + FFN(Y))         (docs/theory, section 5)
        pre:   Y = X + SA(LN_1(X)),     Z = Y + FFN(LN_2(Y))

    Args:
        X: n samples of L tokens.
        params: W_Q W_K W_V W_1 b_1 W_2 b_2 gamma_1 beta_1 gamma_2 beta_2, and optionally W_O and b_Q b_K b_V b_O, the
            last four by name or as a dict under "biases".
        activation: "relu", "gelu" or "linear".
        norm: "post" or "pre".
        attention: as in `self_attention`.
        mask: as in `self_attention`.
        heads: number of heads.
        eps: added to the variance in both norms.

    Returns:
        Z, of the shape of X.

    Raises:
        InputError: `activation`, `norm` or `attention` is a name that is not known.

    Cost: a forward pass.

    >>> ones = {name: torch.ones(2) for name in ("b_2", "gamma_1", "beta_1", "gamma_2", "beta_2")}
    >>> none = {name: torch.zeros(2, 2) for name in ("W_Q", "W_K", "W_V", "W_1", "W_2")}
    >>> transformer_block(torch.zeros(1, 1, 2), {**ones, **none, "b_1": torch.zeros(2)}, norm="pre").tolist()
    [[[1.0, 1.0]]]
    """
    biases = {**(params.get("biases") or {}), **{name: params[name] for name in BIASES if name in params}}

    def attend(S: Tensor) -> Tensor:
        W_Q, W_K, W_V = params["W_Q"], params["W_K"], params["W_V"]
        return self_attention(S, W_Q, W_K, W_V, attention, mask, heads, params.get("W_O"), biases)

    def feed(S: Tensor) -> Tensor:
        return feed_forward(S, params["W_1"], params["b_1"], params["W_2"], params["b_2"], activation)

    def normalize(S: Tensor, which: int) -> Tensor:
        return layer_norm(S, params[f"gamma_{which}"], params[f"beta_{which}"], eps)

    if one_of("norm", norm, ("post", "pre")) == "post":
        Y = normalize(X + attend(X), 1)
        return normalize(Y + feed(Y), 2)
    Y = X + attend(normalize(X, 1))
    return Y + feed(normalize(Y, 2))


def transformer_chain(
    X: Float[Tensor, "n L d"],
    blocks: Sequence[Mapping[str, Any]],
    activation: str = "gelu",
    norm: str = "post",
    attention: str | RowWeights = "softmax",
    mask: Mask = None,
    heads: int = 1,
    eps: float = 1e-5,
) -> Float[Tensor, "n L d"]:
    """Return the output of the last block, each fed with the one before; arguments as in `transformer_block`.

    >>> transformer_chain(torch.ones(1, 1, 2), []).tolist()
    [[[1.0, 1.0]]]
    """
    for params in blocks:
        X = transformer_block(X, params, activation, norm, attention, mask, heads, eps)
    return X


def mse(F: Float[Tensor, "n L m"], target: Float[Tensor, "n L m"]) -> Float[Tensor, " n"]:
    """Return ||F - target||_F^2 / (L m) of each sample (docs/theory, section 0).

    >>> mse(torch.tensor([[[3.0, 4.0]]]), torch.zeros(1, 1, 2)).tolist()
    [12.5]
    """
    return ((F - target) * (F - target)).mean((1, 2))


def cross_entropy(
    F: Float[Tensor, "n L m"],
    labels: Int[Tensor, "n ..."],
    W_h: Float[Tensor, "m C"],
    b_h: Float[Tensor, " C"] | None = None,
    pool: str = "mean",
) -> Float[Tensor, " n"]:
    """Return the cross-entropy of a linear head in nats: pooled first ("mean", "cls"), or the mean over tokens.

    (docs/theory, section 0)

    >>> bool(cross_entropy(torch.zeros(1, 3, 2), torch.tensor([1]), torch.eye(2)).isclose(torch.tensor(2.0).log()))
    True
    """
    one_of("pool", pool, ("mean", "cls", "token"))
    features = F if pool == "token" else F[:, 0] if pool == "cls" else F.mean(1)
    logits = _affine(features, W_h, b_h)
    # p - 1 and p - p^2, the derivatives of logsumexp, are mere rounding once p is 1. Seen from the largest logit the
    # loss is a sum of terms that are small by themselves, and right to the last digits for confident samples too.
    top = logits.argmax(-1, keepdim=True)
    rivals = torch.arange(logits.shape[-1], device=top.device) != top
    below = torch.where(rivals, logits - logits.gather(-1, top), 0.0)
    nats = torch.log1p((torch.exp(below) * rivals).sum(-1)) - below.gather(-1, labels[..., None]).squeeze(-1)
    return nats.mean(-1) if pool == "token" else nats


def quadratic(
    F: Float[Tensor, "n L m"],
    center: Float[Tensor, "n L m"],
    gradient: Float[Tensor, "n L m"],
    hessian: Float[Tensor, "n Lm Lm"],
) -> Float[Tensor, " n"]:
    """Return <G, F - F_0> + vec(F - F_0)' B vec(F - F_0) / 2: any loss as far as second derivatives at F_0 see it.

    >>> quadratic(torch.tensor([[[2.0]]]), torch.zeros(1, 1, 1), torch.ones(1, 1, 1), 3 * torch.ones(1, 1, 1)).tolist()
    [8.0]
    """
    step = (F - center).flatten(1)
    return (gradient.flatten(1) * step).sum(-1) + 0.5 * torch.einsum("ni,nij,nj->n", step, hessian, step)


def hessian(losses: Losses, params: Params) -> Float[Tensor, "n P P"]:
    r"""Return the Hessian of each sample's loss in all parameters, forward mode over an inner `grad`.

    Args:
        losses: from a dict of tensors like `params` to the losses (n,).
        params: the point; its order is that of the rows, each tensor row-major.

    Returns:
        the second derivatives, one matrix a sample.

    Cost: P tangents through n gradients, all P at once in memory.

    >>> hessian(lambda p: p["a"] ** 3 * p["b"], {"a": torch.tensor([2.0]), "b": torch.tensor([1.0])})
    tensor([[[12., 12.],
             [12.,  0.]]])
    """
    theta = flatten(params)
    return _second_derivatives(lambda at: losses(unflatten(at, params)), theta)


def double_backward_hessian(losses: Losses, params: Params) -> Float[Tensor, "n P P"]:
    """Return the same as `hessian` by `torch.autograd.grad` twice, row by row: another machinery, to check the first.

    Cost: n P backward passes.

    >>> at = {"a": torch.tensor([2.0]), "b": torch.tensor([1.0])}
    >>> double_backward_hessian(lambda p: p["a"] ** 3 * p["b"], at)
    tensor([[[12., 12.],
             [12.,  0.]]])
    """
    with torch.enable_grad():
        leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        found = []
        for loss in losses(leaves):
            first = _gradient(loss, leaves, create_graph=True)
            found.append(torch.stack([_gradient(entry, leaves, create_graph=False) for entry in first]))
    return torch.stack(found)


def split(
    output: Callable[[dict[str, Tensor]], Tensor], loss_at_output: Callable[[Tensor], Tensor], params: Params
) -> tuple[Float[Tensor, "n P P"], Float[Tensor, "n P P"]]:
    r"""Return the outer and the functional part of the Hessian: J' B J, and all the rest (docs/theory, section 0).

    Args:
        output: from a dict of tensors like `params` to the output F (n, ...).
        loss_at_output: from F to the losses (n,).
        params: the point, as in `hessian`.

    Returns:
        outer = J' B J with J the Jacobian of F and B the Hessian of the loss at F; functional = full - outer.

    Cost: that of `hessian`, and (n P F.numel()) for J.

    >>> at = {"a": torch.tensor([3.0])}
    >>> outer, functional = split(lambda p: (p["a"] ** 2)[:, None, None], lambda F: F.flatten() ** 2, at)  # a^4
    >>> outer.item(), functional.item()  # 2 (2a)^2 and 2a^2 2, together 12 a^2
    (72.0, 36.0)
    """
    theta = flatten(params)
    F = output(unflatten(theta, params)).detach()
    J = torch.func.jacfwd(lambda at: output(unflatten(at, params)))(theta).flatten(1, -2)
    n, size = len(F), F[0].numel()
    # B belongs to one sample: the loss of sample i at output i, whatever the others are.
    across = _second_derivatives(lambda at: loss_at_output(at.reshape(F.shape)), F.reshape(-1))
    B = torch.stack([across[i].reshape(n, size, n, size)[i, :, i] for i in range(n)])
    outer = J.mT @ B @ J
    return outer, hessian(lambda p: loss_at_output(output(p)), params) - outer


def flatten(params: Params) -> Float[Tensor, " P"]:
    """Return all entries in one vector, tensor after tensor, each row-major.

    >>> flatten({"W": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([5.0])}).tolist()
    [1.0, 2.0, 3.0, 4.0, 5.0]
    """
    return torch.cat([value.detach().reshape(-1) for value in params.values()])


def unflatten(theta: Float[Tensor, " P"], like: Params) -> dict[str, Tensor]:
    """Return the vector cut into tensors of the names and shapes of `like`, the inverse of `flatten`.

    >>> unflatten(torch.tensor([1.0, 2.0, 5.0]), {"W": torch.zeros(1, 2), "b": torch.zeros(1)})
    {'W': tensor([[1., 2.]]), 'b': tensor([5.])}
    """
    parts = theta.split([value.numel() for value in like.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}


def _affine(X: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    return X @ W if b is None else X @ W + b


def _second_derivatives(losses: Callable[[Tensor], Tensor], at: Float[Tensor, " P"]) -> Float[Tensor, "n P P"]:
    def gradient(sample: int) -> Callable[[Tensor], Tensor]:
        return torch.func.grad(lambda point: losses(point)[sample])

    return torch.stack([torch.func.jacfwd(gradient(sample))(at) for sample in range(len(losses(at)))])


def _gradient(value: Tensor, leaves: dict[str, Tensor], create_graph: bool) -> Tensor:
    """Return the gradient as one vector; 0 where `value` does not depend on the leaves at all."""
    if not value.requires_grad:
        return torch.zeros_like(flatten(leaves))
    parts = torch.autograd.grad(
        value, tuple(leaves.values()), create_graph=create_graph, retain_graph=True, materialize_grads=True
    )
    return torch.cat([part.reshape(-1) for part in parts])
