"""The difference of two mean losses around w*: the second-order forecast, its rigorous bound, and the whole ball."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError
from stillscape.bounds.finite_sample import check_matched, check_sizes, plain, smallest_size

KINDS = ("exact", "without_gradient", "printed")
_LARGEST_SIZE = 10**300  # beyond it a size no longer fits into a float


@dataclass(frozen=True)
class LocalGaps:
    """What sample k+1 differs by from the mean of the first k, at w* and along one step d = w - w*.

    Attributes:
        k: number of samples in the mean.
        loss: l_{k+1}(w*) - L_k(w*); nats.
        gradient: (g_{k+1} - mean g)^T d; nats.
        hessian: d^T (H_{k+1} - mean H) d; nats.
    """

    k: int
    loss: float
    gradient: float
    hessian: float


def local_gaps(
    losses: Float[np.ndarray, " samples"],
    gradients: Float[np.ndarray, "samples P"],
    hessians: Float[np.ndarray, "samples P P"] | Float[np.ndarray, " samples"],
    step: Float[np.ndarray, " P"],
) -> LocalGaps:
    r"""Return the pieces of L_{k+1} - L_k along `step`, from per-sample derivatives at w*; the last sample is new.

    Args:
        losses: l_i(w*), shape (k+1,), k >= 1; nats.
        gradients: g_i, shape (k+1, P).
        hessians: H_i, shape (k+1, P, P), or their forms d^T H_i d, shape (k+1,), which need only products.
        step: d = w - w*, shape (P,).

    Returns:
        the three pieces, for `quadratic_difference`.

    Raises:
        InputError: shapes don't fit, or an entry is not finite.

    Cost: O(k P^2), or O(k P) with forms.

    >>> local_gaps(np.array([1.0, 4.0]), np.array([[0.0], [2.0]]), np.array([[[1.0]], [[3.0]]]), np.array([0.5]))
    LocalGaps(k=1, loss=3.0, gradient=1.0, hessian=0.5)
    """
    level = _checks.finite_vector("losses", losses, least=2)
    direction = _checks.finite_vector("step", step)
    count, parameters = level.size, direction.size
    slope = _array("gradients", gradients, (count, parameters)) @ direction
    if np.ndim(hessians) == 1:
        bend = _array("hessians", hessians, (count,))
    else:
        bend = _array("hessians", hessians, (count, parameters, parameters)) @ direction @ direction
    loss, gradient, hessian = (float(part[-1] - part[:-1].mean()) for part in (level, slope, bend))
    return LocalGaps(count - 1, loss, gradient, hessian)


def quadratic_difference(
    k: ArrayLike,
    *,
    loss_gap: ArrayLike,
    gradient_gap: ArrayLike = 0.0,
    hessian_gap_form: ArrayLike = 0.0,
    remainder_gap: ArrayLike = 0.0,
    kind: str = "exact",
) -> float | np.ndarray:
    r"""Return L_{k+1}(w) - L_k(w), signed, from what sample k+1 differs by from the mean of the first k at w*.

        exact:             (a + b + q/2 + rho) / (k + 1)                     (docs/theory, section 6)
        without_gradient:  (a + q/2) / (k + 1)
        printed:           a / (k + 1) + q/2                                 (the draft's Section 4.3)

    "exact" is an identity. With rho = 0 it is the second-order forecast, exact for quadratic losses. The others are
    kept to show what they miss: "without_gradient" asks that w* minimizes both L_k and L_{k+1}, and "printed" has
    also lost the factor 1/(k+1) on the Hessians, if H_{k+1} there is the new sample's, as the draft's next line, its
    text and its Theorem 3 have it. (With the mean over k+1 samples in its place, the draft's own Definition 2, the
    printed equality is "without_gradient", but the printed inequality after it then fails.)

    Args:
        k: size, or array of sizes, each a whole number of at least 1.
        loss_gap: a = l_{k+1}(w*) - L_k(w*); this and the next three are one number, or one for each size; nats.
        gradient_gap: b = (g_{k+1} - mean g)^T d, d = w - w*.
        hessian_gap_form: q = d^T (H_{k+1} - mean H) d.
        remainder_gap: rho, what the new sample's loss is beyond second order, less the mean of the first k.
        kind: "exact", "without_gradient" or "printed".

    Returns:
        the difference in nats; a float for one size, an array for an array of sizes.

    Raises:
        InputError: a number is not finite, a shape doesn't fit, `k` is no whole number of at least 1, or `kind` is
            unknown.

    Cost: O(1) for each size.

    >>> pieces = {"loss_gap": 3.0, "gradient_gap": 1.0, "hessian_gap_form": 4.0}
    >>> [quadratic_difference(1, **pieces, kind=kind) for kind in ("exact", "without_gradient", "printed")]
    [3.0, 2.5, 3.5]
    """
    _checks.one_of("kind", kind, KINDS)
    sizes = check_sizes(k)
    level, slope = check_matched("loss_gap", loss_gap, sizes), check_matched("gradient_gap", gradient_gap, sizes)
    half_form = check_matched("hessian_gap_form", hessian_gap_form, sizes) / 2.0
    rest = check_matched("remainder_gap", remainder_gap, sizes)
    if kind == "printed":
        return plain(level / (sizes + 1.0) + half_form)
    if kind == "without_gradient":
        return plain((level + half_form) / (sizes + 1.0))
    return plain((level + slope + half_form + rest) / (sizes + 1.0))


def loss_difference_at_minimum(
    k: ArrayLike,
    *,
    loss_bound: float,
    gradient_bound: ArrayLike,
    hessian_gap: ArrayLike,
    radius: float,
    lipschitz: float = 0.0,
) -> float | np.ndarray:
    r"""Bound |L_{k+1}(w) - L_k(w)| for every w within `radius` of w*, from derivatives at w* alone.

        (l_max + D r + h r^2 / 2 + Gamma r^3 / 3) / (k + 1)                  (Theorem 3'; docs/theory, section 6)

    Unlike `loss_difference` it needs no bound on the Hessians in the ball, but one on how fast they change.

    Args:
        k: size, or array of sizes, each a whole number of at least 1.
        loss_bound: l_max, with 0 <= l_i(w*) <= l_max for every sample; nats.
        gradient_bound: D >= |g_{k+1} - mean of g_1..g_k|; one number, or one for each size. The distance of each g_i
            from the mean of *all* samples does not do: twice its maximum does.
        hessian_gap: h >= ||H_{k+1} - mean of H_1..H_k|| at w*, spectral norm; one number, or one for each size; or
            the symmetric matrix itself, shape (P, P).
        radius: r, the largest |w - w*|.
        lipschitz: Gamma, with ||H_i(w) - H_i(w')|| <= Gamma |w - w'| in the ball for every sample; 0 for quadratics.

    Returns:
        the bound in nats; a float for one size, an array for an array of sizes.

    Raises:
        InputError: a constant is negative or not finite, a shape doesn't fit, or `k` is no whole number of at least 1.

    Assumes: that the constants are bounds. Measured maxima are plug-in values and certify nothing.

    Cost: O(1) for each size; O(P^3) for a matrix.

    >>> loss_difference_at_minimum(
    ...     1, loss_bound=1.0, gradient_bound=2.0, hessian_gap=np.diag([-4.0, 3.0]), radius=1.0, lipschitz=3.0
    ... )
    3.0
    """
    sizes = check_sizes(k)
    _checks.not_negative("loss_bound", loss_bound)
    _checks.not_negative("radius", radius, "It is the distance from w* in parameter space.")
    _checks.not_negative("lipschitz", lipschitz)
    slope = check_matched("gradient_bound", gradient_bound, sizes, signed=False)
    if np.ndim(hessian_gap) == 2 and sizes.ndim < 2:
        bend = np.asarray(np.abs(np.linalg.eigvalsh(_symmetric("hessian_gap", hessian_gap))).max())
    else:
        bend = check_matched("hessian_gap", hessian_gap, sizes, signed=False)
    r = float(radius)
    return plain((loss_bound + slope * r + bend * r**2 / 2.0 + lipschitz * r**3 / 3.0) / (sizes + 1.0))


def matrix_bernstein(
    k: ArrayLike, *, variance_norm: float, largest: float, dimension: int, level: float = 0.95
) -> float | np.ndarray:
    r"""Return t such that ||mean of H_1..H_k - mean of all|| < t with probability `level` or more.

        2 P exp(-(k t^2 / 2) / (v + R t / 3)) = 1 - level,  that is, with c = ln(2 P / (1 - level)),
        t = c R / (3k) + sqrt((c R / (3k))^2 + 2 c v / k)                    (docs/theory, section 6; Tropp 2012)

    It holds for i.i.d. symmetric matrices, and as well without replacement (Gross & Nesme 2010), where it does not
    know that t is 0 at k = m. For gradients take v = mean |g_i - mean g|^2, *not* the norm of their covariance, which
    is smaller; for losses `dimension` 1, v the variance.

    Args:
        k: size, or array of sizes, each a whole number of at least 1.
        variance_norm: v = ||mean of (H_i - mean H)^2||, spectral norm.
        largest: R, with ||H_i - mean H|| <= R for every sample.
        dimension: P, the number of rows.
        level: probability, between 0 and 1; at one k, not for all k at once.

    Returns:
        t, in the unit of the matrices; a float for one size, an array for an array of sizes.

    Raises:
        InputError: a number is out of its range, or `k` is no whole number of at least 1.

    Assumes: that the order is uniformly random and w* chosen independently of it; that v and R are those of all
        samples. Estimates of them certify nothing.

    Cost: O(1) for each size.

    >>> round(matrix_bernstein(9, variance_norm=0.75, largest=3.0, dimension=1, level=1 - 2 * np.exp(-4.5)), 9)
    1.5
    """
    c, v, reach = _bernstein_setting(variance_norm, largest, dimension, level)
    return plain(_bernstein(check_sizes(k), c, v, reach))


def matrix_bernstein_size(
    epsilon: float, *, variance_norm: float, largest: float, dimension: int, level: float = 0.95
) -> int:
    r"""Return the smallest k from which on the t of `matrix_bernstein` stays at or below `epsilon`.

        k* = ceil(2 c (v + R epsilon / 3) / epsilon^2),  c = ln(2 P / (1 - level))

    The closed form can be one off in floating point; the answer here is the smallest k as computed.

    Args:
        epsilon: tolerance, above zero; in the unit of the matrices.
        variance_norm: as in `matrix_bernstein`.
        largest: as in `matrix_bernstein`.
        dimension: as in `matrix_bernstein`.
        level: as in `matrix_bernstein`.

    Returns:
        k*, a number of samples; it says nothing about whether so many exist.

    Raises:
        InputError: `epsilon` is not above zero or no representable size reaches it; and as in `matrix_bernstein`.

    Cost: about 2 log2(k*) evaluations.

    >>> matrix_bernstein_size(2.0, variance_norm=1.0, largest=3.0, dimension=1, level=1 - 2 * np.exp(-4.5))
    7
    """
    _checks.positive("epsilon", epsilon, "It is the tolerance in the unit of the matrices.")
    c, v, reach = _bernstein_setting(variance_norm, largest, dimension, level)
    size = smallest_size(lambda k: bool(_bernstein(np.asarray(float(k)), c, v, reach) <= epsilon), _LARGEST_SIZE)
    if size is None:
        raise InputError(f"epsilon is {epsilon!r}; no representable size brings the deviation so low.")
    return size


def uniform_deviation(
    radius: ArrayLike,
    *,
    loss_deviation: float,
    gradient_deviation: float,
    hessian_deviation: float,
    lipschitz: float = 0.0,
) -> float | np.ndarray:
    r"""Bound |L_k(w) - L_m(w)| for all w within `radius` of w* at once, from the deviations of three means at w*.

        t_0 + t_1 r + t_2 r^2 / 2 + Gamma r^3 / 3                            (docs/theory, section 6)

    If each of the three holds with probability 1 - delta/3, the whole holds with 1 - delta: give `mean_deviation` and
    `matrix_bernstein` the level 1 - delta/3.

    Args:
        radius: r, one or an array.
        loss_deviation: t_0 >= |L_k(w*) - L_m(w*)|; nats.
        gradient_deviation: t_1 >= |mean of g_1..g_k - mean of all|.
        hessian_deviation: t_2, the same for the Hessians at w*, spectral norm.
        lipschitz: Gamma, with ||H_i(w) - H_i(w')|| <= Gamma |w - w'| in the ball for every sample; 0 for quadratics.

    Returns:
        the bound in nats; a float for one radius, an array for an array.

    Raises:
        InputError: a number is negative or not finite.

    Cost: O(1) for each radius.

    >>> uniform_deviation(2.0, loss_deviation=1.0, gradient_deviation=0.5, hessian_deviation=0.25, lipschitz=0.375)
    3.5
    """
    r = np.asarray(radius, dtype=np.float64)
    if not np.all(np.isfinite(r)) or np.any(r < 0):
        raise InputError(f"radius is {radius!r}; it must be finite and at least zero, the distance from w*.")
    t0 = _checks.not_negative("loss_deviation", loss_deviation)
    t1 = _checks.not_negative("gradient_deviation", gradient_deviation)
    t2 = _checks.not_negative("hessian_deviation", hessian_deviation)
    t3 = _checks.not_negative("lipschitz", lipschitz)
    return plain(t0 + t1 * r + t2 * r**2 / 2.0 + t3 * r**3 / 3.0)


def _bernstein(sizes: np.ndarray, c: float, v: float, reach: float) -> np.ndarray:
    # Sums, quotients and roots are monotone in floating point: the computed t falls in k as the exact one does.
    linear = c * reach / 3.0 / sizes
    return np.asarray(linear + np.sqrt(linear**2 + 2.0 * c * v / sizes))


def _bernstein_setting(
    variance_norm: float, largest: float, dimension: int, level: float
) -> tuple[float, float, float]:
    _checks.not_negative("variance_norm", variance_norm)
    _checks.not_negative("largest", largest)
    _checks.at_least("dimension", dimension, 1)
    _checks.fraction("level", level)
    return float(np.log(2.0 * dimension / (1.0 - level))), float(variance_norm), float(largest)


def _array(name: str, value: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}; it must be {shape}.")
    if not np.all(np.isfinite(array)):
        raise InputError(f"{name} holds NaN or infinity; every entry must be finite.")
    return array


def _symmetric(name: str, value: ArrayLike) -> np.ndarray:
    matrix = _array(name, value, (np.shape(value)[0],) * 2)
    if matrix.size == 0 or np.abs(matrix - matrix.T).max() > 1e-8 * np.abs(matrix).max():
        raise InputError(f"{name} is no symmetric matrix; pass one, or its spectral norm.")
    return matrix
