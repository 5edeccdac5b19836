"""Divide images into held-out and training parts and into nested subsets, so that nothing leaks between them."""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stillscape._checks import at_least
from stillscape._checks import fraction as check_fraction
from stillscape._errors import InputError
from stillscape.data.image_set import first_seen_codes
from stillscape.data.nested import as_codes, as_labels, generator, nested_order, prefix

__all__ = ["folds", "holdout", "leak_free_groups", "nested_order", "prefix"]

_ATTEMPTS = 20


def leak_free_groups(groups: ArrayLike | None, digests: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Merge the given groups with the exact duplicates, so that a copy never sits on both sides of a split.

    Images belong together if they share a group or a digest, or are linked by a chain of such.

    Args:
        groups: codes of shape (n,), or None for every image on its own.
        digests: pixel digests from `scan`; an image without one ("", broken) has no duplicates.

    Returns:
        Codes of shape (n,), numbered in the order of first appearance.

    Example:
        >>> leak_free_groups([7, 7, 8, 9], ["a", "b", "b", "c"]).tolist()
        [0, 0, 0, 1]
    """
    n = len(digests)
    own = np.arange(n) if groups is None else as_codes(groups, n)
    copies = first_seen_codes([digest or f"row {row}" for row, digest in enumerate(digests)]) if n else own
    # Images, groups and digests are the nodes of one graph; what is connected stays together.
    node = np.concatenate([n + own, 2 * n + copies])
    image = np.tile(np.arange(n), 2)
    graph = coo_array((np.ones(2 * n, dtype=bool), (image, node)), shape=(3 * n, 3 * n))
    return first_seen_codes(connected_components(graph, directed=False)[1][:n])


def folds(labels: ArrayLike, groups: ArrayLike | None, count: int, seed: int) -> Int[np.ndarray, " n"]:
    """Deal the images into `count` folds: each class evenly over them, each group into one.

    A class may be missing from a fold, but never from what is left when a fold is held out.

    Args:
        labels: class numbers; shape (n,).
        groups: codes of shape (n,), or None.
        count: number of folds, at least 2.
        seed: of the shuffle; the same seed gives the same folds, whatever the global random state.

    Returns:
        The number of each image's fold, 0..count-1; shape (n,).

    Raises:
        InputError: fewer images (or groups) than folds, or a class that stands in one image (or group) only.

    Example:
        >>> folds([0, 0, 1, 1], None, 2, seed=0).tolist() in ([0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 1, 0])
        True
    """
    classes = as_labels(labels)
    count = at_least("folds", count, 2)
    codes = as_codes(groups, classes.size)
    _check_units(classes, codes, count)
    states = np.random.SeedSequence([at_least("seed", seed, 0), 1]).generate_state(_ATTEMPTS)
    for state in states:
        result = _deal(classes, codes, count, int(state))
        if _every_part_trains(classes, result, count):
            return result
    raise InputError(
        f"folds is {count}, but with these groups a class or a fold is always left without images. "
        "Use fewer folds, or join rare classes."
    )


def holdout(labels: ArrayLike, groups: ArrayLike | None, fraction: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Choose a held-out part: each class in its share, whole groups, every class on both sides.

    Args:
        labels: class numbers; shape (n,).
        groups: codes of shape (n,), or None.
        fraction: share of the images to hold out, strictly between 0 and 1; groups may make it smaller.
        seed: of the draw.

    Returns:
        True where held out; shape (n,).

    Raises:
        InputError: the fraction leaves a side without some class.

    Example:
        >>> int(holdout([0] * 8 + [1] * 4, None, 0.25, seed=0).sum())
        3
    """
    classes = as_labels(labels)
    check_fraction("fraction", fraction)
    codes = as_codes(groups, classes.size)
    wanted = round(fraction * classes.size)
    held = np.zeros(classes.size, dtype=bool)
    if wanted:
        order = nested_order(classes, codes, np.arange(classes.size), int(generator(seed, 2).integers(2**62)))
        held[prefix(order, codes, wanted)] = True
    every = np.unique(classes)
    if np.unique(classes[held]).size < every.size or np.unique(classes[~held]).size < every.size:
        raise InputError(
            f"fraction is {fraction}: holding out {int(held.sum())} of {classes.size} images leaves some "
            "class on one side only. Change the fraction, or join rare classes."
        )
    return held


def _deal(classes: np.ndarray, codes: np.ndarray, count: int, state: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    grouped = np.unique(codes).size < codes.size
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    result = np.full(classes.size, -1, dtype=np.int64)
    with warnings.catch_warnings():
        # A class with fewer images than folds is told by the doctor; what matters here is checked afterwards.
        warnings.filterwarnings("ignore", message="The least populated class")
        splits = kind(count, shuffle=True, random_state=state).split(classes, classes, codes if grouped else None)
        for fold, (_, test) in enumerate(splits):
            result[test] = fold
    return result


def _check_units(classes: np.ndarray, codes: np.ndarray, count: int) -> None:
    unit = "images" if np.unique(codes).size == codes.size else "groups"
    units = [np.unique(codes[classes == label]).size for label in np.unique(classes)]
    if min(units) < 2:
        raise InputError(
            f"class {np.unique(classes)[int(np.argmin(units))]} has all its images in one of the {unit}; "
            "at least two are needed, or no fold can be held out."
        )
    if max(units) < count:
        raise InputError(
            f"folds is {count}, but no class has more than {max(units)} {unit}. Use at most {max(units)} folds."
        )


def _every_part_trains(classes: np.ndarray, result: np.ndarray, count: int) -> bool:
    every = np.unique(classes).size
    filled = np.unique(result).size == count
    return filled and all(np.unique(classes[result != fold]).size == every for fold in range(count))
