"""Forecasting cases: of each measured curve the last part is hidden, and forecast from some of the rest."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression

HORIZONS = (2, 4, 8)
MOST_SEEN = 24
FEW_SEEN = 6  # what a user has: sizes that double
TARGETS = 5  # for each case, at random depths of the gain that remains
DEPTHS = (0.1, 0.9)
LEAST_GAIN = 0.005  # relative; where less is left to gain, no target lies between


@dataclass(frozen=True)
class DataCurve:
    """One measured curve.

    Attributes:
        domain: of the benchmark, "fine-tuning", or "coarse" (fine-tuning on questions of two or three classes).
        dataset: what is left out as a whole when something is tuned; of coarse tasks with the question asked of it.
        name: of the curve.
        kind: "loss" or "score".
        sizes: increasing, (K,).
        scores: (K, R); one column where each size was measured once.
    """

    domain: str
    dataset: str
    name: str
    kind: str
    sizes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Case:
    """What the estimator sees of a curve, and what is hidden from it.

    Attributes:
        curve: where it comes from.
        horizon: the largest size of all over the largest seen, at most.
        few: whether only a handful of sizes is seen.
        sizes: seen, (K,).
        scores: seen, (K, R).
        hidden_sizes: (H,).
        hidden_scores: their means over repeats, (H,).
        targets: scores to reach.
        needed: the size at which the isotonic curve reaches each.
    """

    curve: DataCurve
    horizon: int
    few: bool
    sizes: np.ndarray
    scores: np.ndarray
    hidden_sizes: np.ndarray
    hidden_scores: np.ndarray
    targets: np.ndarray
    needed: np.ndarray


def read_benchmark(path: Path) -> list[DataCurve]:
    """Return the curves of a table in the form of the public scaling benchmark (Alabdulmohsin et al., 2022)."""
    curves = []
    for (domain, task, model), rows in pd.read_csv(path).groupby(["Domain", "Task", "Model"]):
        losses = rows.groupby("Seen Examples").Loss.mean().sort_index()
        dataset = task.split("_")[0] if domain == "IC" else domain
        sizes = losses.index.to_numpy(dtype=np.float64)
        curves.append(DataCurve(domain, dataset, f"{task} {model}", "loss", sizes, losses.to_numpy()[:, None]))
    return curves


def read_sweeps(path: Path, split: str | None = None) -> list[DataCurve]:
    """Return the accuracy curves of fine-tuning tasks, repeats as columns; `split` chooses development or held out."""
    table = pd.read_parquet(path)
    if split is not None:
        table = table[table["split"] == split]
    curves = []
    domain, asked = ("coarse", ["data", "question"]) if "question" in table else ("fine-tuning", ["data"])
    for (*dataset, task), rows in table.groupby([*asked, "task"]):
        wide = rows.pivot_table(index="k", columns=["permutation", "seed"], values="accuracy").sort_index()
        sizes = wide.index.to_numpy(dtype=np.float64)
        curves.append(DataCurve(domain, "-".join(dataset), task, "score", sizes, wide.to_numpy()))
    return curves


def synthetic_curves(number: int = 18, seed: int = 0) -> list[DataCurve]:
    """Return curves of known law with the noise of small experiments, which the public curves lack."""
    generator, curves = np.random.default_rng(seed), []
    k = np.round(25 * np.sqrt(2.0) ** np.arange(17))
    for at in range(number):
        exponent, floor, place = generator.uniform(0.2, 0.9), generator.uniform(0, 0.3), generator.uniform(20, 200)
        laws = (
            floor + (1 - floor) * (k / 10) ** -exponent,
            floor + (1 - floor) / (1 + (k / place) ** exponent),
            (k / 10) ** -0.1 * (1 + (k / place) ** -2) ** exponent,
        )
        noise = (0.005, 0.02, 0.05)[at // 3 % 3] * generator.standard_normal((k.size, 1 if at % 2 else 3))
        name = f"synthetic {at}"
        curves.append(DataCurve("synthetic", "synthetic", name, "loss", k, laws[at % 3][:, None] * np.exp(noise)))
    return curves


def cases_of(curves: list[DataCurve], most_hidden: int | None = None) -> list[Case]:
    """Return every case of every curve: all horizons, seen densely and as a user would have measured.

    `most_hidden` thins what is hidden out, evenly by position, where time matters more than the last digit.
    """
    return [_thinned(case, most_hidden) for curve in curves for case in _cases(curve)]


def _thinned(case: Case, most: int | None) -> Case:
    if most is None or case.hidden_sizes.size <= most:
        return case
    kept = np.unique(np.round(np.linspace(0, case.hidden_sizes.size - 1, most)).astype(int))
    return replace(case, hidden_sizes=case.hidden_sizes[kept], hidden_scores=case.hidden_scores[kept])


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _cases(curve: DataCurve) -> Iterator[Case]:
    means = curve.scores.mean(axis=1)
    rises = curve.kind == "score"
    settled = IsotonicRegression(increasing=rises).fit_transform(np.log(curve.sizes), means)
    for horizon in HORIZONS:
        seen = curve.sizes <= curve.sizes[-1] / horizon * (1 + 1e-9)
        last = np.flatnonzero(seen)[-1:] if seen.any() else []
        targets, needed = _targets(curve, horizon, settled, last)
        dense = np.flatnonzero(seen)
        for few in (False, True):
            chosen = _doubling(curve.sizes[dense]) if few else _spread(curve.sizes[dense])
            if chosen.size >= 4:
                at = dense[chosen]
                yield Case(
                    curve, horizon, few, curve.sizes[at], curve.scores[at], curve.sizes[~seen], means[~seen],
                    targets, needed,
                )  # fmt: skip


def _targets(curve: DataCurve, horizon: int, settled: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(last):
        return np.empty(0), np.empty(0)
    start, end = settled[last[0]], settled[-1]
    if abs(end - start) < LEAST_GAIN * (start if curve.kind == "loss" else 1 - start):
        return np.empty(0), np.empty(0)
    generator = np.random.default_rng([zlib.crc32(curve.name.encode()), horizon])
    targets = start + generator.uniform(*DEPTHS, TARGETS) * (end - start)
    sign = 1 if curve.kind == "score" else -1
    reached = sign * settled[None] >= sign * targets[:, None] - 1e-12
    return targets, curve.sizes[reached.argmax(axis=1)]


def _spread(sizes: np.ndarray) -> np.ndarray:
    """Return at most `MOST_SEEN` positions, evenly in the log of the size."""
    if sizes.size <= MOST_SEEN:
        return np.arange(sizes.size)
    return _nearest(sizes, np.geomspace(sizes[0], sizes[-1], MOST_SEEN))


def _doubling(sizes: np.ndarray) -> np.ndarray:
    """Return the last size, half of it, and so on, `FEW_SEEN` in all."""
    wanted = sizes[-1] / 2.0 ** np.arange(FEW_SEEN) if sizes.size else sizes
    return _nearest(sizes, wanted[wanted >= 0.9 * sizes[0]] if sizes.size else sizes)


def _nearest(sizes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.unique(np.abs(np.log(sizes)[:, None] - np.log(wanted)[None]).argmin(axis=0))
