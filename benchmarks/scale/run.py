"""What scale costs: executors side by side, the scheduler and the store with many cells, memory against m.

    python benchmarks/scale/run.py [--cells 10000] [--samples 1000000] [--without-ray]

Memory is sampled every 5 ms while a pass runs, so shorter passes are not resolved. Times are those of this machine
while it does this; ratios between rows of one run are what is to be read.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import simulated

from stillscape.experiments import Silent, Store, demo_plan, run, set_up
from stillscape.experiments.local import run_tasks, workers_ready

RESULTS = Path(__file__).with_name("results.json")


def executors(with_ray: bool) -> list[dict]:
    """Run one small plan of the bundled ViT under each executor; all results must be equal."""
    plan = demo_plan(adapt=["head", "last-layers:1"], sizes=[50, 100], repeats=2, seeds=1)
    ways = [("local", 1), ("local", 2), *([("ray", 2)] if with_ray else [])]
    rows, results = [], []
    for executor, workers in ways:
        with tempfile.TemporaryDirectory() as place:
            started = time.perf_counter()
            results.append(run(plan.model_copy(update={"executor": executor, "workers": workers}), Path(place)))
            wall = time.perf_counter() - started
            cells = [Store(Path(place)).record(key) for key in Store(Path(place)).all_keys()]
        computing = sum(cell["seconds"] for cell in cells)
        rows.append(
            {
                "executor": executor,
                "workers": workers,
                "cells": len(cells),
                "wall_s": wall,
                "cells_per_minute": 60 * len(cells) / wall,
                "overhead_s_per_cell": (wall - computing / workers) / len(cells),
            }
        )
    return [{**row, "same_result": result == results[0]} for row, result in zip(rows, results, strict=True)]


def sweep(cells: int, executor: str, workers: int) -> dict:
    """Send simulated cells through scheduler and store, then check and read them all, as a resumed run does."""
    plan = demo_plan(executor=executor, workers=workers)
    with tempfile.TemporaryDirectory() as place:
        bench, _ = set_up(plan, Path(place), Silent())
        with workers_ready(plan):
            list(run_tasks(bench, Path(place), [(simulated.write, (0,))]))  # so that starting workers is not counted
            started = time.perf_counter()
            done = sum(1 for _ in run_tasks(bench, Path(place), [(simulated.write, (n,)) for n in range(1, cells + 1)]))
            writing = time.perf_counter() - started
        store = Store(Path(place))
        started = time.perf_counter()
        damaged = sum(bool(store.damage(key)) for key in store.all_keys())
        checking = time.perf_counter() - started
    assert (done, damaged) == (cells, 0)
    per_cell = {"ms_per_cell": 1e3 * writing / cells, "ms_per_cell_checked": 1e3 * checking / cells}
    return {"executor": executor, "workers": workers, "cells": cells, **per_cell}


def _own_mib() -> float:
    """Return the memory that belongs to this process alone; mapped pages of a file can be dropped at any time."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) / 1024


def _with_peak(action) -> dict:
    """Return seconds and the most memory of its own while an action runs, every 5 ms, above what was held before.

    After it nothing is to be seen: what a pass held has been freed by then.
    """
    before = peak = _own_mib()
    over = threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, _own_mib())

    watcher = threading.Thread(target=look)
    watcher.start()
    started = time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    return {"seconds": seconds, "own_peak_growth_mib": max(peak, _own_mib()) - before}


def _memory_of_losses(samples: int, width: int, path: str, answer) -> None:
    from torch import nn

    from stillscape.training import score

    inputs = np.load(path, mmap_mode="r")
    labels = np.arange(samples) % 10
    answer.put(_with_peak(lambda: score(nn.Linear(width, 10), inputs, labels, np.arange(samples))))


def _memory_of_curvature(samples: int, width: int, path: str, answer) -> None:
    import torch
    import torch.nn.functional as F
    from torch import nn

    from stillscape.curvature import PerSampleHessian, hessian_difference_curve

    inputs = torch.from_numpy(np.load(path))
    hv = PerSampleHessian(nn.Linear(width, 10), F.cross_entropy, inputs, torch.arange(samples) % 10)
    answer.put(_with_peak(lambda: hessian_difference_curve(hv, rank=4, seed=0)))


def memory(samples: list[int], width: int, measure) -> list[dict]:
    """Measure in a fresh process for each size, so that each has its own peak."""
    rows = []
    server = multiprocessing.get_context("spawn")
    for m in samples:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "features.npy"
            array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(m, width))
            rng = np.random.default_rng(0)
            for start in range(0, m, 100_000):
                array[start : start + 100_000] = rng.standard_normal((min(100_000, m - start), width))
            array.flush()
            answer = server.Queue()
            process = server.Process(target=measure, args=(m, width, str(path), answer))
            process.start()
            found = answer.get(timeout=600)
            process.join()
        rows.append({"m": m, "width": width, "features_mib": m * width * 4 / 2**20, **found})
    return rows


def main() -> None:
    """Measure everything, and write and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--curvature-samples", type=int, default=100_000)
    parser.add_argument("--without-ray", action="store_true")
    asked = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("stillscape", "torch", "numpy", "pyarrow")}
    if not asked.without_ray:
        versions["ray"] = importlib.metadata.version("ray")
    environment = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    load = {"load_average_at_start": os.getloadavg()[0]}
    sweeps = [("local", 1), ("local", 2), *([] if asked.without_ray else [("ray", 2)])]
    figures = {
        "executors": executors(not asked.without_ray),
        "simulated_sweep": [sweep(asked.cells, *way) for way in sweeps],
        "per_sample_losses": memory([asked.samples // 100, asked.samples // 10, asked.samples], 384, _memory_of_losses),
        "one_pass_curvature": memory(
            [asked.curvature_samples // 100, asked.curvature_samples // 10, asked.curvature_samples],
            16,
            _memory_of_curvature,
        ),
        "environment": environment | versions | load,
    }
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
