"""Does the surface add anything to the curve fit? Rank correlations with what more data really brought.

    python benchmarks/verdict/surface.py measure sixteen [NAMES]   # at a quarter and an eighth of the largest size
    python benchmarks/verdict/surface.py correlate                 # surface.json

`coarse` in place of `sixteen`: the heads on coarse questions.

For each task and size k the remaining gain is the held-out loss at k less that at the largest size. Each quantity
is measured at the weights of size k, without a look at anything larger; the moving optimum looks back, from the k at
hand to the weights trained on half of them. For that a run of three sizes, k/2, k/sqrt(2) and k, is trained here.
Beside its rank correlation with the remaining gain stands the partial one, given what the forecast expects from the
sizes up to k: only that says whether it adds something. Intervals are of a bootstrap over questions, which several
tasks may share. The null, the fixed surface's MAD / k, stands among them.
"""

import argparse
import fcntl
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cases import file_hash
from scipy.stats import rankdata
from stops import STUDIES, cells_in
from sweeps import CURVES, RUNS, WORK, claimed
from sweeps import measure as train

from stillscape.experiments import measure_evidence
from stillscape.sufficiency import forecast

HERE = Path(__file__).parent
RESULTS = HERE / "surface.json"
TABLES = {"sixteen": CURVES / "surface.parquet", "coarse": CURVES / "coarse_surface.parquet"}
CURVES_OF = {
    "sixteen": [CURVES / "curves.parquet", CURVES / "later.parquet"],
    "coarse": [CURVES / "coarse_development.parquet", CURVES / "coarse_held_out.parquet"],
}
SHARES = (4, 8)  # of the largest size
IMAGES, IMAGES_SLOW = 48, 16
COLUMNS = ["task", "k", "quantity", "value"]
#: A quantity by which one sees that a part was measured.
GIVES = {
    "head": "next_doubling_gain",
    "takeuchi": "takeuchi_gain",
    "split_half": "split_half_hessian",
    "moving_optimum": "moving_optimum",
}
DRAWS, LEVEL = 2000, 0.9
FEWEST = 6  # tasks; under so many a rank correlation says nothing
#: What a correlation is partial to: nothing, the forecast, and the forecast beside the null.
GIVEN = {"correlation": (), "partial": ("expected",), "partial_given_the_null_too": ("expected", "mad_over_k")}
QUANTITIES = (
    "takeuchi_gain", "optimism_gain", "next_doubling_gain", "optimism_gap", "effective_dimension",
    "leave_one_out_gap", "split_half_hessian", "split_half_gradient", "moving_optimum", "mad_over_k",
)  # fmt: skip


def sizes_of(task: Any) -> list[int]:
    """Return the sizes at which a task's surface is measured."""
    grid = np.array(task.sizes)
    return [int(grid[np.abs(np.log(grid * share / grid[-1])).argmin()]) for share in SHARES]


def parts_of(task: Any, kind: str) -> list[str]:
    """Return what is measured; of coarse questions the heads only, and of the ViT-S no halves: both are dear."""
    if task.adapt == "head":
        return ["head", "split_half", "moving_optimum"]
    if kind == "coarse":
        return []
    halves = ["split_half"] if task.model == "bundled" else []
    return ["takeuchi", *halves, "moving_optimum"]


def trained_to(task: Any, k: int) -> Path:
    """Return the folder of a run that ends at k, with the two sizes before it; trains what it lacks."""
    plan = task.plan()
    at = plan.sizes.index(k)
    folder = RUNS / f"{task.name}_to_{k}"
    train(task, plan.model_copy(update={"sizes": plan.sizes[at - 2 : at + 1]}), folder, frozen=task.frozen)
    return folder


def quantities_of(task: Any, k: int, parts: list[str]) -> pd.DataFrame:
    """Return means over orders; the moving optimum is that of the weights of half the size at hand."""
    folder = trained_to(task, k)
    half = task.sizes[task.sizes.index(k) - 2]
    images = IMAGES_SLOW if (task.model, task.adapt) == ("vit-s", "lora:4") else IMAGES
    found = []
    for part in parts:
        found += measure_evidence(folder, sizes=[half if part == "moving_optimum" else k], parts=[part], images=images)
    found += [{"quantity": "mad_over_k", "value": row["mad"] / k} for row in cells_in(folder) if row["k"] == k]
    means = pd.DataFrame(found).groupby("quantity", as_index=False).value.mean()
    return means.assign(task=task.name, k=k)[COLUMNS]


def measure(kind: str, chosen: list[str]) -> None:
    """Measure what is missing, and add a row for each task, size and quantity to the table."""
    path = TABLES[kind]
    for task in STUDIES[kind].tasks:
        if chosen and not any(word in task.name for word in chosen):
            continue
        with claimed(RUNS / f"{task.name}_surface") as ours:
            known = pd.read_parquet(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)
            there = set(known[known.task == task.name].quantity)
            parts = [part for part in parts_of(task, kind) if GIVES[part] not in there]
            if not ours or not parts:
                continue
            found = pd.concat([quantities_of(task, k, parts) for k in sizes_of(task)])
            add_rows(path, found)
            print(task.name, parts, len(found), flush=True)


