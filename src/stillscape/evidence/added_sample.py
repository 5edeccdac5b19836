"""What one more sample would bring, averaged over held-out ones, and what that says of the next doubling."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import softmax

from stillscape._errors import InputError
from stillscape.evidence.softmax_head import SoftmaxHead, check_samples, softmax_losses

_STEPS, _HALVINGS, _TOLERANCE = 50, 12, 1e-10
#: (1 - 2^-a) / a for a power law of exponent a, at a = 1, 1/2 and towards 0.
STEEPEST, MIDDLE, SHALLOWEST = 0.5, 2.0 - 2.0**0.5, math.log(2.0)


@dataclass(frozen=True)
class AddedSample:
    """How the expected held-out loss falls in the number of samples, at one fitted head.

    Attributes:
        slope: -k dL/dk, what the loss falls by as the logarithm of k grows by one; nats.
        stderr: standard error of `slope` from the choice of held-out samples (jackknife); the training samples are
            taken as given.
        k: number of training samples.
        num_samples: held-out ones.
    """

    slope: float
    stderr: float
    k: int
    num_samples: int

    @property
    def gain(self) -> float:
        """What the next doubling would bring if the loss fell on like k^(-1/2); nats."""
        return MIDDLE * self.slope

    @property
    def low(self) -> float:
        """The same for k^(-1), the law of Takeuchi's criterion."""
        return STEEPEST * self.slope

    @property
    def high(self) -> float:
        """The same for a loss that falls on by as much at every doubling."""
        return SHALLOWEST * self.slope


def added_sample(head: SoftmaxHead, features: ArrayLike, labels: ArrayLike) -> AddedSample:
    r"""Return the slope of the expected held-out loss in log k, from what each held-out sample would do to the others.

    Sample i, had it been trained on as well, would move the logits of another sample j to

        z_j - X_j K^(-1) X_i' r_i,   r_i = softmax(z_i - A_i r_i) - e_{y_i},   A_i = X_i K^(-1) X_i'

    with K the Hessian of the objective that was minimized: the leave-one-out relation (as in `leave_one_out_losses`)
    read the other way, with the residual r_i solved for instead of expanded, so that a confident error moves the
    weights by no more than it can. Averaged over all ordered pairs i != j of held-out samples,

        slope = -k mean_{i != j} [l_j(z_j - X_j K^(-1) X_i' r_i) - l_j(z_j)]

    Where losses are quadratic around the optimum, k is large and the penalty small, slope / 2 is Takeuchi's
    tr(H^(-1) G) / (4 k) (`takeuchi`); unlike it this counts what the penalty holds back, needs no expansion in 1/k,
    and holds where the number of parameters exceeds that of samples.

    Args:
        head: at the optimum of its objective.
        features: held-out x_i, (n, p), n >= 3, independent of the training samples.
        labels: their classes, (n,).

    Returns:
        the slope with its standard error. Over a doubling it gives between slope / 2 (a loss that falls like 1/k) and
        slope log 2 (one that falls by as much at each doubling): `low`, `gain`, `high`.

    Raises:
        InputError: shapes that don't fit, fewer than three samples, or a singular Hessian.

    Assumes: that the penalty is not tuned anew when data are added, and that one sample moves the weights so little
        that K stays what it is.

    Cost: that of `SoftmaxHead.inverse`, then n C^2 p^2 + n^2 C p multiplications; memory n C^2 p numbers.

    Example:
        A penalty M so strong that W = 0: a held-out sample of class 0 and feature 1 has r = (-1/2, 1/2), moves the
        logits of another one by (1/2, -1/2) / M, and its loss by -1 / (2 M).

        >>> head = SoftmaxHead([[1.0]], [0], [[0.0], [0.0]], penalty=1e6)
        >>> round(1e6 * added_sample(head, [[1.0], [1.0], [1.0]], [0, 0, 0]).slope, 5)
        0.5
    """
    x, y = check_samples(features, labels, head.weights)
    n = len(x)
    if n < 3:
        raise InputError(f"features holds {n} samples; three are the least of which a spread can be told.")
    logits = x @ head.weights.T
    reach = np.tensordot(x, head.inverse, ([1], [1]))  # (n, C, C, p): X_i K^-1
    own = np.einsum("iceb,ib->ice", reach, x)
    residuals = solved_residuals(logits, y, own)
    steps = np.einsum("iceb,ic->ieb", reach, residuals)  # K^-1 X_i' r_i, K being symmetric
    before, change = softmax_losses(logits, y), np.empty((n, n))
    for i in range(n):
        change[i] = softmax_losses(logits - x @ steps[i].T, y) - before
    np.fill_diagonal(change, 0.0)
    total, touching = change.sum(), change.sum(axis=0) + change.sum(axis=1)
    without = (total - touching) / ((n - 1) * (n - 2))
    stderr = np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
    return AddedSample(float(-head.k * total / (n * (n - 1))), float(head.k * stderr), head.k, n)


def solved_residuals(
    logits: Float[np.ndarray, "n C"], labels: np.ndarray, leverages: Float[np.ndarray, "n C C"]
) -> Float[np.ndarray, "n C"]:
    r"""Return r with r = softmax(z - A r) - e_y for each sample, by Newton steps that are halved until they help.

    Args:
        logits: z, (n, C).
        labels: y, (n,).
        leverages: A, symmetric and positive semidefinite, (n, C, C).

    Returns:
        r, (n, C); each row sums to 0.

    Raises:
        InputError: no solution was found to 1e-8, as for leverages that are not positive semidefinite.

    Cost: about ten times n C^3.

    >>> solved_residuals(np.zeros((1, 2)), np.array([0]), np.zeros((1, 2, 2))).tolist()
    [[-0.5, 0.5]]
    """
    eye = np.eye(logits.shape[1])
    target = eye[labels]

    def at(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = softmax(logits - np.einsum("icd,id->ic", leverages, r), axis=1)
        return p, r - p + target

    r = softmax(logits, axis=1) - target
    p, off = at(r)
    for _ in range(_STEPS):
        if np.abs(off).max() <= _TOLERANCE:
            break
        bend = eye * p[:, :, None] - p[:, :, None] * p[:, None, :]
        step = np.linalg.solve(eye + bend @ leverages, off[:, :, None])[:, :, 0]
        share, size = np.ones((len(r), 1)), np.square(off).sum(1, keepdims=True)
        for _ in range(_HALVINGS):
            p, new = at(r - share * step)
            worse = np.square(new).sum(1, keepdims=True) > (1 - 0.1 * share) * size + 1e-24
            if not worse.any():
                break
            share = np.where(worse, share / 2, share)
        r, off = r - share * step, new
    if not np.abs(off).max() <= 1e-8:
        raise InputError("leverages lead to no solution; they must be symmetric and positive semidefinite.")
    return r
