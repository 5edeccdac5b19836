"""The gap between held-out and training loss, and what it says of the next doubling."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError
from stillscape.convergence import Curve, bootstrap_curve, mean_over_repeats


def optimism_gap(
    heldout: Float[np.ndarray, "repeats sizes images"],
    train: Float[np.ndarray, "repeats sizes"],
    sizes: ArrayLike,
    *,
    groups: ArrayLike | None,
    permutation_ids: ArrayLike,
    seed_ids: ArrayLike,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
) -> Curve:
    r"""Return L_test(w_k) - L_k(w_k), what training has made its own loss better than it is, with its band.

    To first order in 1/k, and without a penalty, it is tr(H^(-1) G) / k: twice the excess loss that is still to be
    gained (Takeuchi 1976; Akaike 1974 for H = G). See `optimism_gain`.

    Args:
        heldout: losses of held-out images, (R, K, n); nats.
        train: mean training losses, (R, K); nats.
        sizes: (K,).
        groups: as in `bootstrap_curve`, and so the next two.
        permutation_ids: (R,).
        seed_ids: (R,).
        level: of the band, which holds held-out images and orders of the data as in `bootstrap_curve`.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        the curve, nats; of kind "measured". Below zero where an early stop or a penalty holds training back.

    Raises:
        InputError: shapes that don't fit; and as in `bootstrap_curve`.

    Cost: that of `bootstrap_curve`.

    >>> curve = optimism_gap(np.full((2, 1, 4), 0.75), np.full((2, 1), 0.25), [10], groups=None,
    ...                      permutation_ids=[0, 1], seed_ids=[0, 0], draws=9)
    >>> curve.mean.tolist(), curve.low.tolist()
    ([0.5], [0.5])
    """
    _checks.fraction("level", level)
    losses, own = np.asarray(heldout, dtype=np.float64), np.asarray(train, dtype=np.float64)
    if losses.ndim != 3 or own.shape != losses.shape[:2]:
        raise InputError(f"train has shape {own.shape} for heldout {losses.shape}; it must be (repeats, sizes).")
    gaps = losses - own[:, :, None]
    mean = mean_over_repeats(gaps.mean(axis=2), permutation_ids)
    drawn = bootstrap_curve(gaps, groups, permutation_ids, seed_ids, draws, seed)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Curve(sizes, mean, np.minimum(low, mean), np.maximum(high, mean), "measured", "nats")


def optimism_gain(gap: Curve) -> Curve:
    r"""Return what the next doubling would bring by the optimism gap alone: a quarter of it.

        excess(k) - excess(2k) = tr(H^(-1) G) / (4 k) = gap / 4                               (`takeuchi`, first order)

    Args:
        gap: as from `optimism_gap`.

    Returns:
        the curve at the same sizes, its band a quarter of the gap's; nats; of kind "estimate".

    Assumes: losses that fall like 1/k and no penalty that holds the weights back: where one does, the gap closes
        without any gain in held-out loss, and a quarter of it is too little (measured: docs/method.md).

    Cost: O(K).

    >>> optimism_gain(Curve([10], [0.5], [0.25], [1.0], "measured", "nats")).to_dict()["high"]
    [0.25]
    """
    ends = [None if end is None else np.asarray(end, dtype=np.float64) / 4 for end in (gap.mean, gap.low, gap.high)]
    assert ends[0] is not None
    return Curve(gap.k, ends[0], ends[1], ends[2], "estimate", "nats")
