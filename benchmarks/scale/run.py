"""What scale costs: executors side by side, the scheduler and the store with many cells, memory against m.

    python benchmarks/scale/run.py                         # every part but the next; about 15 minutes
    python benchmarks/scale/run.py --only curve-1000000    # half an hour of one core
    python benchmarks/scale/run.py --only sweep-ray-2      # one of them; its figures replace those of before
    python benchmarks/scale/run.py --list

Each part is written to results.json as soon as it is done, with the load of the machine when it began. Memory is
sampled every 5 ms while a pass runs, so shorter passes are not resolved. Times are those of this machine while it does
this; ratios between rows of one run are what is to be read.
"""

import argparse
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simulated

from stillscape.experiments import Bench, Silent, Store, demo_plan, set_up
from stillscape.experiments.local import run_tasks, workers_ready
from stillscape.experiments.tasks import measure_cell

RESULTS = Path(__file__).with_name("results.json")
WIDTH = 16  # of the features whose curve over k is measured: 10 classes, 170 parameters
LONGEST = "curve-1000000"  # is measured only where it is asked for
PIECE_S = 150.0  # after it a sweep or a pass over very many samples ends, and is taken up again in another process


def executors(executor: str, workers: int) -> dict:
    """Measure cells of some seconds (five folds of 1,200 steps), once workers are up: what an executor costs beside."""
    steps = {"last-layers": {"steps": 1200}}
    plan = demo_plan(
        adapt=["last-layers:1"], sizes=[100, 200], repeats=4, seeds=1, executor=executor, workers=workers, recipes=steps
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with workers_ready(plan):
            bench, images = set_up(plan, folder, Silent())
            bench.cache_inputs(plan.adapt, images, Silent())
            started = time.perf_counter()
            list(run_tasks(bench, folder, [(simulated.write, (n,)) for n in range(workers)]))
            starting = time.perf_counter() - started
            started = time.perf_counter()
            list(run_tasks(bench, folder, [(measure_cell, (cell,)) for cell in bench.cells()]))
            wall = time.perf_counter() - started
        cells = [Store(folder).record(bench.key(cell)) for cell in bench.cells()]
        losses = _digest_of_losses(bench, Store(folder))
    computing = sum(cell["seconds"] for cell in cells)
    return {
        "executor": executor,
        "workers": workers,
        "cells": len(cells),
        "first_tasks_s": starting,  # trivial ones, one for each worker: mostly the start of the workers
        "wall_s": wall,
        "cells_per_minute": 60 * len(cells) / wall,
        "seconds_of_a_cell": computing / len(cells),
        "overhead_s_per_cell": (wall - computing / workers) / len(cells),
        "digest_of_losses": losses,  # the same for every executor, if they give the same numbers
    }


def _digest_of_losses(bench: Bench, store: Store) -> str:
    found = hashlib.sha256()
    for cell in bench.cells():
        found.update(store.losses(bench.key(cell))["loss"].tobytes())
    return found.hexdigest()[:12]


def sweep(executor: str, workers: int, *, cells: int) -> dict | None:
    """Send simulated cells through scheduler and store, then check and read them all, as a resumed run does.

    After PIECE_S it ends, and the next call goes on in the same folder: None until all cells are there.
    """
    plan = demo_plan(executor=executor, workers=workers)
    folder = Path(tempfile.gettempdir()) / f"stillscape-sweep-{executor}-{workers}-{cells}"
    folder.mkdir(exist_ok=True)
    notes, store = folder / "so-far.json", Store(folder)
    counted, wall, own_cpu = json.loads(notes.read_text()) if notes.is_file() else (0, 0.0, 0.0)
    bench, _ = set_up(plan, folder, Silent())
    missing = [n for n in range(cells) if not store.has(f"{n:06d}")]
    began, clock = time.perf_counter(), None
    with workers_ready(plan), closing(run_tasks(bench, folder, [(simulated.write, (n,)) for n in missing])) as tasks:
        for _ in tasks:
            now = time.perf_counter(), time.process_time()
            if clock is None:
                clock = now  # at the first cell that is done, so that starting workers is not counted
            else:
                counted, wall, own_cpu = counted + 1, wall + now[0] - clock[0], own_cpu + now[1] - clock[1]
                clock = now
            if now[0] - began > PIECE_S:
                break
    notes.write_text(json.dumps([counted, wall, own_cpu]))
    if not all(store.has(f"{n:06d}") for n in range(cells)):
        return None
    started, cpu = time.perf_counter(), time.process_time()
    damaged = sum(bool(store.damage(key)) for key in store.all_keys())
    checking, cpu_of_checking = time.perf_counter() - started, time.process_time() - cpu
    assert (len(store.all_keys()), damaged) == (cells, 0)
    shutil.rmtree(folder)
    return {
        "executor": executor,
        "workers": workers,
        "cells": cells,
        "ms_per_cell": 1e3 * wall / counted,
        "own_cpu_ms_per_cell": 1e3 * own_cpu / counted,  # of the process that schedules; one local worker is it, too
        "ms_per_cell_checked": 1e3 * checking / cells,
        "own_cpu_ms_per_cell_checked": 1e3 * cpu_of_checking / cells,
    }


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


def _memory_of_losses(samples: int, path: str, answer) -> None:
    from torch import nn

    from stillscape.training import score

    inputs = np.load(path, mmap_mode="r")
    labels = np.arange(samples) % 10
    answer.put(_with_peak(lambda: score(nn.Linear(inputs.shape[1], 10), inputs, labels, np.arange(samples))))


def _memory_of_curvature(samples: int, path: str, answer, every_k: bool) -> None:
    """Go on with a pass over the samples for PIECE_S; its state lies beside the features, from piece to piece."""
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file, save_file
    from torch import nn

    from stillscape.convergence import geometric_sizes
    from stillscape.curvature import DifferenceSketch, PerSampleHessian

    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        model = nn.Linear(WIDTH, 10)
    inputs, labels = torch.from_numpy(np.load(path, mmap_mode="c")), torch.arange(samples) % 10
    hv = PerSampleHessian(model, F.cross_entropy, inputs, labels)
    sizes = None if every_k else geometric_sizes(samples - 1, 20).tolist()
    sketch, state = DifferenceSketch(hv.num_parameters, 4, sizes=sizes), Path(path).with_name("state.safetensors")
    if state.is_file():
        sketch.load(load_file(state))

    def go_on() -> None:
        started = time.perf_counter()
        while sketch.num_samples < samples and time.perf_counter() - started < PIECE_S:
            end = min(samples, sketch.num_samples + 4096)
            sketch.extend(hv, range(sketch.num_samples, end))
        if sketch.num_samples == samples:
            sketch.curve()

    found = _with_peak(go_on)
    save_file({name: tensor.contiguous() for name, tensor in sketch.state().items()}, state)
    answer.put({**found, "done": sketch.num_samples})


def memory_of_losses(m: int) -> dict:
    """Score synthetic samples from a mapped file, in a fresh process, so that each size has its own peak."""
    with tempfile.TemporaryDirectory() as place:
        path = _features(Path(place), m, 384)
        return {"m": m, "width": 384, "features_mib": m * 384 * 4 / 2**20, **_in_process(_memory_of_losses, m, path)}


def memory_of_curvature(m: int, *, every_k: bool) -> dict:
    """Take the curve over k in as many pieces as it needs, each in a fresh process; the peak is the highest of them."""
    with tempfile.TemporaryDirectory() as place:
        path = _features(Path(place), m, WIDTH)
        pieces = [_in_process(_memory_of_curvature, m, path, every_k)]
        while pieces[-1]["done"] < m:
            pieces.append(_in_process(_memory_of_curvature, m, path, every_k))
    return {
        "m": m,
        "width": WIDTH,
        "sizes": "every k" if every_k else 20,
        "features_mib": m * WIDTH * 4 / 2**20,
        "pieces": len(pieces),
        "seconds": sum(piece["seconds"] for piece in pieces),
        "own_peak_growth_mib": max(piece["own_peak_growth_mib"] for piece in pieces),
    }


def _features(place: Path, m: int, width: int) -> Path:
    path = place / "features.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(m, width))
    rng = np.random.default_rng(0)
    for start in range(0, m, 100_000):
        array[start : start + 100_000] = rng.standard_normal((min(100_000, m - start), width), np.float32)
    array.flush()
    return path


def _in_process(measure: Callable[..., None], m: int, path: Path, *more: Any) -> dict:
    server = multiprocessing.get_context("spawn")
    answer = server.Queue()
    process = server.Process(target=measure, args=(m, str(path), answer, *more))
    process.start()
    found = answer.get(timeout=1200)
    process.join()
    return found


def _parts() -> dict[str, tuple[str, Callable[[], dict | None]]]:
    """Return every part by name: the table that its row stands in, and how it is measured."""
    ways = [("local", 1), ("local", 2), ("ray", 2)]
    parts: dict[str, tuple[str, Callable[[], dict | None]]] = {}
    for way in ways:
        parts["executors-{}-{}".format(*way)] = ("executors", partial(executors, *way))
    for way in ways:
        parts["sweep-{}-{}".format(*way)] = ("simulated_sweep", partial(sweep, *way, cells=10_000))
    for m in (10_000, 100_000, 1_000_000):
        parts[f"losses-{m}"] = ("per_sample_losses", partial(memory_of_losses, m))
    for m in (1_000, 10_000):
        parts[f"curve-every-k-{m}"] = ("one_pass_curvature", partial(memory_of_curvature, m, every_k=True))
    for m in (1_000, 10_000, 50_000, 1_000_000):
        parts[f"curve-{m}"] = ("one_pass_curvature", partial(memory_of_curvature, m, every_k=False))
    return parts


def main() -> None:
    """Measure, and write each part when it is done."""
    parts = _parts()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", action="append", choices=list(parts), help="may be given several times")
    parser.add_argument("--list", action="store_true", help="name the parts, and run nothing")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(parts))
        return
    chosen = asked.only or [name for name in parts if name != LONGEST]
    for name in chosen:
        table, measure = parts[name]
        row = {"part": name, "load_average_at_start": os.getloadavg()[0]}
        found = measure()
        if found is None:
            print(f"{name} is not done yet; run it again, and it goes on.", flush=True)
        else:
            _write(table, row | found, list(parts))


def _write(table: str, row: dict, order: list[str]) -> None:
    figures = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    rows = {one["part"]: one for one in figures.get(table, []) if "part" in one} | {row["part"]: row}
    figures[table] = sorted(rows.values(), key=lambda one: order.index(one["part"]))
    names = ("stillscape", "torch", "numpy", "pyarrow", "ray")
    versions = {name: importlib.metadata.version(name) for name in names}
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    figures["environment"] = machine | versions
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(row, indent=1), flush=True)


if __name__ == "__main__":
    main()
