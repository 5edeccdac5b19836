"""The neighborhood of w*: losses and slopes away from it, and the constants that Theorem 3 asks for.

w* is the model trained at the largest size m, in one fold; all images here are held out in that fold.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillscape._errors import MemoryShortError
from stillscape._room import is_short_of_memory
from stillscape.curvature import PerSampleHessian, spectral_norms
from stillscape.experiments.bench import METHOD, Bench, Cell
from stillscape.experiments.cell import OUT_OF_MEMORY, peak_memory_bytes
from stillscape.experiments.operators import hessians_of
from stillscape.experiments.store import Store, content_key
from stillscape.models import load_trained_state
from stillscape.training import directional_slopes, score

FOLD = 0
GRADIENT_IMAGES = 64
NUMBERS_AT_ONCE = 50_000_000  # of a chunk of per-sample gradients; bounds memory to a few hundred MB

State = dict[str, Tensor]


@dataclass(frozen=True)
class Probe:
    """Which w*, and which smaller size lends the direction towards its optimum; radii are the distance between."""

    adapt: str
    permutation: int
    sizes: tuple[int, int]

    def cells(self) -> list[Cell]:
        """Return the cells whose weights are read: of the smaller size, then of w*."""
        return [Cell(self.adapt, k, self.permutation, 0) for k in self.sizes]


def probe_key(bench: Bench, probe: Probe) -> str:
    """Return the content hash of everything that decides a probe's numbers."""
    plan = bench.plan
    cells = [bench.key(cell) for cell in probe.cells()]
    return content_key(["probe", METHOD, cells, plan.directions, plan.probe_images, plan.curvature_images])


def all_probes(bench: Bench, cells: Store) -> list[Probe]:
    """Return the probes of every adaptation."""
    return [probe for adapt in bench.plan.adapt for probe in probes_of(bench, cells, adapt)]


def probes_of(bench: Bench, cells: Store, adapt: str) -> list[Probe]:
    """Return a probe for each order whose cells did not fail (or are not measured yet)."""
    sizes = (bench.sizes[-2], bench.sizes[-1])
    probes = [Probe(adapt, permutation, sizes) for permutation in range(bench.plan.repeats)]

    def usable(cell: Cell) -> bool:
        key = bench.key(cell)
        return not cells.has(key) or cells.record(key)["status"] == "ok"

    return [probe for probe in probes if all(usable(cell) for cell in probe.cells())]


def run_probe(bench: Bench, cells: Store, probes: Store, probe: Probe) -> None:
    """Measure one probe and store it.

    Where weights were not kept, or memory runs out with a single image, the record says so and holds nothing else.
    """
    try:
        _measure(bench, cells, probes, probe)
    except (MemoryShortError, MemoryError, RuntimeError) as error:
        if not is_short_of_memory(error):
            raise
        missing = {"status": "missing", "reason": "memory ran out around the trained weights", OUT_OF_MEMORY: True}
        probes.write(probe_key(bench, probe), missing)


