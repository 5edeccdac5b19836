"""When would each rule have stopped collecting, what did that cost in accuracy, and what did it save?

    python benchmarks/verdict/stops.py export coarse     # what single images tell, from the run folders
    python benchmarks/verdict/stops.py tune coarse       # thresholds, on development tasks: coarse_thresholds.json
    python benchmarks/verdict/stops.py run coarse        # every task, thresholds frozen: coarse_stops.json

`sixteen` in place of `coarse`: the tasks of `sweeps`. A task's data arrive size by size. A rule sees what was measured
so far and says stop or go on; regret is the accuracy of the whole sweep's last size less that where it stopped, compute
the images that went through training up to there over those of the whole sweep. Of a rule that computes, its own time
is counted beside that of training. A rule's threshold is the one that saves most on development tasks while at least
nine in ten of them lose at most half a point; how it then does on held-out tasks is what counts.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cases import file_hash
from coarse import COARSE_TASKS
from scoring import mean_interval
from stop_rules import LOSES_LITTLE, RULES, RULES_TO_THE_END, Rule, Sweep, forget
from sweeps import CURVES, RUNS, SPLIT, TASKS

from stillscape.experiments import Store

HERE = Path(__file__).parent
LEAST_SEEN = 5  # sizes before any rule may speak
IN_MOST = 0.9
FLAT = 0.5  # of the compute: where foresight needs no more, a curve is called flat
LEVEL = 0.9


@dataclass(frozen=True)
class Study:
    """Tasks that are tuned and scored together.

    Attributes:
        tasks: all of them.
        curves: name of the tables of cells in `curves/`; "{split}" stands for development or held_out.
        cells: name of the tables of what single images tell.
        thresholds: the frozen numbers.
        results: what came of them.
        rules: that are compared.
    """

    tasks: Sequence[Any]
    curves: str
    cells: str
    thresholds: Path
    results: Path
    rules: dict[str, tuple[Rule, np.ndarray]]

    def files(self, split: str) -> tuple[Path, Path]:
        """Return the table of cells and that of single images."""
        return CURVES / self.curves.format(split=split), CURVES / self.cells.format(split=split)

    def hashes(self, *splits: str) -> dict[str, str]:
        """Return the hashes of both tables."""
        return {path.name: file_hash(path) for split in splits for path in self.files(split)}


STUDIES = {
    "sixteen": Study(
        TASKS, "curves.parquet", "cells.parquet",
        HERE / "stops_thresholds.json", HERE / "stops.json", RULES,
    ),
    "coarse": Study(
        COARSE_TASKS, "coarse_{split}.parquet", "coarse_{split}_cells.parquet",
        HERE / "coarse_thresholds.json", HERE / "coarse_stops.json", RULES | RULES_TO_THE_END,
    ),
}  # fmt: skip


def export(study: Study) -> None:
    """Read from the run folders what single images tell: scatter of losses, and predictions that changed."""
    by_path: dict[Path, list[Any]] = {}
    for task in study.tasks:
        curves, cells = study.files(SPLIT[task.data])
        if curves.is_file():
            by_path.setdefault(cells, []).append(task)
    for path, tasks in by_path.items():
        pd.DataFrame(cells_of(tasks)).to_parquet(path, index=False, compression="zstd")


def cells_of(tasks: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a row for each cell."""
    return [{"task": task.name} | row for task in tasks for row in cells_in(RUNS / task.name)]


