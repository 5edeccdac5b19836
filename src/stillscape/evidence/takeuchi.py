"""Takeuchi's criterion: what curvature and gradients on held-out samples say of the loss that is still to be gained."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError

AGREEMENT = 1.5  # factor between the predicted and the measured optimism up to which the expansion is believed
NOISE = 1 / 3  # largest relative standard error of either
PULL = 0.25  # share of the excess that the penalty may be to blame for


@dataclass(frozen=True)
class Takeuchi:
    """What is left to gain, to first order in 1/k.

    Attributes:
        excess: expected L(w_k) - L(w_inf); nats.
        stderr: standard error of `excess` from the choice of held-out samples (and of random vectors, if any).
        pull: what the damping adds to the loss as a penalty, lambda^2 w'(H + lambda I)^(-1) w / 2; NaN if not asked.
        effective_dimension: tr(H (H + lambda I)^(-1)), the parameters that the data decide.
        k: number of training samples.
        damping: lambda.
        num_samples: held-out ones.
    """

    excess: float
    stderr: float
    pull: float
    effective_dimension: float
    k: int
    damping: float
    num_samples: int

    @property
    def optimism(self) -> float:
        """Expected gap between held-out and training loss, 2 x excess: the part of the prediction that a run tests."""
        return 2.0 * self.excess

    @property
    def gain(self) -> float:
        """What doubling k would bring, excess / 2."""
        return self.excess / 2.0


def takeuchi(
    hessian: Float[np.ndarray, "P P"],
    gradients: Float[np.ndarray, "n P"],
    k: int,
    *,
    damping: float,
    weights: ArrayLike | None = None,
) -> Takeuchi:
    r"""Return Takeuchi's forecast of excess loss, optimism and the gain of a doubling, at weights trained on k samples.

        excess = tr((H + lambda I)^(-1) G) / (2 k),   G = mean_i g_i g_i'            (Takeuchi 1976; Stone 1977)

    Optimism is twice that, and the gain of a doubling, excess(k) - excess(2k), half of it: tr((H + lambda I)^(-1) G) /
    (4 k). H and the g_i must be of *held-out* samples: on those that were trained on the gradients have vanished.

    Args:
        hessian: H, mean of the samples' Hessians or Gauss-Newton matrices, (P, P), symmetric, positive semidefinite.
        gradients: g_i at the same weights, (n, P), n >= 2.
        k: number of training samples.
        damping: lambda, penalty per sample, as the training had it; nats per squared unit of the weights.
        weights: w relative to where the penalty pulls, (P,); for `pull`.

    Returns:
        the forecast. Its standard error takes H as given.

    Raises:
        InputError: shapes that don't fit, numbers that are not finite, or H + lambda I is not positive definite.

    Assumes: k far above the effective dimension, w_k near a minimum of the expected loss, no tuning of the penalty.
        `takeuchi_status` says where that can't be; `added_sample` does without it.

    Cost: P^3 + n P^2.

    Example:
        Well-specified least squares, l = (y - x'w)^2 / (2 s^2): H = G, so excess is P / (2 k).

        >>> found = takeuchi(np.eye(2), np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]]), 10, damping=0.0)
        >>> found.excess, found.optimism, found.gain, found.effective_dimension
        (0.1, 0.2, 0.05, 2.0)
    """
    h, g = np.array(hessian, dtype=np.float64), np.asarray(gradients, dtype=np.float64)
    _checks.at_least("k", k, 1)
    _checks.not_negative("damping", damping)
    if g.ndim != 2 or len(g) < 2 or h.shape != (g.shape[1], g.shape[1]):
        raise InputError(f"hessian is {h.shape} and gradients {g.shape}; they must be (P, P) and (n, P), n >= 2.")
    if not (np.isfinite(h).all() and np.isfinite(g).all()):
        raise InputError("hessian and gradients must hold finite numbers only.")
    size = len(h)
    h[np.diag_indices(size)] += damping
    try:
        factor = scipy.linalg.cho_factor(h, lower=True, overwrite_a=True)
    except np.linalg.LinAlgError:
        raise InputError(f"damping is {damping!r}; with it hessian is not positive definite. Raise it.") from None
    # Half solves: |L^-1 g|^2 = g' (LL')^-1 g.
    single = np.square(scipy.linalg.solve_triangular(factor[0], g.T, lower=True)).sum(axis=0)
    dimension = float(size)
    if damping:
        inverse, _ = scipy.linalg.lapack.dpotri(factor[0], lower=True)
        dimension -= damping * float(np.trace(inverse))
    pull = float("nan")
    if weights is not None:
        w = _checks.finite_vector("weights", weights)
        if w.size != size:
            raise InputError(f"weights has {w.size} entries for {size} parameters.")
        pull = 0.5 * damping**2 * float(w @ scipy.linalg.cho_solve(factor, w))
    return from_single(single, pull, dimension, k, damping)


def takeuchi_status(found: Takeuchi, gap: float, gap_stderr: float = 0.0) -> tuple[str, str]:
    r"""Return whether a forecast can be believed, tested on what it says of the training loss.

    It is believed where the optimism that it predicts lies within a factor 1.5 of the measured one, the penalty's pull
    is under a quarter of the excess, and neither standard error is above a third of its number. The limits were found
    by trial on digits (docs/method.md).

    Args:
        found: the forecast.
        gap: measured held-out loss less training loss of the same weights; nats.
        gap_stderr: its standard error.

    Returns:
        "consistent" or "cannot_tell", and the reason.

    Raises:
        InputError: `gap` is not finite or `gap_stderr` negative.

    Cost: O(1).

    >>> half = Takeuchi(0.5, 0.0, 0.0, 10.0, 100, 0.0, 50)
    >>> takeuchi_status(half, 1.1)[0], takeuchi_status(half, 0.1)[0]
    ('consistent', 'cannot_tell')
    """
    _checks.finite_vector("gap", [gap])
    _checks.not_negative("gap_stderr", gap_stderr)
    said = f"it predicts an optimism of {found.optimism:.3g} nats, and {gap:.3g} were measured"
    if 2.0 * found.stderr > NOISE * found.optimism or gap_stderr > NOISE * gap:
        return "cannot_tell", f"{said}; the noise of one of them is too large to compare"
    if not gap / AGREEMENT <= found.optimism <= gap * AGREEMENT:
        return "cannot_tell", f"{said}; k is too small for the expansion in 1/k"
    if found.pull > PULL * found.excess:
        return "cannot_tell", f"the penalty costs {found.pull:.3g} nats, which the expansion leaves out"
    return "consistent", said


def from_single(
    single: Float[np.ndarray, " n"], pull: float, dimension: float, k: int, damping: float, num_samples: int = 0
) -> Takeuchi:
    """Return the forecast from independent estimates of g'(H + lambda I)^(-1) g: one of each sample, or group of them.

    >>> from_single(np.array([1.0, 3.0]), 0.0, 2.0, k=10, damping=0.0).excess
    0.1
    """
    stderr = float(single.std(ddof=1) / np.sqrt(single.size)) / (2 * k)
    excess = float(single.mean()) / (2 * k)
    return Takeuchi(excess, stderr, float(pull), dimension, int(k), float(damping), num_samples or single.size)
