"""Tasks whose curves may flatten: coarse questions about the same images, measured to larger sizes. See tasks.md.

    python benchmarks/verdict/coarse.py prepare --fashion unpacked/usr/share/datasets/fashion-mnist
    python benchmarks/verdict/coarse.py run          # once for each core: free tasks are shared out among the calls
    python benchmarks/verdict/coarse.py export       # curves/coarse_*.parquet and their provenance

The rule, written down before anything was measured: every data set, every question in `QUESTIONS`, every way in `WAYS`.
Nothing is left out for the look of its curve. What the frozen part of a model makes of the images is the same for all
questions about them, so it is computed once.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from images import animal_mnist, chosen_rows, fashion_mnist, mnist_5k, write_images
from sklearn.datasets import load_digits
from sweeps import GRID, RUNS, SPLIT, WORK, claimed, export_tasks, measure

from stillscape.data import keep
from stillscape.experiments import make_plan
from stillscape.experiments.activations import write_activations
from stillscape.experiments.bench import set_up
from stillscape.experiments.plan import Plan
from stillscape.experiments.progress import Silent
from stillscape.experiments.store import write_json
from stillscape.experiments.threads import thread_count

PLACE = WORK / "coarse"
FASHION_PER_CLASS = 1200
PIECE = 960  # images whose activations are computed at a time
WIDER_GRID = (*GRID, 2263, 3200, 4525, 6400, 9051)

_DIGITS = {
    "parity": {"even": "02468", "odd": "13579"},
    "large": {"up to 4": "01234", "from 5": "56789"},
    "strokes": {"straight": "147", "round": "0689", "both": "235"},
    "zero": {"zero": "0"},
    "one": {"one": "1"},
}
# Of Animal-MNIST, whose classes are numbers: bear, bird, cat, cow, dog, elephant, giraffe, horse, sheep, zebra.
_ANIMALS = {
    "kept": {"pet": "24", "farm": "378", "wild": "01569"},
    "hoofed": {"hoofed": "36789"},
    "bird": {"bird": "1"},
    "giraffe": {"giraffe": "6"},
    "elephant": {"elephant": "5"},
}
_CLOTHES = {
    "kind": {"footwear": ["sandal", "sneaker", "boot"], "bag": ["bag"]},
    "footwear": {"footwear": ["sandal", "sneaker", "boot"]},
    "bag": {"bag": ["bag"]},
    "trouser": {"trouser": ["trouser"]},
    "sleeves": {"long sleeves": ["pullover", "coat", "shirt"]},
}
#: By data set and question: names of groups, and the classes in each; all other classes are "rest".
QUESTIONS = {"digits": _DIGITS, "mnist-5k": _DIGITS, "fashion-mnist": _CLOTHES, "animal-mnist": _ANIMALS}
#: By data set: model and adaptation. The bundled ViT was pre-trained on the images of the other two.
WAYS = {
    "digits": (("vit-s", "head"), ("bundled", "head"), ("bundled", "last-layers:1")),
    "mnist-5k": (("vit-s", "head"),),
    "fashion-mnist": (("vit-s", "head"),),
    "animal-mnist": (("vit-s", "head"), ("bundled", "head"), ("bundled", "last-layers:1")),
}
IMAGES = {"digits": 1797, "mnist-5k": 5000, "fashion-mnist": 12000, "animal-mnist": 9716}
HELD_OUT = {"digits": 597, "mnist-5k": 1600, "fashion-mnist": 2400, "animal-mnist": 2916}
LARGEST = {"digits": 1131, "mnist-5k": 3200, "fashion-mnist": 9051, "animal-mnist": 6400}
LARGEST_TRAINED = 3200  # where every step trains layers: for want of time; set before any of these was measured


@dataclass(frozen=True)
class CoarseTask:
    """A model, adapted to a coarse question about data."""

    model: str
    data: str
    question: str
    adapt: str

    @property
    def name(self) -> str:
        """As the run folder is called."""
        return f"{self.model}_{self.data}-{self.question}_{self.adapt.replace(':', '-')}"

    @property
    def sizes(self) -> list[int]:
        """Of the training subset."""
        most = LARGEST[self.data] if self.adapt == "head" else min(LARGEST[self.data], LARGEST_TRAINED)
        return [k for k in WIDER_GRID if k <= most]

    @property
    def repeats(self) -> int:
        """Orders: a head has one optimum, and is cheap."""
        return 5 if self.adapt == "head" else 3

    def plan(self) -> Plan:
        """Return the plan: the library's own recipes."""
        return make_plan(
            data=str(PLACE / f"{self.data}-{self.question}.parquet"),
            model="bundled-vit" if self.model == "bundled" else str(WORK / self.model),
            adapt=[self.adapt],
            sizes=self.sizes,
            repeats=self.repeats,
            seeds=1,
            evaluation="holdout",
            held_out=HELD_OUT[self.data] / IMAGES[self.data],
            threads=1,
            workers=1,
        )

    @property
    def frozen(self) -> Path:
        """Where the activations at the frozen boundary are kept for all questions."""
        return PLACE / f"{self.model}_{self.data}_{self.adapt.replace(':', '-')}.npy"


