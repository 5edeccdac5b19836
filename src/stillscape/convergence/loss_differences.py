"""How far one more sample moves the mean loss at fixed parameters: an identity, measured over random orders."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError

_COLUMNS_AT_ONCE = 4096  # np.quantile copies its input; in blocks of columns the copy stays small


@dataclass(frozen=True)
class Band:
    """A curve of absolute sizes over random orders: its mean, and the quantiles around it, one entry for each k."""

    mean: Float[np.ndarray, " sizes"]
    low: Float[np.ndarray, " sizes"]
    high: Float[np.ndarray, " sizes"]


@dataclass(frozen=True)
class LossDifferences:
    """|L_{k+1} - L_k| over random orders of the samples, at fixed parameters.

    Attributes:
        k: the sizes.
        mean: mean over the orders; nats.
        low: lower quantile over the orders; nats.
        high: upper quantile over the orders; nats.
        closed_form: MAD / (k + 1); nats.
        mad: mean absolute deviation of the losses from their mean; nats.
    """

    k: Int[np.ndarray, " sizes"]
    mean: Float[np.ndarray, " sizes"]
    low: Float[np.ndarray, " sizes"]
    high: Float[np.ndarray, " sizes"]
    closed_form: Float[np.ndarray, " sizes"]
    mad: float


def loss_differences(
    losses: ArrayLike, permutations: int = 100, seed: int = 0, level: float = 0.9, sizes: ArrayLike | None = None
) -> LossDifferences:
    r"""Measure |L_{k+1} - L_k| at fixed parameters over random orders of the samples.

    With L_k the mean of the first k losses,

        L_{k+1} - L_k = (l_{k+1} - L_k) / (k + 1)                                              (theory, section 6)

    whatever the model: over random orders the mean size is close to MAD / (k + 1), and slope -1 in log-log is no
    finding about the data. Exactly, the mean over all orders is never under MAD / (k + 1), and equals
    MAD / (m - 1) at k = m - 1, the last size.

    Args:
        losses: per-sample losses of one fixed model, shape (m,), m >= 2; nats. Held-out ones: on samples that the
            model was trained on the curve speaks of the training, not of the data.
        permutations: number of random orders.
        seed: of the orders.
        level: share of the orders between `low` and `high`.
        sizes: sizes to report, increasing, within 1..m-1; None for all of them.

    Returns:
        the curve with its closed form.

    Raises:
        InputError: fewer than two losses, one that is not finite, or a size out of range.

    Cost: O(permutations * m) time, O(permutations * len(sizes) + m) memory.

    >>> curve = loss_differences([0.0, 2.0], permutations=3)
    >>> curve.k.tolist(), curve.mean.tolist(), curve.closed_form.tolist(), curve.mad
    ([1], [1.0], [0.5], 1.0)
    """
    values = _checks.finite_vector("losses", losses, least=2)
    k = check_sizes(sizes, values.size)
    band = absolute_bands([values], permutations, seed, level, k)[0]
    mad = mean_absolute_deviation(values)
    return LossDifferences(k, band.mean, band.low, band.high, mad / (k + 1.0), mad)


def ordered_differences(losses: ArrayLike) -> Float[np.ndarray, " m-1"]:
    """Return the signed L_{k+1} - L_k, k = 1..m-1, for the losses in the order given.

    Args:
        losses: shape (m,), m >= 2.

    Returns:
        shape (m-1,), in the unit of the losses.

    Raises:
        InputError: fewer than two losses, or one that is not finite.

    Cost: O(m).

    >>> ordered_differences([1.0, 3.0, 2.0]).tolist()
    [1.0, 0.0]
    """
    return _differences(_checks.finite_vector("losses", losses, least=2))


def mean_absolute_deviation(losses: Float[np.ndarray, " m"]) -> float:
    """Return the mean of |l_i - mean l|.

    >>> mean_absolute_deviation(np.array([0.0, 2.0]))
    1.0
    """
    return float(np.mean(np.abs(losses - losses.mean())))


def geometric_sizes(largest: int, count: int = 60) -> Int[np.ndarray, " sizes"]:
    """Return up to `count` distinct whole sizes from 1 to `largest`, evenly spread in log k; both ends are in.

    >>> geometric_sizes(8, 4).tolist()
    [1, 2, 4, 8]
    """
    _checks.at_least("largest", largest, 1)
    _checks.at_least("count", count, 2)
    return np.unique(np.rint(np.geomspace(1, largest, count)).astype(np.int64))


def absolute_bands(
    parts: list[np.ndarray], permutations: int, seed: int, level: float, k: Int[np.ndarray, " sizes"]
) -> list[Band]:
    """Return the band of |L_{k+1} - L_k| of each part, all under the same random orders."""
    _checks.at_least("permutations", permutations, 1)
    _checks.fraction("level", level)
    rng = np.random.default_rng(seed)
    absolute = np.empty((len(parts), permutations, k.size))
    for row in range(permutations):
        order = rng.permutation(parts[0].size)
        for part, values in enumerate(parts):
            absolute[part, row] = np.abs(_differences(values[order])[k - 1])
    return [_band(curves, level) for curves in absolute]


def _differences(values: np.ndarray) -> np.ndarray:
    # The difference does not see a common shift of the losses; without it the running sums keep their digits.
    centered = values - values.mean()
    k = np.arange(1, values.size)
    return (centered[1:] - np.cumsum(centered[:-1]) / k) / (k + 1)


def _band(curves: np.ndarray, level: float) -> Band:
    low, high = np.empty(curves.shape[1]), np.empty(curves.shape[1])
    for start in range(0, curves.shape[1], _COLUMNS_AT_ONCE):
        block = slice(start, start + _COLUMNS_AT_ONCE)
        low[block], high[block] = np.quantile(curves[:, block], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Band(curves.mean(axis=0), low, high)


def check_sizes(sizes: ArrayLike | None, m: int) -> np.ndarray:
    """Return the sizes to report, 1..m-1 for None, else `sizes` if they are increasing whole numbers in that range."""
    if sizes is None:
        return np.arange(1, m)
    k = np.asarray(sizes)
    whole = k.ndim == 1 and k.size > 0 and bool(np.all(k == np.floor(k)))
    if not whole or k.min() < 1 or k.max() > m - 1 or np.any(np.diff(k) <= 0):
        raise InputError(f"sizes is {sizes!r}; it must be increasing whole numbers within 1..{m - 1}, one under m={m}.")
    return k.astype(np.int64)
