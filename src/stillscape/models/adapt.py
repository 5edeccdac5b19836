"""What is trained when a model is adapted: a head, the last layers, low-rank updates, or everything."""

import re
from dataclasses import dataclass
from typing import Literal, cast

from stillscape._errors import InputError

Kind = Literal["head", "last-layers", "lora", "full"]
_FORM = re.compile(r"(?:(head|full)|(last-layers|lora):([1-9][0-9]*))")


@dataclass(frozen=True)
class Adaptation:
    """The part of a model that is trained.

    `head` trains the classifier on frozen features; `last-layers:N` the last N transformer blocks, the norm after
    them and the classifier; `lora:R` rank-R updates of the query and value projections and the classifier; `full`
    everything.

    Args:
        kind: which of the four.
        amount: N or R; None for `head` and `full`.

    >>> str(Adaptation("lora", 4))
    'lora:4'
    """

    kind: Kind
    amount: int | None = None

    def __str__(self) -> str:
        return self.kind if self.amount is None else f"{self.kind}:{self.amount}"


def parse_adaptation(text: str) -> Adaptation:
    """Read an adaptation from its written form.

    Args:
        text: "head", "last-layers:N", "lora:R" or "full", with N and R whole numbers of at least 1.

    Raises:
        InputError: any other text.

    >>> parse_adaptation("last-layers:2")
    Adaptation(kind='last-layers', amount=2)
    """
    match = _FORM.fullmatch(str(text).strip())
    if match is None:
        raise InputError(
            f"adapt is {text!r}; it must be one of head, last-layers:N (the last N blocks), lora:R (rank R) or full, "
            "with N and R whole numbers of at least 1."
        )
    plain, counted, amount = match.groups()
    return Adaptation(cast(Kind, plain or counted), int(amount) if amount else None)