def add_rows(path: Path, rows: pd.DataFrame) -> None:
    """Add rows to the table, while no other process does."""
    with (WORK / f"{path.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = [pd.read_parquet(path)] if path.is_file() else []
        table = pd.concat([*known, rows]).drop_duplicates(["task", "k", "quantity"], keep="first")
        table.to_parquet(path, index=False, compression="zstd")


def observations(kind: str) -> pd.DataFrame:
    """Return a row for each task and size: remaining gain, what the forecast expects, and every quantity."""
    curves = pd.concat([pd.read_parquet(path) for path in CURVES_OF[kind]])
    wide = pd.read_parquet(TABLES[kind]).pivot_table(index=["task", "k"], columns="quantity", values="value")
    rows = []
    for (name, k), quantities in wide.iterrows():
        of_task = curves[curves.task == name]
        losses = of_task.groupby(["k", "permutation"]).heldout_loss.mean().unstack()
        seen = losses[losses.index <= k]
        largest = losses.index[-1]
        expected = forecast(seen.index, seen.to_numpy(), [largest]).mean[0]
        at_k = float(losses.loc[k].mean())
        cluster = " ".join(of_task.iloc[0][["data", "question"]]) if "question" in of_task else name
        if "alo_loss" in quantities:  # NaN where it is known for none
            quantities["leave_one_out_gap"] = quantities["alo_loss"] - float(of_task[of_task.k == k].train_loss.mean())
        row = {"task": name, "cluster": cluster, "k": k, "gain": at_k - float(losses.iloc[-1].mean())}
        rows.append(row | {"expected": at_k - expected} | quantities.to_dict())
    return pd.DataFrame(rows)


def partial_rank_correlation(x: np.ndarray, y: np.ndarray, *given: np.ndarray) -> float:
    """Return Spearman's correlation; the partial one, of what the ranks of all that is given leave, if any is.

    >>> partial_rank_correlation(np.arange(5.0), np.arange(5.0) ** 3)
    1.0
    """
    ranks = np.array([rankdata(v) for v in (x, y, *given)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    left = ranks[:2] - ranks[:2] @ np.linalg.pinv(ranks[2:]) @ ranks[2:] if given else ranks
    scale = np.linalg.norm(left[0]) * np.linalg.norm(left[1])
    return float(round(left[0] @ left[1] / scale, 12)) if scale > 1e-9 else float("nan")


def correlate() -> None:
    """Write every quantity's correlation and partial correlation, with intervals over questions."""
    record: dict[str, list[dict[str, Any]]] = {}
    for kind in TABLES:
        table, record[kind] = observations(kind), []
        for quantity in ("expected", *QUANTITIES):
            if quantity not in table:
                continue
            part = table.dropna(subset=[quantity])
            tasks, clusters = part.task.nunique(), part.cluster.nunique()
            if clusters < FEWEST:
                continue
            counts = {"tasks": tasks, "questions": clusters, "points": len(part)}
            record[kind].append({"quantity": quantity} | counts | _figures(part, quantity))
            print(kind, record[kind][-1])
    tables = [*TABLES.values(), *(path for paths in CURVES_OF.values() for path in paths)]
    inputs = {path.name: file_hash(path) for path in tables}
    text = {"level": LEVEL, "images": IMAGES, "inputs_sha256": inputs, "quantities": record}
    RESULTS.write_text(json.dumps(text, indent=1) + "\n")


def _figures(part: pd.DataFrame, quantity: str) -> dict[str, float]:
    generator, names = np.random.default_rng(0), part.cluster.unique()
    by_cluster = dict(iter(part.groupby("cluster")))
    draws = [pd.concat([by_cluster[name] for name in generator.choice(names, names.size)]) for _ in range(DRAWS)]
    figures = {}
    for name, given in GIVEN.items():
        if quantity in given:
            continue

        def of(rows: pd.DataFrame, given: tuple[str, ...] = given) -> float:
            return partial_rank_correlation(rows[quantity], rows.gain, *(rows[column] for column in given))

        low, high = np.nanquantile([of(rows) for rows in draws], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        figures |= {name: of(part), f"{name}_low": float(low), f"{name}_high": float(high)}
    return figures


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "correlate"])
    parser.add_argument("kind", nargs="?", choices=list(TABLES), default="sixteen")
    parser.add_argument("names", nargs="*", help="only tasks whose name holds one of these")
    asked = parser.parse_args()
    if asked.what == "measure":
        measure(asked.kind, asked.names)
    else:
        correlate()


if __name__ == "__main__":
    main()
