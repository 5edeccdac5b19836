"""What the trained surfaces of a run say by themselves of more data, measured at the stored weights of each cell.

A head is looked at in every fold, all else in the first, on images that are held out there. None of it has a say in
the verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from stillscape._errors import InputError
from stillscape._folders import Folder
from stillscape.curvature import PerSampleHessian
from stillscape.evidence import (
    SoftmaxHead,
    Takeuchi,
    added_sample,
    leave_one_out_losses,
    moving_optimum,
    softmax_gradients,
    softmax_hessian,
    split_half,
    takeuchi,
    takeuchi_of_products,
    takeuchi_status,
)
from stillscape.evidence.added_sample import MIDDLE
from stillscape.experiments.bench import Bench, Cell
from stillscape.experiments.extras import missing_of, store_extra
from stillscape.experiments.operators import hessians_of
from stillscape.experiments.probe import FOLD, State, between, gaussian_direction, trained_weights
from stillscape.experiments.store import Store, content_key, finite_or_none
from stillscape.models import load_trained_state, parse_adaptation, trained_state
from stillscape.training import score

VERSION = 1  # raise when the numbers change
KIND = "evidence"
IMAGES, HEAD_IMAGES = 200, 500  # held out; a head's derivatives are next to free
HEAD_PARAMETERS = 5000  # up to which a head's Hessian is inverted
POINTS = 4  # around w_k
LEAST_IMAGES = 8

Values = dict[str, tuple[float, float | None]]
Measure = Callable[[Bench, Store, "Part", State, np.ndarray], Values]


@dataclass(frozen=True)
class Part:
    """What is measured together and stored as one record.

    Attributes:
        name: "head", "takeuchi", "split_half" or "moving_optimum".
        cell: of the weights.
        images: held-out images, at most.
    """

    name: str
    cell: Cell
    images: int


def parts_of(bench: Bench, cells: Store, *, deep: bool, images: int = IMAGES, seeds: int = 1) -> list[Part]:
    """Return what a run measures: of a head what its features give; of everything else only where asked for.

    Args:
        bench: the bench.
        cells: its records; a cell that failed is left out.
        deep: whether to measure what is dear, too.
        images: held-out images for what is dear.
        seeds: training seeds of each order; a head has but one, since no seed has a part in its optimum.
    """
    found = []
    for cell in bench.cells():
        head = parse_adaptation(cell.adapt).kind == "head"
        if cell.seed >= (1 if head else seeds):
            continue
        names = ["head"] if head else []
        if deep:
            names += ["split_half", "moving_optimum"] if head else ["takeuchi", "split_half", "moving_optimum"]
        key = bench.key(cell)
        if cells.has(key) and cells.record(key)["status"] != "ok":
            continue
        of_all = [name for name in names if name != "moving_optimum" or cell.k < bench.sizes[-1]]
        found += [Part(name, cell, HEAD_IMAGES if name == "head" else images) for name in of_all]
    return found


def part_key(bench: Bench, part: Part) -> str:
    """Return the content hash of everything that decides a part's numbers."""
    others = [bench.key(cell) for cell in _largest(bench, part.cell)] if part.name == "moving_optimum" else []
    content = ["evidence", VERSION, part.name, bench.key(part.cell), others, part.images, bench.plan.split_seed]
    return content_key(content)


def missing_parts(bench: Bench, folder: Folder, parts: Sequence[Part]) -> list[Part]:
    """Return those that the run folder does not hold yet."""
    return missing_of(Store(folder, KIND), parts, lambda part: part_key(bench, part))


def run_part(bench: Bench, folder: Folder, part: Part) -> None:
    """Measure one part and store it; where it can't be had, the record says why."""
    cells, store, before = Store(folder), Store(folder, KIND), f"{part.name} could not be measured: "
    store_extra(store, part_key(bench, part), lambda: (_measure(bench, cells, part), None), before, part=part.name)


def values_of(bench: Bench, folder: Folder, part: Part) -> Values:
    """Return what is stored of a part, each with its standard error or None; nothing where it could not be had."""
    store, key = Store(folder, KIND), part_key(bench, part)
    record: dict[str, Any] = store.record(key) if store.has(key) else {"status": "missing"}
    if record["status"] != "ok":
        return {}
    return {name: (value, stderr) for name, (value, stderr) in record["values"].items() if value is not None}


