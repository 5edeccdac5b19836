"""How good is the forecast of data curves, against the forms that people fit?

    python benchmarks/verdict/run.py --curves development.csv [--sweeps curves/curves.parquet:held_out ...]

Of each curve the last 1/2, 3/4 or 7/8 of its range is hidden; at most 24 sizes are seen, or at most 6 that double, as a
user has them. Numbers fitted to other curves were fitted without the data set that is scored, where `left_out.json`
holds such numbers; elsewhere the row says "in sample". Differences are paired over curves: the ratio of geometric means
of interval scores with a bootstrap interval, and Wilcoxon's signed-rank test. What our intervals cover has one too, by
a bootstrap over data sets (questions, of coarse tasks), since curves of one data set stray together.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
from cases import Case, cases_of, file_hash, read_benchmark, read_sweeps, synthetic_curves
from ours import Ours
from rivals import RIVALS
from scipy.stats import wilcoxon
from scoring import Answer, mean_interval, score_all

HERE = Path(__file__).parent
LEFT_OUT = HERE / "left_out.json"
OURS = "stillscape"
LEVEL = 0.9
FIGURES = ["rmse", "covered", "width", "within_1.25", "within_2", "size_covered", "open_ended", "size_interval_score"]


class LeaveOneOut:
    """Our forecast, each data set with the numbers that were fitted without it."""

    def __init__(self) -> None:
        held = json.loads(LEFT_OUT.read_text()) if LEFT_OUT.is_file() else {}
        self.by_dataset = {name: Ours(prior) for name, prior in held.items()}
        self.shipped = Ours()

    def __call__(self, case: Case, level: float) -> Answer:
        """Return what it says of a case."""
        return self.by_dataset.get(case.curve.dataset, self.shipped)(case, level)


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows, and those of ten-class and coarse tasks once more as one domain, where there are both."""
    tasks = rows[rows.domain.isin(["fine-tuning", "coarse"])]
    if tasks.domain.nunique() < 2:
        return rows
    return pd.concat([rows, tasks.assign(domain="fine-tuning and coarse")], ignore_index=True)


def compare(rows: pd.DataFrame) -> list[dict]:
    """Return for each rival how our interval score relates to its own, over curves and over data sets."""
    keys = ["dataset", "curve", "horizon"]
    found = []
    for (domain, few), part in rows.groupby(["domain", "few"]):
        wide = part.pivot_table(index=keys, columns="estimator", values="log_interval_score")
        for rival in wide.columns.drop(OURS):
            difference = (wide[OURS] - wide[rival]).groupby(["dataset", "curve"]).mean()
            datasets = difference.index.get_level_values("dataset")
            low, high = np.exp(mean_interval(difference.to_numpy(), np.arange(difference.size)))
            low_of_datasets, high_of_datasets = np.exp(mean_interval(difference.to_numpy(), datasets))
            found.append(
                {
                    "domain": domain, "few": bool(few), "rival": rival, "curves": difference.size,
                    "interval_score_ratio": float(np.exp(difference.mean())), "ratio_low": low, "ratio_high": high,
                    "datasets": datasets.nunique(), "ratio_low_of_datasets": low_of_datasets,
                    "ratio_high_of_datasets": high_of_datasets,
                    "wilcoxon_p": float(wilcoxon(difference).pvalue) if difference.size > 5 else None,
                }
            )  # fmt: skip
    return found


def coverage(rows: pd.DataFrame) -> list[dict]:
    """Return what share of scores and sizes our intervals cover, mean over curves, with an interval over data sets."""
    found = []
    for (domain, few, horizon), part in rows[rows.estimator == OURS].groupby(["domain", "few", "horizon"]):
        row = {"domain": domain, "few": bool(few), "horizon": int(horizon), "datasets": part.dataset.nunique()}
        for name in ("covered", "size_covered"):
            known = part.dropna(subset=[name])
            row[name] = float(known[name].mean())
            row[f"{name}_low"], row[f"{name}_high"] = mean_interval(known[name].to_numpy(), known.dataset.to_numpy())
        found.append(row)
    return found


def main() -> None:
    """Score every estimator on every case, print the tables, keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, help="CSV in the form of the public benchmark")
    parser.add_argument(
        "--sweeps",
        nargs="+",
        default=[],
        metavar="FILE[:SPLIT]",
        help="parquets of fine-tuning tasks, of each those of one split alone where it is named",
    )
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    asked = parser.parse_args()
    curves = synthetic_curves(seed=1)  # other ones than those the numbers were fitted to
    curves += read_benchmark(asked.curves) if asked.curves else []
    sweeps = [(Path(path), split or None) for path, _, split in (named.partition(":") for named in asked.sweeps)]
    curves += [curve for path, split in sweeps for curve in read_sweeps(path, split)]
    cases, tables = cases_of(curves), []
    for name, estimator in {OURS: LeaveOneOut(), **RIVALS}.items():
        began = time.perf_counter()
        tables.append(score_all(estimator, cases, LEVEL).assign(estimator=name))
        print(f"{name}: {len(cases)} cases in {time.perf_counter() - began:.0f} s", flush=True)
    rows = pooled(pd.concat(tables, ignore_index=True))
    means = rows.groupby(["domain", "few", "horizon", "estimator"])[FIGURES].mean()
    means["interval_score"] = np.exp(rows.groupby(means.index.names).log_interval_score.mean())
    summary = means.round(4).reset_index()
    pairs, covers = compare(rows), coverage(rows)
    with pd.option_context("display.width", 200, "display.max_rows", None):
        print(summary.to_string(index=False))
        print(pd.DataFrame(pairs).round(3).to_string(index=False))
        print(pd.DataFrame(covers).round(3).to_string(index=False))
    inputs = {path.name: file_hash(path) for path in (asked.curves, *(path for path, _ in sweeps)) if path}
    held = json.loads(LEFT_OUT.read_text()) if LEFT_OUT.is_file() else {}
    record = {
        "level": LEVEL, "inputs_sha256": inputs, "sweeps": [Path(named).name for named in asked.sweeps],
        "left_out": sorted(held),
        "python": platform.python_version(), "cases": len(cases),
        "summary": summary.to_dict("records"), "pairs": pairs, "coverage": covers,
    }  # fmt: skip
    asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
