"""How far the surface of k samples is from that of all, around weights that were trained on those k."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from stillscape import _checks
from stillscape._errors import InputError


@dataclass(frozen=True)
class MovingOptimum:
    """Mean square of L_m(w) - L_k(w) over w around w_k.

    Attributes:
        value: the mean square; nats squared.
        stderr: standard error of `value` from the choice of points w; 0 of a single point.
        shift: mean of L_m(w) - L_k(w), signed: what training on the k has taken off their own loss; nats.
        null: the mean square that w independent of the samples would have, s^2 (1/k - 1/m), with s^2 the variance of
            the losses that were not trained on; nats squared.
        k: samples trained on.
        num_points: points w.
    """

    value: float
    stderr: float
    shift: float
    null: float
    k: int
    num_points: int


def moving_optimum(losses: Float[np.ndarray, "points m"], k: int) -> MovingOptimum:
    r"""Return the mean square of L_m(w) - L_k(w) around weights w_k that were trained on the first k of m samples.

        D(k) = mean_t [L_m(w_t) - L_k(w_t)]^2,   w_t = w_k + s xi_t,  xi_t ~ N(0, I)

    At a fixed w it would be s^2 (1/k - 1/m) in the mean (sampling without replacement), a slope of -1 for any model:
    that is `null`. Training moves w_k towards the minimum of L_k, and adds the square of the shift

        L_m(w_k) - L_k(w_k) = (1 - k/m) (optimism)  ~  (1 - k/m) tr(H^(-1) G) / k

    that is, k^(-2): D(k) falls with a slope of -2 as long as optimism outweighs the scatter of the samples, and turns
    to the null's -1 beyond. (docs/method.md; the definition after Project-183, `lineage`.)

    Args:
        losses: of all m samples, those trained on first, at each point w_t; (T, m); nats.
        k: how many were trained on; at least 1 and at most m - 2.

    Returns:
        the mean square with its null.

    Raises:
        InputError: shapes or sizes that don't fit, losses that are not finite.

    Cost: O(T m).

    >>> found = moving_optimum(np.array([[0.0, 0.0, 1.0, 3.0]]), 2)
    >>> found.value, found.shift, found.null
    (1.0, 1.0, 0.5)
    """
    table = np.asarray(losses, dtype=np.float64)
    if table.ndim != 2 or not len(table) or not np.isfinite(table).all():
        raise InputError(f"losses has shape {table.shape}; it must be (points, m), all finite.")
    m = table.shape[1]
    if _checks.at_least("k", k, 1) > m - 2:
        raise InputError(f"k is {k} of {m} samples; at least 2 must be left that were not trained on.")
    shifts = table.mean(axis=1) - table[:, :k].mean(axis=1)
    squares, points = shifts**2, len(table)
    stderr = float(squares.std(ddof=1) / np.sqrt(points)) if points > 1 else 0.0
    null = float(table[:, k:].var(axis=1, ddof=1).mean() * (1 / k - 1 / m))
    return MovingOptimum(float(squares.mean()), stderr, float(shifts.mean()), null, int(k), points)
