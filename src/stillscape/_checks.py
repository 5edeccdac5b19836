"""Checks of arguments at the public door: each message names the parameter, the value got, and what is accepted."""

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike

from stillscape._errors import InputError


def positive(name: str, value: float, what_to_do: str = "") -> float:
    """Return `value` if it is a finite number above zero, else raise `InputError`."""
    if not _is_number(value) or value <= 0:
        raise InputError(f"{name} is {value!r}; it must be a finite number above zero. {what_to_do}".rstrip())
    return value


def not_negative(name: str, value: float, what_to_do: str = "") -> float:
    """Return `value` if it is a finite number of at least zero, else raise `InputError`."""
    if not _is_number(value) or value < 0:
        raise InputError(f"{name} is {value!r}; it must be a finite number of at least zero. {what_to_do}".rstrip())
    return value


def fraction(name: str, value: float) -> float:
    """Return `value` if it lies strictly between 0 and 1, else raise `InputError`."""
    if not 0 < value < 1:
        raise InputError(f"{name} is {value!r}; it must lie strictly between 0 and 1.")
    return value


def at_least(name: str, value: int, least: int) -> int:
    """Return `value` if it is a whole number of at least `least`, else raise `InputError`."""
    if not _is_number(value) or int(value) != value or value < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
    return int(value)


def one_of(name: str, value: str, accepted: Collection[str]) -> str:
    """Return `value` if it is among `accepted`, else raise `InputError` with the list."""
    if value not in accepted:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(sorted(accepted))}.")
    return value


def finite_vector(name: str, values: ArrayLike, least: int = 1) -> np.ndarray:
    """Return `values` as a float64 vector of at least `least` finite entries, else raise `InputError`."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size < least:
        raise InputError(f"{name} has shape {array.shape}; it must be one axis of at least {least} numbers.")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise InputError(f"{name}[{bad[0]}] is {array[bad[0]]}; every entry must be finite. Leave failed runs out.")
    return array


def _is_number(value: object) -> bool:
    """Return whether `value` is one finite number: arrays and tensors of no axes are, truth values and words not."""
    if isinstance(value, bool | str | bytes) or getattr(value, "ndim", 0) != 0:
        return False
    if isinstance(value, int):
        return True  # whole numbers have no largest, and those beyond any float are finite, too
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