def cells_in(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each cell of a run."""
    store, rows = Store(folder), []
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
        rows.append({**cell, "mad": mad, "agreement": agreement})
    return rows


def _records(store: Store) -> list[Path]:
    return sorted(store.place.glob("[!.]*/record.json"))


def read_sweeps_of(study: Study, split: str) -> list[Sweep]:
    """Return the tasks of a split."""
    curves, cells = map(pd.read_parquet, study.files(split))
    table = curves.merge(cells[["task", "k", "permutation", "seed", "mad", "agreement"]])
    table["cluster"] = table.data + " " + (table.question if "question" in table else "")
    found = []
    for (name, cluster), rows in table[table["split"] == split].groupby(["task", "cluster"]):
        accuracy = rows.groupby(["k", "permutation"]).accuracy.mean().unstack()
        by_size = rows.groupby("k")
        mad, agreement = by_size["mad"].mean().to_numpy(), by_size["agreement"].mean().to_numpy()
        seconds = by_size["seconds"].sum().to_numpy()
        found.append(Sweep(name, cluster, accuracy.index.to_numpy(), accuracy.to_numpy(), mad, agreement, seconds))
    return found


def stop_at(rule: Rule, threshold: float, sweep: Sweep) -> int:
    """Return the position of the size at which the rule stops; the last one where it never does."""
    for at in range(LEAST_SEEN - 1, sweep.sizes.size):
        if rule(sweep, at) <= threshold + 1e-9 * abs(threshold):
            return at
    return sweep.sizes.size - 1


def outcome(sweep: Sweep, at: int) -> tuple[float, float]:
    """Return regret and compute; the last size's mean is the mean of its orders, so a lucky early size has none."""
    means = sweep.accuracy.mean(axis=1)
    return float(means[-1] - means[at]), float(sweep.sizes[: at + 1].sum() / sweep.sizes.sum())


def time_share(sweep: Sweep, at: int, seconds_a_look: float) -> float:
    """Return the time up to the stop, the rule's own counted, over that of the whole sweep without any rule."""
    looks = min(at, sweep.sizes.size - 2) - (LEAST_SEEN - 1) + 1  # the last size needs none: there is nothing left
    return float((sweep.seconds[: at + 1].sum() + looks * seconds_a_look) / sweep.seconds.sum())


def foreseen(sweep: Sweep) -> int:
    """Return where whoever knows the future stops: at the first size from which on little is lost."""
    means = sweep.accuracy.mean(axis=1)
    lasting = np.logical_and.accumulate((means[-1] - means <= LOSES_LITTLE)[::-1])[::-1]
    return max(int(lasting.argmax()), LEAST_SEEN - 1)


def front(study: Study, name: str, sweeps: list[Sweep]) -> pd.DataFrame:
    """Return for each threshold how many tasks lose little, and the mean compute."""
    rule, thresholds = study.rules[name]
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


def seconds_a_look(rule: Rule, sweeps: list[Sweep]) -> float:
    """Return the median processor time of one look, over all looks."""
    forget()
    spent = []
    for sweep in sweeps:
        for at in range(LEAST_SEEN - 1, sweep.sizes.size - 1):
            before = time.process_time()
            rule(sweep, at)
            spent.append(time.process_time() - before)
    return float(np.median(spent))


def tune(study: Study) -> None:
    """Choose every rule's threshold on development tasks."""
    sweeps, chosen = read_sweeps_of(study, "development"), {}
    for name, (rule, _) in study.rules.items():
        look = seconds_a_look(rule, sweeps)
        table = front(study, name, sweeps)
        good = table[table.share_losing_little >= IN_MOST]
        best = good.loc[good.compute.idxmin()] if len(good) else table.loc[table.share_losing_little.idxmax()]
        chosen[name] = {key: round(float(best[key]), 6) for key in table.columns} | {"seconds_a_look": round(look, 5)}
        print(name, chosen[name])
    inputs = study.hashes("development")
    record = {"tasks": [s.name for s in sweeps], "inputs_sha256": inputs, "rules": chosen}
    study.thresholds.write_text(json.dumps(record, indent=1) + "\n")


def table_of(sweeps: list[Sweep], places: list[int], look: float) -> pd.DataFrame:
    """Return a row for each task: regret, compute in images, compute in time, and where it stopped."""
    rows = []
    for sweep, at in zip(sweeps, places, strict=True):
        regret, compute = outcome(sweep, at)
        shares = {"compute": compute, "time": time_share(sweep, at, look)}
        little = float(regret <= LOSES_LITTLE)
        row = {"task": sweep.name, "cluster": sweep.cluster, "regret": regret, "little": little}
        rows.append(row | shares | {"stopped_at": int(sweep.sizes[at])})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, bases: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Return means, and paired differences in compute and regret from the rules that others are measured by."""
    clusters = table.cluster.to_numpy()
    found: dict[str, Any] = {
        "tasks": len(table),
        "share_losing_at_most_half_a_point": float(table.little.mean()),
        "share_interval": mean_interval(table.little.to_numpy(), clusters),
        "worst_regret": float(table.regret.max()),
        "mean_regret": float(table.regret.mean()),
        "compute": float(table.compute.mean()),
        "compute_interval": mean_interval(table.compute.to_numpy(), clusters),
        "time_with_the_rules_own": float(table.time.mean()),
    }
    for name, base in bases.items():
        for column in ("compute", "regret"):
            difference = (table[column] - base[column]).to_numpy()
            found[f"{column}_less_that_of_{name}"] = float(difference.mean())
            found[f"{column}_less_that_of_{name}_interval"] = mean_interval(difference, clusters)
    return found | {"stopped_at": dict(zip(table.task, table.stopped_at.tolist(), strict=True))}


def where_flat(table: pd.DataFrame, foresight: pd.DataFrame) -> dict[str, float]:
    """Return what a rule does on the tasks of which whoever knows the future needs at most half the compute."""
    flat = table[foresight.compute <= FLAT]
    return {"tasks": len(flat), "losing_at_most_half_a_point": int(flat.little.sum()), "compute": flat.compute.mean()}


NULL = "fixed surface, MAD / k (the null)"
OURS = "stillscape: upper end of the gain of all the rest"


def run(study: Study) -> None:
    """Apply the frozen thresholds to every task."""
    rules, record = json.loads(study.thresholds.read_text())["rules"], {}
    for split in ("development", "held_out"):
        sweeps = read_sweeps_of(study, split)
        tables = {"foresight": table_of(sweeps, [foreseen(sweep) for sweep in sweeps], 0.0)}
        for name, numbers in rules.items():
            places = [stop_at(study.rules[name][0], numbers["threshold"], sweep) for sweep in sweeps]
            tables[name] = table_of(sweeps, places, numbers.get("seconds_a_look", 0.0))
        for name, table in tables.items():
            bases = {word: tables[base] for word, base in (("null", NULL), ("ours", OURS)) if base in tables}
            found = summary(table, bases) | {"where_flat": where_flat(table, tables["foresight"])}
            record[f"{split}: {name}"] = found | ({"threshold": rules[name]["threshold"]} if name in rules else {})
            shown = ("share_losing_at_most_half_a_point", "worst_regret", "compute", "time_with_the_rules_own")
            print(f"{split:12}{name:70}", *(f"{found[key]:.4f}" for key in shown))
    inputs = {study.thresholds.name: file_hash(study.thresholds)} | study.hashes("development", "held_out")
    study.results.write_text(json.dumps({"level": LEVEL, "inputs_sha256": inputs, "rules": record}, indent=1) + "\n")


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["export", "tune", "run"])
    parser.add_argument("study", choices=list(STUDIES))
    asked = parser.parse_args()
    {"export": export, "tune": tune, "run": run}[asked.what](STUDIES[asked.study])


if __name__ == "__main__":
    main()
