"""How small a difference in accuracy a number of held-out images can tell from noise."""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from stillscape._checks import fraction, positive


def resolvable_difference(n: float, *, accuracy: float = 0.9, level: float = 0.9) -> float:
    """Return the half-width of the interval of an accuracy difference that n held-out images allow.

    Two models of accuracy p, judged as if on n images each, independently of one another:

        half-width = z sqrt(2 p (1 - p) / n),   z = 1.645 for a level of 90 %.   (normal approximation, Wald)

    Models judged on the same images usually err together, which makes the true interval narrower: this is the
    cautious side, known before anything is trained. A tolerance below it can hardly be decided.

    Args:
        n: held-out images; with groups, their effective number.
        accuracy: p, strictly between 0 and 1.
        level: of the interval.

    Returns:
        The half-width, as a share (0.01 is one point).

    Example:
        >>> round(resolvable_difference(300), 3)
        0.04
    """
    p = fraction("accuracy", accuracy)
    z = NormalDist().inv_cdf(0.5 + fraction("level", level) / 2)
    return z * math.sqrt(2 * p * (1 - p) / positive("n", n))


def effective_images(groups: ArrayLike) -> float:
    """Return how many independent images a grouped set is worth if images of a group err alike.

    With group sizes m_g: (sum m_g)^2 / sum m_g^2                      (Kish 1965, effective sample size)

    >>> effective_images([0, 0, 1, 1])
    2.0
    """
    sizes = np.unique(np.asarray(groups), return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())
