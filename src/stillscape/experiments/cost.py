"""What a run will cost, from a few steps of this model on this machine; and which smaller plan fits a budget."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stillscape._errors import InputError
from stillscape.data import ImageSet
from stillscape.experiments.activations import encoded
from stillscape.experiments.bench import Bench
from stillscape.experiments.evidence import IMAGES
from stillscape.experiments.landscape import PLANES
from stillscape.experiments.local import num_workers
from stillscape.experiments.plan import Plan
from stillscape.experiments.spectrum import MOST_IMAGES, sizes_among
from stillscape.experiments.threads import plans_settings
from stillscape.experiments.trajectory import chosen_sizes
from stillscape.models import parse_adaptation, pixel_values
from stillscape.training import fit, score

MEASURED_IMAGES = 32
MEASURED_STEPS = 3
EVIDENCE_PRODUCTS = 150  # with each image, at each size of each order: Takeuchi's forecast and halves
SPECTRUM_PRODUCTS = 200  # with each image at each size: measured on the demo's last block, with its groups
START_S = 10.0  # imports, worker start, analysis and report, on a machine such as a laptop


@dataclass(frozen=True)
class Rates:
    """Seconds of one thing each, measured: reading an image, encoding it, a training step, scoring an image."""

    read: float
    encode: float
    step: float
    score: float


@dataclass(frozen=True)
class Cost:
    """What one adaptation will take.

    Attributes:
        adapt: the adaptation.
        cells: cells of the plan.
        trainings: cells times folds.
        sample_passes: images that go through the trained part, forward and backward counted as one.
        seconds: of computing, before it is shared out over workers.
        cache_seconds: of them, what is computed once and before any cell.
        cache_bytes: disk that the cached activations take.
    """

    adapt: str
    cells: int
    trainings: int
    sample_passes: int
    seconds: float
    cache_seconds: float
    cache_bytes: int


def measure_rates(bench: Bench, images: ImageSet, adapt: str) -> tuple[Rates, int]:
    """Return measured rates, and the bytes of one cached activation."""
    rows = np.arange(min(MEASURED_IMAGES, len(images.labels)))
    recipe = bench.plan.recipe(adapt)
    convex = parse_adaptation(adapt).kind == "head"
    if not convex:
        recipe = recipe.model_copy(update={"steps": MEASURED_STEPS, "early_stop": None})
    with plans_settings(bench.plan):
        split = bench.split(adapt)
        read, batch = _timed(lambda: pixel_values(bench.pretrained.processor, [images.read(int(row)) for row in rows]))
        device = bench.pretrained.device
        encoded(split, batch[:2], device)  # the first call of a kernel sets it up
        encode, array = _timed(lambda: encoded(split, batch, device))
        labels = bench.labels[rows]
        fit(split.suffix, array, labels, rows, recipe, seed=0, precision=bench.plan.precision)
        training, _ = _timed(
            lambda: fit(split.suffix, array, labels, rows, recipe, seed=0, precision=bench.plan.precision)
        )
        scoring, _ = _timed(lambda: score(split.suffix, array, labels, rows))
    step = training / (len(rows) if convex else MEASURED_STEPS)
    return Rates(read / len(rows), encode / len(rows), step, scoring / len(rows)), array[0].nbytes


def estimate(bench: Bench, images: ImageSet) -> list[Cost]:
    """Return the cost of each adaptation of the plan, extrapolated from measured rates."""
    return [_cost(bench, adapt, *measure_rates(bench, images, adapt)) for adapt in bench.plan.adapt]


def wall_seconds(bench: Bench, costs: list[Cost]) -> float:
    """Return the time that a run will take, with its cells shared out over the workers of this machine."""
    workers = num_workers(bench, sum(cost.cells for cost in costs))
    cached = sum(cost.cache_seconds for cost in costs)
    return START_S + cached + sum(cost.seconds - cost.cache_seconds for cost in costs) / workers


def fit_budget(bench: Bench, images: ImageSet, budget_s: float) -> tuple[Plan, float]:
    """Return the largest plan that fits a budget, and its estimated seconds.

    Seeds go first, then repeats down to two, then the largest sizes down to a grid of three: what is kept longest is
    what the verdict needs most, the paired gain of a doubling.

    Raises:
        InputError: if not even the smallest such plan fits; the message says what it would take.
    """
    rates = {adapt: measure_rates(bench, images, adapt) for adapt in bench.plan.adapt}
    seconds = 0.0
    for plan in _smaller_plans(bench.plan.model_copy(update={"sizes": bench.sizes})):
        smaller = bench.with_plan(plan)
        seconds = wall_seconds(smaller, [_cost(smaller, adapt, *rates[adapt]) for adapt in plan.adapt])
        if seconds <= budget_s:
            return plan, seconds
    raise InputError(
        f"budget is {budget_s / 60:.1f} minutes, but the smallest plan that can give a verdict takes about "
        f"{seconds / 60:.1f}; give more time, fewer adaptations, or a smaller model."
    )


def _smaller_plans(plan: Plan) -> Iterator[Plan]:
    sizes = plan.sizes
    assert not isinstance(sizes, int)
    yield plan
    for seeds in range(plan.seeds - 1, 0, -1):
        yield (plan := plan.model_copy(update={"seeds": seeds}))
    for repeats in range(plan.repeats - 1, 1, -1):
        yield (plan := plan.model_copy(update={"repeats": repeats}))
    while len(sizes) > 3:
        sizes = sizes[:-1]
        yield plan.model_copy(update={"sizes": sizes})


def _cost(bench: Bench, adapt: str, rates: Rates, activation_bytes: int) -> Cost:
    plan, recipe, n = bench.plan, bench.plan.recipe(adapt), len(bench.labels)
    convex = parse_adaptation(adapt).kind == "head"
    repeats, folds = plan.repeats * plan.seeds, len(bench.fold_numbers)
    steps = sum(k if convex else recipe.num_steps(k) for k in bench.sizes) * repeats * folds
    scored = (len(bench.scored) * len(bench.sizes) + folds * sum(bench.sizes)) * repeats
    probe_images = min(plan.probe_images, len(bench.held_out_rows(0)))
    # A slope costs about two scorings; a product with a Hessian about four trainings of one image, 20 of them each.
    probes = plan.repeats * probe_images * (len(bench.sizes) + plan.directions) * 3
    products = (plan.repeats * plan.curvature_images * 20 + min(plan.curvature, probe_images) * 60) * 8
    if plan.curvature >= 2:
        images = min(plan.curvature, MOST_IMAGES, len(bench.held_out_rows(0)))
        products += sum(sizes_among(bench.sizes, images)) * SPECTRUM_PRODUCTS * 8
    if plan.evidence:
        looked_at = min(IMAGES, len(bench.held_out_rows(0)))
        products += len(bench.sizes) * plan.repeats * looked_at * EVIDENCE_PRODUCTS * 8
    seen = min(plan.surface, len(bench.held_out_rows(0))) if plan.surface >= 2 else 0
    surface = seen * plan.surface_points**2 * len(PLANES)
    if plan.surface >= 2:
        followed = chosen_sizes(bench.sizes)
        steps += sum(k if convex else recipe.num_steps(k) for k in followed)
    cached = n * (rates.read + rates.encode)
    seconds = cached + steps * rates.step + (scored + probes + products + surface) * rates.score
    passes = scored + (steps if convex else steps * recipe.batch)
    cells = len(bench.sizes) * repeats
    return Cost(adapt, cells, cells * folds, passes, seconds, cached, n * activation_bytes)


def _timed(action):
    started = time.perf_counter()
    value = action()
    return time.perf_counter() - started, value
