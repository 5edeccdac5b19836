"""What a bound has to know about the loss: norms of its gradient and Hessian at the output, measured or a priori."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._errors import InputError
from stillscape.bounds import constants
from stillscape.bounds._attention_norms import row_norm, spectral
from stillscape.hessian import _arguments
from stillscape.hessian.losses import MSE, CrossEntropy, Expansion, Loss

Norms = Float[Tensor, " n"]


@dataclass(frozen=True)
class LossNorms:
    """Bounds on ||B||, ||G||_F and max_i |g_i|, each for every sample."""

    hessian: Norms
    gradient: Norms
    gradient_row: Norms


def in_float64(loss: Loss, output: Float[Tensor, "n L m"]) -> Loss:
    """Return the loss in float64 if it is one of ours, after checking that it fits an output of this dtype.

    A bound that is computed in float32 could fall below what it bounds.
    """
    if isinstance(loss, MSE):
        return MSE(_arguments.real_tensor("target", loss.target, tuple(output.shape), output).double())
    if isinstance(loss, CrossEntropy):
        W_h = _arguments.real_tensor("W_h", loss.W_h, (output.shape[-1], None), output)
        _arguments.class_labels(loss.labels, tuple(output.shape[: loss.labels.ndim]), W_h.shape[1])
        return CrossEntropy(loss.labels, W_h.double(), loss.b_h.double(), loss.pool)
    if not callable(getattr(loss, "expand", None)):
        raise InputError(
            f"loss is a {type(loss).__name__}; it must be MSE, CrossEntropy or OutputLoss of stillscape.hessian."
        )
    return loss


def expand(loss: Loss, output: Float[Tensor, "n L m"], dtype: torch.dtype) -> Expansion:
    """Return the expansion at a float64 output, in float64; a loss of other make is asked in its own dtype."""
    if isinstance(loss, MSE | CrossEntropy):
        return loss.expand(output)
    at = loss.expand(output.to(dtype))
    value, diagonal, factor, dense = (
        part if part is None else part.double() for part in (at.value, at.diagonal, at.factor, at.dense)
    )
    return Expansion(value, at.gradient.double(), diagonal, factor, dense)


def measured(at: Expansion) -> LossNorms:
    """Return the norms at the output itself."""
    return LossNorms(at.spectral_norm(), torch.linalg.vector_norm(at.gradient, dim=(-2, -1)), row_norm(at.gradient))


def mean_square(tokens: int, features: int, error: Norms, error_row: Norms) -> LossNorms:
    """Return the norms of the mean squared error: ||F - Y||_F <= error, its longest row <= error_row."""
    scale = 2.0 / (tokens * features)
    return LossNorms(torch.full_like(error, scale), scale * error, scale * error_row)


def cross_entropy(loss: CrossEntropy, like: Float[Tensor, "n L d"]) -> LossNorms:
    r"""Return the norms of a cross-entropy at any output: ||diag(p) - pp'|| <= 1/2 and |p - y| <= sqrt 2.

    G = s (W_h (p - y))' and B = ss' (x) W_h Sigma_p W_h'; "token": one such term for each token, divided by L
    (docs/theory, sections 0 and 4).
    """
    n, tokens = like.shape[:2]
    head, s = spectral(loss.W_h), loss.pooling(tokens)
    residual = constants.PROBABILITY_RESIDUAL * head
    if loss.pool == "token":
        hessian, gradient = constants.SOFTMAX_JACOBIAN * head**2 / tokens, residual / math.sqrt(tokens)
    else:
        hessian = constants.SOFTMAX_JACOBIAN * head**2 * s.square().sum()
        gradient = residual * torch.linalg.vector_norm(s)
    return LossNorms(hessian.expand(n), gradient.expand(n), (residual * s.max()).expand(n))


def is_pooled(loss: Loss) -> bool:
    """Say whether the loss reads one vector s'F of all tokens, with weights s >= 0 of sum 1."""
    return isinstance(loss, CrossEntropy) and loss.pool != "token"
