"""What a sample's loss would be had it not been trained on, without training again."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import softmax

from stillscape._errors import InputError
from stillscape.evidence.softmax_head import SoftmaxHead, softmax_losses


def leave_one_out_losses(head: SoftmaxHead) -> Float[np.ndarray, " k"]:
    r"""Return the approximate leave-one-out losses of a fitted softmax regression, by the Hessian's leverages.

    Their mean estimates the held-out loss at k - 1 samples from the training samples alone.

        z_i^(-i) = z_i + A_i (I - S_i A_i)^(-1) (p_i - e_{y_i}),   A_i = X_i K^(-1) X_i'

    with K the Hessian of the whole objective, X_i = I (x) x_i' and S_i = diag(p_i) - p_i p_i': one Newton step on the
    objective without sample i (Rad and Maleki 2020, eq. 6; Wang, Zhou, Lu, Maleki and Mirrokni 2018 for several
    outputs). Exact for quadratic losses.

    Args:
        head: at the optimum of its objective.

    Returns:
        l_i at w without sample i, (k,); nats.

    Raises:
        InputError: a sample is needed for the optimum to exist (leverage 1), or the Hessian is singular.

    Assumes: that the weights are the optimum, and that samples are exchangeable: copies of an image in the training
        set, or images of one patient, make it too low.

    Cost: that of `SoftmaxHead.inverse`, then k C^2 p^2 multiplications.

    Example:
        Two samples of one feature, +1 of class 0 and -1 of class 1, at the optimum W = (v, -v): without one of them
        the other has its own optimum, so its loss is higher than the one it was fitted to.

        >>> from scipy.optimize import brentq
        >>> v = brentq(lambda v: v - 2 / (1 + np.exp(2 * v)), 0, 3)   # penalty 1: v = sum of (1 - p) over two samples
        >>> head = SoftmaxHead([[1.0], [-1.0]], [0, 1], [[v], [-v]], penalty=1.0)
        >>> bool(np.all(leave_one_out_losses(head) > softmax_losses(head.features @ head.weights.T, head.labels)))
        True
    """
    logits = head.features @ head.weights.T
    leverages = np.einsum("iaeb,ib->iae", np.tensordot(head.features, head.inverse, ([1], [1])), head.features)
    return losses_without(logits, head.labels, leverages)


def losses_without(
    logits: ArrayLike, labels: ArrayLike, leverages: Float[np.ndarray, "n C C"]
) -> Float[np.ndarray, " n"]:
    r"""Return leave-one-out losses from logits and leverages, for any model whose Jacobians the leverages were made of.

        z^(-i) = z_i + A_i (I - S_i A_i)^(-1) (p_i - e_{y_i}),   A_i = J_i K^(-1) J_i'

    Args:
        logits: z_i at the optimum, (n, C).
        labels: y_i, (n,).
        leverages: A_i, J_i the Jacobian of the logits and K the Gauss-Newton matrix of the whole objective, its
            penalty included (sums over samples, not means); (n, C, C).

    Returns:
        (n,); nats.

    Raises:
        InputError: shapes that don't fit, or a leverage of 1 and more: that sample alone holds a parameter in place.

    Cost: n C^3.

    Example:
        No leverage: the sample had no part in the fit.

        >>> losses_without([[0.0, 0.0]], [1], np.zeros((1, 2, 2))).round(4).tolist()
        [0.6931]
    """
    z, y, a = np.asarray(logits, dtype=np.float64), np.asarray(labels), np.asarray(leverages, dtype=np.float64)
    if z.ndim != 2 or y.shape != z.shape[:1] or a.shape != (*z.shape, z.shape[1]):
        raise InputError(f"leverages is {a.shape} for logits {z.shape} and labels {y.shape}; it must be (n, C, C).")
    p = softmax(z, axis=1)
    bend = np.eye(z.shape[1]) * p[:, :, None] - p[:, :, None] * p[:, None, :]
    # S A has the eigenvalues of the symmetric root(S) A root(S), which lie under 1 as long as K holds S_i's part.
    remaining = np.eye(z.shape[1]) - bend @ a
    if np.linalg.eigvals(remaining).real.min() <= 1e-12:
        raise InputError("leverages reach 1; that sample alone holds a parameter in place. Raise the penalty.")
    p[np.arange(len(y)), y] -= 1.0
    moved = z + (a @ np.linalg.solve(remaining, p[:, :, None]))[:, :, 0]
    return softmax_losses(moved, y)
