"""A fitted linear head as an object of study: its exact Hessian, gradients, and the inverse of what it minimized."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import log_softmax, softmax

from stillscape import _checks
from stillscape._errors import InputError


@dataclass(frozen=True)
class SoftmaxHead:
    r"""Softmax regression at the optimum of its penalized objective.

        minimize  sum_i CE(W x_i, y_i)  +  penalty/2 ||W||^2

    Attributes:
        features: x_i of the k training samples, (k, p); with a column of ones where the head has a bias.
        labels: y_i, (k,), from 0 to C - 1.
        weights: W, (C, p); parameters are counted row by row, P = C p.
        penalty: not per sample; 0 for none, if the objective still has one finite optimum.

    Raises:
        InputError: shapes that don't fit, numbers that are not finite, labels without a row of weights.
    """

    features: Float[np.ndarray, "k p"]
    labels: Int[np.ndarray, " k"]
    weights: Float[np.ndarray, "C p"]
    penalty: float

    def __post_init__(self) -> None:
        """Check once, so that whatever is asked of the head need not."""
        _checks.not_negative("penalty", self.penalty)
        object.__setattr__(self, "weights", _matrix("weights", self.weights))
        x, y = check_samples(self.features, self.labels, self.weights)
        object.__setattr__(self, "features", x)
        object.__setattr__(self, "labels", y)

    @property
    def k(self) -> int:
        """Number of training samples."""
        return len(self.features)

    @cached_property
    def inverse(self) -> Float[np.ndarray, "C p C p"]:
        """The inverse of the objective's Hessian, sum_i H_i + penalty I.

        Raises:
            InputError: it is singular in floating point; such an optimum is no single point.

        Cost: about C^2 p^2 k / 2 + (C p)^3 multiplications, once.
        """
        total = self.k * softmax_hessian(self.features, self.weights)
        total[np.diag_indices_from(total)] += self.penalty
        factor, failed = scipy.linalg.lapack.dpotrf(total, lower=True, overwrite_a=True)
        if not failed:
            factor, failed = scipy.linalg.lapack.dpotri(factor, lower=True, overwrite_c=True)
        if failed or not np.isfinite(factor).all():
            raise InputError(f"penalty is {self.penalty!r}; with it the objective's Hessian is singular. Raise it.")
        lower = np.tril(factor)
        return (lower + np.tril(factor, -1).T).reshape(*self.weights.shape, *self.weights.shape)


def softmax_hessian(features: ArrayLike, weights: ArrayLike) -> Float[np.ndarray, "P P"]:
    r"""Return the mean Hessian of cross-entropy in the weights of a linear head; it equals its Gauss-Newton matrix.

        H = mean_i (diag(p_i) - p_i p_i') (x) x_i x_i',   p_i = softmax(W x_i)             (docs/theory, section 5.7)

    Args:
        features: x_i, (n, p).
        weights: W, (C, p).

    Returns:
        (C p, C p), nats per squared unit of the weights; symmetric and positive semidefinite.

    Raises:
        InputError: shapes that don't fit, or numbers that are not finite.

    Cost: C^2 n p^2 / 2 multiplications.

    Example:
        Two classes at p = (1/2, 1/2), one feature 2: H = 4 [[1/4, -1/4], [-1/4, 1/4]].

        >>> softmax_hessian([[2.0]], [[0.0], [0.0]]).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    x, w = _fitting(features, weights)
    p = softmax(x @ w.T, axis=1)
    classes, width = w.shape
    result = np.empty((classes, width, classes, width))
    for a in range(classes):
        for b in range(a, classes):
            factor = p[:, a] * ((a == b) - p[:, b]) / len(x)
            result[a, :, b] = (x * factor[:, None]).T @ x
            result[b, :, a] = result[a, :, b].T
    return result.reshape(w.size, w.size)


def softmax_gradients(features: ArrayLike, labels: ArrayLike, weights: ArrayLike) -> Float[np.ndarray, "n P"]:
    r"""Return each sample's gradient of cross-entropy in the weights of a linear head.

        g_i = (p_i - e_{y_i}) (x) x_i

    Args:
        features: x_i, (n, p).
        labels: y_i, (n,).
        weights: W, (C, p).

    Returns:
        (n, C p), nats per unit of the weights, in the order of `weights` row by row.

    Raises:
        InputError: shapes that don't fit, numbers that are not finite, or a label without a row of weights.

    Cost: n C p multiplications.

    >>> softmax_gradients([[2.0]], [0], [[0.0], [0.0]]).tolist()
    [[-1.0, 1.0]]
    """
    w = _matrix("weights", weights)
    x, y = check_samples(features, labels, w)
    residual = softmax(x @ w.T, axis=1)
    residual[np.arange(len(y)), y] -= 1.0
    return (residual[:, :, None] * x[:, None, :]).reshape(len(x), -1)


def softmax_losses(logits: Float[np.ndarray, "... C"], labels: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return cross-entropies in nats.

    >>> softmax_losses(np.zeros((1, 4)), np.array([3])).round(4).tolist()
    [1.3863]
    """
    return -np.take_along_axis(log_softmax(logits, axis=-1), labels[..., None], axis=-1)[..., 0]


def check_samples(features: ArrayLike, labels: ArrayLike, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features as float64 and labels as integers if they fit the weights, else raise `InputError`."""
    x, _ = _fitting(features, weights)
    y = np.asarray(labels)
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise InputError(f"labels is {y.dtype} of shape {y.shape}; it must be {len(x)} class numbers.")
    if y.min() < 0 or y.max() >= len(weights):
        raise InputError(f"labels run from {y.min()} to {y.max()}; weights has rows for 0 to {len(weights) - 1}.")
    return x, y.astype(np.int64)


def _fitting(features: ArrayLike, weights: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, w = _matrix("features", features), _matrix("weights", weights)
    if x.shape[1] != w.shape[1]:
        raise InputError(f"features has {x.shape[1]} columns and weights {w.shape[1]}; they must have as many.")
    return x, w


def _matrix(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise InputError(f"{name} has shape {array.shape}; it must be a matrix of finite numbers.")
    return array
