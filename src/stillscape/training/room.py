"""Memory that runs out: fewer images go through the model at a time, and it is said how few."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from stillscape._errors import RunError

T = TypeVar("T")
_CPU_WORDS = ("can't allocate memory", "not enough memory")  # torch has no class of its own for the CPU's


class Room:
    """How many images fit through a model at a time: all that are asked for, halved whenever memory runs out.

    Attributes:
        fits: the most images at a time since memory ran out; None while it never has.
    """

    def __init__(self) -> None:
        self.fits: int | None = None

    def whole(self, size: int, work: Callable[[int], T]) -> T:
        """Return work(s), s images at a time; it begins again, with half as many, where memory runs out.

        Raises:
            RunError: if memory runs out with one image at a time.
        """
        while True:
            at_once = self._at_once(size)
            try:
                return work(at_once)
            except (RuntimeError, MemoryError) as error:
                _refuse_others(error)
            self._halve(at_once)  # outside of the handler, which would keep the failed attempt's tensors alive

    def parts(self, x: Tensor, y: Tensor, work: Callable[[Tensor, Tensor], T]) -> Iterator[T]:
        """Yield work on each part of a batch; only the part at which memory runs out is begun again, in halves.

        Raises:
            RunError: if memory runs out with one image at a time.
        """
        start = 0
        while start < len(y):
            at_once = min(self._at_once(len(y)), len(y) - start)
            done: list[T] = []
            try:
                done.append(work(x[start : start + at_once], y[start : start + at_once]))
            except (RuntimeError, MemoryError) as error:
                _refuse_others(error)
            if done:
                start += at_once
                yield done.pop()
            else:
                self._halve(at_once)

    def _at_once(self, size: int) -> int:
        return size if self.fits is None else min(size, self.fits)

    def _halve(self, at_once: int) -> None:
        if at_once == 1:
            raise RunError(
                "memory ran out with one image at a time; everything recorded is kept. Run the same command again with "
                "fewer --workers, a smaller model, or an adaptation that trains less of it (--adapt head)."
            )
        self.fits = at_once // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def refuse_batch_statistics(model: nn.Module, batch: int) -> None:
    """Raise `RunError` if parts of a batch would not train a model as the whole batch does."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise RunError(
            f"memory ran out at batch {batch}, and this model's batch normalization needs whole batches; everything "
            "recorded is kept. Set a smaller batch in the plan's recipes, in another run folder."
        )


def _refuse_others(error: RuntimeError | MemoryError) -> None:
    said = str(error)
    if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(words in said for words in _CPU_WORDS):
        raise error
