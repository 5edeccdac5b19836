"""The mean square of L_{k+1} - L_k, which needs no bound: exact at a fixed w, and over Gaussian steps from w*."""

import numpy as np
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError
from stillscape.bounds.finite_sample import check_matched, check_sizes, plain, smallest_size

_LARGEST_SIZE = 10**150  # its square still fits into a float


def mean_square_difference(k: ArrayLike, variance: float) -> float | np.ndarray:
    r"""Return E (L_{k+1}(w) - L_k(w))^2 at a fixed w, the mean over random samples.

        E (L_{k+1} - L_k)^2 = sigma^2 / (k (k+1))                            (exact; docs/theory, section 6)

    It holds for i.i.d. samples with sigma^2 = Var l(w), and as exactly over all orders of m given losses, where
    sigma^2 is their variance with divisor m - 1. So the root falls like 1/k for any model, trained or not.

    Args:
        k: size, or array of sizes, each a whole number of at least 1.
        variance: sigma^2; nats squared.

    Returns:
        the mean square in nats squared; a float for one size, an array for an array of sizes.

    Raises:
        InputError: `variance` is negative or not finite, or `k` is no whole number of at least 1.

    Assumes: that w does not depend on the order of the samples.

    Cost: O(1) for each size.

    >>> mean_square_difference(4, 5.0)
    0.25
    """
    _checks.not_negative("variance", variance)
    sizes = check_sizes(k)
    return plain(float(variance) / sizes / (sizes + 1.0))


def root_mean_square_size(epsilon: float, variance: float) -> int:
    r"""Return the smallest k from which on the root of `mean_square_difference` stays at or below `epsilon`.

        k* = ceil(sqrt(sigma^2 / epsilon^2 + 1/4) - 1/2),  close to sigma / epsilon         (docs/theory, section 6)

    The closed form can be one off in floating point; the answer here is exactly the smallest k >= 1 with
    `sqrt(mean_square_difference(k, variance)) <= epsilon` as computed. It says that neighbors are close, not that k
    samples suffice: the differences still to come can add up.

    Args:
        epsilon: tolerance, above zero; nats.
        variance: as in `mean_square_difference`.

    Returns:
        k*, a number of samples; it says nothing about whether so many exist.

    Raises:
        InputError: `epsilon` is not above zero or no representable size reaches it; `variance` is negative.

    Cost: about 2 log2(k*) evaluations.

    >>> root_mean_square_size(0.5, 5.0)
    4
    """
    _checks.positive("epsilon", epsilon, "It is the tolerance in nats.")
    _checks.not_negative("variance", variance)
    size = smallest_size(lambda k: bool(np.sqrt(mean_square_difference(k, variance)) <= epsilon), _LARGEST_SIZE)
    if size is None:
        raise InputError(f"epsilon is {epsilon!r}; against a variance of {variance:.3g} no representable size does.")
    return size


def gaussian_mean_square(
    k: ArrayLike,
    *,
    loss_gap: ArrayLike,
    gradient_gap: ArrayLike,
    hessian_gap_trace: ArrayLike,
    hessian_gap_frobenius: ArrayLike,
    spread: float,
) -> float | np.ndarray:
    r"""Return the mean over steps d ~ N(0, s^2 I) of (L_{k+1}(w* + d) - L_k(w* + d))^2 on quadratic surfaces.

    With a = l_{k+1}(w*) - L_k(w*), and g, D the same difference of the gradients and of the Hessians at w*,

        1/(k+1)^2 [a^2 + a s^2 tr D + s^2 |g|^2 + s^4/4 (2 |D|_F^2 + (tr D)^2)]          (docs/theory, section 6)

    It needs traces and Frobenius norms, which random probes estimate, and no spectral norm.

    Args:
        k: size, or array of sizes, each a whole number of at least 1.
        loss_gap: a; signed, nats. This and the next three are one number, or one for each size.
        gradient_gap: |g|, Euclidean norm.
        hessian_gap_trace: tr D; signed.
        hessian_gap_frobenius: |D|_F.
        spread: s, standard deviation of each coordinate of the step.

    Returns:
        the mean square in nats squared; a float for one size, an array for an array of sizes.

    Raises:
        InputError: a number is not finite, a norm or `spread` is negative, or shapes don't fit.

    Assumes: that third derivatives don't matter within the reach of the steps, about s sqrt(P).

    Cost: O(1) for each size.

    >>> gaussian_mean_square(
    ...     1, loss_gap=2.0, gradient_gap=3.0, hessian_gap_trace=1.0, hessian_gap_frobenius=1.0, spread=2.0
    ... )
    15.0
    """
    sizes = check_sizes(k)
    _checks.not_negative("spread", spread, "It is the standard deviation of a step's coordinates.")
    level = check_matched("loss_gap", loss_gap, sizes)
    slope = check_matched("gradient_gap", gradient_gap, sizes, signed=False)
    trace = check_matched("hessian_gap_trace", hessian_gap_trace, sizes)
    frobenius = check_matched("hessian_gap_frobenius", hessian_gap_frobenius, sizes, signed=False)
    scale = float(spread) ** 2
    # (a + s^2 tr D / 2)^2 is the square of the mean, the rest the variance: no term that could cancel to below zero.
    square = (level + scale * trace / 2.0) ** 2 + scale * slope**2 + (scale * frobenius) ** 2 / 2.0
    return plain(square / (sizes + 1.0) ** 2)
