"""Measure the real tasks: what fine-tuning of real weights on real images gives, at every size of the data.

    python benchmarks/verdict/sweeps.py run          # once for each core: free tasks are shared out among the calls
    python benchmarks/verdict/sweeps.py seeds        # second training seeds alone, likewise
    python benchmarks/verdict/sweeps.py export       # curves/*.parquet with their provenance, of what is measured
    python benchmarks/verdict/sweeps.py controls     # curves/controls.json

Each task has a run folder under `.work/runs/` that `stillscape run` could take up. What is recorded is never measured
again, so a run that was stopped goes on where it was. See tasks.md.
"""

import argparse
import fcntl
import importlib.metadata
import json
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoConfig, ViTForImageClassification

from stillscape.experiments import make_plan
from stillscape.experiments.bench import Cell, set_up
from stillscape.experiments.local import run_tasks
from stillscape.experiments.plan import Plan
from stillscape.experiments.progress import Silent
from stillscape.experiments.provenance import circumstances
from stillscape.experiments.store import Store, write_json
from stillscape.experiments.tasks import measure_cell
from stillscape.experiments.threads import thread_count
from stillscape.models import pixel_values
from stillscape.models.load import BUNDLED

HERE = Path(__file__).parent
WORK, CURVES = (HERE / ".work").resolve(), HERE / "curves"
RUNS = WORK / "runs"

GRID = (25, 35, 50, 71, 100, 141, 200, 283, 400, 566, 800, 1131, 1600)  # ratio sqrt(2)
SPLIT = {"digits": "development", "mnist-5k": "development", "fashion-mnist": "held_out", "animal-mnist": "held_out"}
LATER = ("mnist-5k", "animal-mnist")  # LoRA of the ViT-S there was measured after the numbers had been fitted
#: Whose code measured the tables.
LIBRARY_COMMIT = {
    "curves": "c9080b9",
    "coarse_development": "2a8f6a9",
    "coarse_held_out": "2a8f6a9",
    "later": "7bcbf00",
    "second_seeds": "7bcbf00",
}
CONTROL_TRAINING, CONTROL_HELD_OUT = 400, 600
DONE, SECOND_SEED_DONE = "done.json", "seeded.json"  # in a task's folder: orders and seeds that are measured
# The bundled ViT was pre-trained on the other two.
DATA = {"bundled": ("digits", "animal-mnist"), "vit-s": ("digits", "fashion-mnist", "animal-mnist", "mnist-5k")}
RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("bundled", "lora:4"): {"epochs": 10, "min_steps": 60},
    ("vit-s", "last-layers:1"): {"epochs": 10, "min_steps": 60},
    ("vit-s", "lora:4"): {"epochs": 5, "min_steps": 32, "batch": 16, "learning_rate": 3e-3},
}


@dataclass(frozen=True)
class Task:
    """A model, adapted to data."""

    model: str
    data: str
    adapt: str

    @property
    def name(self) -> str:
        """As the run folder is called."""
        return f"{self.model}_{self.data}_{self.adapt.replace(':', '-')}"

    @property
    def slow(self) -> bool:
        """Whether every step runs the whole ViT-S."""
        return (self.model, self.adapt) == ("vit-s", "lora:4")

    @property
    def sizes(self) -> list[int]:
        """Of the training subset."""
        largest = 400 if self.slow else 800 if self.data == "digits" else 1600
        return [k for k in GRID if k <= largest]

    @property
    def repeats(self) -> int:
        """Orders: a head has one optimum, and is cheap."""
        return 10 if self.adapt == "head" else 3 if self.slow else 5

    @property
    def frozen(self) -> Path:
        """Where what the frozen part makes of the images may be shared by runs of this task."""
        return RUNS / f"{self.name}.npy"

    def plan(self, repeats: int | None = None, seeds: int = 1) -> Plan:
        """Return the plan; 600 images are held out where scoring is slow, else 797 digits or 2,000 of the others."""
        images = 1797 if self.data == "digits" else 4000
        held_out = 600 if self.slow else 797 if self.data == "digits" else 2000
        return make_plan(
            data="digits" if self.data == "digits" else str(WORK / f"{self.data}.parquet"),
            model="bundled-vit" if self.model == "bundled" else str(WORK / self.model),
            adapt=[self.adapt],
            sizes=self.sizes,
            repeats=repeats or self.repeats,
            seeds=seeds,
            evaluation="holdout",
            held_out=held_out / images,
            recipes={self.adapt.partition(":")[0]: RECIPES.get((self.model, self.adapt), {})},
            threads=1,
            workers=1,
        )