COARSE_TASKS = [
    CoarseTask(model, data, question, adapt)
    for data, questions in QUESTIONS.items()
    for model, adapt in WAYS[data]
    for question in questions
]


def grouped(labels: np.ndarray, groups: dict) -> np.ndarray:
    """Return the name of each label's group, "rest" where it is in none.

    >>> grouped(np.array([0, 3, 7]), {"even": "02468", "three": "3"}).tolist()
    ['even', 'three', 'rest']
    """
    of_class = {name: group for group, names in groups.items() for name in names}
    return np.array([of_class.get(str(label), "rest") for label in labels])


def prepare(fashion: Path) -> None:
    """Write a parquet for each question; copies are dropped, and the order of images is that of seed 0."""
    PLACE.mkdir(parents=True, exist_ok=True)
    digits, facts = load_digits(), {}
    sources = {
        "digits": (np.rint(digits.images * (255 / 16)), digits.target, None),
        "mnist-5k": (*mnist_5k(), None),
        "animal-mnist": (*animal_mnist(), None),
        "fashion-mnist": (*fashion_mnist(fashion), FASHION_PER_CLASS),
    }
    for data, (pixels, labels, per_class) in sources.items():
        grey = np.rint(pixels).astype(np.uint8)
        rows = chosen_rows(grey, labels, per_class)[1]
        if rows.size != IMAGES[data]:
            raise ValueError(f"{data} has {rows.size} images, not {IMAGES[data]}")
        for question, groups in QUESTIONS[data].items():
            name, answers = f"{data}-{question}", grouped(labels[rows], groups)
            digest = write_images(PLACE / f"{name}.parquet", grey[rows], answers)
            counts = dict(zip(*(part.tolist() for part in np.unique(answers, return_counts=True)), strict=True))
            facts[name] = {"images": rows.size, "classes": counts, "sha256_of_pixels_and_labels": digest}
    write_json(PLACE / "facts.json", facts)
    print(json.dumps(facts, indent=1))


def freeze(task: CoarseTask) -> None:
    """Compute what all questions share in pieces, each kept, so that a call that was stopped goes on where it was."""
    if task.frozen.is_file():
        return
    bench, images = set_up(task.plan(), RUNS / task.name, Silent())
    split, pieces = bench.split(task.adapt), []
    for start in range(0, len(images), PIECE):
        path = task.frozen.with_name(f"{task.frozen.stem}_{start}.npy")
        rows = np.arange(start, min(start + PIECE, len(images)))
        if not path.is_file():
            with thread_count(1):
                write_activations({path: split}, keep(images, rows), bench.pretrained, Silent())
        pieces.append(path)
    draft = task.frozen.with_suffix(".draft")
    with draft.open("wb") as file:
        np.save(file, np.concatenate([np.load(path) for path in pieces]))
    draft.rename(task.frozen)


def run(chosen: list[str]) -> None:
    """Measure every task that no other process holds."""
    for task in COARSE_TASKS:
        folder = RUNS / task.name
        if chosen and not any(word in task.name for word in chosen):
            continue
        with claimed(folder) as ours:
            done = folder / "done.json"
            if not ours or done.is_file():
                continue
            before = time.time()
            if task.adapt == "head":
                freeze(task)
            count, failed = measure(task, task.plan(), folder, frozen=task.frozen)
            write_json(done, [task.repeats, 1])
            print(f"{task.name}: {count} cells, {failed} failed, {time.time() - before:.0f} s", flush=True)


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["prepare", "run", "export"])
    parser.add_argument("names", nargs="*", help="only tasks whose name holds one of these")
    parser.add_argument("--fashion", type=Path, help="folder of the four idx.gz files, for prepare")
    asked = parser.parse_args()
    if asked.what == "prepare":
        prepare(asked.fashion)
    elif asked.what == "run":
        run(asked.names)
    else:
        facts = json.loads((PLACE / "facts.json").read_text())
        for split in ("development", "held_out"):
            tasks = [task for task in COARSE_TASKS if SPLIT[task.data] == split]
            if all((RUNS / task.name / "done.json").is_file() for task in tasks):
                names = {f"{task.data}-{task.question}" for task in tasks}
                export_tasks(tasks, f"coarse_{split}", {name: facts[name] for name in sorted(names)})


if __name__ == "__main__":
    main()
