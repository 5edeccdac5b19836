"""A limit on the time of one cell, which holds even where the cell hangs inside a library."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_CODE = 75  # of a worker that ended itself; its executor starts another


@contextmanager
def time_limit(seconds: float | None, too_late: Callable[[float], None]) -> Iterator[None]:
    """Run a block; if it is not done in time, call `too_late` with the seconds spent, and end this process.

    Nothing less ends a call that hangs in C, so use it in a worker process only.
    """
    if seconds is None:
        yield
        return
    started = time.monotonic()  # never the wall clock, which may go back
    done = threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            try:
                too_late(time.monotonic() - started)
            finally:
                os._exit(EXIT_CODE)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
