"""What has arrived since the last look, and which part of it is scored before it is trained on."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy.stats import chi2_contingency

_RARELY = 0.001  # chance of a shift in the classes under which it is told


@dataclass(frozen=True)
class Arrivals:
    """New images.

    Attributes:
        num_new: how many were not there at the last look.
        scored: rows of those that models trained on all other images are to score.
    """

    num_new: int
    scored: Int[np.ndarray, " scored"]


def arrivals(
    groups: Int[np.ndarray, " n"], digests: Sequence[str], known: Collection[str], share: float, seed: Sequence[int]
) -> Arrivals:
    """Choose what is scored: whole groups of new images only, in random order, up to `share` of all images.

    A group that holds an image of an earlier look, or a copy of one, may have been trained on; it is not scored.
    The draw looks at no label, so that what is scored is as random as what arrived.

    Args:
        groups: codes of what is never split, with copies joined, (n,).
        digests: of the pixels, n.
        known: digests of the images of earlier looks.
        share: of all images, at most so many are scored; the rest of a larger batch goes to training at once.
        seed: of the draw.

    Returns:
        what is new and what is scored.

    >>> found = arrivals(np.array([0, 1, 1, 2]), ["a", "b", "c", "d"], {"a", "b"}, 0.5, [0])
    >>> found.num_new, found.scored.tolist()
    (2, [3])
    """
    old = np.isin(np.asarray(digests), list(known))
    fresh = ~np.isin(groups, groups[old])
    units = np.random.default_rng([*seed, *b"arrivals"]).permutation(np.unique(groups[fresh]))
    sizes = np.array([np.count_nonzero(groups == unit) for unit in units], dtype=np.int64)
    taken = units[: np.count_nonzero(np.cumsum(sizes) <= max(1, int(share * len(digests))))]
    return Arrivals(int(np.count_nonzero(~old)), np.flatnonzero(np.isin(groups, taken)))


def class_shift(labels: Int[np.ndarray, " n"], known: Bool[np.ndarray, " n"], classes: Sequence[str]) -> str:
    """Return a warning where the classes of the new images are not distributed like those before; else nothing.

    >>> class_shift(np.repeat([0, 1], 50), np.repeat([True, False], 50), ["a", "b"])[:37]
    "The new images' classes differ from t"
    >>> class_shift(np.tile([0, 1], 50), np.repeat([True, False], 50), ["a", "b"])
    ''
    """
    counts = np.array([np.bincount(labels[rows], minlength=len(classes)) for rows in (known, ~known)])
    counts = counts[:, counts.sum(axis=0) > 0]
    if not counts.sum(axis=1).all() or counts.shape[1] < 2 or chi2_contingency(counts).pvalue >= _RARELY:
        return ""
    return (
        "The new images' classes differ from those before by more than chance. The rule takes each batch for a random "
        "draw from the same source; collect batches that are, or the answer is about this batch alone."
    )
