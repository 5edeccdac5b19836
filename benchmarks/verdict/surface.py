"""Does the surface add anything to the curve fit? Rank correlations with what more data really brought.

    python benchmarks/verdict/surface.py measure [NAMES]     # at a quarter and an eighth of each task's largest size
    python benchmarks/verdict/surface.py correlate           # surface.json

For each task and size k the remaining gain is the held-out loss at k less that at the largest size. Each quantity
is measured at the weights of size k, without a look at anything larger. Beside its rank correlation with the remaining
gain stands the partial one, given what the forecast expects from the sizes up to k: only that says whether it adds
something. Intervals are of a bootstrap over tasks. The null, the fixed surface's MAD / k, stands among them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sweeps import CURVES, RUNS, TASKS, Task

from stillscape.experiments import measure_evidence
from stillscape.sufficiency import forecast

HERE = Path(__file__).parent
TABLE, RESULTS = CURVES / "surface.parquet", HERE / "surface.json"
SHARES = (4, 8)  # of the largest size
IMAGES = 48
DRAWS, LEVEL = 2000, 0.9
FEWEST = 6  # tasks; under so many a rank correlation says nothing
QUANTITIES = (
    "takeuchi_gain", "optimism_gain", "next_doubling_gain", "optimism_gap", "effective_dimension",
    "split_half_hessian", "split_half_gradient", "mad_over_k",
)  # fmt: skip


def sizes_of(task: Task) -> list[int]:
    """Return the sizes at which a task's surface is measured."""
    grid = np.array(task.sizes)
    return [int(grid[np.abs(np.log(grid * share / grid[-1])).argmin()]) for share in SHARES]


def measure(chosen: list[str]) -> None:
    """Measure what is missing, and write one row for each task, size and quantity: means over orders."""
    rows = []
    for task in TASKS:
        folder = RUNS / task.name
        if not (folder / "done.json").is_file() or (chosen and not any(word in task.name for word in chosen)):
            continue
        parts = ["head", "split_half"] if task.adapt == "head" else ["takeuchi", "split_half"]
        found = pd.DataFrame(measure_evidence(folder, sizes=sizes_of(task), parts=parts, images=IMAGES))
        for (k, quantity), values in found.groupby(["k", "quantity"]):
            rows.append({"task": task.name, "k": k, "quantity": quantity, "value": values.value.mean()})
        print(task.name, len(found), flush=True)
    table = pd.DataFrame(rows)
    if TABLE.is_file():
        table = pd.concat([pd.read_parquet(TABLE), table]).drop_duplicates(["task", "k", "quantity"], keep="last")
    table.to_parquet(TABLE, index=False, compression="zstd")


def observations() -> pd.DataFrame:
    """Return a row for each task and size: remaining gain, what the forecast expects, and every quantity."""
    curves, wide = pd.read_parquet(CURVES / "curves.parquet"), pd.read_parquet(TABLE)
    cells = pd.read_parquet(CURVES / "cells.parquet").groupby(["task", "k"])["mad"].mean()
    wide = wide.pivot_table(index=["task", "k"], columns="quantity", values="value")
    rows = []
    for (name, k), quantities in wide.iterrows():
        losses = curves[curves.task == name].groupby(["k", "permutation"]).heldout_loss.mean().unstack()
        seen = losses[losses.index <= k]
        largest = losses.index[-1]
        expected = forecast(seen.index, seen.to_numpy(), [largest]).mean[0]
        at_k = float(losses.loc[k].mean())
        row = {"task": name, "k": k, "gain": at_k - float(losses.iloc[-1].mean()), "expected": at_k - expected}
        rows.append(row | {"mad_over_k": cells[name, k] / k} | quantities.to_dict())
    return pd.DataFrame(rows)


def partial_rank_correlation(x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None) -> float:
    """Return Spearman's correlation, partial where something is given.

    >>> partial_rank_correlation(np.arange(5.0), np.arange(5.0) ** 3)
    1.0
    """
    ranks = np.array([rankdata(v) for v in ([x, y] if given is None else [x, y, given])])
    r = np.corrcoef(ranks)
    if given is None:
        return float(r[0, 1])
    scale = np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / scale) if scale > 0 else float("nan")


def correlate() -> None:
    """Write every quantity's correlation and partial correlation, with intervals over tasks."""
    table, record = observations(), []
    for quantity in ("expected", *QUANTITIES):
        if quantity not in table:
            continue
        part = table.dropna(subset=[quantity])
        tasks = part.task.unique()
        if tasks.size < FEWEST:
            continue
        record.append({"quantity": quantity, "tasks": int(tasks.size), "points": len(part)} | _figures(part, quantity))
        print(record[-1])
    RESULTS.write_text(json.dumps({"level": LEVEL, "images": IMAGES, "quantities": record}, indent=1) + "\n")


def _figures(part: pd.DataFrame, quantity: str) -> dict[str, float]:
    generator, tasks = np.random.default_rng(0), part.task.unique()
    by_task = dict(iter(part.groupby("task")))
    draws = [pd.concat([by_task[name] for name in generator.choice(tasks, tasks.size)]) for _ in range(DRAWS)]
    figures = {}
    for name, given in (("correlation", None), ("partial", "expected")):
        if given == quantity:
            continue

        def of(rows: pd.DataFrame, given: str | None = given) -> float:
            return partial_rank_correlation(rows[quantity], rows.gain, None if given is None else rows[given])

        low, high = np.nanquantile([of(rows) for rows in draws], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        figures |= {name: of(part), f"{name}_low": float(low), f"{name}_high": float(high)}
    return figures


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "correlate"])
    parser.add_argument("names", nargs="*", help="only tasks whose name holds one of these")
    asked = parser.parse_args()
    if asked.what == "measure":
        measure(asked.names)
    else:
        correlate()


if __name__ == "__main__":
    main()
