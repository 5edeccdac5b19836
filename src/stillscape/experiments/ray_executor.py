"""Run tasks on the machines of a Ray cluster; Ray is an extra, and is imported only where it is asked for."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from stillscape._errors import InputError, RunError
from stillscape._folders import Folder
from stillscape._processes import available_cores
from stillscape.experiments.bench import Bench
from stillscape.experiments.local import GIVEN_UP, Task
from stillscape.experiments.plan import Plan
from stillscape.experiments.threads import plans_settings

RESOURCES = {"CPU": "num_cpus", "GPU": "num_gpus"}  # of a cluster, and as a task asks for them
RETRIES = 3  # of a task whose worker or node was lost
MARK = ".run"  # file by which a node shows that it sees the run folder

_kept: dict[str, Bench] = {}  # in a worker: the bench it has, with the model that it loaded


def run_on_ray(bench: Bench, folder: Folder, tasks: list[tuple[Task, tuple[Any, ...]]]) -> Iterator[int]:
    """Run all tasks on a Ray cluster and yield the index of each as it is done.

    The cluster is the one that this process is connected to, else the one that the variable RAY_ADDRESS names, else
    one that is started on this machine alone and ended with the last task. The run folder must be on a disk that all
    nodes see: workers map its caches into memory (one copy a node, whatever the number of workers), load the model
    once each, and store records as they would here. A task whose worker or node is lost is done again elsewhere.

    Raises:
        InputError: if Ray is not installed, or no cluster answers at RAY_ADDRESS.
        RunError: if a task loses its worker again and again, or a node doesn't see the folder.
    """
    folder = folder.resolve()
    with cluster(bench.plan) as ray:
        marked = _shared_disk(bench, folder)
        marked.mkdir(parents=True, exist_ok=True)
        (marked / MARK).touch()
        shared = ray.put(_of_any_place(bench))  # sent once to each node, not with each task
        remote = ray.remote(_run).options(max_retries=RETRIES, **_needs(bench))
        waiting = iter(enumerate(tasks))
        under_way: dict[Any, int] = {}
        try:
            while True:
                for index, (task, arguments) in islice(waiting, max(0, _at_a_time(ray, bench) - len(under_way))):
                    under_way[remote.remote(shared, folder, bench.data_fingerprint, task, arguments)] = index
                if not under_way:
                    return
                done, _ = ray.wait(list(under_way), num_returns=1)
                for reference in done:
                    _outcome(ray, reference)
                    yield under_way.pop(reference)
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)


def _needs(bench: Bench) -> dict[str, int]:
    """Return what Ray must keep for one task: its threads, and a whole GPU where the plan computes on one."""
    return {"num_cpus": bench.plan.threads} | ({"num_gpus": 1} if bench.plan.device_type == "cuda" else {})


def _at_a_time(ray: Any, bench: Bench) -> int:
    """Return how many tasks to have under way: what the plan says, or what the cluster serves now, and one to come."""
    there, needs = ray.cluster_resources(), _needs(bench)
    slots = min(int(there.get(name, 0)) // needs[key] for name, key in RESOURCES.items() if key in needs)
    return bench.plan.workers or max(1, slots + 1)


def _outcome(ray: Any, reference: Any) -> None:
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise  # what the task itself raised; it is an instance of that class, too
    except ray.exceptions.RayError as error:
        what = f"a task lost its worker or node {RETRIES + 1} times ({type(error).__name__})"
        raise RunError(GIVEN_UP.format(what=what)) from None


@contextmanager
def cluster(plan: Plan) -> Iterator[Any]:
    """Connect to a Ray cluster inside the block, or start one on this machine; one that is there stays there."""
    try:
        import ray
    except ImportError:
        raise InputError(
            "executor is 'ray', but Ray is not installed; pip install 'stillscape[ray]', or use --executor local."
        ) from None
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _knock(address)
            ray.init(address, **quiet)
        else:
            ray.init(
                "local",  # else Ray joins whatever cluster was last started here
                num_cpus=max(plan.workers or available_cores(), plan.threads),
                include_dashboard=False,
                _node_ip_address="127.0.0.1",  # of this machine alone, and not to be reached from others
                **quiet,
            )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"no Ray cluster at RAY_ADDRESS = {address!r} ({reason}); start one, or unset it.") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise `OSError` if nobody answers at host:port; Ray itself would go on trying for many minutes."""
    host, _, port = address.rpartition(":")
    if "://" not in address and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _of_any_place(bench: Bench) -> Bench:
    """Return a bench whose paths don't depend on the folder in which a process was started."""
    model = Path(bench.plan.model)
    plan = bench.plan.model_copy(update={"model": str(model.resolve())}) if model.exists() else bench.plan
    return replace(bench, plan=plan, cache=bench.cache.resolve())


def _shared_disk(bench: Bench, folder: Folder) -> Path:
    """Return what every node must see: the run folder, or, where that is remote, the cache."""
    return folder if isinstance(folder, Path) else bench.cache


def _run(shared: Bench, folder: Folder, name: str, task: Task, arguments: tuple[Any, ...]) -> None:
    """Do one task in a worker, on the bench that the worker keeps."""
    disk = _shared_disk(shared, folder)
    if not (disk / MARK).is_file():
        what = "the run folder" if disk == folder else "the cache (STILLSCAPE_CACHE)"
        raise RunError(
            f"node {os.uname().nodename} doesn't see {what} {str(disk)!r}. With Ray it must be on a disk that all "
            "nodes share; without one, use --shard on each machine and `stillscape merge`."
        )
    bench = _kept_bench(shared, f"{folder} {name}")
    with plans_settings(bench.plan):
        task(bench, folder, *arguments)


def _kept_bench(shared: Bench, name: str) -> Bench:
    if name not in _kept or _kept[name].plan != shared.plan:
        _kept.clear()  # of another run; its model is no longer needed
        _kept[name] = shared
    return _kept[name]
