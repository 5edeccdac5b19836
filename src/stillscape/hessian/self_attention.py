"""The exact Hessian of a self-attention layer (Theorem 1's object, made exact)."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stillscape._checks import at_least
from stillscape._errors import InputError
from stillscape.hessian import _arguments
from stillscape.hessian.attention import Attention
from stillscape.hessian.exact import ExactHessian, Network
from stillscape.hessian.layers import Chain, Layer, Linear
from stillscape.hessian.losses import Loss

WEIGHTS = ("W_Q", "W_K", "W_V")
BIASES = ("b_Q", "b_K", "b_V", "b_O")


def self_attention(
    X: Float[Tensor, "n L d"],
    W_Q: Float[Tensor, "d hdK"],
    W_K: Float[Tensor, "d hdK"],
    W_V: Float[Tensor, "d hdV"],
    *,
    loss: Loss,
    attention: object = "softmax",
    mask: Bool[Tensor, "*n L L"] | None = None,
    heads: int = 1,
    W_O: Float[Tensor, "hdV d_out"] | None = None,
    biases: Mapping[str, Tensor] | None = None,
) -> ExactHessian:
    r"""Return the exact Hessian of a loss on F = [A_1 V_1, ..., A_h V_h] W_O + b_O, of every sample.

    A = softmax of each row of Q K^T / sqrt(d_K), Q = X W_Q + b_Q and so on. With C_i the covariance of the attended
    token, T_i the second softmax derivative against the adjoint, and P the adjoint of the scores (one head, no bias):

        H_f(Q,Q) = r^2 sum_i x_i x_i' (x) W_K' T_i W_K        H_f(K,K) = r^2 sum_i T_i (x) q_i q_i'
        H_f(Q,K) = r^2 sum_i x_i (W_K' T_i) q_i + r X'PX (x) I
        H_f(V,Q) = r sum_i (C_i W_K) g_i x_i    H_f(V,K) = r sum_i C_i g_i q_i    H_f(V,V) = 0
        H_o(a,b) = J_a' B J_b,  J_Q = r x_i' (x) W_V' C_i W_K,  J_K = r W_V' C_i q_i,  J_V = m_i' (x) I

    (docs/theory, Propositions 1 and 2; r = 1/sqrt(d_K).) Parameters stand in the order W_Q, W_K, W_V, W_O, b_Q, b_K,
    b_V, b_O, as far as they are given; each is flattened row by row.

    Args:
        X: (n, L, d) tokens of n samples.
        W_Q: (d, heads d_K).
        W_K: (d, heads d_K).
        W_V: (d, heads d_V).
        loss: `MSE`, `CrossEntropy` or `OutputLoss` on the output of n samples.
        attention: "softmax", "linear" (A = T), or a `RowActivation`.
        mask: (L, L) or (n, L, L), True = may attend. A row in which nothing is allowed attends to nothing.
        heads: number of heads, which share W_Q, W_K and W_V by columns.
        W_O: (heads d_V, d_out); None: the heads' outputs stand beside each other.
        biases: any of b_Q, b_K (heads d_K,), b_V (heads d_V,), b_O (d_out,; needs W_O).

    Returns:
        the Hessian, computed in the form that is asked for; see `ExactHessian`.

    Raises:
        InputError: a ValueError naming the argument, if shapes don't fit, a tensor is not of floats, holds NaN or lies
            on another device than X, labels are out of range, or a name is unknown.

    Example:
        One token attends to itself, A = 1, so F = x W_V; with x = 2 and l = (F - 0)^2, only W_V curves: 2 x^2 = 8.

        >>> import torch
        >>> from stillscape.hessian import MSE, self_attention
        >>> one = torch.ones(1, 1)
        >>> h = self_attention(2 * one[None], one, one, one, loss=MSE(torch.zeros(1, 1, 1)))
        >>> h.dense()[0].tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 8.0]]
    """
    X = _arguments.real_tensor("X", X, (None, None, None))
    if not isinstance(biases, Mapping | None):
        raise InputError(f"biases is a {type(biases).__name__}; it must be a dict of tensors, or None.")
    _arguments.known_keys("biases", biases or {}, (), BIASES)
    _arguments.loss_on(loss, len(X))
    given = {"W_Q": W_Q, "W_K": W_K, "W_V": W_V, **({} if W_O is None else {"W_O": W_O}), **(biases or {})}
    params = attention_parameters(X, given, heads, "biases")
    masked = _arguments.attention_mask(mask, X)

    def network(rows: slice) -> Network:
        layers = attention_layers(params, heads, attention, rows_of(masked, rows), trainable=True)
        return Network(X[rows], Chain(layers), Chain(()), loss.take(rows))

    return ExactHessian(network, {name: tuple(value.shape) for name, value in params.items()}, len(X))


def attention_parameters(
    X: Float[Tensor, "n L d"], given: Mapping[str, Tensor], heads: int, where: str
) -> dict[str, Tensor]:
    """Return the attention's parameters in order, checked against X and each other."""
    at_least("heads", heads, 1)
    _arguments.known_keys(where, given, WEIGHTS, ("W_O", *BIASES))
    features = X.shape[2]
    params = {name: _arguments.real_tensor(name, given[name], (features, None), X) for name in WEIGHTS}
    _arguments.real_tensor("W_K", params["W_K"], tuple(params["W_Q"].shape))
    for name, weight in params.items():
        if weight.shape[1] % heads:
            raise InputError(f"{name} has {weight.shape[1]} columns, which heads = {heads} does not divide.")
    widths = {f"b_{letter}": params[f"W_{letter}"].shape[1] for letter in "QKV"}
    if "W_O" in given:
        params["W_O"] = _arguments.real_tensor("W_O", given["W_O"], (widths["b_V"], None), X)
        widths["b_O"] = params["W_O"].shape[1]
    elif "b_O" in given:
        raise InputError("b_O is given without W_O; it is the bias of the output projection. Give W_O as well.")
    return params | {b: _arguments.real_tensor(b, given[b], (widths[b],), X) for b in BIASES if b in given}


def attention_layers(
    params: Mapping[str, Tensor], heads: int, attention: object, mask: Tensor | None, trainable: bool
) -> list[Layer]:
    """Return the layers of checked parameters: the heads, and the output projection where there is one."""
    layers: list[Layer] = [Attention(params, heads, attention, mask, trainable)]
    if "W_O" in params:
        layers.append(Linear(params["W_O"], params.get("b_O"), ("W_O", "b_O") if trainable else None))
    return layers


def rows_of(mask: Tensor | None, rows: slice) -> Tensor | None:
    """Return the mask of some samples; one mask for all stays as it is."""
    return mask if mask is None or len(mask) == 1 else mask[rows]


def causal_mask(tokens: int) -> Bool[Tensor, "L L"]:
    """Return the mask by which token i attends to tokens 1..i.

    >>> causal_mask(2).tolist()
    [[True, False], [True, True]]
    """
    at_least("tokens", tokens, 1)
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()
