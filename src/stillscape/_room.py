"""Work on many samples in parts: as many at a time as are asked for, halved whenever the memory runs out."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from stillscape._errors import MemoryShortError

T = TypeVar("T")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that memory is short: the accelerator's, or this machine's."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def is_short_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, by itself or after all that could be halved was halved."""
    return isinstance(error, MemoryShortError | MemoryError) or (
        isinstance(error, RuntimeError) and is_out_of_memory(error)
    )


class Halves:
    """How many samples fit at a time: all that are asked for, until memory runs out; then half of that, and so on.

    Args:
        alone: what is said if a single one is too much.
        on_halving: called with the number that was too much, to let go of what can be had again.

    Attributes:
        fits: the most samples at a time since memory ran out; None while it never has.
    """

    def __init__(self, alone: str, on_halving: Callable[[int], None] | None = None) -> None:
        self.fits: int | None = None
        self._alone, self._on_halving = alone, on_halving

    def parts(self, count: int, work: Callable[[slice], T]) -> Iterator[T]:
        """Yield work on each part of `count` samples; only the part at which memory runs out is begun again.

        Raises:
            MemoryShortError: if memory runs out with a single one.
        """
        start = 0
        while start < count:
            at_once = min(self.fits or count, count - start)
            done: list[T] = []
            try:
                done.append(work(slice(start, start + at_once)))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            if done:
                start += at_once
                yield done.pop()
            else:
                self._halve(at_once)  # outside of the handler, which keeps the failed attempt's tensors alive

    def _halve(self, at_once: int) -> None:
        if at_once == 1:
            raise MemoryShortError(self._alone)
        if self._on_halving is not None:
            self._on_halving(at_once)
        self.fits = at_once // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
