"""All surfaces for 20 sizes of k on a 41 x 41 plane, against the largest alone: the ratio of their seconds.

    python benchmarks/surface/run.py            # a few minutes on one core

On the demo's ViT with LoRA on every block, which nothing of can be cached, and with its last block trained. Both sides
evaluate the same images at the same points through the same function; the one then takes the mean over all images, the
other every k by running sums, with both differences. They take turns in one process, so that what else the machine
does falls on both; the ratio is that of the medians over the turns. What it costs to evaluate each size anew is
measured, too, at a few points.
"""

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stillscape.convergence import geometric_sizes, settling_surface
from stillscape.curvature import Plane, filter_normalized
from stillscape.experiments import Silent, demo_plan, set_up
from stillscape.experiments.landscape import grid_losses
from stillscape.models import trained_state

RESULTS = Path(__file__).with_name("results.json")
POINTS, SIZES, TURNS = 41, 20, 3
IMAGES = {"last-layers:1": 512, "lora:4": 128}
ANEW_POINTS = 5


def measure(bench, adapt: str) -> dict:
    """Time both sides in turn, and return medians and their ratio."""
    suffix = bench.split(adapt, 0).suffix
    star = trained_state(suffix)
    generator = torch.Generator().manual_seed(0)
    drawn = [{n: torch.randn(w.shape, generator=generator) for n, w in star.items()} for _ in range(2)]
    plane = Plane(star, *(filter_normalized(direction, star) for direction in drawn))
    rows = bench.held_out_rows(0)[: IMAGES[adapt]]
    x, y = np.array(bench.inputs(adapt)[rows]), bench.labels[rows]
    at, sizes = np.linspace(-1, 1, POINTS), sizes_of(len(rows))

    def largest_alone() -> np.ndarray:
        return grid_losses(suffix, plane, at, at, x, y).mean(-1, dtype=np.float64)

    def every_size() -> np.ndarray:
        return settling_surface(grid_losses(suffix, plane, at, at, x, y), sizes).losses

    few = at[:: (POINTS - 1) // (ANEW_POINTS - 1)]

    def each_anew() -> None:
        for k in sizes:
            grid_losses(suffix, plane, few, few, x[:k], y[:k]).mean(-1)

    seconds: dict[str, list[float]] = {"largest_alone": [], "every_size": []}
    for turn in range(TURNS):
        sides = [("largest_alone", largest_alone), ("every_size", every_size)]
        for name, side in sides if turn % 2 == 0 else sides[::-1]:
            seconds[name].append(timed(side))
    anew = timed(each_anew) * POINTS**2 / ANEW_POINTS**2
    losses = grid_losses(suffix, plane, few, few, x, y)
    sums = timed(lambda: settling_surface(losses, sizes))
    medians = {name: float(np.median(each)) for name, each in seconds.items()}
    np.testing.assert_allclose(every_size()[-1], largest_alone(), rtol=1e-6)
    return {
        "adapt": adapt,
        "images": len(rows),
        "sizes": sizes.tolist(),
        "points": POINTS,
        "seconds": seconds,
        "median_s": medians,
        "ratio": medians["every_size"] / medians["largest_alone"],
        "running_sums_s": sums * POINTS**2 / ANEW_POINTS**2,
        "each_size_anew_s": anew,
        "each_size_anew_ratio": anew / medians["largest_alone"],
    }


def sizes_of(images: int) -> np.ndarray:
    """Return 20 sizes, evenly spread in log k as far as whole numbers allow."""
    count = SIZES
    while len(sizes := geometric_sizes(images, count)) < SIZES:
        count += 1
    return sizes


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


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
        print(
            f"{run['adapt']}: {run['ratio']:.3f} for {len(run['sizes'])} sizes; anew {run['each_size_anew_ratio']:.1f}"
        )


if __name__ == "__main__":
    main()
