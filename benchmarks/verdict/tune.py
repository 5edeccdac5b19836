"""Fit the numbers of the forecast's prior to development curves; nothing else is tuned, and nothing by hand.

    python benchmarks/verdict/tune.py --curves development.csv --write          # the numbers that ship
    python benchmarks/verdict/tune.py --curves development.csv --leave bird --write   # without a data set, scored on it

A random search: from the best numbers so far some are changed at random, and kept if the objective falls. The objective
is the mean over cases of the log interval score and of the log error of the scores, of the interval score and the hits
of the sizes, and what coverage differs from the level at any horizon. Held-out tasks are never read here.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from cases import cases_of, file_hash, read_benchmark, read_sweeps, synthetic_curves
from ours import Ours
from scoring import score_all

PRIOR = Path(__file__).parents[2] / "src" / "stillscape" / "sufficiency" / "curve_prior.json"
LEFT_OUT = Path(__file__).with_name("left_out.json")
LEVEL = 0.9
HIDDEN = 30  # sizes of each case that are scored while searching
#: How far a number may jump: "add" and "share" (kept within 0..1) by a normal step, "times" by a factor.
STEPS: dict[str, tuple[str, float]] = {
    "log_exponent_mean": ("add", 0.3),
    "log_exponent_sd": ("times", 0.25),
    "log_sharpness_mean": ("add", 0.3),
    "log_sharpness_sd": ("times", 0.3),
    "bend_first": ("add", 0.5),
    "bend_last": ("add", 0.5),
    "no_floor": ("share", 0.1),
    "floor_alpha": ("times", 0.3),
    "floor_beta": ("times", 0.3),
    "slowing_share": ("share", 0.1),
    "straight_share": ("share", 0.1),
    "straying_1": ("times", 0.3),
    "straying_2": ("times", 0.3),
    "weight_1": ("times", 0.5),
    "weight_2": ("times", 0.5),
    "noise_shape": ("times", 0.4),
    "noise_scale": ("times", 0.4),
    "least_noise": ("times", 0.3),
    "drift": ("times", 0.4),
    "drift_power": ("times", 0.3),
    "noise_factor": ("times", 0.25),
    "noise_power": ("share", 0.3),
}
START = {
    "log_exponent_mean": -0.7, "log_exponent_sd": 0.7, "log_sharpness_mean": 0.3, "log_sharpness_sd": 0.6,
    "bend_first": -1.0, "bend_last": 1.5, "no_floor": 0.05, "floor_alpha": 1.0, "floor_beta": 0.5,
    "slowing_share": 0.15, "straight_share": 0.15, "straying_1": 0.5, "straying_2": 2.0,
    "weight_1": 1.0, "weight_2": 1.0,
    "noise_shape": 2.0, "noise_scale": 0.005, "least_noise": 0.006, "drift": 0.012, "drift_power": 1.0,
    "noise_factor": 2.0, "noise_power": 0.2,
}  # fmt: skip


def objective(rows: pd.DataFrame) -> float:
    """Return what the search makes small."""
    weight = np.where(rows.domain.isin(["IC", "fine-tuning"]), 1.0, 0.6)
    value = np.average(rows.log_interval_score, weights=weight) + 0.35 * np.average(np.log(rows.rmse), weights=weight)
    sized = rows["size_interval_score"].notna().to_numpy()
    value += 0.15 * np.average(np.log(rows["size_interval_score"][sized] + 0.1), weights=weight[sized])
    value -= 0.5 * np.average(rows["within_1.25"][sized], weights=weight[sized])
    large = rows[rows.domain.isin(["IC", "fine-tuning", "synthetic"])]
    covered = large.groupby(["domain", "few", "horizon"])[["covered", "size_covered"]].mean() - LEVEL
    off = (covered.abs() - 0.01).clip(lower=0) + 3 * (-0.04 - covered).clip(
        lower=0
    )  # too narrow is worse than too wide
    return float(value + 2 * off.to_numpy().mean(axis=0).sum())


def mutate(numbers: Mapping[str, float], generator: np.random.Generator) -> dict[str, float]:
    """Return the numbers with one to five of them changed."""
    changed = dict(numbers)
    for name in generator.choice(list(STEPS), generator.integers(1, 6), replace=False):
        how, step = STEPS[name]
        jump = step * generator.normal()
        value = changed[name] * np.exp(jump) if how == "times" else changed[name] + jump
        changed[str(name)] = float(np.clip(value, 0.0, 0.99) if how == "share" else value)
    changed["straight_share"] = min(changed["straight_share"], 0.99 - changed["slowing_share"])
    return changed


def search(cases: list, tries: int, seed: int, start: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """Return the best numbers found, and their objective."""
    generator = np.random.default_rng(seed)
    best = dict(start)
    least = objective(score_all(Ours(best), cases, LEVEL))
    print(f"start: {least:.4f}", flush=True)
    for attempt in range(tries):
        other = mutate(best, generator)
        value = objective(score_all(Ours(other), cases, LEVEL))
        if value < least:
            best, least = other, value
            print(f"{attempt}: {least:.4f} {json.dumps({n: round(v, 4) for n, v in best.items()})}", flush=True)
    return best, least


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers as they are written: four digits, which is more than the search can tell apart."""
    return {name: float(f"{number:.4g}") for name, number in numbers.items()}


def write_left_out(leave: str, numbers: Mapping[str, float]) -> None:
    """Put what was fitted without a data set beside what was fitted without others."""
    known = json.loads(LEFT_OUT.read_text()) if LEFT_OUT.is_file() else {}
    LEFT_OUT.write_text(json.dumps(known | {leave: rounded(numbers)}, indent=1, sort_keys=True) + "\n")


def _resumed(leave: str | None) -> dict[str, float]:
    """Return the numbers that ship, or those fitted so far without this data set."""
    known: dict[str, dict[str, float]] = json.loads(LEFT_OUT.read_text()) if leave else {}
    return known[leave] if leave else json.loads(PRIOR.read_text())["prior"]


def main() -> None:
    """Search, and write or score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, required=True, help="CSV of the public benchmark's development part")
    parser.add_argument("--sweeps", type=Path, help="parquet of fine-tuning tasks; its development part is used")
    parser.add_argument("--leave", help="data set left out of the search, and scored after it")
    parser.add_argument("--tries", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", action="store_true", help="start from the numbers that a search like this one wrote"
    )
    parser.add_argument("--write", action="store_true", help="make the result the numbers that ship")
    asked = parser.parse_args()
    curves = read_benchmark(asked.curves) + synthetic_curves()
    if asked.sweeps:
        curves += read_sweeps(asked.sweeps, "development")
    cases = [case for case in cases_of(curves, HIDDEN) if case.curve.dataset != asked.leave]
    start = _resumed(asked.leave) if asked.resume else START
    began = time.perf_counter()
    best, value = search(cases, asked.tries, asked.seed, start)
    print(f"objective {value:.4f} after {time.perf_counter() - began:.0f} s")
    if asked.leave:
        left = [case for case in cases_of(curves) if case.curve.dataset == asked.leave]
        rows = score_all(Ours(rounded(best)), left, LEVEL).select_dtypes(["number", "bool"])
        print(rows.groupby(["few", "horizon"]).mean().round(4).to_string())
    if asked.write and asked.leave:
        write_left_out(asked.leave, best)
    elif asked.write:
        inputs = {path.name: file_hash(path) for path in (asked.curves, asked.sweeps) if path}
        text = {
            "script": "benchmarks/verdict/tune.py", "inputs_sha256": inputs, "tries": asked.tries,
            "prior": rounded(best),
        }  # fmt: skip
        PRIOR.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
