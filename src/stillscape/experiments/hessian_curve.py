"""How the Hessian at w* stands still as images are counted in, and how far from w* the second order explains losses.

w* is the first order's model at the largest size, in one fold; all images are held out there, as in the probes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stillscape._folders import Folder
from stillscape.bounds import softmax_head
from stillscape.convergence import geometric_sizes
from stillscape.curvature import DifferenceSketch, PerSampleHessian, curves_over_orders, quadratic_forecast
from stillscape.experiments.bench import Bench
from stillscape.experiments.extras import CANT_BE_HAD, missing_of, store_extra
from stillscape.experiments.hessian_shards import KIND as SHARDS
from stillscape.experiments.hessian_shards import METHOD, RANK, Share, extend_by_shards, let_go, measure_share
from stillscape.experiments.operators import MEMORY_BYTES, hessians_of, too_large
from stillscape.experiments.probe import FOLD, State, between, gaussian_direction, probe_key, probes_of, trained_weights
from stillscape.experiments.store import Store, content_key
from stillscape.models import load_trained_state

KIND = "hessians"
WIDTH = 2048  # of the short images that orders are had from
ORDERS = 40
POINTS = 20
LONG_VECTORS = 9 * RANK  # about what a pass holds of them
DISTANCES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)  # of the forecast, in units of the distance to the smaller optimum


def curve_key(bench: Bench, cells: Store, adapt: str) -> str | None:
    """Return the key of an adaptation's record; None where the plan asks for none, or the largest cell failed."""
    probes = probes_of(bench, cells, adapt)
    if bench.plan.curvature < 2 or not probes or probes[0].permutation != 0:
        return None
    return content_key(
        ["hessian curve", METHOD, RANK, WIDTH, ORDERS, bench.plan.curvature, probe_key(bench, probes[0])]
    )


def missing_curves(bench: Bench, folder: Folder) -> list[str]:
    """Return the adaptations whose curve is asked for and not in the run folder yet."""
    cells = Store(folder)
    return missing_of(Store(folder, KIND), bench.plan.adapt, lambda adapt: curve_key(bench, cells, adapt))


def num_parameters(bench: Bench, cells: Store, adapt: str) -> int:
    """Return how many parameters an adaptation's Hessians are taken in; 0 where its weights were not kept."""
    star = trained_weights(cells, bench.key(probes_of(bench, cells, adapt)[0].cells()[1]))
    return 0 if star is None else sum(w.numel() for w in star.values())


def run_hessian_curve(bench: Bench, folder: Folder, adapt: str) -> None:
    """Measure one adaptation's Hessian curve and store it; where it can't be had, the record says why."""
    cells, shards = Store(folder), Store(folder, SHARDS)
    key = curve_key(bench, cells, adapt)
    assert key is not None
    before = "the Hessians could not be measured: "
    store_extra(Store(folder, KIND), key, lambda: (_measure(bench, cells, adapt, shards, key), None), before)
    let_go(shards, key)


def run_hessian_share(bench: Bench, folder: Folder, share: Share) -> None:
    """Measure one worker's share of an adaptation's Hessians; where they can't be had, the curve's record says why."""
    cells = Store(folder)
    key = curve_key(bench, cells, share.adapt)
    assert key is not None
    try:
        point = _point(bench, cells, share.adapt)
        if isinstance(point, Point):
            measure_share(Store(folder, SHARDS), key, point.hv, share)
    except CANT_BE_HAD:
        return


@dataclass(frozen=True)
class Point:
    """The Hessians at w*, and the way from the smaller optimum to it."""

    hv: PerSampleHessian
    suffix: torch.nn.Module
    inputs: torch.Tensor
    radius: float
    directions: list[State]


