"""Theorem 1, printed and mended: how large the Hessian of one sample can be in the weights of an attention layer."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape import _checks
from stillscape._errors import InputError
from stillscape.bounds import _attention_losses, constants
from stillscape.bounds import _attention_norms as norms
from stillscape.bounds._attention_losses import LossNorms
from stillscape.bounds._attention_norms import Layer
from stillscape.hessian import _arguments
from stillscape.hessian.losses import MSE, CrossEntropy, Loss

KINDS = ("printed", "a_priori", "data", "token")
_CHUNK = 2**24  # numbers held at once for all tokens of a slice of samples: 128 MiB for each of a few such tensors


def self_attention(
    X: Float[Tensor, "n L d"],
    W_Q: Float[Tensor, "d d_K"],
    W_K: Float[Tensor, "d d_K"],
    W_V: Float[Tensor, "d d_V"],
    *,
    loss: Loss,
    kind: str = "data",
    radius: float = 0.0,
) -> Float[Tensor, " n"]:
    r"""Return a bound on the spectral norm of each sample's Hessian in (W_Q, W_K, W_V) of a softmax attention layer.

    The Hessian's norm is at most that of the 3 x 3 matrix N of bounds on its blocks:

        ||H|| <= ||N||,    N_ab = beta j_a j_b + f_ab,    j_a >= ||J_a||,  f_ab >= ||H_f(a, b)||,  beta = ||B||

    The kinds differ in what they look at; each of the last three is a theorem (docs/theory, section 4).

        "printed"   Theorem 1 of the drafts, with X_max = ||X||, W_max the largest of the weights' norms,
                    R_max = ||F - Y||_F, S_max = sqrt(d_V). False: `counterexamples.printed_theorem_1`.
        "a_priori"  Theorem 1': norms of X, of the weights and of the residual alone. For a cross-entropy even the
                    residual is bounded beforehand. The only kind for a whole ball, ||w - w*|| <= radius.
        "data"      Theorem 1'': measured attention; no d x d moment of any token.
        "token"     Theorem 1''': every token with its own moments; the tightest.

    Args:
        X: tokens of each sample.
        W_Q: query weights.
        W_K: key weights.
        W_V: value weights.
        loss: MSE, CrossEntropy or OutputLoss of `stillscape.hessian`. "printed" takes MSE only.
        kind: one of the four above.
        radius: bound the Hessian at every w within this distance of the given weights; above zero only for
            "a_priori", and there with MSE or CrossEntropy.

    Returns:
        the bound of each sample, in the dtype of `X`. It is computed in float64 with an allowance of 1e-12 for its
        own rounding and is rounded upward, so a float32 bound is no lower than what it bounds. Not covered is what the
        loss itself loses: p - y of a cross-entropy has a relative rounding of 1e-16/|p - y|, the exact Hessian's too.

    Raises:
        InputError: an argument does not fit the others; "printed" with a loss that is not MSE, for which the theorem
            is stated; a `radius` where the kind or the loss knows nothing beyond the given weights.

    Cost: for each sample O(L^2 (d + d_V)) for "printed" and O(L d^2) for "a_priori", O(L^2 d + L d^2) for "data",
        O(L^2 d^2 + L d^3) for "token"; samples go in slices, so that no tensor has
        much more than 10^7 entries.

    >>> from stillscape.hessian.losses import MSE
    >>> X, none, target = torch.tensor([[[3.0, 4.0]]]), torch.zeros(2, 1), torch.zeros(1, 1, 1)
    >>> bound = self_attention(X, none, none, none, loss=MSE(target))  # one token: F = x'W_V, H = 2 |x|^2
    >>> round(bound.item(), 3)
    50.0
    """
    _checks.one_of("kind", kind, KINDS)
    _checks.not_negative("radius", radius, "It is the distance from the given weights in parameter space.")
    X = _arguments.real_tensor("X", X, (None, None, None))
    W_Q = _arguments.real_tensor("W_Q", W_Q, (X.shape[-1], None), X)
    W_K = _arguments.real_tensor("W_K", W_K, tuple(W_Q.shape), X)
    W_V = _arguments.real_tensor("W_V", W_V, (X.shape[-1], None), X)
    exact = _attention_losses.in_float64(loss, X.new_empty(*X.shape[:2], W_V.shape[-1]))
    layer = Layer(X.double(), W_Q.double(), W_K.double(), W_V.double())
    if radius > 0:
        _ball_is_possible(radius, kind, loss)
    if kind == "printed":
        return norms.rounded_up(_printed(layer, exact), X.dtype)
    tokens, features = X.shape[1:]
    each = {"a_priori": tokens, "data": 4 * tokens**2, "token": tokens * features * (tokens + 3 * features)}[kind]
    step, found = max(1, _CHUNK // each), []
    for start in range(0, len(X), step):
        rows = slice(start, start + step)
        part = Layer(layer.X[rows], layer.W_Q, layer.W_K, layer.W_V)
        found.append(norms.block_matrix_norm(pair_norms(part, exact.take(rows), kind, radius, X.dtype)))
    return norms.rounded_up(torch.cat(found), X.dtype)


def pair_norms(
    layer: Layer, loss: Loss, kind: str, radius: float = 0.0, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "n 3 3"]:
    """Return N, the bounds on the blocks of the Hessian in the order Q, K, V, of a layer and a loss in float64."""
    if kind == "a_priori":
        return _a_priori(layer, loss, radius, dtype)
    A, M, F = layer.attend()
    at = _attention_losses.expand(loss, F, dtype)
    if kind == "data":
        pieces = norms.data(layer, A, M, at.gradient)
    else:
        moments = norms.Moments.at(layer, A, M, at.gradient)
        pieces = norms.token(layer, M, at.gradient, moments)
    if at.factor is not None and at.diagonal is None and at.dense is None:
        if kind == "token":
            return norms.outer(norms.factor_norms(layer, M, moments.C, at.factor)) + pieces.functional
        if isinstance(loss, CrossEntropy):
            s = loss.pooling(layer.X.shape[-2])
            pooled_hessian = at.spectral_norm() / s.square().sum()  # B = ss' (x) C and ||C|| = ||B|| / |s|^2
            return pooled_hessian[:, None, None] * norms.outer(norms.pooled_data(layer, A, M, s)) + pieces.functional
    return at.spectral_norm()[:, None, None] * norms.outer(pieces.jacobian) + pieces.functional


def _printed(layer: Layer, loss: Loss) -> Float[Tensor, " n"]:
    """Return M of Theorem 1 as printed: the largest of four expressions, one for each kind of block."""
    if not isinstance(loss, MSE):
        raise InputError(
            f'kind is "printed" and loss a {type(loss).__name__}; Theorem 1 is stated for the mean squared error. '
            'Take MSE, or kind "a_priori", "data" or "token".'
        )
    F = layer.attend()[2]
    (tokens, features), d_K = F.shape[-2:], layer.W_Q.shape[-1]
    scale = 2.0 / (tokens * features)
    X_max, W_max = norms.spectral(layer.X), torch.stack(torch.broadcast_tensors(*layer.weight_norms)).amax(0)
    R_max, S_max = torch.linalg.vector_norm(F - loss.target, dim=(-2, -1)), math.sqrt(features)
    outer_square = scale / d_K * W_max**4 * X_max**6
    curved = scale / d_K * R_max * W_max**3 * X_max**5
    bilinear = scale / math.sqrt(d_K) * R_max * S_max * X_max**3 * W_max
    blocks = (
        scale * X_max**2,
        outer_square + curved,
        scale / math.sqrt(d_K) * X_max**4 * W_max**2 + bilinear,
        outer_square + curved + bilinear,
    )
    return torch.stack(blocks).amax(0)


def _ball_is_possible(radius: float, kind: str, loss: Loss) -> None:
    if kind != "a_priori":
        raise InputError(
            f'radius is {radius!r} with kind "{kind}", which measures at the given weights alone; '
            'only "a_priori" bounds a whole ball. Take it, or radius=0.'
        )
    if not isinstance(loss, MSE | CrossEntropy):
        raise InputError(
            f"radius is {radius!r} with a {type(loss).__name__}; its gradient and Hessian are known at one output, "
            "so nothing bounds them on a ball. Take MSE or CrossEntropy, or radius=0."
        )


def _a_priori(layer: Layer, loss: Loss, radius: float, dtype: torch.dtype) -> Float[Tensor, "n 3 3"]:
    """Return N of Theorem 1', with one omega for the three weights as the theorem has it."""
    omega = torch.stack(torch.broadcast_tensors(*layer.weight_norms)).amax(0) + radius
    if isinstance(loss, MSE):
        of_loss = _mean_square_on_ball(layer, loss, omega, radius)
    elif isinstance(loss, CrossEntropy):
        of_loss = _attention_losses.cross_entropy(loss, layer.X)
    else:
        of_loss = _attention_losses.measured(_attention_losses.expand(loss, layer.attend()[2], dtype))
    pieces = norms.a_priori(layer, (omega, omega, omega), of_loss.gradient, of_loss.gradient_row)
    if not _attention_losses.is_pooled(loss):
        return of_loss.hessian[:, None, None] * norms.outer(pieces.jacobian) + pieces.functional
    s = loss.pooling(layer.X.shape[-2])  # type: ignore[attr-defined]
    pooled = norms.pooled_a_priori(layer, (omega, omega, omega), s)
    return (of_loss.hessian / s.square().sum())[:, None, None] * norms.outer(pooled) + pieces.functional


def _mean_square_on_ball(layer: Layer, loss: MSE, omega: Tensor, radius: float) -> LossNorms:
    r"""Return norms of the mean squared error that hold at every w with ||w - w*|| <= radius.

    The residual is at most ||F||_F + ||Y||_F, and ||F||_F <= sqrt(L) x_inf omega, for rows of A are convex weights
    (docs/theory, section 4). It is also at most what it was, plus radius times the Jacobian's norm on the ball; so the
    bound runs into the one at w* as the radius goes to 0. The same two hold for each row.
    """
    F = layer.attend()[2]
    (tokens, features), error = F.shape[-2:], F - loss.target
    whole, row = torch.linalg.vector_norm(error, dim=(-2, -1)), norms.row_norm(error)
    if radius > 0:
        x, x_inf = norms.spectral(layer.X), norms.row_norm(layer.X)
        turn = math.sqrt(2.0) * constants.SOFTMAX_JACOBIAN * layer.r * (omega * x) ** 2  # W_Q and W_K together
        target, target_row = torch.linalg.vector_norm(loss.target, dim=(-2, -1)), norms.row_norm(loss.target)
        whole = torch.minimum(
            math.sqrt(tokens) * x_inf * omega + target,
            whole + radius * torch.sqrt(tokens * x_inf**2 + (turn * x) ** 2),
        )
        row = torch.minimum(x_inf * omega + target_row, row + radius * x_inf * torch.sqrt(1.0 + turn**2))
    return _attention_losses.mean_square(tokens, features, whole, row)
