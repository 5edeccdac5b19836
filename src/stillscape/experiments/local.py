"""Run tasks on the cores at hand: worker processes that each keep one model, and end when their parent does."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from stillscape._errors import RunError
from stillscape._processes import available_cores, callers_script_left_alone, context
from stillscape.experiments.bench import Bench
from stillscape.experiments.threads import thread_count

Task = Callable[..., None]  # task(bench, folder, *arguments); a module-level function, since workers import it by name

_worker_bench: Bench | None = None
_worker_folder: Path | None = None


def num_workers(bench: Bench, num_tasks: int) -> int:
    """Return how many workers to use: what the plan says, or as many as the cores can serve, but no idle ones."""
    return max(1, min(bench.plan.workers or available_cores() // bench.plan.threads, num_tasks))


def run_tasks(bench: Bench, folder: Path, tasks: list[tuple[Task, tuple[Any, ...]]]) -> Iterator[int]:
    """Run all tasks and yield the index of each as it is done.

    One worker runs in this process, several in processes of their own; the numbers are the same.

    Raises:
        RunError: if a worker process is killed; what was recorded is kept.
    """
    workers = num_workers(bench, len(tasks))
    if workers == 1:
        for index, (task, arguments) in enumerate(tasks):
            with thread_count(bench.plan.threads):
                task(bench, folder, *arguments)
            yield index
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context(), _start_worker, (bench, folder))
    try:
        with callers_script_left_alone():
            futures: dict[Future[None], int] = {
                pool.submit(_run, task, arguments): index for index, (task, arguments) in enumerate(tasks)
            }
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except (KeyboardInterrupt, GeneratorExit):  # the second if the caller's loop is what was interrupted
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()  # a cell may take an hour, and what it would have recorded can be measured again
        raise
    except BrokenProcessPool:
        raise RunError(
            "a worker process was killed, perhaps for want of memory; everything recorded is kept. "
            "Run the same command again, with fewer --workers or a smaller batch if it repeats."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(bench: Bench, folder: Path) -> None:
    global _worker_bench, _worker_folder
    _worker_bench, _worker_folder = bench, folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that is killed can't tell its workers; without this they would go on writing into its folder.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(task: Task, arguments: tuple[Any, ...]) -> None:
    assert _worker_bench is not None
    with thread_count(_worker_bench.plan.threads):
        task(_worker_bench, _worker_folder, *arguments)
