"""Intervals for the mean of held-out scores that hold at the number of images there is, not in the limit."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

from stillscape import _checks
from stillscape._errors import InputError
from stillscape.bounds import mean_deviation

KINDS = ("clopper_pearson", "empirical_bernstein", "hoeffding_serfling", "bernstein_serfling")


@dataclass(frozen=True)
class Certificate:
    """An interval with its guarantee.

    Attributes:
        mean: of the values seen.
        low: lower end, not below the least possible value.
        high: upper end.
        kind: of the inequality.
        num_samples: values.
    """

    mean: float
    low: float
    high: float
    kind: str
    num_samples: int


def mean_certificate(
    values: ArrayLike,
    *,
    level: float = 0.9,
    kind: str = "empirical_bernstein",
    lower: float = 0.0,
    upper: float = 1.0,
    population: int | None = None,
) -> Certificate:
    r"""Return an interval that holds the mean of what the values were drawn from with probability `level`, at this n.

    With delta = 1 - level, R = upper - lower, s^2 the variance of the values with divisor n - 1,

        clopper_pearson:      exact binomial limits; values 0 or 1               (Clopper and Pearson 1934)
        empirical_bernstein:  s sqrt(2 ln(4/delta) / n) + 7 R ln(4/delta) / (3 (n - 1))
                                                                    (Maurer and Pontil 2009, Theorem 4, two sides)
        hoeffding_serfling,
        bernstein_serfling:   `bounds.mean_deviation`, for values drawn without replacement out of `population`
                                                                    (Bardenet and Maillard 2015)

    Args:
        values: held-out scores of one fixed model, (n,), n >= 2.
        level: of the interval; for one model, not for all sizes at once (divide 1 - level by their number for that).
        kind: of the inequality.
        lower: least value there can be.
        upper: largest value there can be. Cross-entropy has none: clip it, and the certificate is of the clipped loss.
        population: m, for the last two: the mean is that of m values, of which these were drawn at random.

    Returns:
        the interval, cut to lower..upper.

    Raises:
        InputError: values outside lower..upper, fewer than two, a population where none belongs or too small a one.

    Assumes: that held-out values are independent draws (or, with `population`, draws without replacement), and the
        model was chosen without them. Images of one group are no independent draws: give means of groups.

    Cost: O(n).

    >>> found = mean_certificate([1.0] * 100, kind="clopper_pearson", level=0.9)
    >>> round(found.low, 4), found.high                                                  # 0.05^(1/100)
    (0.9705, 1.0)
    >>> whole = mean_certificate([0.0, 1.0, 1.0], kind="hoeffding_serfling", population=3)
    >>> round(whole.low, 6) == round(whole.high, 6) == 0.666667                          # all of them were seen
    True
    """
    _checks.fraction("level", level)
    _checks.one_of("kind", kind, KINDS)
    x = _checks.finite_vector("values", values, least=2)
    if not lower < upper or x.min() < lower or x.max() > upper:
        raise InputError(f"values run from {x.min():.3g} to {x.max():.3g}; they must lie in {lower!r} to {upper!r}.")
    n, mean = x.size, float(x.mean())
    if population is not None and kind in ("clopper_pearson", "empirical_bernstein"):
        raise InputError(f"population is {population!r}; kind {kind!r} is of independent draws. Leave it out.")
    if kind == "clopper_pearson":
        low, high = _binomial(x, lower, upper, level)
    else:
        reach = _reach(x, kind, level, upper - lower, population)
        low, high = mean - reach, mean + reach
    return Certificate(mean, max(low, lower), min(high, upper), kind, n)


def _reach(x: np.ndarray, kind: str, level: float, extent: float, population: int | None) -> float:
    if kind == "empirical_bernstein":
        log = np.log(4.0 / (1.0 - level))
        return float(x.std(ddof=1) * np.sqrt(2 * log / x.size) + 7 * extent * log / (3 * (x.size - 1)))
    std = float(x.std()) if kind == "bernstein_serfling" else None
    return float(mean_deviation(x.size, kind=kind, level=level, population=population, loss_bound=extent, std=std))


def _binomial(x: np.ndarray, lower: float, upper: float, level: float) -> tuple[float, float]:
    if not np.isin(x, (lower, upper)).all():
        raise InputError("values hold others than the two ends; kind 'clopper_pearson' is for hits and misses.")
    hits, tail = int((x == upper).sum()), (1.0 - level) / 2.0
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, x.size - hits + 1))
    high = 1.0 if hits == x.size else float(beta.isf(tail, hits + 1, x.size - hits))
    return lower + (upper - lower) * low, lower + (upper - lower) * high
