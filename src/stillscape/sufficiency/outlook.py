"""What more of the same would do to the uncertainty: the interval of the last gain with more images or more repeats."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape.sufficiency import wording
from stillscape.sufficiency.doublings import doubling_matrix

_TIMES = 2
_DRAWS = 20_000


def interval_outlook(
    sizes: ArrayLike,
    heldout: Float[np.ndarray, "draws sizes"],
    scores: Float[np.ndarray, "repeats sizes"],
    permutation_ids: ArrayLike,
    *,
    level: float,
    now: float,
    shared: float = 0.0,
    seed: int = 0,
) -> dict[str, float] | None:
    r"""Predict the half-width of the last gain's interval with twice the held-out images, and with twice the repeats.

    The interval is that of a sum of two sources, held-out images and training, as in `bootstrap_curve`:

        h + s / sqrt(P) * t_{P - 1},    h^2 = A + E / P,    s^2 = T + E

    with h the scatter of the held-out draws, s the standard deviation of the gain over P permutations, t Student's; A
    is the variance of the images alone, T that of training, E of what belongs to an image and a permutation together
    (`shared`). Twice the images halve A and E, twice the repeats double P. The prediction is this width's ratio to
    today's, times the width that was measured.

    Args:
        sizes: measured sizes, (K,).
        heldout: as from `heldout_draws`, (B, K).
        scores: measured scores of each repeat, (R, K).
        permutation_ids: (R,).
        level: of the interval.
        now: its half-width as measured.
        shared: E, as from `shared_variance`.
        seed: of the draws.

    Returns:
        {"now", "twice_heldout", "twice_repeats"}; None where no doubling was measured, or one permutation only.

    Assumes: images and repeats of the same kind as those at hand.

    Cost: O(B K).

    >>> heldout = np.random.default_rng(0).normal(0, [[0.0, 0.01]], (4000, 2))
    >>> found = interval_outlook([5, 10], heldout, np.zeros((3, 2)), [0, 1, 2], level=0.9, now=0.016)
    >>> round(found["twice_heldout"], 4), round(found["twice_repeats"], 4)
    (0.0113, 0.016)
    """
    _, _, matrix = doubling_matrix(sizes)
    ids = np.asarray(permutation_ids)
    units = np.unique(ids)
    if not len(matrix) or units.size < 2:
        return None
    deviations = heldout @ matrix[-1]
    images, training = deviations.var(), np.var([scores[ids == u].mean(axis=0) @ matrix[-1] for u in units], ddof=1)
    shared = min(shared, training, images * units.size)
    rng = np.random.default_rng([seed, *b"outlook"])
    shape = (deviations[rng.integers(deviations.size, size=_DRAWS)] - deviations.mean()) / (np.sqrt(images) or 1.0)

    def width(more_images: int, more_repeats: int) -> float:
        count = more_repeats * units.size
        of_images = (images - shared / units.size + shared / count) / more_images
        of_training = (training - shared + shared / more_images) / count
        drawn = np.sqrt(of_images) * shape + np.sqrt(of_training) * rng.standard_t(count - 1, size=_DRAWS)
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return float(high - low)

    today = width(1, 1)
    if today == 0:
        return {"now": now, "twice_heldout": now, "twice_repeats": now}
    return {
        "now": now,
        "twice_heldout": now * width(_TIMES, 1) / today,
        "twice_repeats": now * width(1, _TIMES) / today,
    }


def shared_variance(
    values: Float[np.ndarray, "repeats sizes images"], sizes: ArrayLike, groups: ArrayLike | None, ids: ArrayLike
) -> float:
    r"""Return the part of the last gain's variance over permutations that belongs to single images and permutations.

        E = G / (G - 1) * sum_{p, g} (sum_{i in g} e_pi)^2 / ((P - 1) n^2),   e_pi the residual of image + permutation

    Args:
        values: of each repeat, size and image, as in `bootstrap_curve`.
        sizes: (K,).
        groups: (n,) codes of images that belong together, or None.
        ids: (R,) permutation of each repeat.

    Returns:
        a variance; 0 where there is one permutation, one group, or no doubling.

    >>> float(shared_variance(np.array([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]), [5, 10], None, [0, 1]))
    0.5
    """
    _, _, matrix = doubling_matrix(sizes)
    units = np.unique(np.asarray(ids))
    if not len(matrix) or units.size < 2:
        return 0.0
    changes = np.array([matrix[-1] @ np.asarray(values)[np.asarray(ids) == unit].mean(axis=0) for unit in units])
    rest = changes - changes.mean(axis=1, keepdims=True) - changes.mean(axis=0) + changes.mean()
    n = rest.shape[1]
    codes = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(codes.max()) + 1
    sums = np.array([np.bincount(codes, weights=row, minlength=count) for row in rest])
    return float((sums**2).sum() / ((units.size - 1) * n**2) * count / (count - 1)) if count > 1 else 0.0


def outlook_sentence(outlook: Mapping[str, float], metric: str) -> str:
    """Return the prediction in words.

    >>> outlook_sentence({"now": 0.01, "twice_heldout": 0.008, "twice_repeats": 0.009}, "accuracy")[:60]
    'The gain of the last doubling is known to plus or minus 1 po'
    """
    names = ("now", "twice_heldout", "twice_repeats")
    now, images, repeats = (wording.amount(metric, outlook[name], finer=True) for name in names)
    return (
        f"The gain of the last doubling is known to plus or minus {now}; with twice as many held-out images it would "
        f"be about {images}, with twice as many repeats about {repeats}."
    )
