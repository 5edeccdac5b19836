"""When would each rule have stopped collecting, what did that cost in accuracy, and what did it save?

    python benchmarks/verdict/stops.py tune       # thresholds, on development tasks: stops_thresholds.json
    python benchmarks/verdict/stops.py run        # every task, thresholds frozen: stops.json

A task's data arrive size by size. A rule sees what was measured so far and says stop or go on; regret is the accuracy
of the whole sweep's last size less that where it stopped, compute the images that went through training up to there
over those of the whole sweep. A rule's threshold is the one that saves most on development tasks while at least nine
in ten of them lose at most half a point; how it then does on held-out tasks is what counts.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from sweeps import CURVES, RUNS, TASKS

from stillscape.experiments import Store
from stillscape.sufficiency.beyond import outlook_beyond

HERE = Path(__file__).parent
THRESHOLDS, RESULTS, CELLS = HERE / "stops_thresholds.json", HERE / "stops.json", CURVES / "cells.parquet"
LEAST_SEEN = 5  # sizes before any rule may speak
LOSES_LITTLE, IN_MOST = 0.005, 0.9
QUESTION = {"level": 0.9, "epsilon": 0.01, "target": None}


@dataclass(frozen=True)
class Sweep:
    """One task.

    Attributes:
        name: of the task.
        split: development or held out.
        sizes: (K,).
        accuracy: means over seeds for each order, (K, P).
        mad: mean absolute deviation of held-out losses at each size, (K,).
        agreement: share of held-out images named alike at this size and the one before, (K,); the first is 0.
    """

    name: str
    split: str
    sizes: np.ndarray
    accuracy: np.ndarray
    mad: np.ndarray
    agreement: np.ndarray


def export_cells() -> pd.DataFrame:
    """Read from the run folders what single images tell: scatter of losses, and predictions that changed."""
    rows = []
    for task in TASKS:
        store = Store(RUNS / task.name)
        before: dict[tuple[int, int], tuple[int, np.ndarray]] = {}
        records = [store.record(path.parent.name) | {"key": path.parent.name} for path in _records(store)]
        for record in sorted(records, key=lambda one: one["cell"]["k"]):
            if record["status"] != "ok":
                continue
            cell, table = record["cell"], store.losses(record["key"])
            chosen = np.flatnonzero(table["role"] == "heldout")
            chosen = chosen[np.argsort(table["sample"][chosen])]
            losses, named = table["loss"][chosen], table["probabilities"][chosen].argmax(axis=1)
            place = (cell["permutation"], cell["seed"])
            agreement = float(np.mean(named == before[place][1])) if place in before else 0.0
            before[place] = (cell["k"], named)
            mad = float(np.abs(losses - losses.mean()).mean())
            rows.append({"task": task.name, **cell, "mad": mad, "agreement": agreement})
    cells = pd.DataFrame(rows)
    cells.to_parquet(CELLS, index=False, compression="zstd")
    return cells


def _records(store: Store) -> list[Path]:
    return sorted(store.place.glob("[!.]*/record.json"))


def read_sweeps_of(split: str | None) -> list[Sweep]:
    """Return the tasks of a split, or all."""
    curves, cells = pd.read_parquet(CURVES / "curves.parquet"), pd.read_parquet(CELLS)
    table = curves.merge(cells[["task", "k", "permutation", "seed", "mad", "agreement"]])
    if split is not None:
        table = table[table["split"] == split]
    found = []
    for (name, of_split), rows in table.groupby(["task", "split"]):
        by_order = rows.groupby(["k", "permutation"]).accuracy.mean().unstack()
        means = rows.groupby("k")[["mad", "agreement"]].mean()
        sizes, accuracy = by_order.index.to_numpy(), by_order.to_numpy()
        found.append(Sweep(name, of_split, sizes, accuracy, means["mad"].to_numpy(), means["agreement"].to_numpy()))
    return found


@cache
def _outlook(sizes: tuple[int, ...], accuracy: bytes, orders: int) -> dict[str, float]:
    table = np.frombuffer(accuracy).reshape(len(sizes), orders).T
    found = outlook_beyond("accuracy", np.array(sizes), table, QUESTION)
    assert found is not None
    return found[0]["next_doubling"]


def _ahead(sweep: Sweep, at: int, end: str) -> float:
    seen = np.ascontiguousarray(sweep.accuracy[: at + 1])
    return _outlook(tuple(sweep.sizes[: at + 1].tolist()), seen.tobytes(), seen.shape[1])[end]


def _last_doubling(sweep: Sweep, at: int) -> float:
    """Return what the last doubling brought; sizes go in steps of the square root of two."""
    means = sweep.accuracy.mean(axis=1)
    return float(means[at] - means[at - 2])


#: By name: what is compared with the threshold at each size (stop where it is at most that), and thresholds to try.
RULES: dict[str, tuple[Callable[[Sweep, int], float], np.ndarray]] = {
    "stillscape: expected gain of the next doubling": (
        lambda s, at: _ahead(s, at, "mean"), np.geomspace(0.001, 0.08, 40)
    ),
    "stillscape: upper end of the next doubling's gain": (
        lambda s, at: _ahead(s, at, "high"), np.geomspace(0.002, 0.15, 40)
    ),
    "measured gain of the last doubling": (_last_doubling, np.geomspace(0.0005, 0.08, 40)),
    "prediction stability (Bloodgood 2009)": (lambda s, at: 1 - s.agreement[at], np.geomspace(0.002, 0.4, 40)),
    "fixed surface, MAD / k (the null)": (lambda s, at: s.mad[at] / s.sizes[at], np.geomspace(1e-5, 0.02, 60)),
    "a fixed size": (lambda s, at: float(s.sizes[-1] / s.sizes[at]), np.sqrt(2.0) ** np.arange(11)),
}  # fmt: skip


def stop_at(rule: Callable[[Sweep, int], float], threshold: float, sweep: Sweep) -> int:
    """Return the position of the size at which the rule stops; the last one where it never does."""
    for at in range(LEAST_SEEN - 1, sweep.sizes.size):
        if rule(sweep, at) <= threshold * (1 + 1e-9):
            return at
    return sweep.sizes.size - 1


def outcome(sweep: Sweep, at: int) -> tuple[float, float]:
    """Return regret and compute; the last size's mean is the mean of its orders, so a lucky early size has none."""
    means = sweep.accuracy.mean(axis=1)
    return float(means[-1] - means[at]), float(sweep.sizes[: at + 1].sum() / sweep.sizes.sum())


