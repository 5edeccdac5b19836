"""The page's tables, as words ready to print: criteria, gains, spread of the results, classes, runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stillscape.report import words
from stillscape.sufficiency import deciding_name

CLASS_STATUSES = {"short": "short of data", "enough": "enough", "cannot_tell": "can't be told"}
NULL_MARK = "null: true for any model"
_RUN_COLUMNS = ("num_training", "heldout_loss", "train_loss", "gradient_norm", "distance", "steps", "stop")
_RUN_HEADERS = {
    "num_training": "learned from",
    "heldout_loss": "held-out loss",
    "train_loss": "training loss",
    "gradient_norm": "gradient norm",
    "stop": "stopped by",
}


def criteria_rows(entry: Mapping[str, Any], question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each criterion: the deciding one first, then those that may differ, nulls last."""
    deciding = deciding_name(question) if question.get("metric") else None
    rows = []
    for name, criterion in (entry.get("criteria") or {}).items():
        decides = name == deciding
        rows.append(
            {
                "name": name,
                "label": words.sentence_case(words.curve_name(name)),
                "status": _shown_status(criterion),
                "k_star": words.count(criterion.get("k_star")),
                "interval": words.span(criterion.get("low"), criterion.get("high"), unit="").strip(),
                "epsilon": _tolerance(name, criterion),
                "assumes": list(criterion.get("assumes") or ()),
                "null": NULL_MARK if criterion.get("is_null") else "",
                "reason": words.sentence_case(criterion.get("reason") or ""),
                "decides": decides,
            }
        )
    return sorted(rows, key=lambda row: (not row["decides"], bool(row["null"]), row["status"] == "vacuous_bound"))


def _shown_status(criterion: Mapping[str, Any]) -> str:
    # "Enough" beside a null would be read as a finding.
    status = criterion.get("status", "")
    return "null" if criterion.get("is_null") and status == "reached" else status


def _tolerance(name: str, criterion: Mapping[str, Any]) -> str:
    if name.endswith("_target"):
        return f"target {words.quantity(criterion.get('epsilon'), name)}"
    return words.change(criterion.get("epsilon"), name, signed=False)


def gain_rows(entry: Mapping[str, Any], question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what each doubling brought, with what its interval says about the tolerance."""
    metric, epsilon = question.get("metric") or "accuracy", question.get("epsilon")
    prices = {row["from"]: row["break_even"] for row in entry.get("worth") or []}
    return [
        {
            "step": f"{words.count(gain['from'])} → {words.count(gain['to'])}",
            "mean": words.change(gain.get("mean"), metric),
            "interval": interval(gain.get("low"), gain.get("high"), metric),
            "reading": _reading(gain, prices.get(gain["from"], epsilon)),
        }
        for gain in entry.get("gains") or []
    ]


def _reading(gain: Mapping[str, Any], epsilon: float | None) -> str:
    low, high = gain.get("low"), gain.get("high")
    if epsilon is None or low is None or high is None:
        return "not known"
    if high <= epsilon:
        return "within tolerance"
    return "above tolerance" if low > epsilon else "can be either"


def interval(low: float | None, high: float | None, metric: str) -> str:
    """Return an interval of differences.

    >>> interval(-0.003, 0.009, "accuracy")
    '−0.3 to +0.9'
    """
    ends = [words.change(end, metric) for end in (low, high)]
    return words.DASH if words.DASH in ends else " to ".join(end.split(" ")[0] for end in ends)


def spread_rows(entry: Mapping[str, Any], metric: str) -> list[list[str]]:
    """Return the standard deviations of the metric by where they come from, for each size."""
    return [
        [words.count(row["k"])]
        + [words.change(row.get(key), metric, signed=False) for key in ("permutations", "seeds", "heldout")]
        for row in entry.get("variance") or []
    ]


def class_table(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return recall by class and size, the class found worst at the largest size first; None without classes."""
    classes = entry.get("per_class") or []
    if not classes:
        return None
    worst_first = sorted(classes, key=lambda row: _last_known(row.get("recall") or ()))
    rows = [
        {
            "name": row["class"],
            "count": words.count(row.get("count")),
            "status": CLASS_STATUSES.get(row.get("status") or "", words.DASH),
            "cells": [(words.quantity(value, "accuracy"), 0.0 if value is None else value) for value in row["recall"]],
        }
        for row in worst_first
    ]
    return {"sizes": [words.count(k) for k in classes[0]["k"]], "rows": rows}


def _last_known(values: Sequence[float | None]) -> float:
    return next((value for value in reversed(values) if value is not None), 0.0)


def runs_table(entry: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return all single runs, and those that failed on their own."""
    cells = entry.get("cells") or []
    columns = [name for name in (metric, *_RUN_COLUMNS) if any(cell.get(name) is not None for cell in cells)]
    columns = list(dict.fromkeys(columns))
    rows = [
        {
            "place": [words.count(cell.get(name)) for name in ("k", "permutation", "seed")],
            "status": cell.get("status", ""),
            "values": [_run_value(cell.get(name), name) for name in columns],
            "reason": cell.get("reason") or "",
        }
        for cell in cells
    ]
    headers = [words.sentence_case(_RUN_HEADERS.get(name, words.curve_name(name))) for name in columns]
    return {"headers": headers, "rows": rows, "failed": [row for row in rows if row["status"] != "ok"]}


def _run_value(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if words.in_percent(name):
        return words.quantity(value, name)
    return words.count(value) if name in ("steps", "num_training") else words.number(value)


def printed(table: tuple[Sequence[str], Iterable[Sequence[Any]]], metric: str) -> dict[str, Any]:
    """Return a display's table in words; numbers of the metric's columns in the metric's unit."""
    header, rows = table
    shares = {"low", "high", metric} if metric in header and words.in_percent(metric) else set()
    return {
        "headers": [words.sentence_case(words.curve_name(name)) for name in header],
        "rows": [[_cell(value, name, name in shares) for name, value in zip(header, row, strict=True)] for row in rows],
    }


def _cell(value: Any, name: str, share: bool) -> str:
    if isinstance(value, str):
        return value
    if share:
        return words.quantity(value, "accuracy")
    return words.count(value) if name in ("images", "from images", "to images") else words.number(value)
