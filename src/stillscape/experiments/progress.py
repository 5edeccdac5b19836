"""How a run tells what it is doing; the command line draws it, a library call stays silent."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """What a run reports to: stages with a total, work done, and single lines that a person should see."""

    def stage(self, title: str, total: float) -> None:
        """Begin a stage of `total` units."""

    def advance(self, done: float, *, total: float | None = None, seconds_left: float | None = None) -> None:
        """Report units done so far, perhaps a better total, and an estimate of the time that is left."""

    def say(self, line: str) -> None:
        """Tell one thing that the person should know."""


class Silent:
    """Reports nothing."""

    def stage(self, title: str, total: float) -> None:
        """Ignore."""

    def advance(self, done: float, *, total: float | None = None, seconds_left: float | None = None) -> None:
        """Ignore."""

    def say(self, line: str) -> None:
        """Ignore."""


def counted(items: Iterable[T], total: int, title: str, progress: Progress) -> Iterator[T]:
    """Yield the items of one stage, advancing by one for each."""
    progress.stage(title, total)
    for done, item in enumerate(items, 1):
        yield item
        progress.advance(done)
