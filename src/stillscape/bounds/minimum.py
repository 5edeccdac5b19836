"""Assumption 1, w* minimizes both L_k and L_{k+1}, as something to measure; and how far the minimum truly moves."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from stillscape import _checks
from stillscape._errors import AssumptionError, InputError


@dataclass(frozen=True)
class MinimumCheck:
    """Gradients at w* that decide on Assumption 1, the last sample being the new one. All are Euclidean norms.

    Attributes:
        k: number of samples before the new one.
        mean_gradient_norm: |grad L_k|.
        next_mean_gradient_norm: |grad L_{k+1}|.
        new_gradient_norm: |g_{k+1}|.
        new_gradient_gap: |g_{k+1} - grad L_k|, the D of `loss_difference_at_minimum` at this k.
        gradient_spread: Delta_g, the largest |g_i - grad L_{k+1}| over the k+1 samples.
        tolerance: largest norm that counts as zero.
        holds: whether |grad L_k| and |g_{k+1}| are both within the tolerance.
    """

    k: int
    mean_gradient_norm: float
    next_mean_gradient_norm: float
    new_gradient_norm: float
    new_gradient_gap: float
    gradient_spread: float
    tolerance: float
    holds: bool


def check_minimum(gradients: Float[np.ndarray, "samples P"], tolerance: float = 1e-6) -> MinimumCheck:
    r"""Measure whether w* can minimize both L_k and L_{k+1} (Assumption 1), from per-sample gradients at w*.

        grad L_k = grad L_{k+1} = 0   if and only if   grad L_k = 0 and g_{k+1} = 0          (docs/theory, section 6)

    since g_{k+1} = (k+1) grad L_{k+1} - k grad L_k. The second form is the one tested: |grad L_{k+1}| falls like
    |g_{k+1}| / (k+1) by size alone, and any sample would pass in the end. Cross-entropy with an output bias has
    the gradient p - y there, which is zero at no finite logits, so the premise never holds.

    Args:
        gradients: g_i at w*, shape (k+1, P), k >= 1; the last row is the new sample's.
        tolerance: largest norm that counts as zero, in nats per unit of parameter. The default was chosen for
            optima in float64.

    Returns:
        the measured norms and the verdict. Stationary points pass too: that the curvature is positive there is not
        looked at.

    Raises:
        InputError: fewer than two rows, an entry that is not finite, or a negative tolerance.

    Cost: O(k P).

    >>> check = check_minimum(np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 4.0]]))
    >>> check.mean_gradient_norm, check.new_gradient_norm, check.holds
    (0.0, 4.0, False)
    """
    rows = np.asarray(gradients, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 1:
        raise InputError(f"gradients has shape {rows.shape}; it must be (k+1, P), with k >= 1 and the new sample last.")
    if not np.isfinite(rows).all():
        raise InputError("gradients holds NaN or infinity; every entry must be finite.")
    _checks.not_negative("tolerance", tolerance)
    before, after = rows[:-1].mean(axis=0), rows.mean(axis=0)
    mean_norm, new_norm = float(np.linalg.norm(before)), float(np.linalg.norm(rows[-1]))
    return MinimumCheck(
        k=len(rows) - 1,
        mean_gradient_norm=mean_norm,
        next_mean_gradient_norm=float(np.linalg.norm(after)),
        new_gradient_norm=new_norm,
        new_gradient_gap=float(np.linalg.norm(rows[-1] - before)),
        gradient_spread=float(np.linalg.norm(rows - after, axis=1).max()),
        tolerance=float(tolerance),
        holds=mean_norm <= tolerance and new_norm <= tolerance,
    )


def require_minimum(gradients: Float[np.ndarray, "samples P"], tolerance: float = 1e-6) -> MinimumCheck:
    r"""Return `check_minimum` if Assumption 1 holds, else raise with what was measured.

    Args:
        gradients: as in `check_minimum`.
        tolerance: as in `check_minimum`.

    Returns:
        the check, with `holds` true.

    Raises:
        AssumptionError: |grad L_k| or |g_{k+1}| at w* is above `tolerance`.
        InputError: as in `check_minimum`.

    Cost: O(k P).

    >>> require_minimum(np.array([[1.0], [-1.0], [0.0]])).holds
    True
    """
    check = check_minimum(gradients, tolerance)
    if check.holds:
        return check
    norms = f"|grad L_k| = {check.mean_gradient_norm:.3g} and |g_(k+1)| = {check.new_gradient_norm:.3g}"
    if check.mean_gradient_norm > tolerance:
        reason = "w* does not minimize L_k; train on, or raise the tolerance"
    else:
        reason = "the new sample moves the minimum; use a bound with a gradient term"
    raise AssumptionError(
        f"Assumption 1 fails at k = {check.k}: {norms}, where at most {check.tolerance:.3g} counts as zero: {reason}."
    )


def minimum_shift(
    hessian_mean: Float[np.ndarray, "P P"], new_gradient: Float[np.ndarray, " P"], k: int
) -> Float[np.ndarray, " P"]:
    r"""Return the first-order move of the minimizer when sample k+1 joins.

        w*_{k+1} - w*_k = -(1 / (k+1)) H^{-1} g_{k+1} + O(k^-2)                              (docs/theory, section 6)

    with both derivatives at w*_k. If H is the mean Hessian of all k+1 samples this is one Newton step for L_{k+1}.
    With that of the first k the error is of the same order (in logistic regression twice as large). A penalty belongs
    into every l_i: into H, and into g_{k+1}.

    Args:
        hessian_mean: H, shape (P, P), symmetric and positive definite.
        new_gradient: g_{k+1}, shape (P,).
        k: number of samples before the new one, at least 1.

    Returns:
        the shift, shape (P,).

    Raises:
        InputError: shapes don't fit, an entry is not finite, H is not symmetric, or `k` is no whole number >= 1.
        AssumptionError: H is not positive definite, so that w*_k is no strict minimum.

    Assumes: that grad L_k(w*_k) = 0.

    Cost: O(P^3).

    >>> minimum_shift(np.diag([2.0, 4.0]), np.array([4.0, -4.0]), 3).tolist()
    [-0.5, 0.25]
    """
    _checks.at_least("k", k, 1)
    gradient = _checks.finite_vector("new_gradient", new_gradient)
    hessian = np.asarray(hessian_mean, dtype=np.float64)
    if hessian.shape != (gradient.size, gradient.size):
        raise InputError(f"hessian_mean has shape {hessian.shape}; it must be ({gradient.size}, {gradient.size}).")
    scale = np.abs(hessian).max()
    if not np.isfinite(scale) or np.abs(hessian - hessian.T).max() > 1e-8 * scale:
        raise InputError("hessian_mean is not a finite symmetric matrix; pass the mean of the samples' Hessians.")
    eigenvalues = np.linalg.eigvalsh(hessian)
    # Below this an eigenvalue is rounding error: its inverse would be noise, and the shift with it.
    if eigenvalues[0] <= eigenvalues[-1] * gradient.size * np.finfo(np.float64).eps:
        raise AssumptionError(
            f"hessian_mean has the eigenvalue {eigenvalues[0]:.3g}; w* is no strict minimum, so its shift is undefined."
        )
    return -np.linalg.solve(hessian, gradient) / (int(k) + 1)
