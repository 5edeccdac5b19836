"""What does a second training seed change, beside what a second order of the data changes?

    python benchmarks/verdict/seeds.py      # seeds.json, from curves/curves.parquet and curves/second_seeds.parquet

The accuracy of a cell is taken as the mean of its size, plus what its order adds, plus what its training adds:

    y(k, order, seed) = m(k) + a(k, order) + b(k, order, seed),   sd_seed^2 = mean of (y(., 0) - y(., 1))^2 / 2,
    sd_order^2 = variance over orders of the mean over seeds, less sd_seed^2 / 2

both averaged over sizes. Then the forecast: from at most six sizes of one seed, as in `run.py`, against what the other
seed measured beyond, and against what its own did; and the sizes asked for by either.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from cases import Case, DataCurve, cases_of, file_hash
from ours import Ours
from scoring import score

HERE = Path(__file__).parent
TABLES = [HERE / "curves" / name for name in ("curves.parquet", "second_seeds.parquet")]
RESULTS = HERE / "seeds.json"
LEVEL = 0.9


def accuracies(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the sizes (K,) and the accuracies of a task that has two seeds of every order, (K, orders, 2)."""
    wide = table.pivot_table(index="k", columns=["permutation", "seed"], values="accuracy").sort_index()
    orders = wide.columns.get_level_values("permutation").unique()
    return wide.index.to_numpy(dtype=np.float64), np.stack([wide[order].to_numpy() for order in orders], axis=1)


def spread(values: np.ndarray) -> dict[str, float]:
    """Return the standard deviations that a seed and an order add to an accuracy, from (K, orders, 2).

    >>> orders = np.array([0.5, 0.7])[None, :, None] + np.zeros((1, 2, 2))
    >>> {name: round(value, 3) for name, value in spread(orders).items()}  # variance of .5 and .7 is .02
    {'sd_seed': 0.0, 'sd_order': 0.141}
    """
    of_seed = np.mean((values[..., 0] - values[..., 1]) ** 2) / 2
    of_order = np.mean(values.mean(axis=2).var(axis=1, ddof=1)) - of_seed / 2
    return {"sd_seed": float(np.sqrt(of_seed)), "sd_order": float(np.sqrt(max(of_order, 0.0)))}


def crossed(task: str, sizes: np.ndarray, values: np.ndarray) -> list[dict]:
    """Return how the forecast from each seed does against its own hidden scores, and against the other seed's."""
    ours, rows = Ours(), []
    for seed in (0, 1):
        own, other = (DataCurve("fine-tuning", task, task, "score", sizes, values[..., s]) for s in (seed, 1 - seed))
        for case, twin in zip(cases_of([own]), cases_of([other]), strict=True):
            if case.few:
                answer = ours(case, LEVEL)
                rows += [row_of(case, answer, "own", seed), row_of(hidden_of(case, twin), answer, "other", seed)]
    return rows


def hidden_of(case: Case, twin: Case) -> Case:
    """Return the case with what its twin hides; it keeps its targets."""
    return replace(case, hidden_scores=twin.hidden_scores)


def row_of(case: Case, answer, against: str, seed: int) -> dict:
    """Return the figures of one forecast."""
    found = score(case, answer, LEVEL)
    return {"task": case.curve.name, "seed": seed, "against": against} | {
        name: found[name] for name in ("horizon", "rmse", "covered")
    }


def main() -> None:
    """Measure, print and write."""
    first, second = (pd.read_parquet(path) for path in TABLES)
    table = pd.concat([first[first.task.isin(second.task)], second])
    tasks, rows = {}, []
    for task, part in table.groupby("task"):
        sizes, values = accuracies(part)
        tasks[task] = {"orders": values.shape[1]} | spread(values)
        rows += crossed(task, sizes, values)
    forecasts = pd.DataFrame(rows).groupby(["against", "horizon"])[["rmse", "covered"]].mean().reset_index()
    print(pd.DataFrame(tasks).T.round(4).to_string())
    print(forecasts.round(4).to_string(index=False))
    inputs = {path.name: file_hash(path) for path in TABLES}
    record = {"level": LEVEL, "inputs_sha256": inputs, "tasks": tasks, "forecasts": forecasts.to_dict("records")}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
