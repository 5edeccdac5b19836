"""One cell: train on nested subsets outside each fold, score what was held out, keep what later questions need."""

import resource
import sys
import time
from typing import Any

import numpy as np

from stillscape._errors import MemoryShortError
from stillscape.experiments.bench import Bench, Cell
from stillscape.experiments.store import Store, finite_or_none
from stillscape.models import trained_state
from stillscape.training import Fit, Scores, fit, metrics, per_class_recall, score

OUT_OF_MEMORY = "out_of_memory"  # of a record: more memory may mend it
KEPT_PARAMETERS = 20_000_000  # per fold; above it w_k is not stored, and quantities that need it are said to be missing


def run_cell(bench: Bench, store: Store, cell: Cell) -> None:
    """Measure one cell and store its record; one that fails is recorded as failed, with its reason.

    Where memory runs out with a single image, in training or when it is scored, the record says so in `OUT_OF_MEMORY`:
    a later call, with more of it, measures the cell again (see `stillscape.experiments.mend`).
    """
    parts: list[dict[str, Any]] = []
    tables: list[dict[str, np.ndarray]] = []
    weights: dict[str, np.ndarray] = {}
    started = time.perf_counter()
    for fold in bench.fold_numbers:
        try:
            parts.append(_measure_fold(bench, cell, fold, tables, weights))
        except MemoryShortError:
            reason = "out of memory with a single image, where it is only scored"
            counts = {"num_training": len(bench.training_rows(cell.k, cell.permutation, fold)), "steps": 0}
            failed = {"status": "failed", "reason": reason, "stop": "failed", "gradient_norm": None}
            parts.append({"fold": fold, **counts, **failed})
        if parts[-1]["status"] == "failed":
            break
    record = {"cell": cell.__dict__, **_outcome(parts), "folds": parts}
    if record["reason"] and "out of memory" in parts[-1]["reason"]:
        record[OUT_OF_MEMORY] = True
    losses = None
    if record["status"] == "ok":
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        record |= _measurements(columns, len(bench.classes))
        losses = _arrow_columns(columns)
    record |= {"seconds": time.perf_counter() - started, "peak_memory_bytes": peak_memory_bytes()}
    store.write(bench.key(cell), record, losses, weights if losses else None)


def _measure_fold(
    bench: Bench, cell: Cell, fold: int, tables: list[dict[str, np.ndarray]], weights: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Train outside a fold and score what was held out; add to tables and weights, and return what to record."""
    labels, inputs = bench.labels, bench.inputs(cell.adapt)
    rows, seed = bench.training_rows(cell.k, cell.permutation, fold), bench.training_seed(cell, fold)
    suffix = bench.split(cell.adapt, seed).suffix
    before = time.perf_counter()
    recipe, precision = bench.plan.recipe(cell.adapt), bench.plan.precision
    result = fit(suffix, inputs, labels, rows, recipe, seed=seed, precision=precision)
    part = _fold_record(fold, len(rows), result, time.perf_counter() - before)
    if result.scores is None:
        return part
    held_out = bench.held_out_rows(fold)
    before = time.perf_counter()
    scores = score(suffix, inputs, labels, held_out)
    part["heldout_scoring_s"] = time.perf_counter() - before
    tables += [
        _table(fold, "train", rows, labels, result.scores),
        _table(fold, "heldout", held_out, labels, scores),
    ]
    state = trained_state(suffix)
    if sum(tensor.numel() for tensor in state.values()) <= KEPT_PARAMETERS:
        weights.update({f"fold{fold}/{name}": tensor.numpy() for name, tensor in state.items()})
    return part


def record_timeout(bench: Bench, store: Store, cell: Cell, seconds: float) -> None:
    """Record that a cell took longer than the plan allows; a plan that allows more measures it again."""
    limit = bench.plan.cell_seconds
    reason = f"it took longer than cell_seconds = {limit:g}; give it more, and the same command measures it again"
    outcome = {"status": "failed", "reason": reason, "cell_seconds": limit}
    spent = {"seconds": seconds, "peak_memory_bytes": peak_memory_bytes()}
    store.write(bench.key(cell), {"cell": cell.__dict__, **outcome, "folds": [], **spent})


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _fold_record(fold: int, num_training: int, result: Fit, seconds: float) -> dict[str, Any]:
    return {
        "fold": fold,
        "num_training": num_training,
        "status": result.status,
        "reason": result.reason,
        "steps": result.steps,
        "epochs": result.epochs,
        "stop": result.stop,
        "gradient_norm": finite_or_none(result.gradient_norm),
        "penalized_gradient_norm": finite_or_none(result.penalized_gradient_norm),
        "trace": [{**point, "loss": finite_or_none(point["loss"])} for point in result.trace],
        "training_s": seconds,
        **({"micro_batch": result.micro_batch} if result.micro_batch else {}),
    }


def _outcome(parts: list[dict[str, Any]]) -> dict[str, Any]:
    failed = [part for part in parts if part["status"] == "failed"]
    if failed:
        return {"status": "failed", "reason": f"fold {failed[0]['fold']}: {failed[0]['reason']}"}
    return {"status": "ok", "reason": ""}


def _table(fold: int, role: str, rows: np.ndarray, labels: np.ndarray, scores: Scores) -> dict[str, np.ndarray]:
    return {
        "fold": np.full(len(rows), fold, dtype=np.int16),
        "role": np.full(len(rows), role),
        "sample": rows.astype(np.int64),
        "label": labels[rows].astype(np.int64),
        "loss": scores.losses,
        "probabilities": scores.probabilities,
    }


def _measurements(columns: dict[str, np.ndarray], num_classes: int) -> dict[str, Any]:
    held_out = columns["role"] == "heldout"
    labels, probabilities = columns["label"][held_out], columns["probabilities"][held_out]
    measured = metrics(labels, probabilities)
    return {
        "metrics": measured,
        "heldout_loss": float(columns["loss"][held_out].mean()),
        "train_loss": float(columns["loss"][~held_out].mean()),
        "per_class_recall": per_class_recall(labels, probabilities.argmax(1), num_classes),
    }


def _arrow_columns(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    import pyarrow as pa

    probabilities = columns["probabilities"]
    flat = pa.array(np.ascontiguousarray(probabilities).reshape(-1))
    matrix = pa.FixedSizeListArray.from_arrays(flat, probabilities.shape[1])
    return {**columns, "role": pa.array(columns["role"]).dictionary_encode(), "probabilities": matrix}
