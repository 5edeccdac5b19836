"""All surfaces for 20 sizes of k on a 41 x 41 plane, against the largest alone: the ratio of their seconds.

    python benchmarks/surface/run.py            # a few minutes on one core

On the demo's ViT with LoRA on every block, of which nothing can be cached, and with its last block trained. Both sides
evaluate the same images at the same points through the same function; the one then takes the mean over all images, the
other every k by running sums, with both differences. They take turns row by row of the plane, so that what else the
machine does falls on both alike. The ratio is that of all seconds on the clock; that of processor seconds, which other
work on the machine touches less, stands beside it. What it costs to evaluate each size anew is measured at a few
points.
"""

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillscape.convergence import geometric_sizes, settling_surface
from stillscape.curvature import Plane, filter_normalized
from stillscape.experiments import Silent, demo_plan, set_up
from stillscape.experiments.landscape import grid_losses
from stillscape.models import trained_state

RESULTS = Path(__file__).with_name("results.json")
POINTS, SIZES = 41, 20
IMAGES = {"last-layers:1": 512, "lora:4": 128}
ANEW_POINTS = 5


def measure(bench, adapt: str) -> dict:
    """Time both sides in turn, and return their seconds and ratios."""
    suffix = bench.split(adapt, 0).suffix
    star = trained_state(suffix)
    generator = torch.Generator().manual_seed(0)
    drawn = [{n: torch.randn(w.shape, generator=generator) for n, w in star.items()} for _ in range(2)]
    plane = Plane(star, *(filter_normalized(direction, star) for direction in drawn))
    rows = bench.held_out_rows(0)[: IMAGES[adapt]]
    x, y = np.array(bench.inputs(adapt)[rows]), bench.labels[rows]
    at, sizes = np.linspace(-1, 1, POINTS), sizes_of(len(rows))

    def largest_alone(rows_at: np.ndarray) -> np.ndarray:
        return grid_losses(suffix, plane, rows_at, at, x, y).mean(-1, dtype=np.float64)

    def every_size(rows_at: np.ndarray) -> np.ndarray:
        return settling_surface(grid_losses(suffix, plane, rows_at, at, x, y), sizes).losses[-1]

    sides = {"largest_alone": largest_alone, "every_size": every_size}
    spent = {name: np.zeros((POINTS, 2)) for name in sides}
    for row in range(-1, POINTS):  # the first one warms up, and is not counted
        found, place = {}, at[max(row, 0) :][:1]
        for name in list(sides) if row % 2 else list(sides)[::-1]:
            found[name], seconds = timed(partial(sides[name], place))
            if row >= 0:
                spent[name][row] = seconds
        np.testing.assert_allclose(found["every_size"], found["largest_alone"], rtol=1e-6)
    wall, cpu = ({name: float(each[:, n].sum()) for name, each in spent.items()} for n in (0, 1))
    few = at[:: (POINTS - 1) // (ANEW_POINTS - 1)]
    _, anew = timed(lambda: [grid_losses(suffix, plane, few, few, x[:k], y[:k]) for k in sizes])
    anew_cpu = anew[1] * POINTS**2 / len(few) ** 2
    return {
        "adapt": adapt,
        "images": len(rows),
        "sizes": sizes.tolist(),
        "points": POINTS,
        "seconds": wall,
        "processor_seconds": cpu,
        "ratio": wall["every_size"] / wall["largest_alone"],
        "ratio_of_processor_seconds": cpu["every_size"] / cpu["largest_alone"],
        "median_ratio_of_rows": float(np.median(spent["every_size"][:, 0] / spent["largest_alone"][:, 0])),
        "each_size_anew_processor_seconds": anew_cpu,
        "each_size_anew_ratio": anew_cpu / cpu["largest_alone"],
    }


def sizes_of(images: int) -> np.ndarray:
    """Return 20 sizes, evenly spread in log k as far as whole numbers allow."""
    count = SIZES
    while len(sizes := geometric_sizes(images, count)) < SIZES:
        count += 1
    return sizes


def timed(action: Callable[[], object]) -> tuple[Any, tuple[float, float]]:
    """Return what an action returns, and its seconds on the clock and of the processor."""
    started, before = time.perf_counter(), time.process_time()
    value = action()
    return value, (time.perf_counter() - started, time.process_time() - before)


def main() -> None:
    """Measure, and write and print what was found."""
    torch.set_num_threads(1)
    versions = {name: importlib.metadata.version(name) for name in ("stillscape", "torch", "transformers", "numpy")}
    environment = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        bench, images = set_up(demo_plan(), Path(name), Silent())
        bench.cache_inputs(IMAGES, images, Silent())
        runs = [measure(bench, adapt) for adapt in IMAGES]
    figures = {"limit": 1.2, "runs": runs, "environment": {**environment, "threads": 1, **versions}}
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    for run in runs:
        ratio, cpu, anew = (run[n] for n in ("ratio", "ratio_of_processor_seconds", "each_size_anew_ratio"))
        print(f"{run['adapt']}: {ratio:.3f} (processor {cpu:.3f}) for {SIZES} sizes; each size anew {anew:.1f}")


if __name__ == "__main__":
    main()
