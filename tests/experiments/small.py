"""Small plans and helpers that tests of executors, shards and faults share."""

import shutil

from stillscape.experiments import make_plan
from stillscape.experiments.bench import set_up
from stillscape.experiments.cell import run_cell
from stillscape.experiments.plan import Plan
from stillscape.experiments.progress import Silent
from stillscape.experiments.store import Store

FAST = {"steps": 4, "batch": 8}


def small_plan(photos, tiny_vit, **changes) -> Plan:
    """Return a plan of 8 cells that takes seconds."""
    fields = {
        "data": str(photos), "model": str(tiny_vit), "adapt": ["head", "last-layers:1"], "sizes": [6, 12],
        "repeats": 2, "seeds": 1, "folds": 2, "recipes": {"last-layers": FAST, "lora": FAST}, "workers": 1,
        "probe_images": 12, "curvature_images": 2,
    }  # fmt: skip
    return make_plan(**(fields | changes))


def bench_with_cells(plan, folder):
    """Return a plan's bench, its cells measured into a folder, and nothing else."""
    bench, images = set_up(plan, folder, Silent())
    bench.cache_inputs(plan.adapt, images, Silent())
    for cell in bench.cells():
        run_cell(bench, Store(folder), cell)
    return bench


def copied(folder, place):
    """Return a copy of a run folder."""
    return shutil.copytree(folder, place)


class Said(Silent):
    """Keeps what a run says."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)
