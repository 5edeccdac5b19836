"""What executors and store cost, and memory against the number of samples.

    python benchmarks/scale/run.py                    # all parts; about ten minutes on two cores
    python benchmarks/scale/run.py executors sweep    # only these; the others stay as they are in results.json

- executors: a real plan with 2 workers, local and on Ray (a cluster on this machine), and tasks that do nothing. Both
  must give the same result.json.
- sweep: simulated cells through scheduler and store: nothing is trained, each stores a record with a table. Then what
  a run that is taken up again does: look for each record, and read each one against its checksums.
- memory: of a linear head on synthetic features in a memory-mapped file, against m: losses of single samples, a product
  with the mean Hessian, and the one-pass curve of Hessian differences. Peaks are of memory that belongs to the process
  alone (mapped pages of the file can be dropped at any time), sampled every 5 ms, above what was held before the pass.

Each measurement runs in a fresh process. Each part keeps the load of the machine beside its numbers: seconds that were
taken beside other work are no seconds of a quiet machine.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
WORKERS = 2
EMPTY_TASKS = 500
CELLS = 10_000
SAMPLES = {
    "losses": (1_000, 10_000, 100_000, 1_000_000),
    "mean product": (1_000, 10_000, 100_000, 1_000_000),
    "curve": (1_000, 3_000, 10_000),  # some hundred samples a second: a million would take an hour or more
}
FEATURES, CLASSES, RANK = 32, 4, 2
LIMIT_S = 240  # of one measurement; one that takes longer is kept as not measured


def small_plan(executor: str) -> Any:
    """Return a plan of 24 cells on built-in data."""
    from stillscape.experiments import make_plan

    return make_plan(
        data="digits", adapt=["head", "last-layers:1"], sizes=[100, 200, 400], repeats=2, seeds=2,
        evaluation="holdout", recipes={"last-layers": {"steps": 60}}, workers=WORKERS, executor=executor,
        probe_images=32, curvature_images=2,
    )  # fmt: skip


def measured_run(executor: str) -> dict[str, Any]:
    """Run the plan, and return what it took beside its cells."""
    from stillscape.experiments import Store, run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        started = time.perf_counter()
        run(small_plan(executor), folder)
        wall = time.perf_counter() - started
        store = Store(folder)
        records = [store.record(key) for key in store.all_keys()]
        digest = hashlib.sha256((folder / "result.json").read_bytes()).hexdigest()
    return {
        "executor": executor, "workers": WORKERS, "cells": len(records), "wall_s": wall,
        "cells_per_s": len(records) / wall, "computing_of_cells_s": sum(record["seconds"] for record in records),
        "result_sha256": digest,
    }  # fmt: skip


def empty_tasks(executor: str) -> dict[str, Any]:
    """Return the time that a task takes which does nothing, start of the workers apart."""
    import simulated

    from stillscape.experiments import Silent, set_up
    from stillscape.experiments.local import run_tasks, workers_ready

    with tempfile.TemporaryDirectory() as name, workers_ready(plan := small_plan(executor)):
        bench, _ = set_up(plan, Path(name), Silent())
        started = time.perf_counter()
        finished = []
        for _ in run_tasks(bench, Path(name), [(simulated.nothing, (n,)) for n in range(EMPTY_TASKS + 1)]):
            finished.append(time.perf_counter())  # noqa: PERF401 (each is timed as it comes)
    return {
        "executor": executor, "workers": WORKERS, "tasks": EMPTY_TASKS, "until_first_s": finished[0] - started,
        "s_per_task": (finished[-1] - finished[0]) / EMPTY_TASKS,
    }  # fmt: skip


def sweep(executor: str, cells: int) -> dict[str, Any]:
    """Put simulated cells through an executor and the store, then do what a run taken up again does."""
    import simulated

    from stillscape.experiments import Silent, Store, set_up
    from stillscape.experiments.local import run_tasks, workers_ready

    with tempfile.TemporaryDirectory() as name, workers_ready(plan := small_plan(executor)):
        folder = Path(name)
        bench, _ = set_up(plan, folder, Silent())
        started = time.perf_counter()
        done = sum(1 for _ in run_tasks(bench, folder, [(simulated.simulated_cell, (n,)) for n in range(cells)]))
        stored = time.perf_counter()
        store = Store(folder)
        there = sum(store.has(simulated.key_of(n)) for n in range(cells))
        looked = time.perf_counter()
        damaged = sum(bool(store.damage(simulated.key_of(n))) for n in range(cells))
        checked = time.perf_counter()
        size = sum(path.stat().st_size for path in store.place.rglob("*") if path.is_file())
    if not done == there == cells or damaged:
        raise SystemExit(f"{cells} cells, {done} done, {there} there, {damaged} damaged")
    return {
        "executor": executor, "workers": WORKERS, "cells": cells, "damaged": damaged, "bytes_per_cell": size / cells,
        "store_s_per_cell": (stored - started) / cells, "has_s_per_cell": (looked - stored) / cells,
        "check_s_per_cell": (checked - looked) / cells,
    }  # fmt: skip


def memory(what: str, m: int) -> dict[str, Any]:
    """Return seconds and peak of own memory of a pass over m samples of synthetic features in a file."""
    import numpy as np
    import torch

    from stillscape.curvature import PerSampleHessian, hessian_difference_curve
    from stillscape.training import score

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    head = torch.nn.utils.skip_init(torch.nn.Linear, FEATURES, CLASSES)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=parameter.shape, scale=0.2)))
    labels = np.arange(m) % CLASSES
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "features.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(m, FEATURES))
        for start in range(0, m, 10_000):
            array[start : start + 10_000] = rng.normal(size=array[start : start + 10_000].shape)
        array.flush()
        inputs = np.load(path, mmap_mode="c")  # as copy on write, which torch takes without a warning
        if what == "losses":
            found, seconds, peak = with_peak(lambda: score(head, inputs, labels, np.arange(m)).losses)
        else:
            hv = PerSampleHessian(
                head, torch.nn.functional.cross_entropy, torch.from_numpy(inputs), torch.from_numpy(labels)
            )
            passes = {
                "mean product": lambda: hv.mean_matvec(torch.ones(hv.num_parameters)).numpy(),
                "curve": lambda: hessian_difference_curve(hv, rank=RANK).spectral.numpy(),
            }
            found, seconds, peak = with_peak(passes[what])
    if not np.isfinite(found).all():
        raise SystemExit(f"{what} at m = {m}: not all numbers are finite")
    return {"what": what, "m": m, "values": len(found), "seconds": seconds, "peak_own_memory_bytes": peak}


def with_peak(action: Callable[[], Any]) -> tuple[Any, float, int]:
    """Return what an action gives, its seconds, and the most memory of its own above what was held before."""
    before, over = own_memory(), threading.Event()
    peak = before

    def look() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, own_memory())

    watcher = threading.Thread(target=look)
    watcher.start()
    started = time.perf_counter()
    try:
        value = action()
    finally:
        seconds = time.perf_counter() - started
        over.set()
        watcher.join()
    return value, seconds, max(peak, own_memory()) - before


def own_memory() -> int:
    """Return the bytes of memory that belong to this process alone (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not tell a process's own memory")


def in_fresh_process(function: str, *arguments: Any) -> dict[str, Any]:
    """Return what a function of this file gives in a process of its own, which workers can import `simulated` from."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    call = [sys.executable, __file__, "--one", function, json.dumps(arguments)]
    described = {"function": function, "arguments": list(arguments)}
    try:
        done = subprocess.run(
            call, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return {**described, "not_measured": f"took more than {LIMIT_S} s"}
    if done.returncode:
        return {**described, "not_measured": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


PARTS: dict[str, list[tuple[Any, ...]]] = {
    "executors": [(kind, executor) for kind in ("empty_tasks", "measured_run") for executor in ("local", "ray")],
    "sweep": [("sweep", "local", CELLS), ("sweep", "ray", CELLS)],
    "memory": [("memory", what, m) for what, sizes in SAMPLES.items() for m in sizes],
}


def environment() -> dict[str, Any]:
    """Return versions, machine, and how busy it is with other work."""
    names = ("stillscape", "torch", "numpy", "ray", "pyarrow")
    load = os.getloadavg()[0]
    versions = {name: importlib.metadata.version(name) for name in names}
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    return {**machine, **versions, "load_before": load}


def main() -> None:
    """Measure the parts that are named, and write what was found after each measurement."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(globals()[sys.argv[2]](*json.loads(sys.argv[3]))))
        return
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for part in sys.argv[1:] or PARTS:
        kept[part] = {"environment": environment(), "measured": []}
        for call in PARTS[part]:
            found = in_fresh_process(*call)
            print(json.dumps(found), flush=True)
            kept[part]["measured"].append(found)
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    digests = {run["result_sha256"] for run in kept["executors"]["measured"] if "result_sha256" in run}
    if len(digests) > 1:
        raise SystemExit("local and ray gave different results")


if __name__ == "__main__":
    main()
