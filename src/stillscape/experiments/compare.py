"""Several runs side by side: who needs the fewest images, who scores best, what it cost, and what can't be compared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from stillscape._errors import InputError
from stillscape._folders import Folder, as_folder
from stillscape.convergence import bootstrap_curve
from stillscape.experiments.differing import K_STAR, SCORES, barred, differences
from stillscape.experiments.recorded import HeldOut, RecordedRun
from stillscape.experiments.run import read_result
from stillscape.experiments.store import SCHEMA
from stillscape.sufficiency import (
    MOST_TOGETHER,
    Answer,
    answer_of,
    fewest,
    forecast,
    higher_is_better,
    in_a_list,
    score_difference,
    sentence_among,
    widening,
)
from stillscape.training import weighted_metric

AHEAD = (2, 4, 8)  # times the largest size that any run measured
DRAWS = 1000
DRAWS_OF_FUNCTION = 200
_PAIRED, _APART = "paired", "apart"


def compare_runs(folders: Iterable[str | Folder]) -> dict[str, Any]:
    """Return what several run folders say side by side.

    Every adaptation of every run is one contender. A contender needs fewer images than another if the interval of its
    k* ends before the other's begins (`stillscape.sufficiency.needs_fewer`). Scores are compared at the largest size
    that all have measured: image by image where the same held-out images were scored in the same orders and seeds
    and the data have no groups, else as if measured apart, which is wider. What is claimed of more than two holds
    together at the level asked for (Bonferroni): intervals of k* are those at the level for so many, kept in each
    result; intervals of differences are widened for all pairs, since the best is chosen by the same data.

    Args:
        folders: at least two different run folders, or folders of `DataSufficiency.save`.

    Returns:
        {"schema", "verdict": {"status", "fewest", "sentence"}, "joint": {"contenders", "pairs", "level", "method"},
        "comparable", "differences", "runs", "contenders", "scores", "forecast"}. The status is "told", "cannot_tell",
        "none_reached" or "not_comparable".

    Raises:
        InputError: fewer than two folders, one given twice, or one without a result.
        RecordError: a result or record that can't be read.

    Cost: reads all records of the folders; some 20 ms for each forecast, 0.1 s for each paired difference.
    """
    runs = [RecordedRun(folder, read_result(folder)) for folder in _checked([as_folder(folder) for folder in folders])]
    for run in runs:
        if not run.result.get("results"):
            raise InputError(f"{str(run.folder)!r} holds a result without any adaptation; run it again.")
    names = _names([run.folder for run in runs])
    contenders = _contenders(runs, names)
    found = differences(runs)
    metric = _common_metric(runs)
    return {
        "schema": SCHEMA,
        "verdict": _verdict(runs, contenders, barred(found, K_STAR)),
        "joint": _joint(runs, contenders),
        "comparable": {thing: not barred(found, thing) for thing in (K_STAR, SCORES)},
        "differences": found,
        "metric": metric,
        "runs": [
            {"name": name, "question": run.result.get("question") or {}, "verdict": run.result.get("verdict") or {},
             "provenance": run.result.get("provenance") or {}}
            for name, run in zip(names, runs, strict=True)
        ],
        "contenders": [_told(runs[each["run"]], each, metric, len(contenders)) for each in contenders],
        "scores": _scores(runs, contenders, metric, barred(found, SCORES)),
        "forecast": _forecast(runs, contenders, metric),
    }  # fmt: skip


def _checked(folders: Sequence[Folder]) -> Sequence[Folder]:
    if len(folders) < 2:
        raise InputError(f"{len(folders)} run folder given; a comparison needs two or more: stillscape compare A B.")
    seen: dict[Folder, Folder] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{str(folder)!r} is no folder; name run folders, such as runs/demo.")
        if (twin := seen.get(folder.resolve())) is not None:
            raise InputError(f"{str(folder)!r} and {str(twin)!r} are the same folder; give each run once.")
        seen[folder.resolve()] = folder
    return folders


def _names(folders: Sequence[Folder]) -> list[str]:
    """Return the shortest ends of the paths that tell the runs apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _contenders(runs: Sequence[RecordedRun], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"run": place, "name": name, "adapt": entry["adapt"], "entry": entry}
        for place, (name, run) in enumerate(zip(names, runs, strict=True))
        for entry in run.result["results"]
    ]


def label_of(contender: Mapping[str, Any]) -> str:
    """Return how a contender is called in sentences.

    >>> label_of({"name": "demo", "adapt": "head"})
    'demo (head)'
    """
    return f"{contender['name']} ({contender['adapt']})"


def _common_metric(runs: Sequence[RecordedRun]) -> str | None:
    """Return the metric that can be drawn for all: the one that was asked about, else accuracy, else none."""
    asked = [(run.result.get("question") or {}).get("metric") or "accuracy" for run in runs]
    held = [set(entry.get("curves") or {}) for run in runs for entry in run.result["results"] if entry.get("curves")]
    common = set.intersection(*held) if held else set()
    for name in (asked[0] if len(set(asked)) == 1 else "accuracy", "accuracy"):
        if name in common:
            return name
    return None