def _measure(bench: Bench, cells: Store, probes: Store, probe: Probe) -> None:
    key, started = probe_key(bench, probe), time.perf_counter()
    smaller, star = (trained_weights(cells, bench.key(cell)) for cell in probe.cells())
    if smaller is None or star is None:
        probes.write(key, {"status": "missing", "reason": "the trained weights are too large to be kept"})
        return
    radius, path = between(smaller, star)
    directions = {"path": path} | {
        f"gaussian:{number}": gaussian_direction(star, radius, bench, probe.permutation, number)
        for number in range(bench.plan.directions)
    }
    suffix, rows = bench.split(probe.adapt).suffix, _rows(bench, probe)
    where = (bench.inputs(probe.adapt), bench.labels, rows)
    table: dict[str, Any] = {"sample": rows}
    for name, direction in directions.items():
        load_trained_state(suffix, {n: star[n] + direction[n] for n in star})
        table[f"loss:{name}"] = score(suffix, *where).losses
    load_trained_state(suffix, star)
    table["star"] = score(suffix, *where).losses
    for name, direction in directions.items():
        table[f"slope:{name}"] = directional_slopes(suffix, *where, direction)
    record = {
        "status": "ok",
        "reason": "",
        "probe": {"adapt": probe.adapt, "permutation": probe.permutation, "sizes": list(probe.sizes), "fold": FOLD},
        "radius": radius,
        "constants": _constants(suffix, *where, bench.plan.curvature_images),
        "seconds": time.perf_counter() - started,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    probes.write(key, record, table)


def between(smaller: State, star: State) -> tuple[float, State]:
    """Return the way from w* to the optimum at the smaller size, its length first."""
    path = {name: smaller[name] - star[name] for name in star}
    return _norm(path), path


def trained_weights(cells: Store, key: str, fold: int = FOLD) -> State | None:
    """Return a cell's trained parameters in a fold (the one that is probed), or None where they were not kept."""
    kept = cells.weights(key)
    if kept is None:
        return None
    prefix = f"fold{fold}/"
    return {n.removeprefix(prefix): torch.from_numpy(w) for n, w in kept.items() if n.startswith(prefix)} or None


def _rows(bench: Bench, probe: Probe) -> np.ndarray:
    held_out = bench.held_out_rows(FOLD)
    order = np.random.default_rng([bench.plan.split_seed, probe.permutation]).permutation(held_out)
    return np.sort(order[: bench.plan.probe_images])


def gaussian_direction(star: State, radius: float, bench: Bench, permutation: int, number: int) -> State:
    """Return a random direction of length `radius`."""
    entropy = [bench.plan.split_seed, permutation, number]
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
    direction = {name: torch.randn(w.shape, generator=generator) for name, w in star.items()}
    scale = radius / _norm(direction)
    return {name: scale * d for name, d in direction.items()}


def _norm(state: State) -> float:
    return float(sum(float(w.double().square().sum()) for w in state.values()) ** 0.5)


def _constants(
    suffix: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray, rows: np.ndarray, num_curvature: int
) -> dict[str, Any]:
    """Return the largest deviation of a gradient from their mean, and the largest norm of a Hessian, over some images.

    They are maxima over a sample, so true constants can only be larger.
    """
    rows = rows[:GRADIENT_IMAGES]
    hv = hessians_of(suffix, inputs, labels, rows)
    try:
        spread = _gradient_spread(hv)
        measured = list(range(min(num_curvature, len(rows))))
        at_once = max(1, NUMBERS_AT_ONCE // (20 * hv.num_parameters))
        norms = torch.cat([spectral_norms(hv, measured[i : i + at_once]) for i in range(0, len(measured), at_once)])
    except (RuntimeError, NotImplementedError) as error:  # an operator of this architecture has no second derivative
        return {"reason": f"curvature could not be measured: {str(error).splitlines()[0][:200]}"}
    return {
        "gradient_spread": spread,
        "gradient_images": len(rows),
        "hessian_norm": float(norms.max()),
        "hessian_norm_median": float(norms.median()),
        "hessian_images": len(measured),
    }


def _gradient_spread(hv: PerSampleHessian) -> float:
    at_once = max(1, NUMBERS_AT_ONCE // hv.num_parameters)
    chunks = [range(i, min(i + at_once, hv.num_samples)) for i in range(0, hv.num_samples, at_once)]
    if len(chunks) == 1:
        gradients = hv.gradients(chunks[0]).double()
        return float((gradients - gradients.mean(0)).norm(dim=1).max())
    # Too large to be held together: once for the mean, once for the distances from it.
    mean = torch.stack([hv.gradients(chunk).double().sum(0) for chunk in chunks]).sum(0) / hv.num_samples
    return max(float((hv.gradients(chunk).double() - mean).norm(dim=1).max()) for chunk in chunks)
