"""Passes that only measure, in parts where the memory can't take a batch whole; nothing but rounding depends on it."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from stillscape._errors import RunError
from stillscape.training.micro_batches import is_out_of_memory

T = TypeVar("T")


class Room:
    """How many images fit through a model at a time: all that are asked for, halved whenever memory runs out.

    Attributes:
        fits: the most images at a time since memory ran out; None while it never has.
    """

    def __init__(self) -> None:
        self.fits: int | None = None

    def parts(self, x: Tensor, y: Tensor, work: Callable[[Tensor, Tensor], T]) -> Iterator[T]:
        """Yield work on each part of a batch; only the part at which memory runs out is begun again, in halves.

        Raises:
            RunError: if memory runs out with one image at a time.
        """
        start = 0
        while start < len(y):
            at_once = min(self.fits or len(y), len(y) - start)
            done: list[T] = []
            try:
                done.append(work(x[start : start + at_once], y[start : start + at_once]))
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
            raise RunError(
                "memory ran out with one image at a time; everything recorded is kept. Run the same command again with "
                "fewer --workers, a smaller model, or an adaptation that trains less of it (--adapt head)."
            )
        self.fits = at_once // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