def _measure(bench: Bench, cells: Store, part: Part) -> dict[str, Any]:
    state = trained_weights(cells, bench.key(part.cell))
    if state is None:
        return {"status": "missing", "reason": "the trained weights are too large to be kept"}
    rows = _held_out(bench, part.images, FOLD)
    if len(rows) < LEAST_IMAGES:
        return {"status": "missing", "reason": f"only {len(rows)} images are held out; {LEAST_IMAGES} are the least"}
    measure: dict[str, Measure] = {
        "head": _head,
        "takeuchi": _takeuchi,
        "split_half": _split_half,
        "moving_optimum": _moving_optimum,
    }
    values = measure[part.name](bench, cells, part, state, rows)
    plain = {name: [finite_or_none(number) for number in pair] for name, pair in values.items()}
    return {"status": "ok", "images": len(rows), "values": plain}


def _held_out(bench: Bench, images: int, fold: int) -> np.ndarray:
    order = np.random.default_rng([bench.plan.split_seed, *b"evidence"]).permutation(bench.held_out_rows(fold))
    return order[:images]


def _head(bench: Bench, cells: Store, part: Part, state: State, rows: np.ndarray) -> Values:
    """Average over all folds: a head's derivatives cost next to nothing, and the choice of images is what scatters."""
    found = [_head_in_fold(bench, cells, part, fold) for fold in bench.fold_numbers]
    return {name: _averaged([values[name] for values in found]) for name in found[0]}


def _averaged(pairs: list[tuple[float, float | None]]) -> tuple[float, float | None]:
    errors = [error for _, error in pairs if error is not None]
    mean = float(np.mean([value for value, _ in pairs]))
    return mean, float(np.linalg.norm(errors)) / len(pairs) if errors else None


def _head_in_fold(bench: Bench, cells: Store, part: Part, fold: int) -> Values:
    state = trained_weights(cells, bench.key(part.cell), fold)
    assert state is not None
    weights = np.concatenate(
        [values.double().numpy().reshape(len(values), -1) for _, values in sorted(state.items(), reverse=True)], axis=1
    )  # "weight", then "bias" where there is one
    if weights.size > HEAD_PARAMETERS:
        raise InputError(f"the head has {weights.size:,} parameters; its Hessian is inverted up to {HEAD_PARAMETERS:,}")
    inputs, has_bias, recipe = bench.inputs(part.cell.adapt), "bias" in state, bench.plan.recipe(part.cell.adapt)

    def features(chosen: np.ndarray) -> np.ndarray:
        x = np.asarray(inputs[chosen], dtype=np.float64)
        return np.concatenate([x, np.ones((len(x), 1))], axis=1) if has_bias else x

    own, rows = bench.training_rows(part.cell.k, part.cell.permutation, fold), _held_out(bench, part.images, fold)
    head = SoftmaxHead(features(own), bench.labels[own], weights, recipe.l2)
    x, y = features(rows), bench.labels[rows]
    one_more = added_sample(head, x, y)
    alo = leave_one_out_losses(head)
    forecast = takeuchi(
        softmax_hessian(x, weights),
        softmax_gradients(x, y, weights),
        len(own),
        damping=recipe.l2 / len(own),
        weights=weights.ravel(),
    )
    return {
        **_forecast_values(forecast, *_gap(bench, cells, part.cell, fold)),
        "next_doubling_slope": (one_more.slope, one_more.stderr),
        "next_doubling_gain": (one_more.gain, MIDDLE * one_more.stderr),
        "alo_loss": (float(alo.mean()), float(alo.std(ddof=1) / len(alo) ** 0.5)),
    }


def _takeuchi(bench: Bench, cells: Store, part: Part, state: State, rows: np.ndarray) -> Values:
    seed = bench.training_seed(part.cell, FOLD)
    hv = _operator(bench, part.cell, state, rows, "outer")
    begun = trained_state(bench.split(part.cell.adapt, seed).suffix)
    start = torch.cat([begun[name].reshape(-1) for name in hv.slices])
    own = bench.training_rows(part.cell.k, part.cell.permutation, FOLD)
    forecast = takeuchi_of_products(hv, len(own), start=start)
    return _forecast_values(forecast, *_gap(bench, cells, part.cell, FOLD))