def least_compute(sweep: Sweep) -> float:
    """Return the compute of whoever knows the future and stops at the first size from which on little is lost."""
    means = sweep.accuracy.mean(axis=1)
    lasting = np.logical_and.accumulate((means[-1] - means <= LOSES_LITTLE)[::-1])[::-1]
    return outcome(sweep, max(int(lasting.argmax()), LEAST_SEEN - 1))[1]


def front(name: str, sweeps: list[Sweep]) -> pd.DataFrame:
    """Return for each threshold how many tasks lose little, and the mean compute."""
    rule, thresholds = RULES[name]
    rows = []
    for threshold in thresholds:
        found = np.array([outcome(sweep, stop_at(rule, threshold, sweep)) for sweep in sweeps])
        rows.append(
            {
                "threshold": float(threshold),
                "share_losing_little": float(np.mean(found[:, 0] <= LOSES_LITTLE)),
                "worst_regret": float(found[:, 0].max()),
                "compute": float(found[:, 1].mean()),
            }
        )
    return pd.DataFrame(rows)


def tune() -> None:
    """Choose every rule's threshold on development tasks."""
    sweeps, chosen = read_sweeps_of("development"), {}
    for name in RULES:
        table = front(name, sweeps)
        good = table[table.share_losing_little >= IN_MOST]
        best = good.loc[good.compute.idxmin()] if len(good) else table.loc[table.share_losing_little.idxmax()]
        chosen[name] = {key: round(float(best[key]), 6) for key in table.columns}
        print(name, chosen[name])
    THRESHOLDS.write_text(json.dumps({"tasks": [s.name for s in sweeps], "rules": chosen}, indent=1) + "\n")


def run() -> None:
    """Apply the frozen thresholds to every task."""
    rules, record = json.loads(THRESHOLDS.read_text())["rules"], {}
    for split in ("development", "held_out"):
        sweeps = read_sweeps_of(split)
        record[f"{split}: no rule could save more"] = {"compute": float(np.mean([least_compute(s) for s in sweeps]))}
        for name, numbers in rules.items():
            places = [stop_at(RULES[name][0], numbers["threshold"], sweep) for sweep in sweeps]
            found = np.array([outcome(sweep, at) for sweep, at in zip(sweeps, places, strict=True)])
            record[f"{split}: {name}"] = {
                "tasks": len(sweeps),
                "threshold": numbers["threshold"],
                "share_losing_at_most_half_a_point": float(np.mean(found[:, 0] <= LOSES_LITTLE)),
                "worst_regret": float(found[:, 0].max()),
                "mean_regret": float(found[:, 0].mean()),
                "compute": float(found[:, 1].mean()),
                "stopped_at": {s.name: int(s.sizes[at]) for s, at in zip(sweeps, places, strict=True)},
            }
            print(split, name, {k: v for k, v in record[f"{split}: {name}"].items() if k != "stopped_at"})
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["export", "tune", "run"])
    {"export": export_cells, "tune": tune, "run": run}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