def _verdict(runs: Sequence[RecordedRun], contenders: Sequence[Mapping], bars: Sequence[str]) -> dict[str, Any]:
    if bars:
        sentence = f"These runs can't be ranked by how many images they need: they differ in {in_a_list(bars)}."
        return {"status": "not_comparable", "fewest": [], "sentence": sentence}
    questions = [runs[each["run"]].result.get("question") or {} for each in contenders]
    level, many = questions[0].get("level") or 0.9, len(contenders)
    read = [answer_of(each["entry"], question, many) for each, question in zip(contenders, questions, strict=True)]
    answers = [answer for answer in read if answer is not None]
    if len(answers) < many:
        return {"status": "cannot_tell", "fewest": list(range(many)), "sentence": _not_together(contenders, read)}
    status, sentence = sentence_among([label_of(each) for each in contenders], answers, level)
    return {"status": status, "fewest": [] if status == "none_reached" else fewest(answers), "sentence": sentence}


def _joint(runs: Sequence[RecordedRun], contenders: Sequence[Mapping]) -> dict[str, Any]:
    """Return at what level all that is claimed holds together, and for how many."""
    many = len(contenders)
    level = (runs[0].result.get("question") or {}).get("level") or 0.9
    return {"contenders": many, "pairs": many * (many - 1) // 2, "level": level, "method": "Bonferroni"}


def _not_together(contenders: Sequence[Mapping], answers: Sequence[Answer | None]) -> str:
    many = len(contenders)
    if many > MOST_TOGETHER:
        why = f"intervals that hold together are kept for up to {MOST_TOGETHER} answers; compare fewer"
    else:
        names = [label_of(each) for each, answer in zip(contenders, answers, strict=True) if answer is None]
        why = (
            f"the result of {in_a_list(names)} is of an earlier version and holds none; run the plan again in its "
            "folder, which trains nothing"
        )
    return f"Which of these {many} needs the fewest images needs intervals that hold for all of them together: {why}."


def _told(run: RecordedRun, contender: Mapping[str, Any], metric: str | None, many: int) -> dict[str, Any]:
    entry = contender["entry"]
    wanted = [name for name in (metric, f"{metric}_forecast") if name in (entry.get("curves") or {})]
    return {
        "run": contender["run"],
        "name": contender["name"],
        "adapt": contender["adapt"],
        "label": label_of(contender),
        "verdict": entry["verdict"],
        "together": next((row for row in entry.get("joint") or [] if row["intervals"] == many > 2), None),
        "curves": {name: entry["curves"][name] for name in wanted},
        "seconds": run.seconds(entry["adapt"]),
        "trained_parameters": run.trained_parameters(entry["adapt"]),
        "trainings": sum(row["status"] == "ok" for row in entry.get("cells") or []),
    }


# ---- scores at the largest size that all have measured


def _scores(
    runs: Sequence[RecordedRun], contenders: Sequence[Mapping], metric: str | None, bars: Sequence[str]
) -> dict[str, Any]:
    nothing: dict[str, Any] = {"k": None, "best": None, "rows": []}
    if metric is None:
        return {**nothing, "reason": "The runs have no metric in common."}
    curves = [(each["entry"].get("curves") or {}).get(metric) for each in contenders]
    common = set.intersection(*(set(curve["k"]) for curve in curves if curve)) if any(curves) else set()
    if not common:
        return {**nothing, "reason": "The runs measured no size in common."}
    k = max(common)
    points = [_point(curve, k) if curve else None for curve in curves]
    rows: list[dict[str, Any]] = [
        {"mean": None, "low": None, "high": None}
        if point is None
        else dict(zip(("mean", "low", "high"), point, strict=True))
        for point in points
    ]
    known = [place for place, point in enumerate(points) if point is not None]
    if bars:
        reason = f"Scores are not subtracted: the runs differ in {in_a_list(bars)}."
        return {"k": k, "best": None, "rows": [{**row, "behind": None} for row in rows], "reason": reason}
    sign = 1 if higher_is_better(metric) else -1
    best = max(known, key=lambda place: sign * rows[place]["mean"])
    for place, row in enumerate(rows):
        row["behind"] = None
        if place in known and place != best:
            pair = (contenders[best], contenders[place])
            wider = _widening(runs, len(known))
            row["behind"] = _behind(runs, *pair, points[best], points[place], k, metric, wider)
    return {"k": k, "best": best, "rows": rows, "reason": ""}


def _point(curve: Mapping[str, Any], k: int) -> tuple[float, float, float] | None:
    at = curve["k"].index(k)
    point = tuple((curve.get(name) or [None] * len(curve["k"]))[at] for name in ("mean", "low", "high"))
    return None if None in point else point


def _behind(
    runs: Sequence[RecordedRun],
    best: Mapping[str, Any],
    other: Mapping[str, Any],
    at_best: Any,
    at_other: Any,
    k: int,
    metric: str,
    wider: float,
) -> dict[str, Any]:
    """Return by how much the best is ahead (positive: better), with its interval, and whether that is sure."""
    level = (runs[best["run"]].result.get("question") or {}).get("level") or 0.9
    pair = [(runs[each["run"]], each["adapt"]) for each in (best, other)]
    draws = _paired_draws(pair, k, metric)
    if draws is None:
        mean, low, high = score_difference(at_best, at_other)
        kind = _APART
    else:
        mean = at_best[0] - at_other[0]
        low, high = (float(end) for end in np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]))
        kind = _PAIRED
    low, high = mean - wider * (mean - low), mean + wider * (high - mean)
    if not higher_is_better(metric):
        mean, low, high = -mean, -high, -low
    return {"mean": mean, "low": low, "high": high, "kind": kind, "told": low > 0}