def _forecast_values(found: Takeuchi, gap: float, gap_stderr: float) -> Values:
    consistent = takeuchi_status(found, gap, gap_stderr)[0] == "consistent"
    return {
        "takeuchi_gain": (found.gain, found.stderr / 2),
        "takeuchi_optimism": (found.optimism, 2 * found.stderr),
        "takeuchi_consistent": (float(consistent), None),
        "effective_dimension": (found.effective_dimension, None),
        "damping": (found.damping, None),
        "penalty_pull": (found.pull, None),
        "optimism_gap": (gap, gap_stderr),
        "optimism_gain": (gap / 4, gap_stderr / 4),
    }


def _gap(bench: Bench, cells: Store, cell: Cell, fold: int) -> tuple[float, float]:
    """Return held-out less training loss in the fold, and its standard error from the images."""
    table = cells.losses(bench.key(cell))
    of_fold = table["fold"] == fold
    held, own = (table["loss"][of_fold & (table["role"] == role)] for role in ("heldout", "train"))
    squares = sum(losses.var(ddof=1) / len(losses) if len(losses) > 1 else 0.0 for losses in (held, own))
    return float(held.mean() - own.mean()), float(np.sqrt(squares))


def _split_half(bench: Bench, cells: Store, part: Part, state: State, rows: np.ndarray) -> Values:
    found = split_half(_operator(bench, part.cell, state, rows, "full"))
    return {
        "split_half_hessian": (found.hessian.value, found.hessian.stderr),
        "split_half_hessian_frobenius": (found.hessian_frobenius.value, found.hessian_frobenius.stderr),
        "split_half_hessian_expected": (found.hessian_frobenius.expected, None),
        "split_half_gradient": (found.gradient.value, found.gradient.stderr),
        "split_half_gradient_expected": (found.gradient.expected, None),
    }


def _moving_optimum(bench: Bench, cells: Store, part: Part, state: State, rows: np.ndarray) -> Values:
    smaller, largest = (trained_weights(cells, bench.key(cell)) for cell in _largest(bench, part.cell))
    if smaller is None or largest is None:
        raise InputError("the weights at the two largest sizes, whose distance is the scale, were not kept")
    radius, _ = between(smaller, largest)
    whole = bench.training_rows(bench.sizes[-1], part.cell.permutation, FOLD)
    own = bench.training_rows(part.cell.k, part.cell.permutation, FOLD)
    order = np.concatenate([own, whole[~np.isin(whole, own)]])
    suffix = _suffix(bench, part.cell, state)
    points = []
    for number in range(POINTS):
        step = gaussian_direction(state, radius, bench, part.cell.permutation, number)
        load_trained_state(suffix, {name: state[name] + step[name] for name in state})
        points.append(score(suffix, bench.inputs(part.cell.adapt), bench.labels, order).losses)
    found = moving_optimum(np.stack(points), len(own))
    return {
        "moving_optimum": (found.value, found.stderr),
        "moving_optimum_null": (found.null, None),
        "moving_optimum_shift": (found.shift, None),
    }


def _largest(bench: Bench, cell: Cell) -> list[Cell]:
    """Return the cells whose distance is the scale on which the surface around w_k is looked at."""
    return [Cell(cell.adapt, k, cell.permutation, cell.seed) for k in bench.sizes[-2:]]


def _suffix(bench: Bench, cell: Cell, state: State) -> nn.Module:
    # A fresh start with the cell's own seed: LoRA's frozen factors, if any are, must be those that were trained with.
    suffix = bench.split(cell.adapt, bench.training_seed(cell, FOLD)).suffix
    load_trained_state(suffix, state)
    return suffix.eval()


def _operator(bench: Bench, cell: Cell, state: State, rows: np.ndarray, part: str) -> PerSampleHessian:
    return hessians_of(_suffix(bench, cell, state), bench.inputs(cell.adapt), bench.labels, rows, part)
