"""What each doubling of the dataset brought."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError

_SHORT_BY = 1.05  # whole groups make subsets a little smaller than asked for: 397 images must still do for 2 * 200


def doubling_matrix(
    sizes: ArrayLike,
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "doublings sizes"]]:
    r"""Return where each judged doubling starts and ends, and the matrix that turns scores into gains.

        G(k) = score(2 k) - score(k),   score linear in log k between the measured sizes

    Judged are the measured k with 2 k <= m, m the largest size. Where m falls short of 2 k by at most 5 % the step to
    m is taken instead and stretched by log 2 / log(m / k).

    Args:
        sizes: measured sizes, increasing, (K,).

    Returns:
        starts (J,), ends (J,) in images, and the matrix (J, K).

    Raises:
        InputError: sizes that are not increasing whole numbers above 0.

    Cost: O(J K).

    >>> starts, ends, matrix = doubling_matrix([10, 20, 40])
    >>> starts.tolist(), ends.tolist(), (matrix @ [0.5, 0.75, 0.875]).tolist()
    ([10, 20], [20, 40], [0.25, 0.125])
    """
    k = check_sizes(sizes)
    starts = k[2 * k <= _SHORT_BY * k[-1]]
    starts = starts[starts < k[-1]]
    ends = np.minimum(2 * starts, k[-1])
    stretch = np.log(2.0) / np.log(ends / starts)
    unit = np.eye(k.size)
    at_end = np.array([[np.interp(np.log(end), np.log(k), row) for row in unit] for end in ends])
    at_start = unit[: starts.size]
    return starts, ends, stretch[:, None] * (at_end.reshape(starts.size, k.size) - at_start)


def gains(
    sizes: ArrayLike, draws: Float[np.ndarray, "draws sizes"], mean: ArrayLike, level: float, higher_is_better: bool
) -> list[dict]:
    """Return what each doubling brought, positive for better, with its interval.

    Args:
        sizes: measured sizes, (K,).
        draws: bootstrap draws of the curve, (B, K).
        mean: the measured curve, (K,).
        level: of the interval.
        higher_is_better: False for losses; then a gain is a fall.

    Returns:
        one {"from", "to", "mean", "low", "high"} for each judged doubling, in the unit of the curve.

    Raises:
        InputError: shapes that don't fit, or a level outside 0..1.

    Cost: O(B K J).

    >>> gains([10, 20], np.array([[0.5, 0.75]]), [0.5, 0.75], 0.9, True)
    [{'from': 10, 'to': 20, 'mean': 0.25, 'low': 0.25, 'high': 0.25}]
    """
    _checks.fraction("level", level)
    k, drawn, middle = check_curve(sizes, draws, mean, higher_is_better)
    starts, ends, matrix = doubling_matrix(k)
    if not starts.size:
        return []
    low, high = np.quantile(drawn @ matrix.T, [(1 - level) / 2, (1 + level) / 2], axis=0)
    columns = zip(starts, ends, matrix @ middle, low, high, strict=True)
    return [
        {"from": int(start), "to": int(end), "mean": float(gain), "low": float(least), "high": float(most)}
        for start, end, gain, least, most in columns
    ]


def check_sizes(sizes: ArrayLike) -> np.ndarray:
    """Return the sizes as integers, or raise `InputError`."""
    k = np.asarray(sizes)
    if k.ndim != 1 or not k.size or np.any(k != np.floor(k)) or k[0] < 1 or np.any(np.diff(k) <= 0):
        raise InputError(f"sizes is {sizes!r}; it must be increasing whole numbers of at least 1.")
    return k.astype(np.int64)


def check_curve(
    sizes: ArrayLike, draws: ArrayLike, mean: ArrayLike, higher_is_better: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sizes, draws and mean, turned so that higher is better, or raise `InputError`."""
    k = check_sizes(sizes)
    middle = _checks.finite_vector("mean", mean)
    drawn = np.asarray(draws, dtype=np.float64)
    if middle.size != k.size or drawn.ndim != 2 or drawn.shape[1] != k.size or not len(drawn):
        raise InputError(
            f"sizes has {k.size} entries, mean {middle.size}, and draws has shape {drawn.shape}; "
            "they must be (K,), (K,) and (draws, K)."
        )
    if not np.isfinite(drawn).all():
        raise InputError("draws holds numbers that are not finite; leave failed repeats out before drawing.")
    return (k, drawn, middle) if higher_is_better else (k, -drawn, -middle)
