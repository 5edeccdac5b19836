"""How the Hessian at w* stands still as images are counted in, and how far from w* the second order explains losses.

w* is the first order's model at the largest size, in one fold; all images are held out there, as in the probes.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from stillscape._errors import SelfCheckError
from stillscape.bounds import softmax_head
from stillscape.convergence import geometric_sizes
from stillscape.curvature import DifferenceSketch, PerSampleHessian, curves_over_orders, quadratic_forecast
from stillscape.experiments.bench import Bench
from stillscape.experiments.cell import peak_memory_bytes
from stillscape.experiments.probe import FOLD, State, between, gaussian_direction, probe_key, probes_of, trained_weights
from stillscape.experiments.store import Store, content_key
from stillscape.models import load_trained_state

RANK = 16
WIDTH = 2048  # of the short images that orders are had from
ORDERS = 40
POINTS = 20
LONG_VECTORS = 9 * RANK  # about what a pass holds of them
MEMORY_BYTES = 6 * 2**30  # beyond it a pass is not begun
DISTANCES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)  # of the forecast, in units of the distance to the smaller optimum


def curve_key(bench: Bench, cells: Store, adapt: str) -> str | None:
    """Return the key of an adaptation's record; None where the plan asks for none, or the largest cell failed."""
    probes = probes_of(bench, cells, adapt)
    if bench.plan.curvature < 2 or not probes or probes[0].permutation != 0:
        return None
    return content_key(["hessian curve", RANK, WIDTH, ORDERS, bench.plan.curvature, probe_key(bench, probes[0])])


def run_hessian_curve(bench: Bench, folder: Path, adapt: str) -> None:
    """Measure one adaptation's Hessian curve and store it; where it can't be had, the record says why."""
    cells, store = Store(folder), Store(folder, "hessians")
    key, started = curve_key(bench, cells, adapt), time.perf_counter()
    assert key is not None
    try:
        measured = _measure(bench, cells, adapt)
    except (RuntimeError, NotImplementedError, SelfCheckError) as error:  # an operator without second derivative
        measured = {"status": "missing", "reason": f"the Hessians could not be measured: {str(error).splitlines()[0]}"}
    spent = {"seconds": time.perf_counter() - started, "peak_memory_bytes": peak_memory_bytes()}
    store.write(key, {"reason": "", **measured, **spent})


def _measure(bench: Bench, cells: Store, adapt: str) -> dict[str, Any]:
    probe = probes_of(bench, cells, adapt)[0]
    smaller, star = (trained_weights(cells, bench.key(cell)) for cell in probe.cells())
    if smaller is None or star is None:
        return {"status": "missing", "reason": "the trained weights are too large to be kept"}
    size = sum(w.numel() for w in star.values())
    needed = LONG_VECTORS * 4 * size
    if needed > MEMORY_BYTES:
        reason = f"the Hessian curve of {size:,} parameters would take {needed / 2**30:.0f} GiB of memory"
        return {"status": "missing", "reason": f"{reason}; {MEMORY_BYTES / 2**30:.0f} GiB is the most that is used"}
    suffix = bench.split(adapt).suffix
    load_trained_state(suffix, star)
    rows = _rows(bench)
    x, y = torch.from_numpy(np.array(bench.inputs(adapt)[rows])), torch.from_numpy(bench.labels[rows])
    hv = PerSampleHessian(suffix, F.cross_entropy, x, y)
    radius, path = between(smaller, star)
    directions = [path, *(gaussian_direction(star, radius, bench, 0, n) for n in range(bench.plan.directions))]
    return {
        "status": "ok",
        "images": len(rows),
        "parameters": size,
        **_curves(hv),
        "forecast": _forecast(hv, radius, directions),
        "head_bound": _head_bound(suffix, x, size),
    }


def _rows(bench: Bench) -> np.ndarray:
    order = np.random.default_rng([bench.plan.split_seed, *b"hessians"]).permutation(bench.held_out_rows(FOLD))
    return order[: bench.plan.curvature]


def _curves(hv: PerSampleHessian) -> dict[str, Any]:
    """Return norms at geometric sizes for several orders, and what the random vectors add to their uncertainty."""
    sketch = DifferenceSketch(hv.num_parameters, RANK, dtype=hv.dtype, width=WIDTH)
    sketch.extend(hv, range(hv.num_samples))
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
            suffix(x)
    finally:
        handle.remove()
    return float(softmax_head(seen[0].cpu().numpy(), has_bias=layers[0].bias is not None).max())
