"""The rule that reads a forecast of the next doubling's gain: a size like any other, and no vote."""

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError
from stillscape.sufficiency import wording
from stillscape.sufficiency.criterion import Criterion
from stillscape.sufficiency.doublings import check_sizes


def estimate_criterion(
    name: str,
    sizes: ArrayLike,
    gain: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    *,
    epsilon: float,
    assumes: tuple[str, ...],
    doubt: str = "",
) -> Criterion:
    r"""Say from which size on a forecast of the next doubling's gain in held-out loss stays within `epsilon`.

        k* = min{ measured k : gain(k') <= epsilon for every measured k' >= k }

    Unlike the measured gain it speaks at the largest size as well, of a doubling that nobody has seen.

    Args:
        name: of the forecast.
        sizes: measured sizes, (K,).
        gain: forecast at each, (K,); nats.
        low: lower end of its interval, (K,).
        high: upper end, (K,).
        epsilon: tolerance; nats.
        assumes: what must hold for the forecast to mean something.
        doubt: why it is not to be believed here; then the answer is "cannot_tell" whatever it says.

    Returns:
        a criterion that never votes: "reached" where both the forecast and its upper end have a k*; "not_reached" where
        the lower end at the largest size is still above `epsilon`; "cannot_tell" between, and where there is doubt.

    Raises:
        InputError: shapes that don't fit, numbers that are not finite, or `epsilon` not above zero.

    Cost: O(K).

    >>> found = estimate_criterion("takeuchi_gain", [10, 20, 40], [0.4, 0.1, 0.05], [0.3, 0.05, 0.02], [0.5, 0.2, 0.1],
    ...                            epsilon=0.1, assumes=())
    >>> found.status, found.k_star, found.low, found.high, found.votes
    ('reached', 20, 20, 40, False)
    """
    _checks.positive("epsilon", epsilon)
    k = check_sizes(sizes)
    curves = [_checks.finite_vector(n, c) for n, c in (("gain", gain), ("low", low), ("high", high))]
    if any(curve.size != k.size for curve in curves):
        raise InputError(f"gain, low and high hold {[c.size for c in curves]} numbers for {k.size} sizes.")
    ends = [_from_which(k, curve <= epsilon) for curve in curves]
    expected, least, most = (wording.amount("loss", float(curve[-1])) for curve in curves)
    tolerance, largest = wording.amount("loss", epsilon), wording.images(int(k[-1]))
    reason = f"after {largest} it expects {expected} of the next doubling ({least} to {most}; tolerance {tolerance})"
    found = partial(Criterion, name, epsilon=epsilon, assumes=assumes, is_null=False, is_estimate=True)
    if doubt:
        return found("cannot_tell", None, None, None, reason=f"{reason}; but {doubt}")
    if ends[0] is not None and ends[2] is not None:
        return found("reached", ends[0], ends[1], ends[2], reason=reason)
    status = "not_reached" if curves[1][-1] > epsilon else "cannot_tell"
    return found(status, None, ends[1], None, reason=reason)


def _from_which(k: np.ndarray, within: np.ndarray) -> int | None:
    """Return the first size from which on all are within, or None."""
    if not within[-1]:
        return None
    outside = np.flatnonzero(~within)
    return int(k[outside[-1] + 1 if outside.size else 0])