ADAPT = ("head", "last-layers:1", "lora:4")
TASKS = [Task(model, data, adapt) for adapt in ADAPT for model in DATA for data in DATA[model]]


def rounds() -> Iterator[tuple[Task, int, int]]:
    """Yield what to measure, cheapest first: task, orders, training seeds. A head has one optimum, and no seed."""
    heads = [task for task in TASKS if task.adapt == "head"]
    slow = [task for task in TASKS if task.slow]
    rest = [task for task in TASKS if task not in heads and task not in slow]
    yield from ((task, 10, 1) for task in heads)
    yield from ((task, 3, 1) for task in [*rest, *slow[:2]])
    yield from ((task, 5, 1) for task in rest)
    yield from ((task, 3, 1) for task in slow[2:])
    yield from ((task, 5, 2) for task in rest)
    yield from ((task, 3, 2) for task in slow)


#: Whose training has a seed, and is not too slow for a second one.
SEEDED = [task for task in TASKS if task.adapt != "head" and not task.slow]


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold a task's folder; gives False where another process holds it. A process that dies lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def link(source: Path | None, target: Path | None) -> None:
    """Let one file have a second place, where it is there and the place is free."""
    if source and target and source.is_file() and not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(source)


def measure(task: Any, plan: Plan, folder: Path, frozen: Path | None = None, first_seed: int = 0) -> tuple[int, int]:
    """Measure the cells that are missing, one whole curve after the other; return how many, and how many failed.

    `frozen` names where activations are shared with other tasks on the same images in the same order. Cells of training
    seeds before `first_seed` are left out.
    """
    path = folder / "plan.toml"
    if path.is_file() and make_plan(path).without_revisable() != plan.without_revisable():
        raise ValueError(f"{task.name} was measured by another plan; move its folder away")
    bench, images = set_up(plan, folder, Silent())
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(plan.to_toml())
    write_json(folder / "provenance.json", circumstances(bench, 1))
    store = Store(folder)
    store.sweep()

    def place(cell: Cell) -> tuple[int, int, int]:
        return cell.seed, cell.permutation, cell.k

    wanted = [cell for cell in sorted(bench.cells(), key=place) if cell.seed >= first_seed]
    cells = [cell for cell in wanted if not store.has(bench.key(cell))]
    if cells:
        own = bench.input_path(task.adapt)
        link(frozen, own)
        bench.cache_inputs([task.adapt], images, Silent())
        link(own, frozen)
    failed = 0
    for index in run_tasks(bench, folder, [(measure_cell, (cell,)) for cell in cells]):
        failed += store.record(bench.key(cells[index]))["status"] != "ok"
    return len(cells), failed


def measure_unless_done(task: Task, repeats: int, seeds: int, marker: str = DONE, first_seed: int = 0) -> None:
    """Measure a task that no other process holds and whose marker doesn't say that so much is measured."""
    folder = RUNS / task.name
    with claimed(folder) as ours:
        done, want = folder / marker, [repeats, seeds]
        if not ours or (done.is_file() and json.loads(done.read_text()) >= want):
            return
        before = time.time()
        count, failed = measure(task, task.plan(repeats, seeds), folder, first_seed=first_seed)
        write_json(done, want)
        spent = time.time() - before
        print(f"{task.name} {repeats} x {seeds}: {count} cells, {failed} failed, {spent:.0f} s", flush=True)


