r"""Stop while collecting: a test of "doubling still helps" that may be looked at as often as one likes.

The null hypothesis is that at every look so far the last doubling of the data gains more than epsilon. Each image
that arrives is scored once, by models that were trained before it and have never seen it, at k and at k / 2 images.
Its paired difference d lies in -1..1 and has, given all that came before, the gain as its mean. So for any fixed bet
lambda in [0, 1) the capital

    K_t(lambda) = prod_{i <= t} (1 + lambda (epsilon - d_i))

cannot be expected to grow as long as the null holds, whatever made one look at this moment and not at another
(Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS B 86(1), 2024). The capital of
a mixture over bets and over the look at which they begin is such a capital, too; by Ville's inequality it ever
reaches 1 / alpha with a probability of at most alpha.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from stillscape import _checks
from stillscape._errors import InputError

#: Bets of the mixture, each sqrt(2) times the next: the best one for a margin delta and variance s^2 is delta / s^2.
BETS = 0.95 * 2.0 ** (-np.arange(18) / 2)
_HALVINGS = 30  # of the interval in which the upper bound is looked for


@dataclass(frozen=True)
class AnytimeGain:
    """What differences that came in look by look say about the gain of the last doubling.

    Attributes:
        evidence: natural logarithm of the capital after each look, (looks,).
        upper: the gain above this is ruled out after the last look, at the level and at any number of looks; under
            the premise that gains don't grow from look to look it bounds the last one, else the smallest so far.
        mean: mean difference since the look from which the evidence is strongest, up to the last look.
        since: that look, counted from 0.
        stopped_at: first look at which the null was rejected, counted from 0, or None.
        to_go: how many more differences like those since `since` would settle it; None where they don't point that
            way, 0 where it is settled.
    """

    evidence: Float[np.ndarray, " looks"]
    upper: float
    mean: float
    since: int
    stopped_at: int | None
    to_go: int | None


def anytime_gain(
    differences: Sequence[ArrayLike],
    *,
    epsilon: float,
    level: float = 0.9,
    training_variance: Sequence[float] | None = None,
) -> AnytimeGain:
    r"""Judge after each look whether the last doubling can still gain more than `epsilon`.

    Bets begin at look s with the weight 1 / (s (s + 1)), so that large gains of the first looks don't weigh down what
    comes later, and are mixed evenly over `BETS`. Where the gain of a look's models scatters around the true one by a
    normal error of variance v (`training_variance`), the capital of its n differences is divided by
    exp(n^2 lambda^2 v / 2), the most that this scatter can be expected to add.

    Args:
        differences: for each look the differences of the units that arrived, score at k less score at k / 2, each in
            -1..1 and means over repeats; (units,) each, at least one unit.
        epsilon: tolerance for one doubling, above 0 and under 1.
        level: 1 - alpha.
        training_variance: for each look the variance of the repeats' mean gain, as from `training_variances`; None
            for none.

    Returns:
        evidence, bound and decision.

    Raises:
        InputError: no look, a look without units, a difference outside -1..1, or a level or epsilon out of range.

    Assumes: images arrive in an order that has nothing to do with what they show; gains don't grow with the data.

    Cost: O(30 units * bets + looks^2 * bets).

    >>> found = anytime_gain([[0.0] * 100, [0.0] * 100], epsilon=0.05)
    >>> found.stopped_at, found.upper < 0.05
    (1, True)
    >>> anytime_gain([[1.0, 0.0, 0.0, 0.0]] * 50, epsilon=0.05).stopped_at is None
    True
    """
    _checks.fraction("epsilon", epsilon)
    _checks.fraction("level", level)
    looks = [_checked(number, values) for number, values in enumerate(differences)]
    if not looks:
        raise InputError("differences is empty; there must be at least one look.")
    variances = np.zeros(len(looks)) if training_variance is None else np.asarray(training_variance, dtype=np.float64)
    if variances.shape != (len(looks),) or not np.isfinite(variances).all() or variances.min() < 0:
        raise InputError(
            f"training_variance has shape {variances.shape}; it must hold one finite number of at least 0 for each of "
            f"{len(looks)} looks."
        )
    needed = -math.log(1 - level)
    evidence, since, rate = _evidence(_capital(looks, variances, epsilon))
    rejected = np.flatnonzero(evidence >= needed)
    left = needed - float(evidence[-1])
    to_go = 0 if rejected.size else math.ceil(left / rate * len(np.concatenate(looks[since:]))) if rate > 0 else None
    return AnytimeGain(
        evidence=evidence,
        upper=_upper(looks, variances, needed),
        mean=float(np.concatenate(looks[since:]).mean()),
        since=since,
        stopped_at=int(rejected[0]) if rejected.size else None,
        to_go=to_go,
    )


def training_variances(differences: Sequence[Float[np.ndarray, "repeats units"]]) -> Float[np.ndarray, " looks"]:
    r"""Return for each look the variance of its mean gain over repeats that comes from training alone.

    Two-way random effects, d_ri = gain + a_r + b_i + e_ri: the variance of a_r is (MS_repeats - MS_error) / n, pooled
    over this look and those before it by degrees of freedom, clipped at 0, and divided by the look's repeats.

    Args:
        differences: for each look the differences of every repeat and unit, (R, n), with two repeats or more.

    Returns:
        one variance for each look.

    Raises:
        InputError: a look with a single repeat, of which this can't be known.

    Cost: O(repeats * units).

    >>> training_variances([np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])]).tolist()
    [0.25]
    """
    components, freedom, repeats = [], [], []
    for number, values in enumerate(differences):
        table = np.asarray(values, dtype=np.float64)
        if table.ndim != 2 or len(table) < 2:
            raise InputError(
                f"differences[{number}] has shape {table.shape}; it must be (repeats, units), 2 repeats up."
            )
        rows, units = table.shape
        rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
        error = (rest**2).sum() / ((rows - 1) * (units - 1)) if units > 1 else 0.0
        components.append(table.mean(axis=1).var(ddof=1) - error / units)
        freedom.append(rows - 1)
        repeats.append(rows)
    pooled = np.cumsum(np.multiply(components, freedom)) / np.cumsum(freedom)
    return np.maximum(pooled, 0.0) / np.array(repeats)


def _capital(looks: Sequence[np.ndarray], variances: np.ndarray, epsilon: float) -> Float[np.ndarray, "looks bets"]:
    """Return the logarithm of what each bet makes of each look."""
    made = np.array([np.log1p(np.multiply.outer(epsilon - values, BETS)).sum(axis=0) for values in looks])
    counts = np.array([values.size for values in looks])
    return made - 0.5 * np.multiply.outer(counts**2 * variances, BETS**2)


def _evidence(made: Float[np.ndarray, "looks bets"]) -> tuple[Float[np.ndarray, " looks"], int, float]:
    """Return the mixture's logarithm after each look; the look whose bets gained most, and how much their best did."""
    total = np.vstack([np.zeros(made.shape[1]), np.cumsum(made, axis=0)])
    found = np.array([_mixture(total[: look + 1])[0] for look in range(1, len(total))])
    grown = total[-1] - total[:-1]
    since, bet = np.unravel_index(int(_mixture(total)[1].argmax()), grown.shape)
    return found, int(since), float(grown[since, bet])


