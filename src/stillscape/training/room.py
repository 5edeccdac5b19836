"""Passes that only measure, in parts where the memory can't take a batch whole; nothing but rounding depends on it."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from torch import Tensor

from stillscape._room import Halves

T = TypeVar("T")

ALONE = (
    "memory ran out with one image at a time; everything recorded is kept. Run the same command again with "
    "fewer --workers, a smaller model, or an adaptation that trains less of it (--adapt head)."
)


class Room(Halves):
    """How many images fit through a model at a time: all that are asked for, halved whenever memory runs out."""

    def __init__(self) -> None:
        super().__init__(ALONE)

    def of_batch(self, x: Tensor, y: Tensor, work: Callable[[Tensor, Tensor], T]) -> Iterator[T]:
        """Yield work on each part of a batch; only the part at which memory runs out is begun again, in halves.

        Raises:
            MemoryShortError: if memory runs out with one image at a time.
        """
        return self.parts(len(y), lambda part: work(x[part], y[part]))