def run(chosen: list[str]) -> None:
    """Measure every task, in the order of `rounds`."""
    for task, repeats, seeds in rounds():
        if not chosen or any(word in task.name for word in chosen):
            measure_unless_done(task, repeats, seeds)


def second_seeds() -> None:
    """Measure the trained tasks with their second training seed, and with no other."""
    for task in SEEDED:
        measure_unless_done(task, task.repeats, 2, SECOND_SEED_DONE, first_seed=1)


def rows_of(task: Any) -> tuple[list[dict[str, Any]], int]:
    """Return a row for each cell of the curves that are whole, and how many cells failed."""
    store = Store(RUNS / task.name)
    keys = sorted(path.parent.name for path in store.place.glob("[!.]*/record.json"))
    if not keys:
        return [], 0
    records = [store.record(key) for key in keys]
    kept = [(key, record) for key, record in zip(keys, records, strict=True) if record["status"] == "ok"]
    role = pq.read_table(store.place / kept[0][0] / "losses.parquet", columns=["role"])["role"]
    scored = sum(value == "heldout" for value in role.to_pylist())
    rows = [
        {
            "task": task.name,
            "model": task.model,
            "data": task.data,
            **({"question": task.question} if hasattr(task, "question") else {}),
            "adapt": task.adapt,
            "split": SPLIT[task.data],
            "k": record["cell"]["k"],
            "permutation": record["cell"]["permutation"],
            "seed": record["cell"]["seed"],
            "accuracy": record["metrics"]["accuracy"],
            "heldout_loss": record["heldout_loss"],
            "train_loss": record["train_loss"],
            "num_heldout": scored,
            "seconds": record["seconds"],
        }
        for _, record in kept
    ]
    repeats = Counter((row["permutation"], row["seed"]) for row in rows)
    rows = [row for row in rows if repeats[row["permutation"], row["seed"]] == len(task.sizes)]
    return sorted(rows, key=lambda row: (row["k"], row["permutation"], row["seed"])), len(records) - len(kept)


def export() -> None:
    """Write every table whose tasks are all measured; what came later has its own, so that the first keeps its hash."""
    facts = json.loads((WORK / "facts.json").read_text())
    later = [task for task in TASKS if task.slow and task.data in LATER]
    tables = {"curves": [task for task in TASKS if task not in later], "later": later, "second_seeds": SEEDED}
    for name, tasks in tables.items():
        marker = SECOND_SEED_DONE if tasks is SEEDED else DONE
        if all((RUNS / task.name / marker).is_file() for task in tasks):
            export_tasks(tasks, name, facts)


def export_tasks(chosen: Sequence[Any], name: str, prepared: dict[str, Any]) -> None:
    """Write the table of all cells and where they come from; prints accuracies of development tasks only."""
    CURVES.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    tasks: dict[str, Any] = {}
    for task in chosen:
        measured, failed = rows_of(task)
        if not measured:
            continue
        rows += measured
        folder = RUNS / task.name
        plan, found = make_plan(folder / "plan.toml"), json.loads((folder / "provenance.json").read_text())
        tasks[task.name] = {
            "cells": len(measured),
            "failed": failed,
            "sizes": sorted({row["k"] for row in measured}),
            "orders": len({row["permutation"] for row in measured}),
            "seeds": len({row["seed"] for row in measured}),
            "split_seed": plan.split_seed,
            "share_held_out": plan.held_out,
            "num_heldout": measured[0]["num_heldout"],
            "recipe": plan.recipe(task.adapt).model_dump(mode="json"),
            "data_fingerprint": found["data_fingerprint"],
            "model_fingerprint": found["model_fingerprint"],
            "seconds": round(sum(row["seconds"] for row in measured)),
        }
    table = pd.DataFrame(rows)
    table.to_parquet(CURVES / f"{name}.parquet", index=False, compression="zstd")
    packages = ("stillscape", "torch", "transformers", "peft", "numpy", "scipy", "scikit-learn", "pillow", "pyarrow")
    write_json(
        CURVES / ("provenance.json" if name == "curves" else f"{name}_provenance.json"),
        {
            "library_commit": LIBRARY_COMMIT[name],
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "prepared": prepared,
            "tasks": tasks,
        },
    )
    print(f"{len(tasks)} tasks, {len(table)} cells, {sum(task['failed'] for task in tasks.values())} failed")
    for called, part in table[table["split"] == "development"].groupby("task"):
        means = part.groupby("k")["accuracy"].mean()
        print(called, {int(k): round(float(v), 3) for k, v in means.items() if k in (means.index[0], means.index[-1])})