def _point(bench: Bench, cells: Store, adapt: str) -> Point | dict[str, Any]:
    """Return the point at which an adaptation's Hessians are measured, or why they are not."""
    probe = probes_of(bench, cells, adapt)[0]
    smaller, star = (trained_weights(cells, bench.key(cell)) for cell in probe.cells())
    if smaller is None or star is None:
        return {"status": "missing", "reason": "the trained weights are too large to be kept"}
    size = sum(w.numel() for w in star.values())
    if reason := too_large("the Hessian curve", LONG_VECTORS, size, MEMORY_BYTES):
        return {"status": "missing", "reason": reason}
    suffix = bench.split(adapt).suffix
    load_trained_state(suffix, star)
    rows = hessian_rows(bench)
    x = np.array(bench.inputs(adapt)[rows])
    hv = hessians_of(suffix, x, bench.labels[rows], slice(None))
    radius, path = between(smaller, star)
    directions = [path, *(gaussian_direction(star, radius, bench, 0, n) for n in range(bench.plan.directions))]
    return Point(hv, suffix, torch.from_numpy(x), radius, directions)


def _measure(bench: Bench, cells: Store, adapt: str, shards: Store, key: str) -> dict[str, Any]:
    point = _point(bench, cells, adapt)
    if not isinstance(point, Point):
        return point
    return {
        "status": "ok",
        "images": point.hv.num_samples,
        "parameters": point.hv.num_parameters,
        **_curves(point.hv, shards, key),
        "forecast": _forecast(point.hv, point.radius, point.directions),
        "head_bound": _head_bound(point.suffix, point.inputs, point.hv.num_parameters),
    }


def hessian_rows(bench: Bench) -> np.ndarray:
    """Return the held-out images whose Hessians are taken, in their order."""
    order = np.random.default_rng([bench.plan.split_seed, *b"hessians"]).permutation(bench.held_out_rows(FOLD))
    return order[: bench.plan.curvature]


def _curves(hv: PerSampleHessian, shards: Store, key: str) -> dict[str, Any]:
    """Return norms at geometric sizes for several orders, and what the random vectors add to their uncertainty."""
    sketch = DifferenceSketch(hv.num_parameters, RANK, dtype=hv.dtype, device=hv.device, width=WIDTH)
    extend_by_shards(sketch, hv, shards, key)
    curve, sizes = sketch.curve(), geometric_sizes(hv.num_samples - 1, POINTS)
    orders = curves_over_orders(sketch.cores, ORDERS, sizes)
    single = [float(core.values.abs().max()) for core in sketch.cores]
    names = ("spectral", "frobenius", "mean_spectral", "mean_frobenius")
    return {
        "k": sizes.tolist(),
        "orders": {name: getattr(orders, name).tolist() for name in names},
        "relative_stderr": {
            name: float((getattr(curve, f"{name}_stderr") / getattr(curve, name)).median()) for name in names
        },
        "single_norms": single,
        "num_sample_products": curve.num_sample_products,
    }


def _forecast(hv: PerSampleHessian, radius: float, directions: list[State]) -> dict[str, Any]:
    flat = torch.stack([torch.cat([one[name].reshape(-1) for name in hv.slices]) for one in directions])
    found = quadratic_forecast(hv, flat, [share * radius for share in DISTANCES])
    return {
        "radii": found.radii.tolist(),
        "error": found.error.tolist(),
        "tolerance": found.tolerance,
        "explained_radius": found.explained_radius,
        "unit": radius,
    }


def _head_bound(suffix: torch.nn.Module, x: torch.Tensor, size: int) -> float | None:
    """Return a bound on every image's Hessian where only a linear head is trained, else None."""
    layers = [m for m in suffix.modules() if isinstance(m, torch.nn.Linear) and m.weight.requires_grad]
    if len(layers) != 1 or sum(p.numel() for p in layers[0].parameters()) != size:
        return None
    seen: list[torch.Tensor] = []
    handle = layers[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    try:
        with torch.no_grad():
            suffix(x.to(layers[0].weight.device))
    finally:
        handle.remove()
    return float(softmax_head(seen[0].cpu().numpy(), has_bias=layers[0].bias is not None).max())
