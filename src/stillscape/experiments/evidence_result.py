"""From an adaptation's records to what its surfaces say of more data: curves, criteria without a vote, and meanings."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import norm, t

from stillscape._folders import Folder
from stillscape.convergence import Curve, bootstrap_curve, mean_over_repeats
from stillscape.evidence import mean_certificate, optimism_gain, optimism_gap
from stillscape.evidence.added_sample import MIDDLE, SHALLOWEST, STEEPEST
from stillscape.experiments.collect import Collected
from stillscape.experiments.evidence import parts_of, values_of
from stillscape.sufficiency import Criterion, estimate_criterion, gains

DRAWS = 500
#: Curves of means over orders: name, unit, kind.
PLAIN = {
    "alo_loss": ("nats", "estimate"),
    "moving_optimum": ("nats squared", "measured"),
    "moving_optimum_null": ("nats squared", "closed form"),
    "split_half_hessian": ("ratio", "measured"),
    "split_half_gradient": ("ratio", "measured"),
    "takeuchi_gain": ("nats", "estimate"),
}
MEANING = {
    "heldout_loss_gain": "by how much the held-out loss fell from k to 2k: what the others try to foretell",
    "optimism_gap": "held-out less training loss; to first order in 1/k twice the loss that is still to be gained",
    "optimism_gain": "a quarter of the optimism gap: the next doubling's gain if losses fall like 1/k and no penalty "
    "holds the weights back; where one does, too little",
    "takeuchi_gain": "tr((H + damping)^-1 G) / (4k) on held-out images: the next doubling's gain to first order in "
    "1/k; believed only where the optimism that it predicts was measured",
    "next_doubling_gain": "what one more image would bring, averaged over held-out images, carried on over a doubling: "
    "like 1/k at the lower end, by as much at each doubling at the upper one",
    "alo_loss": "the held-out loss as the training images and the Hessian's leverages have it, by leave-one-out",
    "moving_optimum": "mean square of L_m(w) - L_k(w) around the weights trained on k: slope -2 while training moves "
    "them, the null's -1 for any model beyond",
    "moving_optimum_null": "the same for weights that know nothing of the images: an identity",
    "split_half_hessian": "norm of the difference of two halves' Hessians over the norm of the whole: noise, by how "
    "many images are held out and not by k; above 1 the curvature says little",
    "split_half_gradient": "the same for gradients",
    "accuracy_certificate": "interval for the first order's accuracy that holds at this number of images, without a "
    "limit (Clopper and Pearson, folds joined by a union bound)",
    "loss_certificate": "the same for the held-out loss cut off at twice log C (Maurer and Pontil)",
}
_FIRST_ORDER = ("losses fall like 1/k", "w_k is near a minimum of the expected loss")
_ASSUMES = {
    "takeuchi_gain": (*_FIRST_ORDER, "the Hessian of the held-out images is that of the expected loss"),
    "optimism_gain": (*_FIRST_ORDER, "no penalty or early stop holds the weights back"),
    "next_doubling_gain": ("one image moves the weights a little", "the exponent of the loss lies between 0 and 1"),
}


@dataclass(frozen=True)
class Evidence:
    """Curves, criteria that never vote, and what each curve means."""

    curves: dict[str, Curve] = field(default_factory=dict)
    criteria: list[Criterion] = field(default_factory=list)
    meanings: dict[str, dict[str, Any]] = field(default_factory=dict)


def measured_evidence(collected: Collected) -> Evidence:
    """Return what an adaptation's surfaces say of more data."""
    plan, store = collected.bench.plan, collected.store.place.parent
    ids: dict[str, Any] = {
        "groups": collected.groups,
        "permutation_ids": collected.permutation_ids,
        "seed_ids": collected.seed_ids,
    }
    gap = optimism_gap(
        collected.losses, collected.value("train_loss"), collected.sizes, **ids, level=plan.level, draws=DRAWS
    )
    curves = {"optimism_gap": gap, "optimism_gain": optimism_gain(gap), **_measured_gain(collected, ids)}
    curves |= _certificates(collected)
    tables = _tables(collected, store)
    curves |= {name: _over_orders(tables[name], plan.level, *PLAIN[name]) for name in PLAIN if name in tables}
    if "next_doubling_slope" in tables:
        curves["next_doubling_gain"] = _next_doubling(tables["next_doubling_slope"], plan.level)
    criteria = []
    for name, assumes in _ASSUMES.items():
        if name in curves:
            doubt = _doubt(tables, collected.sizes) if name == "takeuchi_gain" else ""
            given = curves[name]
            assert given.low is not None
            assert given.high is not None
            criteria.append(
                estimate_criterion(
                    name, given.k, given.mean, given.low, given.high,
                    epsilon=plan.loss_tolerance, assumes=assumes, doubt=doubt,
                )
            )  # fmt: skip
    meanings = {name: {"meaning": MEANING[name], "votes": False} for name in curves}
    return Evidence(curves, criteria, meanings)


