"""From the records of a run to its result: curves with bands, criteria, one verdict for each adaptation, one overall.

No time, path or date enters, so that equal plans give equal results.
"""

from pathlib import Path
from typing import Any

import numpy as np

from stillscape._folders import Folder
from stillscape.convergence import Curve, curve_from_draws, mean_over_repeats, training_draws
from stillscape.experiments.bench import Bench
from stillscape.experiments.collect import Collected, collect
from stillscape.experiments.evidence_result import measured_evidence
from stillscape.experiments.landscape_result import measured_landscape
from stillscape.experiments.plan import Plan
from stillscape.experiments.provenance import numbers_from
from stillscape.experiments.spectrum_result import measured_spectrum
from stillscape.experiments.store import SCHEMA, Store
from stillscape.experiments.surface import measure_surface
from stillscape.sufficiency import assemble, class_statuses, overall_verdict, sentences_beside
from stillscape.training import most_frequent_baseline

DRAWS = 1000
DRAWS_OF_FUNCTION = 200  # a metric that is no mean over images is computed anew for every draw, repeat and size


def draws_for(metric: str) -> int:
    """Return how many bootstrap draws a metric can afford."""
    return DRAWS if metric == "accuracy" else DRAWS_OF_FUNCTION


def analyze(bench: Bench, data_name: str, folder: Folder) -> dict[str, Any]:
    """Return the content of ``result.json`` from the records in a run folder; nothing is trained."""
    cells, probes = Store(folder), Store(folder, "probes")
    question = _question(bench, data_name)
    results, draws = [], {}
    for adapt in bench.plan.adapt:
        collected = collect(bench, cells, adapt)
        result, best = _measured(collected, probes, question) if collected.repeats else (_failed(collected), None)
        results.append(result)
        if best is not None:
            draws[adapt] = best
    finished = [result for result in results if result["adapt"] in draws]
    if finished:
        verdict = overall_verdict(finished, draws, level=bench.plan.level, metric=bench.plan.metric)
    else:
        verdict = {**results[0]["verdict"], "adapt": results[0]["adapt"]}
    return {
        "schema": SCHEMA,
        "question": question,
        "provenance": numbers_from(bench),
        "verdict": verdict,
        "results": results,
    }


def _question(bench: Bench, data_name: str) -> dict[str, Any]:
    plan, scored = bench.plan, len(bench.scored)
    return {
        "data": data_name,
        "model": Path(plan.model).resolve().name if Path(plan.model).exists() else plan.model,
        "metric": plan.metric,
        "epsilon": plan.epsilon,
        "epsilon_loss": plan.loss_tolerance,
        "target": plan.target,
        **({} if plan.cost_per_image is None else _price(plan)),
        "level": plan.level,
        "sizes": list(bench.sizes),
        "adapts": list(plan.adapt),
        "evaluation": (
            f"{len(bench.fold_numbers)}-fold cross-fitting" if bench.cross_fitted else f"held-out set of {scored}"
        ),
        "num_images": len(bench.labels),
        "num_scored": scored,
        "num_classes": len(bench.classes),
        "num_groups": len(np.unique(bench.groups)) if bench.has_groups else None,
        "repeats": plan.repeats,
        "seeds": plan.seeds,
    }


def _price(plan: Plan) -> dict[str, float | None]:
    return {"cost_per_image": plan.cost_per_image, "value_per_point": plan.value_per_point}


