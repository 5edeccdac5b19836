"""The loss surface at and around w*: curves of |L_{k+1} - L_k| on held-out images, and Theorem 3's bounds on them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stillscape import bounds
from stillscape.convergence import (
    Band,
    Curve,
    geometric_sizes,
    loss_differences,
    mean_absolute_deviation,
    neighborhood_differences,
)
from stillscape.experiments.cell import OUT_OF_MEMORY
from stillscape.experiments.collect import Collected
from stillscape.experiments.curvature_result import measured_hessians
from stillscape.experiments.probe import probe_key, probes_of
from stillscape.experiments.store import Store
from stillscape.sufficiency import Criterion, bound_criterion, fixed_surface_criterion, neighborhood_criterion

POINTS = 40  # of a curve on a logarithmic axis; more would not be seen
ORDERS = 200
BEYOND = 100  # the closed form is drawn to this many times the held-out images


@dataclass(frozen=True)
class Surface:
    """Curves, criteria, constants of the bounds with their meaning, and notes."""

    curves: dict[str, Curve]
    criteria: list[Criterion]
    constants: dict[str, dict[str, Any]]
    notes: list[str]


def measure_surface(collected: Collected, probes: Store) -> Surface:
    """Return what one adaptation's losses and probes say about the surface at fixed parameters."""
    bench, plan = collected.bench, collected.bench.plan
    star = collected.losses[0, -1]  # one w*: the first order and seed at the largest size
    curves = _fixed(star, plan.level)
    criteria = [fixed_surface_criterion(star, epsilon=plan.loss_tolerance, level=plan.level, groups=collected.groups)]
    records = _probe_records(collected, probes)
    if not records:
        why = "memory ran out" if _out_of_memory(collected, probes) else "weights were not kept"
        return Surface(curves, criteria, {}, [f"The neighborhood of w* was not probed: {why}."])
    hessians = measured_hessians(collected)
    tables = [table for _, table in records]
    curves |= _neighborhood(tables, plan.level)
    away, groups = _columns(tables[0], "loss:gaussian:")[0], bench.groups[tables[0]["sample"]]
    criteria.append(neighborhood_criterion(away, epsilon=plan.loss_tolerance, level=plan.level, groups=groups))
    constants, reasons = _constants(records)
    curves |= hessians.curves
    constants |= hessians.constants(constants)
    if reasons:
        return Surface(curves, criteria, constants, reasons + hessians.notes)
    plugged = {name: constants[name]["value"] for name in ("loss_bound", "hessian_bound", "radius", "gradient_bound")}
    sizes = geometric_sizes(bench.sizes[-1], POINTS)
    for kind in ("printed", "rigorous"):
        values = bounds.loss_difference(sizes, **plugged, kind=kind)
        curves[f"theorem3_{kind}"] = Curve(sizes, values, None, None, "plug-in bound", "nats")
        criteria.append(
            bound_criterion(
                f"theorem3_{kind}", epsilon=plan.loss_tolerance, **plugged, kind=kind, available=len(bench.labels)
            )
        )
    if hessians.curves:
        curves["theorem3_second_order"] = hessians.theorem3(constants)
    return Surface(curves, criteria, constants, hessians.notes)


def _fixed(losses: np.ndarray, level: float) -> dict[str, Curve]:
    n = len(losses)
    measured = loss_differences(losses, ORDERS, level=level, sizes=geometric_sizes(n - 1, POINTS))
    k = geometric_sizes(BEYOND * n, POINTS)
    closed = mean_absolute_deviation(losses) / (k + 1.0)
    return {
        "fixed_surface": Curve(measured.k, measured.mean, measured.low, measured.high, "identity", "nats"),
        "fixed_surface_closed_form": Curve(k, closed, None, None, "closed form", "nats"),
    }


def _neighborhood(tables: list[dict[str, np.ndarray]], level: float) -> dict[str, Curve]:
    """Average the curves over probes and over Gaussian directions; along the path, over probes."""
    gaussian, path = [], []
    for table in tables:
        k = geometric_sizes(len(table["star"]) - 1, POINTS)
        for losses, slopes in _directions(table, "gaussian:"):
            gaussian.append(neighborhood_differences(losses, table["star"], slopes, ORDERS, level=level, sizes=k))
        losses, slopes = _directions(table, "path")[0]
        path.append(neighborhood_differences(losses, table["star"], slopes, ORDERS, level=level, sizes=k))
    parts = {"": "total", "_loss_part": "loss", "_gradient_part": "gradient", "_remainder_part": "remainder"}
    curves = {
        f"neighbourhood{suffix}": _average(gaussian[0].k, [getattr(one, part) for one in gaussian])
        for suffix, part in parts.items()
    }
    return curves | {"path": _average(path[0].k, [one.total for one in path])}


def _average(k: np.ndarray, bands: list[Band]) -> Curve:
    mean, low, high = (np.mean([getattr(band, end) for band in bands], axis=0) for end in ("mean", "low", "high"))
    return Curve(k, mean, low, high, "identity", "nats")


def _directions(table: dict[str, np.ndarray], kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(_columns(table, f"loss:{kind}"), _columns(table, f"slope:{kind}"), strict=True))


def _columns(table: dict[str, np.ndarray], start: str) -> list[np.ndarray]:
    return [column for name, column in table.items() if name.startswith(start)]


def _probe_records(collected: Collected, probes: Store) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    records = [(probes.record(key), key) for key in _probe_keys(collected, probes)]
    return [(record, probes.losses(key)) for record, key in records if record["status"] == "ok"]


def _out_of_memory(collected: Collected, probes: Store) -> bool:
    return any(probes.record(key).get(OUT_OF_MEMORY) for key in _probe_keys(collected, probes))


def _probe_keys(collected: Collected, probes: Store) -> list[str]:
    bench = collected.bench
    keys = [probe_key(bench, probe) for probe in probes_of(bench, collected.store, collected.adapt)]
    return [key for key in keys if probes.has(key)]


def _constants(
    records: list[tuple[dict[str, Any], dict[str, np.ndarray]]],
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the largest of each constant over the probes: a bound must hold for all of them."""
    reasons = sorted({record["constants"]["reason"] for record, _ in records if "reason" in record["constants"]})
    larger = "; measured, so the true one can only be larger"
    loss = max(float(table["star"].max()) for _, table in records)
    radius = max(record["radius"] for record, _ in records)
    constants = {
        "loss_bound": _constant(loss, f"largest held-out loss at w* (nats){larger}"),
        "radius": _constant(
            radius, "distance from w* to the optimum at the next smaller size, and of every Gaussian direction"
        ),
    }
    if not reasons:
        measured = [record["constants"] for record, _ in records]
        worst = {
            name: max(m[name] for m in measured) for name in ("gradient_spread", "hessian_norm", "hessian_norm_median")
        }
        images, bent = measured[0]["gradient_images"], measured[0]["hessian_images"]
        constants |= {
            "gradient_bound": _constant(
                # The theorem's is a new gradient against the mean of the k before it, which may lie on the other side.
                2 * worst["gradient_spread"],
                f"twice the largest distance of a gradient from their mean, over {images} held-out images{larger}",
            ),
            "hessian_bound": _constant(
                worst["hessian_norm"], f"largest spectral norm of a Hessian at w*, over {bent} held-out images{larger}"
            ),
            "hessian_median": _constant(worst["hessian_norm_median"], "median of the same"),
        }
    return constants, reasons


def _constant(value: float, meaning: str) -> dict[str, Any]:
    return {"value": value, "meaning": meaning}
