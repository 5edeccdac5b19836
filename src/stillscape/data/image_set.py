"""The record that every source of images turns into: labels, classes, groups, and a way to read each image."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike
from PIL import Image

from stillscape._errors import InputError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labeled images that are read one at a time.

    Attributes:
        name: what the source is called: "digits", a folder's name, a dataset's id.
        files: a display name for each image: "cat/1.png", or "row 17", counted from zero.
        labels: class numbers 0..C-1; shape (n,), int64.
        classes: the names of the classes; sorted, unless the source has an order.
        groups: codes of what belongs together (a patient, a slide); images of one group are never split; or None.
        read: row -> upright 8-bit RGB image; raises `BrokenImage`. It can be pickled.
    """

    name: str
    files: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    groups: Int[np.ndarray, " n"] | None
    read: Callable[[int], Image.Image]

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.files),):
            raise InputError(f"labels has shape {self.labels.shape}; there are {len(self.files)} images.")
        if self.groups is not None and self.groups.shape != self.labels.shape:
            raise InputError(f"groups has shape {self.groups.shape}; labels has {self.labels.shape}.")
        if self.labels.size and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise InputError(
                f"labels run from {self.labels.min()} to {self.labels.max()}; there are {len(self.classes)} classes."
            )

    def __len__(self) -> int:
        return len(self.files)


def keep(images: ImageSet, rows: ArrayLike) -> ImageSet:
    """Return the images of `rows`, in that order; the classes stay as they are, even those left empty.

    Args:
        images: the whole set.
        rows: row numbers without repeats, or a mask of shape (n,).

    Returns:
        A set of len(rows) images; group codes keep their values.

    Raises:
        InputError: a row is out of range or stands twice.
    """
    chosen = as_rows(rows, len(images))
    return ImageSet(
        name=images.name,
        files=tuple(images.files[row] for row in chosen),
        labels=images.labels[chosen],
        classes=images.classes,
        groups=None if images.groups is None else images.groups[chosen],
        read=_Subset(images.read, chosen),
    )


def fingerprint(images: ImageSet, digests: Sequence[str]) -> str:
    """Hash what a result depends on: pixels, labels, class names and the partition into groups, in their order.

    File names, paths and the numbers used as group codes don't enter, so a moved or copied folder keeps its
    fingerprint. The order of the images enters, because subsets are drawn by row.

    Args:
        images: the set.
        digests: a pixel digest for each image, from `scan`.

    Returns:
        64 hexadecimal digits (SHA-256).

    Raises:
        InputError: the number of digests differs from the number of images, or a broken image is among them.
    """
    if len(digests) != len(images):
        raise InputError(f"digests has {len(digests)} entries; there are {len(images)} images.")
    if not all(digests):
        raise InputError(
            f"{images.files[list(digests).index('')]} has no digest, since it can't be read. "
            "Keep the readable images only."
        )
    groups = np.full(len(images), -1) if images.groups is None else first_seen_codes(images.groups)
    fields = [*_numbered(images.classes), *(map(str, images.labels)), *(map(str, groups)), *digests]
    return hashlib.sha256("\0".join(["stillscape images 1", *fields]).encode()).hexdigest()


def first_seen_codes(values: ArrayLike | Sequence[str]) -> Int[np.ndarray, " n"]:
    """Number the distinct `values` 0, 1, 2... in the order in which they first appear.

    >>> first_seen_codes(["b", "a", "b", "c"]).tolist()
    [0, 1, 0, 2]
    """
    _, first, inverse = np.unique(np.asarray(values), return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[inverse]


def as_rows(rows: ArrayLike, n: int) -> Int[np.ndarray, " rows"]:
    """Return `rows` (row numbers or a mask) as distinct row numbers below `n`, else raise `InputError`."""
    array = np.asarray(rows)
    if array.dtype == bool:
        if array.shape != (n,):
            raise InputError(f"rows is a mask of shape {array.shape}; it must be ({n},).")
        return np.flatnonzero(array)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"rows has shape {array.shape} and type {array.dtype}; it must be one axis of row numbers.")
    array = array.astype(np.int64)
    outside = array[(array < 0) | (array >= n)]
    if outside.size:
        raise InputError(f"rows holds {outside[0]}; row numbers run from 0 to {n - 1}.")
    if np.unique(array).size < array.size:
        raise InputError("rows holds a row twice; each image may stand in a subset once.")
    return array


def named(names: Iterable[str], shown: int = 5) -> str:
    """List some of `names` for a message, and say how many more there are.

    >>> named(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    listed = list(names)
    more = len(listed) - shown
    return ", ".join(listed[:shown]) + (f" and {more} more" if more > 0 else "")


def _numbered(classes: tuple[str, ...]) -> list[str]:
    return [f"{number} {name}" for number, name in enumerate(classes)]


@dataclass(frozen=True, eq=False)
class _Subset:
    inner: Callable[[int], Image.Image]
    rows: np.ndarray

    def __call__(self, row: int) -> Image.Image:
        return self.inner(int(self.rows[row]))
