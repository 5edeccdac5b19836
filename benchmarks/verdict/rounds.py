"""How much would have been collected to meet a target in one, three or five rounds, and how often was it too little?

python benchmarks/verdict/rounds.py tune     # corrections, on development tasks: rounds_corrections.json
python benchmarks/verdict/rounds.py run      # every task, corrections frozen: rounds.json

A problem, its rounds and its corrections are those of `collection`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from cases import DataCurve, file_hash, read_sweeps
from collection import COLLECTORS, ENOUGH, Problem, by_curve, learnt, outcomes, problems_of
from sweeps import CURVES

HERE = Path(__file__).parent
CORRECTIONS, RESULTS = HERE / "rounds_corrections.json", HERE / "rounds.json"
TABLES = ("curves.parquet", "coarse_{split}.parquet")
ROUNDS = (1, 3, 5)
DRAWS, LEVEL = 2000, 0.9


def tables_of(split: str) -> list[Path]:
    """Return the tables that hold the tasks of a split."""
    return [CURVES / name.format(split=split) for name in TABLES]


def curves_of(split: str) -> list[DataCurve]:
    """Return the accuracy curves of all tasks of a split."""
    return [curve for table in tables_of(split) for curve in read_sweeps(table, split)]


def tune() -> None:
    """Learn every correction for every number of rounds."""
    problems = problems_of(curves_of("development"))
    found = {name: {str(rounds): learnt(problems, name, rounds) for rounds in ROUNDS} for name in COLLECTORS}
    record = {
        "share_to_be_met": ENOUGH,
        "inputs_sha256": {table.name: file_hash(table) for table in tables_of("development")},
        "development_curves": len({problem.curve.name for problem in problems}),
        "corrections": found,
    }
    CORRECTIONS.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def figures(problems: list[Problem], name: str, correction: float, rounds: int) -> dict[str, float]:
    """Return what comes of it: means over curves, with an interval over curves for the share of failures."""
    found = outcomes(problems, COLLECTORS[name][0](correction), rounds)
    failed = by_curve(problems, found["failed"])
    draws = np.random.default_rng(0).choice(failed, (DRAWS, failed.size)).mean(axis=1)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {
        "correction": correction,
        "failed": float(failed.mean()),
        "failed_low": float(low),
        "failed_high": float(high),
        "median_ratio": float(np.median(found["ratio"])),
        "ratio_90": float(np.quantile(found["ratio"], 0.9)),
        "mean_ratio": float(by_curve(problems, found["ratio"]).mean()),
        "within_1.25": float(by_curve(problems, np.abs(np.log(found["ratio"])) <= np.log(1.25)).mean()),
        "asked_for_more_than_there_is": float(by_curve(problems, found["too_much"]).mean()),
    }


def run() -> None:
    """Score all, with no correction and with the frozen ones."""
    frozen = json.loads(CORRECTIONS.read_text())["corrections"]
    rows = []
    for split in ("development", "held_out"):
        problems = problems_of(curves_of(split))
        count = {"curves": len({problem.curve.name for problem in problems}), "problems": len(problems)}
        for name, by_rounds in frozen.items():
            for rounds in ROUNDS:
                for kind, correction in (("none", COLLECTORS[name][1][0]), ("learnt", by_rounds[str(rounds)])):
                    row = {"split": split, "collector": name, "rounds": rounds, "kind": kind} | count
                    rows.append(row | figures(problems, name, correction, rounds))
                    print({key: round(v, 3) if isinstance(v, float) else v for key, v in rows[-1].items()}, flush=True)
    tables = [*tables_of("development"), *tables_of("held_out")]
    inputs = {path.name: file_hash(path) for path in (CORRECTIONS, *tables)}
    RESULTS.write_text(json.dumps({"level": LEVEL, "inputs_sha256": inputs, "rows": rows}, indent=1) + "\n")


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["tune", "run"])
    {"tune": tune, "run": run}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
