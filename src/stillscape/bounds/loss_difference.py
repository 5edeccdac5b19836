"""Theorem 3, printed and mended: how far one more sample can move the mean loss, and the size that follows from it."""

import numpy as np
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError

KINDS = ("printed", "rigorous")
_LARGEST_RATIO = 1e300  # beyond it a size no longer fits into a float


def loss_difference(
    k: ArrayLike,
    *,
    loss_bound: float,
    hessian_bound: float,
    radius: float,
    gradient_bound: float = 0.0,
    kind: str = "printed",
) -> float | np.ndarray:
    r"""Bound |L_{k+1}(w) - L_k(w)| for every w within `radius` of w*, L_k the mean loss of the first k samples.

        printed:   (2 l_max + M r^2) / (k + 1)
        rigorous:  (l_max + Delta_g r + M r^2) / (k + 1)                                        (Theorem 3')

    The printed form asks that w* minimizes both L_k and L_{k+1}, so it knows no gradient term: `gradient_bound` does
    not enter it, and it is a theorem only where that premise holds and each loss is exactly quadratic.
    The rigorous form has no such premise, and holds if the constants are true bounds on the whole ball.

    Args:
        k: size, or array of sizes, each a whole number of at least 1.
        loss_bound: l_max, with 0 <= l_i(w*) <= l_max for every sample; nats.
        hessian_bound: M, with ||H_i|| <= M for every sample (rigorous: on the whole ball).
        radius: r, the largest ||w - w*||.
        gradient_bound: Delta_g, with ||grad l_{k+1}(w*) - grad L_k(w*)|| <= Delta_g: a new gradient against the mean
            of those before it. Twice the largest distance from the mean of all is one; that distance itself is not.
        kind: "printed" or "rigorous".

    Returns:
        the bound in nats; a float for one size, an array for an array of sizes.

    Raises:
        InputError: a constant is negative or not finite, `k` is no whole number of at least 1, or `kind` is unknown.

    Assumes: that the constants are bounds. Measured maxima are plug-in values and certify nothing.

    Cost: O(1) for each size.

    >>> loss_difference(9, loss_bound=2.0, hessian_bound=3.0, radius=1.0, kind="printed")
    0.7
    >>> loss_difference(9, loss_bound=2.0, hessian_bound=3.0, radius=1.0, gradient_bound=0.5, kind="rigorous")
    0.55
    """
    scale = _scale(loss_bound, hessian_bound, radius, gradient_bound, kind)
    if isinstance(k, int | np.integer):
        # In whole numbers k + 1 is exact beyond 2^53 too, where `sufficient_size` may end up.
        return scale / (_checks.at_least("k", int(k), 1) + 1)
    sizes = np.asarray(k)
    whole = np.issubdtype(sizes.dtype, np.number) and bool(np.all(sizes == np.floor(sizes)))
    if not whole or np.any(sizes < 1):
        raise InputError(f"k is {k!r}; every size must be a whole number of at least 1.")
    bound = scale / (sizes.astype(np.float64) + 1.0)
    return float(bound) if sizes.ndim == 0 else bound


def sufficient_size(
    epsilon: float,
    *,
    loss_bound: float,
    hessian_bound: float,
    radius: float,
    gradient_bound: float = 0.0,
    kind: str = "printed",
) -> int:
    r"""Return the smallest size from which on the bound of `loss_difference` stays at or below `epsilon`.

        k* = max(1, ceil(C / epsilon) - 1),    C = 2 l_max + M r^2  or  l_max + Delta_g r + M r^2   (Theorem 3')

    The closed form can be one off in floating point; the answer here is exactly the smallest whole k >= 1 at which
    `loss_difference(k) <= epsilon` as computed.

    Args:
        epsilon: tolerance, above zero; nats.
        loss_bound: as in `loss_difference`.
        hessian_bound: as in `loss_difference`.
        radius: as in `loss_difference`.
        gradient_bound: as in `loss_difference`.
        kind: "printed" or "rigorous".

    Returns:
        k*, a number of samples; it says nothing about whether so many exist.

    Raises:
        InputError: `epsilon` is not above zero, or so small that the size does not fit into a float; and as in
            `loss_difference`.

    Cost: about 2 log2(k*) evaluations.

    >>> sufficient_size(0.1, loss_bound=2.0, hessian_bound=3.0, radius=1.0, kind="printed")
    69
    """
    _checks.positive("epsilon", epsilon, "It is the tolerance in nats.")
    scale = _scale(loss_bound, hessian_bound, radius, gradient_bound, kind)
    if scale / _LARGEST_RATIO > epsilon:
        raise InputError(
            f"epsilon is {epsilon!r}; against a bound of {scale:.3g}/(k+1) no representable size reaches it."
        )
    above, enough = 0, 1
    while scale / (enough + 1) > epsilon:
        above, enough = enough, 2 * enough
    # Division is monotone in floating point, so bisection on the computed bound finds the exact turning point.
    while enough - above > 1:
        middle = (above + enough) // 2
        if scale / (middle + 1) > epsilon:
            above = middle
        else:
            enough = middle
    return enough


def _scale(loss_bound: float, hessian_bound: float, radius: float, gradient_bound: float, kind: str) -> float:
    _checks.one_of("kind", kind, KINDS)
    _checks.not_negative("loss_bound", loss_bound)
    _checks.not_negative("hessian_bound", hessian_bound)
    _checks.not_negative("radius", radius, "It is the distance from w* in parameter space.")
    _checks.not_negative("gradient_bound", gradient_bound)
    curved = float(hessian_bound) * float(radius) * float(radius)
    if kind == "printed":
        scale = 2.0 * float(loss_bound) + curved
    else:
        scale = float(loss_bound) + float(gradient_bound) * float(radius) + curved
    if not np.isfinite(scale):
        raise InputError(f"hessian_bound is {hessian_bound!r} and radius is {radius!r}; the bound is beyond any float.")
    return scale