Table = dict[int, list[tuple[float, float | None]]]  # by size, one pair for each order


def _tables(collected: Collected, folder: Folder) -> dict[str, Table]:
    bench = collected.bench
    tables: dict[str, Table] = {}
    for part in parts_of(bench, collected.store, deep=bench.plan.evidence):
        if part.cell.adapt == collected.adapt:
            for name, pair in values_of(bench, folder, part).items():
                tables.setdefault(name, {}).setdefault(part.cell.k, []).append(pair)
    return tables


def _over_orders(table: Table, level: float, unit: str, kind: str) -> Curve:
    """Return means over orders, with a band of the orders' scatter and of the mean error of each."""
    means, halves = _means(table, level)
    return Curve(sorted(table), means, means - halves, means + halves, kind, unit)


def _means(table: Table, level: float) -> tuple[np.ndarray, np.ndarray]:
    means, halves = [], []
    for k in sorted(table):
        values = np.array([value for value, _ in table[k]])
        errors = [error for _, error in table[k] if error is not None]
        # All orders are judged by the same held-out images, so that their errors do not average out.
        half = norm.ppf((1 + level) / 2) * float(np.mean(errors)) if errors else 0.0
        if values.size > 1:
            scatter = float(values.std(ddof=1)) / values.size**0.5
            half = float(np.hypot(half, t.ppf((1 + level) / 2, values.size - 1) * scatter))
        means.append(values.mean())
        halves.append(half)
    return np.array(means), np.array(halves)


def _next_doubling(table: Table, level: float) -> Curve:
    slope, half = _means(table, level)
    ends = np.array([[share * (slope + sign * half) for share in (STEEPEST, SHALLOWEST)] for sign in (-1, 1)])
    return Curve(sorted(table), MIDDLE * slope, ends[0].min(axis=0), ends[1].max(axis=0), "estimate", "nats")


def _doubt(tables: dict[str, Table], sizes: tuple[int, ...]) -> str:
    """Return why Takeuchi's forecast is not to be believed at the largest size; nothing where it is."""
    largest = tables["takeuchi_consistent"].get(sizes[-1], [])
    agreeing = sum(value for value, _ in largest)
    if 2 * agreeing > len(largest):
        return ""
    said, found = (np.mean([v for v, _ in tables[n][sizes[-1]]]) for n in ("takeuchi_optimism", "optimism_gap"))
    return (
        f"of an optimism of {said:.3g} nats that it predicts there, {found:.3g} were measured, or one of the two is "
        f"known too poorly, or the penalty's pull too large: it agrees in {int(agreeing)} of {len(largest)} orders"
    )


def _measured_gain(collected: Collected, ids: dict[str, Any]) -> dict[str, Curve]:
    level = collected.bench.plan.level
    draws = bootstrap_curve(collected.losses, draws=DRAWS, **ids)
    mean = mean_over_repeats(collected.losses.mean(axis=2), collected.permutation_ids)
    steps = gains(collected.sizes, draws, mean, level, higher_is_better=False)
    if not steps:
        return {}
    columns = {name: [step[name] for step in steps] for name in ("from", "mean", "low", "high")}
    return {
        "heldout_loss_gain": Curve(
            columns["from"], columns["mean"], columns["low"], columns["high"], "measured", "nats"
        )
    }


def _certificates(collected: Collected) -> dict[str, Curve]:
    """Return intervals for the first repeat; none where images of one group were held out together."""
    if len(np.unique(collected.groups)) < len(collected.groups):
        return {}
    most = 2.0 * np.log(len(collected.bench.classes))
    hits, losses = collected.hits[0].astype(np.float64), np.minimum(collected.losses[0], most)
    return {
        "accuracy_certificate": _certified(collected, hits, "clopper_pearson", 1.0, "share"),
        "loss_certificate": _certified(collected, losses, "empirical_bernstein", float(most), "nats"),
    }


def _certified(collected: Collected, table: np.ndarray, kind: str, upper: float, unit: str) -> Curve:
    level, folds = collected.bench.plan.level, list(_fold_columns(collected))
    ends = np.zeros((3, len(collected.sizes)))
    for chosen in folds:
        share = len(chosen) / table.shape[1]
        for at in range(table.shape[0]):
            found = mean_certificate(table[at, chosen], level=1 - (1 - level) / len(folds), kind=kind, upper=upper)
            ends[:, at] += share * np.array([found.mean, found.low, found.high])
    mean, low, high = ends  # sums over folds may differ by rounding where an end is the mean itself
    return Curve(collected.sizes, mean, np.minimum(low, mean), np.maximum(high, mean), "measured", unit)


def _fold_columns(collected: Collected) -> Iterator[np.ndarray]:
    fold = collected.bench.fold[collected.bench.scored]
    for number in collected.bench.fold_numbers:
        yield np.flatnonzero(fold == number)