def _measured(collected: Collected, probes: Store, question: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Return one entry of ``results``, and the draws of the metric at the largest size."""
    plan = collected.bench.plan
    surface, evidence = measure_surface(collected, probes), measured_evidence(collected)
    landscape, unseen = measured_landscape(collected)
    spectrum, unsettled = measured_spectrum(collected)
    names = dict.fromkeys([plan.metric, "accuracy"])
    panel = assemble(
        collected.adapt,
        question=question,
        sizes=collected.sizes,
        scores={**{name: collected.score(name) for name in names}, "heldout_loss": collected.losses},
        groups=collected.groups,
        permutation_ids=collected.permutation_ids,
        seed_ids=collected.seed_ids,
        extra_criteria=[*surface.criteria, *evidence.criteria],
        extra_curves=surface.curves | evidence.curves | _training_curves(collected),
        baseline=most_frequent_baseline(plan.metric, collected.labels, collected.labels.max() + 1),
        draws=draws_for(plan.metric),
    )
    classes = class_statuses(
        collected.hits, collected.labels, collected.bench.classes, sizes=collected.sizes, groups=collected.groups,
        permutation_ids=collected.permutation_ids, seed_ids=collected.seed_ids, epsilon=plan.epsilon,
        level=plan.level, draws=DRAWS,
    )  # fmt: skip
    left_out = plan.repeats * plan.seeds - len(collected.repeats)
    failed = [f"{left_out} repeats with a failed training are left out at every size."] if left_out else []
    return {
        **panel.result,
        "per_class": classes,
        "said": sentences_beside(panel.result, classes, question),
        "constants": surface.constants,
        "evidence": evidence.meanings,
        "spectrum": spectrum,
        "surface": landscape,
        "cells": _cell_rows(collected),
        "notes": [*collected.bench.notes, *failed, *surface.notes, *unsettled, *unseen],
    }, panel.best_draws


def _failed(collected: Collected) -> dict[str, Any]:
    """Return the entry of an adaptation none of whose repeats got through."""
    cells = _cell_rows(collected)
    reason = next(row["reason"] for row in cells if row["status"] == "failed")
    sentence = f"It cannot be told: every repeat has a training that failed ({reason})."
    verdict = {"status": "cannot_tell", "k_star": None, "low": None, "high": None, "sentence": sentence}
    empty: dict[str, Any] = {
        "criteria": {},
        "curves": {},
        "joint": [],
        "gains": [],
        "noise_floor": {},
        "variance": [],
        "per_class": [],
        "said": [],
        "outlook": None,
        "baseline": None,
        "forecast": None,
        "stability": None,
        "spectrum": None,
        "surface": None,
    }
    rest = {"constants": {}, "evidence": {}, "cells": cells, "notes": list(collected.bench.notes)}
    return {"adapt": collected.adapt, "verdict": verdict, **empty, **rest}


def _training_curves(collected: Collected) -> dict[str, Curve]:
    """Return curves whose band holds the noise of training alone, since no held-out image enters."""
    values = {"train_loss": (collected.value("train_loss"), "nats"), "distance": (collected.distances, "distance")}
    ids, level = collected.permutation_ids, collected.bench.plan.level
    curves = {}
    for name, (table, unit) in values.items():
        if table is not None:
            mean = mean_over_repeats(table, ids)
            draws = mean + training_draws(table, ids, collected.seed_ids, DRAWS)
            curves[name] = curve_from_draws(collected.sizes, mean, draws, level=level, unit=unit)
    return curves


def _cell_rows(collected: Collected) -> list[dict[str, Any]]:
    rows = [_cell_row(cell, record) for cell, record in collected.records.items()]
    if collected.distances is not None:
        places = {repeat: number for number, repeat in enumerate(collected.repeats)}
        for row in rows:
            repeat = places.get((row["permutation"], row["seed"]))
            at = collected.sizes.index(row["k"])
            row["distance"] = None if repeat is None else float(collected.distances[repeat, at])
    return rows


def _cell_row(cell: Any, record: dict[str, Any]) -> dict[str, Any]:
    folds = record["folds"]
    norms = [fold["gradient_norm"] for fold in folds if fold["gradient_norm"] is not None]
    row = {
        "k": cell.k,
        "permutation": cell.permutation,
        "seed": cell.seed,
        "status": record["status"],
        "reason": record["reason"],
        "num_training": min((fold["num_training"] for fold in folds), default=0),
        "steps": sum(fold["steps"] for fold in folds),
        "stop": folds[-1]["stop"] if folds else "out of time",
        "gradient_norm": max(norms) if norms else None,
    }
    if record["status"] == "ok":
        row |= {**record["metrics"], "heldout_loss": record["heldout_loss"], "train_loss": record["train_loss"]}
    return row
