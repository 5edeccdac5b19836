"""How far the mean loss of k samples is from that of all m at one fixed w, and the size that follows from it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from stillscape import _checks
from stillscape._errors import InputError

KINDS = ("deterministic", "hoeffding_serfling", "bernstein_serfling", "normal")
_NEEDS = {
    "deterministic": ("loss_bound",),
    "hoeffding_serfling": ("loss_bound",),
    "bernstein_serfling": ("loss_bound", "std"),
    "normal": ("std",),
}
_RANGE_FACTOR = 7.0 / 3.0 + 3.0 / np.sqrt(2.0)  # kappa of Bardenet & Maillard 2015, Theorem 4.3
_LARGEST_SIZE = 10**300  # beyond it a size no longer fits into a float


def mean_deviation(
    k: ArrayLike,
    *,
    kind: str,
    level: float = 0.95,
    population: int | None = None,
    loss_bound: float | None = None,
    std: ArrayLike | None = None,
    probes: int = 1,
) -> float | np.ndarray:
    r"""Bound |L_k(w) - L_m(w)| at a fixed w, L_k the mean loss of the first k of m samples in random order.

    With delta = (1 - level) / probes and rho = min(1 - (k-1)/m, (1 - k/m)(1 + 1/k)), or 1 without an end (m = None),

        deterministic:       (1 - k/m) l_max                                        (any order, any level)
        hoeffding_serfling:  l_max sqrt(rho ln(2/delta) / (2k))
        bernstein_serfling:  s sqrt(2 rho ln(10/delta) / k) + (7/3 + 3/sqrt 2) l_max ln(10/delta) / k
        normal:              z_{1-delta/2} s sqrt((1 - k/m) / k)                     (docs/theory, section 6)

    The second and third are Corollary 2.5 and Theorem 4.3 of Bardenet & Maillard 2015 (Bernoulli 21(3),
    arXiv:1309.4029), with the paper's one-sided failure probabilities, delta and 5 delta, doubled for two sides. The
    first part of rho is the smaller one up to k = m/2; so rho falls in k, and every bound here falls with it. At k = m
    nothing is left to see and each is 0. `normal` is an approximation: rare large losses make it far too small.

    The constants agree with public restatements of the paper, and were checked by exact sums over all samples: every
    subset of populations of 9, and the hypergeometric law for losses of two values, m up to 2000. The largest miss
    probability was 0.68 delta for Hoeffding's and 0.002 delta for Bernstein's, which is far from tight. Half of
    Hoeffding's variance, no range term, or one of 1/2 instead of 4.45, is seen to fail.

    Args:
        k: size, or array of sizes, whole numbers within 1..m.
        kind: "deterministic", "hoeffding_serfling", "bernstein_serfling" or "normal".
        level: probability that the bound holds at one k, in one draw of the order; not for all k at once.
        population: m; None for i.i.d. samples and their expectation.
        loss_bound: l_max, with 0 <= l_i(w) <= l_max for all m samples, or l_max the range of the losses; nats. Not
            used by "normal".
        std: s, standard deviation of the k losses seen; one number, or one for each size; nats. With divisor k for
            "bernstein_serfling", as in the theorem (k - 1 is on the safe side), with k - 1 for "normal". Not used by
            the others.
        probes: number of points w that the statement is to hold at together (union bound).

    Returns:
        the bound in nats; a float for one size, an array for an array of sizes.

    Raises:
        InputError: an argument is out of its range, or one that `kind` needs is missing.

    Assumes: that the order of the samples is uniformly random and w chosen independently of it. If w was trained on
    the first k samples, take held-out ones. A measured maximum in place of `loss_bound` certifies nothing.

    Cost: O(1) for each size.

    >>> mean_deviation(3, kind="deterministic", population=4, loss_bound=2.0)
    0.5
    >>> round(float(mean_deviation(50, kind="hoeffding_serfling", level=1 - 2 * np.exp(-1), loss_bound=2.0)), 9)
    0.2
    >>> round(float(mean_deviation(64, kind="normal", level=0.95, std=4.0)), 3)
    0.98
    """
    delta, total = _setting(kind, level, population, probes)
    _needed(kind, loss_bound, std)
    sizes = check_sizes(k, population)
    return plain(_bound(sizes, kind, delta, total, _loss_bound(loss_bound), _std(std, sizes)))


def mean_sufficient_size(
    epsilon: float,
    *,
    kind: str,
    level: float = 0.95,
    population: int | None = None,
    loss_bound: float | None = None,
    std: float | None = None,
    probes: int = 1,
) -> int | None:
    r"""Return the smallest k such that the bound of `mean_deviation` is at most `epsilon` for all k' >= k.

    The bounds fall in k, in floating point too, so bisection on the computed bound finds the exact turning point.
    Without an end (m = None) Hoeffding's k* is ceil(l_max^2 ln(2/delta) / (2 epsilon^2)). The normal one is
    ceil(n_0 / (1 + n_0 / m)) with n_0 = (z_{1-delta/2} s / epsilon)^2 (docs/theory, section 6).

    Args:
        epsilon: tolerance, above zero; nats.
        kind: as in `mean_deviation`.
        level: as in `mean_deviation`.
        population: as in `mean_deviation`.
        loss_bound: as in `mean_deviation`.
        std: one standard deviation, taken to stay what it is at every size: a plan, and no certificate until the
            bound is computed again from the samples seen.
        probes: as in `mean_deviation`.

    Returns:
        k*, or None where the bound is above `epsilon` up to k = m - 1: all samples are then needed. "deterministic"
        without an end never falls, so it is 1 or None.

    Raises:
        InputError: `epsilon` is not above zero, or no size that fits into a float reaches it; and as in
            `mean_deviation`.

    Cost: about 2 log2(k*) evaluations.

    >>> mean_sufficient_size(0.2, kind="hoeffding_serfling", level=1 - 2 * np.exp(-1), loss_bound=1.0)
    13
    >>> mean_sufficient_size(0.1, kind="normal", level=0.95, population=1000, std=0.5)
    88
    >>> mean_sufficient_size(0.01, kind="bernstein_serfling", population=1000, loss_bound=1.0, std=0.5) is None
    True
    """
    _checks.positive("epsilon", epsilon, "It is the tolerance in nats.")
    delta, total = _setting(kind, level, population, probes)
    _needed(kind, loss_bound, std)
    loss, spread = _loss_bound(loss_bound), _std(std, np.asarray(0.0))

    def passes(k: int) -> bool:
        return bool(_bound(np.asarray(float(k)), kind, delta, total, loss, spread) <= epsilon)

    if population is not None:
        return smallest_size(passes, int(population) - 1)
    size = smallest_size(passes, 1 if kind == "deterministic" else _LARGEST_SIZE)
    if size is None and kind != "deterministic":
        raise InputError(f"epsilon is {epsilon!r}; no representable size brings the bound so low.")
    return size


def serfling_factor(k: ArrayLike, population: int | None) -> float | np.ndarray:
    r"""Return rho, the factor on a variance that sampling without replacement earns; it is 1 without an end.

        rho = 1 - (k-1)/m  for k <= m/2,     (1 - k/m)(1 + 1/k)  beyond    (Bardenet & Maillard 2015, Corollary 2.5)

    Each part is the smaller one on its side. The second is the first, read off the m - k samples left out: they
    miss L_m by k / (m - k) times as much.

    Args:
        k: size, or array of sizes, whole numbers within 1..m.
        population: m; None for i.i.d. samples.

    Returns:
        rho, within 0..1; a float for one size.

    Raises:
        InputError: a size out of range.

    Cost: O(1) for each size.

    >>> serfling_factor([1, 3, 4], 4).tolist()
    [1.0, 0.3333333333333333, 0.0]
    """
    sizes = check_sizes(k, population)
    return plain(_serfling(sizes, np.inf if population is None else float(population)))


def check_sizes(k: ArrayLike, largest: int | None = None) -> np.ndarray:
    """Return `k` as float64 sizes (no axis for one size) if all are whole numbers within 1..largest, else raise.

    >>> check_sizes([1, 2]).tolist()
    [1.0, 2.0]
    """
    # numpy keeps whole numbers beyond 2^63, which inversions can return, as objects.
    sizes = np.asarray(float(k) if isinstance(k, int) and not isinstance(k, bool) else k)
    ends = "at least 1" if largest is None else f"at least 1 and at most {largest}, the population"
    whole = np.issubdtype(sizes.dtype, np.number) and bool(np.all(np.isfinite(sizes) & (sizes == np.floor(sizes))))
    if not whole or sizes.size == 0 or sizes.min() < 1 or (largest is not None and sizes.max() > largest):
        raise InputError(f"k is {k!r}; every size must be a whole number of {ends}.")
    return sizes.astype(np.float64)


def check_matched(name: str, value: ArrayLike, sizes: np.ndarray, signed: bool = True) -> np.ndarray:
    """Return `value` as float64 if it is one finite number, or one for each size, else raise.

    >>> check_matched("std", 2, check_sizes([1, 2]), signed=False).tolist()
    2.0
    """
    array = np.asarray(value, dtype=np.float64)
    if array.ndim and array.shape != sizes.shape:
        raise InputError(f"{name} has shape {array.shape} and k {sizes.shape}; give one number, or one for each size.")
    if not np.all(np.isfinite(array)) or (not signed and np.any(array < 0)):
        raise InputError(f"{name} is {value!r}; it must be finite{'' if signed else ' and at least zero'}.")
    return array


def plain(values: np.ndarray) -> float | np.ndarray:
    """Return `values` as they are, or as a float where they have no axis.

    >>> plain(np.asarray(0.5))
    0.5
    """
    return float(values) if np.ndim(values) == 0 else values


def smallest_size(passes: Callable[[int], bool], largest: int) -> int | None:
    """Return the smallest size within 1..largest that passes, or None; whatever follows one that passes must pass too.

    >>> smallest_size(lambda k: k * k >= 50, 100)
    8
    """
    above, enough = 0, 1
    if largest < 1:
        return None
    while not passes(enough):
        if enough >= largest:
            return None
        above, enough = enough, min(2 * enough, largest)
    while enough - above > 1:
        middle = (above + enough) // 2
        if passes(middle):
            enough = middle
        else:
            above = middle
    return enough


def _bound(sizes: np.ndarray, kind: str, delta: float, total: float, loss: float, std: np.ndarray) -> np.ndarray:
    # Each operation is monotone in floating point, so the computed bound falls in k as the exact one does.
    left = (total - sizes) / total if np.isfinite(total) else np.ones_like(sizes)
    if kind == "deterministic":
        return np.asarray(left * loss)
    if kind == "normal":
        return np.asarray(-ndtri(delta / 2.0) * std * np.sqrt(left / sizes))
    rho = _serfling(sizes, total)
    if kind == "hoeffding_serfling":
        return np.asarray(loss * np.sqrt(rho * (np.log(2.0 / delta) / 2.0) / sizes))
    log = np.log(10.0 / delta)
    bound = std * np.sqrt(2.0 * log * rho / sizes) + _RANGE_FACTOR * log * loss / sizes
    return np.where(sizes >= total, 0.0, bound)


def _serfling(sizes: np.ndarray, total: float) -> np.ndarray:
    if not np.isfinite(total):
        return np.ones_like(sizes)
    return np.minimum((total - sizes + 1.0) / total, (total - sizes) / total * (1.0 + 1.0 / sizes))


def _setting(kind: str, level: float, population: int | None, probes: int) -> tuple[float, float]:
    _checks.one_of("kind", kind, KINDS)
    _checks.fraction("level", level)
    _checks.at_least("probes", probes, 1)
    total = np.inf if population is None else float(_checks.at_least("population", population, 1))
    return (1.0 - level) / probes, total


def _needed(kind: str, loss_bound: object, std: object) -> None:
    given = {"loss_bound": loss_bound, "std": std}
    for name in _NEEDS[kind]:
        if given[name] is None:
            raise InputError(f"{name} is None; kind {kind!r} needs it: {' and '.join(_NEEDS[kind])}.")


def _loss_bound(loss_bound: float | None) -> float:
    return 0.0 if loss_bound is None else float(_checks.not_negative("loss_bound", loss_bound))


def _std(std: ArrayLike | None, sizes: np.ndarray) -> np.ndarray:
    return check_matched("std", 0.0 if std is None else std, sizes, signed=False)
