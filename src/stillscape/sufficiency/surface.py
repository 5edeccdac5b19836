"""The rules that read the loss surface: two identities that never vote, and a bound."""

import numpy as np
from numpy.typing import ArrayLike

from stillscape import _checks, bounds
from stillscape._errors import InputError
from stillscape.convergence import mean_absolute_deviation
from stillscape.sufficiency import wording
from stillscape.sufficiency.criterion import Criterion

_IDENTITY = (
    "L_{k+1} - L_k = (l_{k+1} - L_k)/(k+1) at fixed parameters: an identity, slope -1 for any model and any data",
    "the losses are of held-out images",
)


def fixed_surface_criterion(
    losses: ArrayLike,
    *,
    epsilon: float,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> Criterion:
    r"""Invert the closed form of `loss_differences` at fixed parameters: the drafts' k*, which any model has.

        k* = smallest k >= 1 with MAD / (k' + 1) <= epsilon for every k' >= k

    Args:
        losses: held-out per-sample losses of one fixed model, (n,), n >= 2; nats.
        epsilon: tolerance; nats.
        level: of the interval.
        draws: number of bootstrap draws of the losses, whose MAD gives the interval.
        seed: of the draws.
        groups: (n,) codes of images that are drawn together; None if each stands alone.

    Returns:
        a criterion that is always "reached" and always a null.

    Raises:
        InputError: fewer than two losses, a loss that is not finite, epsilon not above zero, codes of another length.

    Cost: O(draws * n).

    >>> c = fixed_surface_criterion([0.0, 2.0], epsilon=0.1, draws=9)
    >>> c.k_star, c.is_null
    (9, True)
    """
    why = "it would come out so for any model, and says how widely the losses spread, not how much data training needs"
    return _identity_criterion("fixed_surface", losses, epsilon, level, draws, seed, groups, _IDENTITY, why)


def neighborhood_criterion(
    losses_at: ArrayLike,
    *,
    epsilon: float,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> Criterion:
    """Invert the same closed form away from the optimum, on the losses at w = w* + delta.

    Args:
        losses_at: held-out per-sample losses at w, (n,), n >= 2; nats.
        epsilon: as in `fixed_surface_criterion`.
        level: as in `fixed_surface_criterion`.
        draws: as in `fixed_surface_criterion`.
        seed: as in `fixed_surface_criterion`.
        groups: as in `fixed_surface_criterion`.

    Returns:
        a criterion that is always "reached" and always a null.

    Raises:
        InputError: as in `fixed_surface_criterion`.

    Cost: O(draws * n).

    >>> neighborhood_criterion([0.0, 4.0], epsilon=0.1, draws=9).k_star
    19
    """
    assumes = (*_IDENTITY, "one direction and one distance from the optimum stand for its neighborhood")
    why = (
        "it is the same identity at parameters away from the optimum: true for any model there, "
        "it says how widely the losses spread at that distance"
    )
    return _identity_criterion("neighbourhood", losses_at, epsilon, level, draws, seed, groups, assumes, why)


def bound_criterion(
    name: str,
    *,
    epsilon: float,
    loss_bound: float,
    hessian_bound: float,
    radius: float,
    gradient_bound: float = 0.0,
    kind: str = "rigorous",
    available: int,
) -> Criterion:
    """Invert Theorem 3, printed or mended, and see whether the size that it asks for exists.

    Args:
        name: of the criterion, e.g. "theorem3_rigorous".
        epsilon: tolerance; nats.
        loss_bound: as in `bounds.loss_difference`, and so the next four.
        hessian_bound: see there.
        radius: see there.
        gradient_bound: see there.
        kind: "printed" or "rigorous".
        available: number of images there are, m.

    Returns:
        "reached" if the size is at most `available`, else "vacuous_bound" with the size that the bound asks for.

    Raises:
        InputError: as in `bounds.sufficient_size`, or `available` under 1.

    Cost: O(1).

    >>> bound_criterion("b", epsilon=1.0, loss_bound=9.0, hessian_bound=1.0, radius=1.0, available=5).status
    'vacuous_bound'
    """
    _checks.at_least("available", available, 1)
    constants = {
        "loss_bound": loss_bound,
        "hessian_bound": hessian_bound,
        "radius": radius,
        "gradient_bound": gradient_bound,
    }
    size = bounds.sufficient_size(epsilon, **constants, kind=kind)
    assumes = (*_bound_premises(kind), "plug-in constants: measured maxima are no certificates")
    tolerance = wording.amount("loss", epsilon)
    if size <= available:
        reason = f"the bound on one more image's effect falls to {tolerance} at {wording.images(size)}"
        return Criterion(name, "reached", size, None, None, epsilon, assumes, False, reason, is_bound=True)
    reason = (
        f"the bound falls to {tolerance} only at {wording.images(size)}, and there are {available}; "
        "an upper bound above the tolerance says nothing"
    )
    return Criterion(name, "vacuous_bound", size, None, None, epsilon, assumes, False, reason, is_bound=True)


def _bound_premises(kind: str) -> tuple[str, ...]:
    if kind == "printed":
        return ("w* minimizes the mean loss of both k and k+1 samples", "every loss is exactly quadratic around w*")
    return ("the constants hold on the whole ball around w*",)


def _identity_criterion(
    name: str,
    losses: ArrayLike,
    epsilon: float,
    level: float,
    draws: int,
    seed: int,
    groups: ArrayLike | None,
    assumes: tuple[str, ...],
    why: str,
) -> Criterion:
    _checks.positive("epsilon", epsilon, "It is the tolerance in nats.")
    _checks.fraction("level", level)
    _checks.at_least("draws", draws, 1)
    values = _checks.finite_vector("losses", losses, least=2)
    mad = mean_absolute_deviation(values)
    ends = np.quantile(_drawn_deviations(values, groups, draws, seed), [(1 - level) / 2, (1 + level) / 2])
    k_star, low, high = (_size(mad_at, epsilon) for mad_at in (mad, min(mad, ends[0]), max(mad, ends[1])))
    spread, tolerance = wording.amount("loss", mad), wording.amount("loss", epsilon)
    reason = f"the mean absolute deviation of the held-out losses, {spread}, over k+1 falls to {tolerance}; {why}"
    if k_star >= values.size:
        reason += f"; {k_star} is beyond the {values.size} held-out images, where the closed form goes on"
    return Criterion(name, "reached", k_star, low, high, epsilon, assumes, True, reason)


def _size(mad: float, epsilon: float) -> int:
    if mad / epsilon > 1e15:
        raise InputError(f"epsilon is {epsilon!r}; it is too small against losses that spread by {mad:.3g} nats.")
    # Theorem 3's bound with C = MAD has the same shape, and its inversion is safe against round-off.
    return bounds.sufficient_size(epsilon, loss_bound=mad, hessian_bound=0.0, radius=0.0, kind="rigorous")


def _drawn_deviations(values: np.ndarray, groups: ArrayLike | None, draws: int, seed: int) -> np.ndarray:
    codes = np.arange(values.size) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if codes.shape != values.shape:
        raise InputError(f"groups has shape {codes.shape} for {values.size} losses; it must give one code each.")
    num_groups = int(codes.max()) + 1
    rng = np.random.default_rng([seed, *b"bootstrap losses"])
    found = np.empty(draws)
    for draw in range(draws):
        weights = rng.multinomial(num_groups, np.full(num_groups, 1.0 / num_groups))[codes]
        center = weights @ values / weights.sum()
        found[draw] = weights @ np.abs(values - center) / weights.sum()
    return found