def _mixture(total: Float[np.ndarray, "looks_and_start bets"]) -> tuple[float, Float[np.ndarray, "looks bets"]]:
    """Return the logarithm of the capital after the last look, and that of each start's and bet's part in it."""
    starts = np.arange(1, len(total))
    weights = -np.log(starts * (starts + 1.0)) - math.log(total.shape[1])
    parts = weights[:, None] + total[-1] - total[:-1]
    # What has yet to begin holds its share, sum_{s > t} 1 / (s (s + 1)) = 1 / (t + 1), untouched.
    return float(np.logaddexp(logsumexp(parts), -math.log(len(total)))), parts


def _upper(looks: Sequence[np.ndarray], variances: np.ndarray, needed: float) -> float:
    """Return the smallest gain that is ruled out: each bet's capital grows with the gain that it bets against."""
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        total = np.cumsum(_capital(looks, variances, middle), axis=0)
        if _mixture(np.vstack([np.zeros(BETS.size), total]))[0] >= needed:
            high = middle
        else:
            low = middle
    return high


def _checked(number: int, values: ArrayLike) -> np.ndarray:
    array = _checks.finite_vector(f"differences[{number}]", values)
    if np.abs(array).max() > 1:
        raise InputError(f"differences[{number}] holds {array[np.abs(array).argmax()]}; all must lie in -1..1.")
    return array