def linear_hits(features: np.ndarray, labels: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return where logistic regression is right: standardized features, its penalty by 3-fold cross-validation."""
    search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": 10.0 ** np.arange(-4, 2)}, cv=3)
    model = make_pipeline(StandardScaler(), search).fit(features[training], labels[training])
    return model.predict(features[held_out]) == labels[held_out]


def compared(hits: np.ndarray, others: np.ndarray) -> str:
    """Say which is right on more of the same images, beyond two standard errors of the difference."""
    difference = hits.astype(float) - others
    margin = 2 * difference.std(ddof=1) / np.sqrt(len(difference))
    if abs(difference.mean()) <= margin:
        return "within two standard errors"
    return "better" if difference.mean() > 0 else "worse"


@torch.no_grad()
def random_features(folder: Path, processor: Any, images: list[Any]) -> np.ndarray:
    """Return class tokens of the same architecture before any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTForImageClassification(AutoConfig.from_pretrained(folder)).eval()
    batches = (images[start : start + 64] for start in range(0, len(images), 64))
    tokens = [model.vit(pixel_values=pixel_values(processor, batch)).last_hidden_state[:, 0] for batch in batches]
    return torch.cat(tokens).numpy()


def control(task: Task) -> dict[str, Any]:
    """Compare frozen features with raw pixels and a random model; of held-out tasks no accuracy is kept."""
    bench, images = set_up(task.plan(1, 1), RUNS / task.name, Silent())
    bench.cache_inputs([task.adapt], images, Silent())
    training = bench.training_rows(CONTROL_TRAINING, 0, 0)
    rows = np.concatenate([training, bench.held_out_rows(0)[:CONTROL_HELD_OUT]])
    pictures = [images.read(int(row)) for row in rows]
    sets = {
        "pre-trained": np.asarray(bench.inputs(task.adapt)[rows]),
        "raw pixels": np.stack([np.asarray(picture.convert("L"), dtype=np.float32).ravel() for picture in pictures]),
        "random": random_features(
            BUNDLED if task.model == "bundled" else WORK / task.model, bench.pretrained.processor, pictures
        ),
    }
    places = np.arange(len(rows))
    split = places[: len(training)], places[len(training) :]
    found = {name: linear_hits(features, bench.labels[rows], *split) for name, features in sets.items()}
    result: dict[str, Any] = {
        "training_images": len(training),
        "held_out_images": len(split[1]),
        "against_raw_pixels": compared(found["pre-trained"], found["raw pixels"]),
        "against_random": compared(found["pre-trained"], found["random"]),
    }
    if SPLIT[task.data] == "development":
        result["accuracy"] = {name: round(float(hits.mean()), 4) for name, hits in found.items()}
    return result


def controls() -> None:
    """Write whether frozen pre-trained features are worth more than pixels, and more than random ones."""
    CURVES.mkdir(exist_ok=True)
    found = {}
    with thread_count(1):
        for task in TASKS:
            if task.adapt == "head":
                found[f"{task.model}_{task.data}"] = control(task)
                print(task.model, task.data, found[f"{task.model}_{task.data}"], flush=True)
    write_json(CURVES / "controls.json", found)


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "seeds", "export", "controls"])
    parser.add_argument("names", nargs="*", help="only tasks whose name holds one of these")
    args = parser.parse_args()
    if args.what == "run":
        run(args.names)
    elif args.what == "seeds":
        second_seeds()
    elif args.what == "export":
        export()
    else:
        controls()


if __name__ == "__main__":
    main()
