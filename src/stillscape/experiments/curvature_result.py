"""From an adaptation's record of Hessians to curves, constants and notes of its result."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stillscape import bounds
from stillscape.convergence import Curve, curve_from_draws
from stillscape.experiments.collect import Collected
from stillscape.experiments.hessian_curve import KIND, curve_key
from stillscape.experiments.store import Store

#: Curves of the result, and what they are called in the record.
CURVES = {
    "hessian_difference": "spectral",
    "hessian_difference_frobenius": "frobenius",
    "hessian_norm": "mean_spectral",
    "hessian_norm_frobenius": "mean_frobenius",
}


@dataclass(frozen=True)
class Hessians:
    """What a record says.

    Attributes:
        curves: norms over sizes, with bands over orders of the images.
        record: the record itself, or its status alone where the plan asks for none.
        notes: what could not be had, and why.
    """

    curves: dict[str, Curve]
    record: dict[str, Any]
    notes: list[str]

    def constants(self, others: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the constants of Theorem 3 that more Hessians make larger, and how far the second order reaches."""
        if self.record["status"] != "ok":
            return {}
        images, forecast = self.record["images"], self.record["forecast"]
        largest, before = max(self.record["single_norms"]), others.get("hessian_bound")
        found = {}
        if before is not None and largest > before["value"]:
            meaning = f"largest spectral norm of a Hessian at w*, over {images} held-out images; measured, so the true"
            found["hessian_bound"] = {"value": largest, "meaning": f"{meaning} one can only be larger"}
        reach, tolerance = forecast["explained_radius"], forecast["tolerance"]
        tried = f"tried from {forecast['radii'][0]:.3g} to {forecast['radii'][-1]:.3g}"
        found["explained_radius"] = {
            "value": reach,
            "meaning": f"distance from w* up to which the second order explains losses to {tolerance:.0%}; {tried}",
        }
        meaning = "relative standard error of the Hessian curves from their random vectors alone; the worst of them"
        found["hessian_curve_error"] = {"value": max(self.record["relative_stderr"].values()), "meaning": meaning}
        return found

    def theorem3(self, constants: dict[str, dict[str, Any]]) -> Curve:
        """Return Theorem 3' from derivatives at w*, with the Hessian differences that were measured at each size."""
        gap = self.curves["hessian_difference"]
        values = bounds.loss_difference_at_minimum(
            gap.k,
            loss_bound=constants["loss_bound"]["value"],
            gradient_bound=constants["gradient_bound"]["value"],
            hessian_gap=np.asarray(gap.high),
            radius=constants["radius"]["value"],
        )
        return Curve(gap.k, np.asarray(values), None, None, "plug-in bound", "nats")


def measured_hessians(collected: Collected) -> Hessians:
    """Return what was measured of an adaptation's Hessians; nothing where the plan asks for nothing."""
    bench, store = collected.bench, Store(collected.store.place.parent, KIND)
    key = curve_key(bench, collected.store, collected.adapt)
    if key is None or not store.has(key):
        return Hessians({}, {"status": "missing"}, [])
    record = store.record(key)
    if record["status"] != "ok":
        return Hessians({}, record, [f"{record['reason']}."])
    curves = {name: _over_orders(record, of, bench.plan.level) for name, of in CURVES.items()}
    if record["head_bound"] is not None:
        bound = np.full(len(record["k"]), record["head_bound"])
        curves["hessian_bound"] = Curve(record["k"], bound, None, None, "plug-in bound", "curvature")
        return Hessians(curves, record, [])
    note = "No bound of the exact calculus is drawn beside the Hessians: none covers these layers as they are trained."
    return Hessians(curves, record, [note])


def _over_orders(record: dict[str, Any], name: str, level: float) -> Curve:
    values = np.array(record["orders"][name])
    return curve_from_draws(record["k"], values.mean(0), values, level=level, unit="curvature")
