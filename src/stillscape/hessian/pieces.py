"""LayerNorm and the feed-forward layer by themselves: derivatives in the input, and Hessians in the parameters."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import positive
from stillscape.hessian import _arguments
from stillscape.hessian.exact import ExactHessian, Network
from stillscape.hessian.layers import Chain, Elementwise, Linear
from stillscape.hessian.losses import Loss
from stillscape.hessian.normalization import LayerNorm, curve, slope
from stillscape.hessian.pointwise import pointwise


@dataclass(frozen=True)
class Derivatives:
    """A layer that acts on each row by itself, to second order in its input.

    Attributes:
        value: (n, L, q) output y.
        jacobian: (n, L, q, p), dy/ds.
        hessian: (n, L, p, p), of <adjoint, y> in s.
    """

    value: Float[Tensor, "n L q"]
    jacobian: Float[Tensor, "n L q p"]
    hessian: Float[Tensor, "n L p p"]


def layer_norm_derivatives(
    S: Float[Tensor, "n L m"],
    gamma: Float[Tensor, " m"],
    beta: Float[Tensor, " m"],
    *,
    adjoint: Float[Tensor, "n L m"],
    eps: float = 1e-5,
) -> Derivatives:
    r"""Return y = gamma x + beta with x = Ps/tau, its Jacobian, and the Hessian of <adjoint, y>, for each row s.

        dy/ds = diag(gamma) (P - xx'/m) / tau
        N = -[(Pl)x' + x(Pl)' + <l, x>(P - 3xx'/m)] / (m tau^2),    l = gamma adjoint

    with P = I - 11'/m and tau = sqrt(|Ps|^2/m + eps) (docs/theory, section 5.1).

    Args:
        S: (n, L, m) rows.
        gamma: (m,).
        beta: (m,).
        adjoint: (n, L, m) weights of the outputs.
        eps: added to the variance, above zero.

    Raises:
        InputError: a shape, dtype or device that does not fit, NaN, or `eps` not above zero.

    Cost: O(m^2) for each row.

    >>> row = torch.tensor([[[1.0, -1.0, 0.0]]])
    >>> at = layer_norm_derivatives(row, torch.ones(3), torch.zeros(3), adjoint=torch.ones(1, 1, 3), eps=1 / 3)
    >>> at.value.tolist(), float(at.hessian.abs().max())  # tau = 1; the sum of y is 0 whatever s, so nothing curves
    ([[[1.0, -1.0, 0.0]]], 0.0)
    """
    S = _arguments.real_tensor("S", S, (None, None, None))
    features = S.shape[2]
    gamma = _arguments.real_tensor("gamma", gamma, (features,), S)
    beta = _arguments.real_tensor("beta", beta, (features,), S)
    adjoint = _arguments.real_tensor("adjoint", adjoint, tuple(S.shape), S)
    layer = LayerNorm(gamma, beta, positive("eps", eps, "It keeps LayerNorm away from 1/0."))
    value = layer.forward(S)
    unit, tau = layer.unit[..., None, :], layer.tau[..., None, :]
    each = torch.eye(features, dtype=S.dtype, device=S.device)
    jacobian = gamma[:, None] * slope(each, unit, tau)
    return Derivatives(value, jacobian, curve((gamma * adjoint)[..., None, :], each, unit, tau))


def feed_forward_derivatives(
    Y: Float[Tensor, "n L d"],
    W_1: Float[Tensor, "d d_f"],
    b_1: Float[Tensor, " d_f"],
    W_2: Float[Tensor, "d_f q"],
    b_2: Float[Tensor, " q"],
    *,
    adjoint: Float[Tensor, "n L q"],
    activation: str = "gelu",
) -> Derivatives:
    r"""Return sigma(y W_1 + b_1) W_2 + b_2, its Jacobian in y, and the Hessian of <adjoint, .>, for each row y.

        d/dy = W_2' diag(sigma'(u)) W_1'        W_1 diag(sigma''(u) (W_2 adjoint)) W_1'

    with u = y W_1 + b_1 (docs/theory, section 5.1). For ReLU the second is zero, off the kinks.

    Args:
        Y: (n, L, d) rows.
        W_1: (d, d_f).
        b_1: (d_f,).
        W_2: (d_f, q).
        b_2: (q,).
        adjoint: (n, L, q) weights of the outputs.
        activation: "relu", "gelu" or "linear".

    Raises:
        InputError: a shape, dtype or device that does not fit, NaN, or an unknown activation.

    Cost: O(d_f d (q + d)) for each row.

    >>> one = torch.ones(1, 1)
    >>> at = feed_forward_derivatives(2 * one[None], one, -one[0], one, one[0], adjoint=one[None], activation="relu")
    >>> at.value.item(), at.jacobian.item(), at.hessian.item()
    (2.0, 1.0, 0.0)
    """
    Y = _arguments.real_tensor("Y", Y, (None, None, None))
    params = _feed_forward_parameters(Y, W_1, b_1, W_2, b_2)
    adjoint = _arguments.real_tensor("adjoint", adjoint, (*Y.shape[:2], params["W_2"].shape[1]), Y)
    sigma = pointwise(activation)
    u = Y @ params["W_1"] + params["b_1"]
    jacobian = (params["W_1"] * sigma.slope(u)[..., None, :] @ params["W_2"]).mT
    bend = sigma.curvature(u) * (adjoint @ params["W_2"].mT)
    hessian = params["W_1"] * bend[..., None, :] @ params["W_1"].mT
    return Derivatives(sigma.value(u) @ params["W_2"] + params["b_2"], jacobian, hessian)


def layer_norm(
    S: Float[Tensor, "n L m"], gamma: Float[Tensor, " m"], beta: Float[Tensor, " m"], *, loss: Loss, eps: float = 1e-5
) -> ExactHessian:
    r"""Return the exact Hessian of a loss on LayerNorm's output in gamma and beta, of every sample.

    Both enter linearly, so there is only the outer part: J_gamma = diag(x), J_beta = I (docs/theory, section 5.1).

    Raises:
        InputError: as in `layer_norm_derivatives`.

    >>> from stillscape.hessian import MSE
    >>> row = torch.tensor([[[1.0, -1.0]]])
    >>> h = layer_norm(row, torch.ones(2), torch.zeros(2), loss=MSE(torch.zeros(1, 1, 2)), eps=3.0)
    >>> h.block("gamma", "gamma")[0].tolist()  # x = (1, -1) / 2, so x^2 = 1/4, and c = 1
    [[0.25, 0.0], [0.0, 0.25]]
    """
    S = _arguments.real_tensor("S", S, (None, None, None))
    params = {"gamma": gamma, "beta": beta}
    params = {name: _arguments.real_tensor(name, value, (S.shape[2],), S) for name, value in params.items()}
    positive("eps", eps, "It keeps LayerNorm away from 1/0.")

    _arguments.loss_on(loss, len(S))

    def network(rows: slice) -> Network:
        layer = LayerNorm(params["gamma"], params["beta"], eps, ("gamma", "beta"))
        return Network(S[rows], Chain([layer]), Chain(()), loss.take(rows))

    return ExactHessian(network, {name: tuple(value.shape) for name, value in params.items()}, len(S))


def feed_forward(
    Y: Float[Tensor, "n L d"],
    W_1: Float[Tensor, "d d_f"],
    b_1: Float[Tensor, " d_f"],
    W_2: Float[Tensor, "d_f q"],
    b_2: Float[Tensor, " q"],
    *,
    loss: Loss,
    activation: str = "gelu",
) -> ExactHessian:
    r"""Return the exact Hessian of a loss on sigma(Y W_1 + b_1) W_2 + b_2 in W_1, b_1, W_2, b_2, of every sample.

    With left vectors y and h = sigma(u), H_f(W_1, W_1) = sum_i y_i y_i' (x) diag(sigma''(u) (W_2 g_i)) and
    H_f(W_1, W_2) = sum_i y_i (x) diag(sigma'(u)) (x) g_i (docs/theory, section 5.4).

    Raises:
        InputError: as in `feed_forward_derivatives`.

    >>> from stillscape.hessian import MSE
    >>> one = torch.ones(1, 1)
    >>> h = feed_forward(2 * one[None], one, one[0], one, one[0], loss=MSE(torch.zeros(1, 1, 1)), activation="linear")
    >>> h.names, h.block("W_2", "W_2").item()  # h = 2 + 1, l = F^2, so 2 h^2
    (('W_1', 'b_1', 'W_2', 'b_2'), 18.0)
    """
    Y = _arguments.real_tensor("Y", Y, (None, None, None))
    params = _feed_forward_parameters(Y, W_1, b_1, W_2, b_2)
    sigma = pointwise(activation)

    _arguments.loss_on(loss, len(Y))

    def network(rows: slice) -> Network:
        first = Linear(params["W_1"], params["b_1"], ("W_1", "b_1"))
        second = Linear(params["W_2"], params["b_2"], ("W_2", "b_2"))
        return Network(Y[rows], Chain([first, Elementwise(sigma), second]), Chain(()), loss.take(rows))

    return ExactHessian(network, {name: tuple(value.shape) for name, value in params.items()}, len(Y))


def _feed_forward_parameters(Y: Tensor, W_1: Tensor, b_1: Tensor, W_2: Tensor, b_2: Tensor) -> dict[str, Tensor]:
    W_1 = _arguments.real_tensor("W_1", W_1, (Y.shape[2], None), Y)
    W_2 = _arguments.real_tensor("W_2", W_2, (W_1.shape[1], None), Y)
    b_1 = _arguments.real_tensor("b_1", b_1, (W_1.shape[1],), Y)
    return {"W_1": W_1, "b_1": b_1, "W_2": W_2, "b_2": _arguments.real_tensor("b_2", b_2, (W_2.shape[1],), Y)}
