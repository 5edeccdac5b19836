"""Worker processes that start fast: forked from a server that has done its imports while the parent did its own."""

import gc
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any

PRELOADED = "stillscape._preloaded"


def context() -> BaseContext:
    """Return the way in which workers are made: forked from a server that never ran a thread, else started anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload([PRELOADED])
    return chosen


def warm_up() -> None:
    """Start the server now, so that it imports what workers need while this process is busy with its own imports."""
    if available_cores() > 1 and context().get_start_method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Import inside this block without garbage collection, and leave what was made out of it for good.

    torch and transformers make millions of objects that live to the end; walking through them again and again takes
    a third of the import, and two seconds at exit.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


@contextmanager
def callers_script_left_alone() -> Iterator[None]:
    """Start workers inside this block without their importing the script that called.

    They only run functions of this package. Without this a script that calls the library at its top level, not under
    ``if __name__ == "__main__"``, would be run again by every worker.
    """
    main = sys.modules["__main__"]
    names: dict[str, Any] = vars(main)
    kept: dict[str, Any] = {name: names.pop(name) for name in ("__file__", "__spec__") if name in names}
    names["__spec__"] = None
    try:
        yield
    finally:
        names.update(kept)
