"""How far one more sample moves the mean loss near the optimum, split into what causes it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError
from stillscape.convergence.loss_differences import Band, absolute_bands, check_sizes


@dataclass(frozen=True)
class NeighborhoodDifferences:
    """|L_{k+1} - L_k| at w = w* + delta over random orders, and the absolute sizes of its three signed parts.

    Attributes:
        k: the sizes.
        total: of the whole difference; nats.
        loss: of the part that is there at w* already; nats.
        gradient: of the part linear in delta; nats.
        remainder: of the rest: curvature and beyond; nats.
    """

    k: Int[np.ndarray, " sizes"]
    total: Band
    loss: Band
    gradient: Band
    remainder: Band


def neighborhood_differences(
    losses_at: ArrayLike,
    losses_star: ArrayLike,
    slopes: ArrayLike,
    permutations: int = 100,
    seed: int = 0,
    level: float = 0.9,
    sizes: ArrayLike | None = None,
) -> NeighborhoodDifferences:
    r"""Measure |L_{k+1} - L_k| at w = w* + delta over random orders, and how much of it each order of Taylor explains.

        L_{k+1}(w) - L_k(w) = 1/(k+1) [ l*_{k+1} - L*_k          loss part
                                      + s_{k+1} - mean s_{1..k}   gradient part, s_i = <grad l_i(w*), delta>
                                      + r_{k+1} - mean r_{1..k} ] remainder, r_i = l_i(w) - l_i(w*) - s_i

    (theory, section 6). For exactly quadratic losses r_i = delta' H_i delta / 2. The signed parts add up to the whole
    in every order; their mean absolute sizes need not.

    Args:
        losses_at: per-sample losses at w, shape (m,), m >= 2; nats.
        losses_star: per-sample losses at w*, same samples.
        slopes: s_i, the directional derivatives at w*, same samples.
        permutations: number of random orders, the same ones for all parts.
        seed: of the orders.
        level: share of the orders within each band.
        sizes: sizes to report, increasing, within 1..m-1; None for all of them.

    Returns:
        the four bands.

    Raises:
        InputError: arrays of different lengths, fewer than two samples, or an entry that is not finite.

    Cost: O(permutations * m) time, O(permutations * len(sizes) + m) memory.

    >>> parts = neighborhood_differences([1.0, 5.0], [0.0, 1.0], [1.0, 2.0], permutations=1)
    >>> [band.mean.item() for band in (parts.total, parts.loss, parts.gradient, parts.remainder)]
    [2.0, 0.5, 0.5, 1.0]
    """
    at = _checks.finite_vector("losses_at", losses_at, least=2)
    star = _checks.finite_vector("losses_star", losses_star, least=2)
    slope = _checks.finite_vector("slopes", slopes, least=2)
    if not at.size == star.size == slope.size:
        raise InputError(
            f"losses_at, losses_star and slopes have {at.size}, {star.size} and {slope.size} entries; "
            "they must be of the same samples in the same order."
        )
    k = check_sizes(sizes, at.size)
    bands = absolute_bands([at, star, slope, at - star - slope], permutations, seed, level, k)
    return NeighborhoodDifferences(k, *bands)
