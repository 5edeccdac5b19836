"""Run tasks on the cores at hand: worker processes that each keep one model, and end when their parent does."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from stillscape._errors import InputError, RunError
from stillscape._folders import Folder, in_one_process
from stillscape._processes import available_cores, callers_script_left_alone, context, warm_up
from stillscape.experiments.bench import Bench
from stillscape.experiments.plan import Plan
from stillscape.experiments.threads import plans_settings

Task = Callable[..., None]  # task(bench, folder, *arguments); a module-level function, since workers import it by name

BARREN = 3
GIVEN_UP = (
    "{what}, perhaps for want of memory; everything recorded is kept. "
    "Run the same command again, with fewer --workers or a smaller batch if it repeats."
)

_worker_bench: Bench | None = None
_worker_folder: Folder | None = None


def num_workers(bench: Bench, num_tasks: int) -> int:
    """Return how many workers to use: what the plan says, or as many as the cores can serve, but no idle ones.

    A device other than the CPU is not shared unless the plan says so.
    """
    served = available_cores() // bench.plan.threads if bench.plan.device_type == "cpu" else 1
    return max(1, min(bench.plan.workers or served, num_tasks))


def run_tasks(bench: Bench, folder: Folder, tasks: list[tuple[Task, tuple[Any, ...]]]) -> Iterator[int]:
    """Run all tasks where the plan's executor says, and yield the index of each as it is done.

    One local worker runs in this process, several in processes of their own, Ray's on all nodes; the numbers are the
    same. A worker that dies is replaced, and what it was at is done again.

    Raises:
        RunError: if workers die again and again; what was recorded is kept.
        InputError: if the executor is ray, and Ray is not installed.
    """
    if bench.plan.executor == "ray":
        from stillscape.experiments.ray_executor import run_on_ray

        return run_on_ray(bench, folder, tasks)
    if num_workers(bench, len(tasks)) == 1 and bench.plan.cell_seconds is None:  # a limit ends the process it is for
        return _run_here(bench, folder, tasks)
    return _run_in_processes(bench, folder, tasks)


def within_reach(folder: Folder, plan: Plan) -> Plan:
    """Return the plan with one worker where no other process could see what is in the folder."""
    if not in_one_process(folder):
        return plan
    only = {"executor": "local", "workers": 1, "cell_seconds": None}
    asked = {"executor": plan.executor, "workers": plan.workers or 1, "cell_seconds": plan.cell_seconds}
    for name, value in asked.items():
        if value != only[name]:
            raise InputError(f"{name} is {value!r}, but {str(folder)!r} is seen by one process alone. Leave it out.")
    return plan.model_copy(update={"workers": 1})


@contextmanager
def workers_ready(plan: Plan) -> Iterator[None]:
    """Have ready inside the block what the plan's executor needs: a Ray cluster, or the server that forks workers.

    Raises:
        InputError: if the executor is ray, and Ray is not installed or does not answer.
    """
    if plan.executor == "ray":
        from stillscape.experiments.ray_executor import cluster

        with cluster(plan):
            yield
        return
    if plan.workers != 1:
        warm_up()
    yield


def _run_here(bench: Bench, folder: Folder, tasks: list[tuple[Task, tuple[Any, ...]]]) -> Iterator[int]:
    for index, (task, arguments) in enumerate(tasks):
        with plans_settings(bench.plan):
            task(bench, folder, *arguments)
        yield index


def _run_in_processes(bench: Bench, folder: Folder, tasks: list[tuple[Task, tuple[Any, ...]]]) -> Iterator[int]:
    left = dict(enumerate(tasks))
    barren = 0  # pools in a row that broke before any of their tasks was done
    while left:
        barren += 1
        try:
            for index in _run_pool(bench, folder, left):
                del left[index]
                barren = 0
                yield index
        except BrokenProcessPool:
            # Which of its tasks a pool broke at can't be told. Each one that got something done is replaced.
            if barren >= BARREN:
                yield from _run_one_by_one(bench, folder, left)
                return


def _run_one_by_one(bench: Bench, folder: Folder, left: dict[int, tuple[Task, tuple[Any, ...]]]) -> Iterator[int]:
    """Run each task in a pool of its own, so that those that kill their worker are known, and all others get done.

    Raises:
        RunError: at the end if there was one, and earlier if that happens several times in a row.
    """
    killed = in_a_row = 0
    for index, task in left.items():
        for _ in range(2):  # a cell that took too long ends its worker once, and is recorded by then
            try:
                yield from _run_pool(bench, folder, {index: task})
                in_a_row = 0
                break
            except BrokenProcessPool:
                continue
        else:
            killed, in_a_row = killed + 1, in_a_row + 1
        if in_a_row == BARREN:
            break
    if killed:
        by = f"{killed} of the tasks that were left, each run by itself"
        raise RunError(GIVEN_UP.format(what=f"{BARREN} times in a row a worker process was killed, and then by {by}"))


def _run_pool(bench: Bench, folder: Folder, left: dict[int, tuple[Task, tuple[Any, ...]]]) -> Iterator[int]:
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(num_workers(bench, len(left)), context(), _start_worker, (bench, folder))
    try:
        with callers_script_left_alone():
            futures: dict[Future[None], int] = {
                pool.submit(_run, task, arguments): index for index, (task, arguments) in left.items()
            }
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except (KeyboardInterrupt, GeneratorExit):  # the second if the caller's loop is what was interrupted
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()  # a cell may take an hour, and what it would have recorded can be measured again
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(bench: Bench, folder: Folder) -> None:
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
    with plans_settings(_worker_bench.plan):
        task(_worker_bench, _worker_folder, *arguments)
