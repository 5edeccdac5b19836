"""How the loss surface over a plane stands still as samples are counted in: every k from the same per-sample losses."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError
from stillscape.convergence.loss_differences import Band

_NUMBERS_AT_ONCE = 20_000_000  # of running sums; bounds memory to a few hundred MB


@dataclass(frozen=True)
class SettlingSurface:
    """L_k over a plane for growing k, and how far each lies from the next and from the last.

    Attributes:
        k: the sizes; the last one is m.
        losses: L_k at each point of the plane; nats.
        next_step: |L_{k+1} - L_k|; NaN at k = m, after which nothing was measured; nats.
        to_whole: |L_m - L_k|; zero at k = m; nats.
    """

    k: Int[np.ndarray, " sizes"]
    losses: Float[np.ndarray, "sizes ..."]
    next_step: Float[np.ndarray, "sizes ..."]
    to_whole: Float[np.ndarray, "sizes ..."]

    def within(self, tolerance: float) -> np.ndarray:
        """Return where |L_m - L_k| is at most `tolerance`, as truth values in the shape of `to_whole`."""
        return np.asarray(self.to_whole <= tolerance)

    def settled(self, tolerance: float) -> int | None:
        """Return the smallest k from which on all of the plane stays within `tolerance` of L_m; None before m."""
        everywhere = self.within(tolerance).reshape(len(self.k), -1).min(axis=1)
        first = len(self.k) - int(np.argmin(np.append(everywhere[::-1], False)))
        return int(self.k[first]) if first < len(self.k) - 1 else None


def settling_surface(losses: ArrayLike, sizes: ArrayLike) -> SettlingSurface:
    r"""Return the mean loss of the first k samples at every point of a plane, for every k, in one pass.

    With l_i(w) the loss of sample i at a point w, and sums that run over the samples,

        L_k(w) = (1/k) sum_{i <= k} l_i(w),   L_{k+1}(w) - L_k(w) = (l_{k+1}(w) - L_k(w)) / (k + 1)

    so that all sizes together cost what the largest costs alone. At each w this is the identity of
    `loss_differences`: the surface stands still for any model, a useless one as well, and how fast says nothing of
    how many images are enough to train on.

    Args:
        losses: shape (..., m): points of the plane, then samples in the order in which they are counted in; nats.
        sizes: increasing whole numbers within 1..m; m is added where it is missing.

    Returns:
        the surfaces, sizes first.

    Raises:
        InputError: a loss is not finite, there is no point, fewer than two samples, or a size is out of range.

    Cost: O(points * m) time, whatever the number of sizes; memory for a few hundred points at a time.

    >>> found = settling_surface([[0.0, 2.0], [4.0, 4.0]], [1])
    >>> found.k.tolist(), found.losses.tolist(), found.to_whole.tolist()
    ([1, 2], [[0.0, 4.0], [1.0, 4.0]], [[1.0, 0.0], [0.0, 0.0]])
    >>> found.next_step[0].tolist(), found.settled(1.0), found.settled(0.5)
    ([1.0, 0.0], 1, None)
    """
    values = _points_of(losses)
    m = values.shape[-1]
    k = _sizes_up_to(sizes, m)
    flat = values.reshape(-1, m)
    means, steps = np.empty((2, len(k), len(flat)))
    for rows in _chunks(*flat.shape):
        sums = np.cumsum(flat[rows], axis=1, dtype=np.float64)
        means[:, rows] = (sums[:, k - 1] / k).T
        steps[:-1, rows] = np.abs(flat[rows][:, k[:-1]].T - means[:-1, rows]) / (k[:-1, None] + 1.0)
    steps[-1] = np.nan
    shape = (len(k), *values.shape[:-1])
    return SettlingSurface(k, means.reshape(shape), steps.reshape(shape), np.abs(means[-1] - means).reshape(shape))


def share_within(
    losses: ArrayLike, sizes: ArrayLike, tolerance: float, orders: int = 40, seed: int = 0, level: float = 0.9
) -> Band:
    """Return the share of a plane's points at which |L_m - L_k| is within `tolerance`, over random orders.

    Args:
        losses: as for `settling_surface`; the order in which they are given is of no account here.
        sizes: as for `settling_surface`.
        tolerance: nats.
        orders: number of random orders of the samples.
        seed: of the orders.
        level: share of the orders between `low` and `high`.

    Raises:
        InputError: as for `settling_surface`, or the tolerance is not positive.

    Cost: `orders` times that of `settling_surface`.

    >>> share_within([[0.0, 2.0], [4.0, 4.0]], [1], tolerance=0.5, orders=3).mean.tolist()
    [0.5, 1.0]
    """
    values = _points_of(losses)
    _checks.positive("tolerance", tolerance)
    _checks.at_least("orders", orders, 1)
    _checks.fraction("level", level)
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(orders):
        within = settling_surface(values[..., rng.permutation(values.shape[-1])], sizes).within(tolerance)
        shares.append(within.reshape(len(within), -1).mean(1))
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Band(np.mean(shares, axis=0), low, high)


def _points_of(losses: ArrayLike) -> np.ndarray:
    values = np.asarray(losses)
    if values.ndim < 2 or values.shape[-1] < 2 or values.size == 0 or values.dtype.kind not in "iuf":
        raise InputError(
            f"losses is {values.dtype} of shape {values.shape}; it must be numbers: points of a plane, then at least "
            "two samples."
        )
    if not np.isfinite(values).all():
        raise InputError("losses has entries that are not finite; take a smaller plane around the optimum.")
    return values


def _sizes_up_to(sizes: ArrayLike, m: int) -> np.ndarray:
    k = np.asarray(sizes)
    whole = k.ndim == 1 and k.size > 0 and k.dtype.kind in "iuf" and bool(np.all(k == np.floor(k)))
    if not whole or k.min() < 1 or k.max() > m or np.any(np.diff(k) <= 0):
        raise InputError(f"sizes is {sizes!r}; it must be increasing whole numbers within 1..{m}, the samples given.")
    k = k.astype(np.int64)
    return k if k[-1] == m else np.append(k, m)


def _chunks(points: int, samples: int) -> list[slice]:
    at_once = max(1, _NUMBERS_AT_ONCE // samples)
    return [slice(start, start + at_once) for start in range(0, points, at_once)]