def _widening(runs: Sequence[RecordedRun], many: int) -> float:
    level = (runs[0].result.get("question") or {}).get("level") or 0.9
    return widening(level, max(1, many * (many - 1) // 2))


def _paired_draws(pair: Sequence[tuple[RecordedRun, str]], k: int, metric: str) -> np.ndarray | None:
    """Return draws of the difference, image by image; None where it can't be had that way."""
    if any((run.result.get("question") or {}).get("num_groups") is not None for run, _ in pair):
        return None  # which images belong to one group is not recorded, and single ones would claim too much
    one, other = (run.held_out(adapt, k) for run, adapt in pair)
    if one is None or other is None or one.repeats != other.repeats or len({p for p, _ in one.repeats}) < 2:
        return None
    if not (np.array_equal(one.samples, other.samples) and np.array_equal(one.labels, other.labels)):
        return None
    orders, seeds = [order for order, _ in one.repeats], [seed for _, seed in one.repeats]
    if metric == "accuracy":
        hits = (_hits(one) - _hits(other))[:, None, :]
        return bootstrap_curve(hits, None, orders, seeds, DRAWS)[:, 0]
    if metric == "heldout_loss":
        return None
    first, second = _weighed(metric, one), _weighed(metric, other)
    codes = np.arange(len(one.labels))
    return bootstrap_curve(lambda w: first(w) - second(w), codes, orders, seeds, DRAWS_OF_FUNCTION)[:, 0]


def _hits(held_out: HeldOut) -> np.ndarray:
    return (held_out.probabilities.argmax(axis=2) == held_out.labels).astype(np.float64)


def _weighed(metric: str, held_out: HeldOut) -> Callable[[np.ndarray], np.ndarray]:
    return weighted_metric(metric, held_out.labels, held_out.probabilities[:, None])


# ---- the forecast at sizes that are the same for all


def _forecast(runs: Sequence[RecordedRun], contenders: Sequence[Mapping], metric: str | None) -> dict[str, Any]:
    largest = max(max((run.result.get("question") or {}).get("sizes") or [0]) for run in runs)
    if metric is None or not largest:
        return {"sizes": [], "rows": []}
    ahead = [times * largest for times in AHEAD]
    rows = []
    for each in contenders:
        level = (runs[each["run"]].result.get("question") or {}).get("level") or 0.9
        rows.append([_ahead(each["entry"], metric, size, level) for size in ahead])
    return {"sizes": ahead, "rows": rows}


def _ahead(entry: Mapping[str, Any], metric: str, size: int, level: float) -> dict[str, Any]:
    """Return the forecast at one size; without numbers, and with the reason, where none can be given."""
    sizes, table = _by_order(entry, metric)
    kind = "score" if higher_is_better(metric) else "loss"
    try:
        seen = forecast(sizes, table, [size], level=level, kind=kind)
    except InputError as error:
        return {"mean": None, "low": None, "high": None, "status": "none", "reason": str(error)}
    if seen.status != "ok":
        return {"mean": None, "low": None, "high": None, "status": seen.status, "reason": seen.reason}
    ends = {name: float(getattr(seen, name)[0]) for name in ("mean", "low", "high")}
    return {**ends, "status": "ok", "reason": seen.reason}


def _by_order(entry: Mapping[str, Any], metric: str) -> tuple[list[int], np.ndarray]:
    """Return sizes and (K, orders) scores: seeds of one order are no repeats of it, and are averaged."""
    rows = [row for row in entry.get("cells") or [] if row["status"] == "ok" and row.get(metric) is not None]
    sizes, orders = sorted({row["k"] for row in rows}), sorted({row["permutation"] for row in rows})
    table = np.full((len(sizes), len(orders)), np.nan)
    for (i, size), (j, order) in product(enumerate(sizes), enumerate(orders)):
        values = [row[metric] for row in rows if row["k"] == size and row["permutation"] == order]
        if values:
            table[i, j] = float(np.mean(values))
    return sizes, table
