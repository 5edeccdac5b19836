"""Turn what a source calls its labels and groups into numbers, and check that there is something to learn."""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from stillscape._errors import InputError
from stillscape.data.image_set import ImageSet, first_seen_codes, named

_log = logging.getLogger(__name__)


def class_codes(
    values: Sequence[object], names: Sequence[str] | None, column: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the classes of `values`.

    Without `names`, classes are the distinct values as text, sorted (by value where all are whole numbers). With
    `names` (a source that lists its classes in an order), values are positions in it; names that no row has are left
    out, because a class without images can be neither learned nor measured.

    Args:
        values: a label for each row: text, whole numbers or truth values.
        names: class names in the source's order, or None.
        column: what to call the labels in messages.

    Returns:
        Codes 0..C-1 of shape (n,), int64, and the C class names.

    Example:
        >>> codes, classes = class_codes(["10", "9", "10"], None, "label")
        >>> codes.tolist(), classes
        ([1, 0, 1], ('9', '10'))
    """
    texts = [_text(value, row, column) for row, value in enumerate(values)]
    if names is None:
        ordered = sorted(set(texts), key=_class_key(texts))
    else:
        bad = next((row for row, text in enumerate(texts) if not text.isdecimal() or int(text) >= len(names)), None)
        if bad is not None:
            raise InputError(
                f"row {bad} has {column} {texts[bad]}, but classes are numbered 0 to {len(names) - 1}. "
                "Rows without a label (often -1, in test splits) must be left out."
            )
        used = sorted({int(text) for text in texts})
        ordered = [str(number) for number in used]
        if len(used) < len(names):
            _log.info("%s: %d of %d classes have images; the others are left out", column, len(used), len(names))
    position = {text: code for code, text in enumerate(ordered)}
    codes = np.array([position[text] for text in texts], dtype=np.int64)
    return codes, tuple(ordered if names is None else (names[int(text)] for text in ordered))


def column_groups(values: Sequence[object], column: str) -> Int[np.ndarray, " n"]:
    """Number the groups that a column names; a row without one is an `InputError`."""
    return first_seen_codes([_text(value, row, column) for row, value in enumerate(values)])


def checked(images: ImageSet) -> ImageSet:
    """Return `images` if there are at least two classes of at least two images, else raise `InputError`."""
    if not len(images):
        raise InputError(f"{images.name} holds no image.")
    counts = np.bincount(images.labels, minlength=len(images.classes))
    if counts.size < 2:
        raise InputError(f"{images.name} has one class only, {images.classes[0]}; at least two are needed.")
    single = [name for name, count in zip(images.classes, counts, strict=True) if count < 2]
    if single:
        raise InputError(
            f"{images.name} has classes with fewer than two images: {named(single)}. One image can't both "
            "train and test; add images, or leave the class out."
        )
    return images


def _text(value: object, row: int, column: str) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        raise InputError(f"row {row} has no {column}. Fill it in, or leave the row out.")
    if not isinstance(value, str | int):
        raise InputError(f"row {row} has {column} {value!r}; it must be one text or whole number for each image.")
    return str(value)


def _class_key(texts: Sequence[str]):  # type: ignore[no-untyped-def]
    whole = all(text.lstrip("-").isdecimal() for text in texts)
    return (lambda text: (int(text), text)) if whole else (lambda text: (0, text))
