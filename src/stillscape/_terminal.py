"""Progress on a terminal: a bar with the time left; plain lines where stderr is a file or a pipe."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from stillscape._secrets import redacted


class TerminalProgress:
    """Draws the stages of a run on stderr; see `stillscape.experiments.progress.Progress`."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        columns = (
            TextColumn("{task.description}", markup=False),  # titles may hold names from the data
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> "TerminalProgress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage(self, title: str, total: float) -> None:
        """Begin a stage; where no bar can be drawn, print its title."""
        if not self._console.is_terminal:
            self._console.print(title, markup=False)
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(title, total=total, left="")

    def advance(self, done: float, *, total: float | None = None, seconds_left: float | None = None) -> None:
        """Move the bar, and show the time left where it is known."""
        if self._task is not None:
            left = "" if seconds_left is None else f"about {_clock(seconds_left)} left"
            self._bars.update(self._task, completed=done, total=total, left=left)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(redacted(line), markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
