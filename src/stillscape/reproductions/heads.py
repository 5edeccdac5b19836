"""What a change of loss, penalty or data does to the settling of a surface: heads on a transformer's features."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import nn

from stillscape.convergence import mean_absolute_deviation
from stillscape.curvature import PerSampleHessian, hessian_difference_curve
from stillscape.data import holdout, nested_order
from stillscape.experiments import Silent, make_plan, set_up
from stillscape.experiments.progress import counted
from stillscape.reproductions.catalogue import Settings, Workplace
from stillscape.reproductions.findings import Number, Panel, line, mean_interval, measured
from stillscape.sufficiency import assemble
from stillscape.training import Recipe, fit_head

EPSILON, LEVEL = 0.01, 0.9
#: Classes that were never seen have the same scores, but for rounding; an image is not hit by one of several such.
TIE = 1e-6
QUESTION = {"metric": "accuracy", "epsilon": EPSILON, "epsilon_loss": EPSILON, "target": None, "level": LEVEL}
DRAFT = "draft b, section 7 (future work)"
NEEDS = "the ViT-S and Fashion-MNIST that benchmarks/verdict/prepare.py makes; others by --model and --data"
#: What the quick size of every reproduction on heads changes.
QUICK: dict[str, Any] = {
    "model": "bundled-vit",
    "data": "digits",
    "sizes": (25, 50, 100, 200),
    "orders": 3,
    "hessians": 40,
}


class HeadSettings(Settings):
    """Settings that all reproductions on heads share."""

    model: str = "assets:vit-s"
    data: str = "assets:fashion-mnist"
    sizes: tuple[int, ...] = (25, 50, 100, 200, 400, 800, 1600)
    orders: int = 6
    held_out: float = 0.5
    hessians: int = 200
    rank: int = 16


@dataclass(frozen=True)
class Features:
    """What a frozen transformer gives for each image.

    Attributes:
        x: (n, d), standardized by the images of the pool.
        labels: (n,) class numbers.
        held: (n,) whether an image is only scored.
    """

    x: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    held: Bool[np.ndarray, " n"]

    @classmethod
    def standardized(cls, x: Float[np.ndarray, "n d"], labels: np.ndarray, held: np.ndarray) -> "Features":
        """Return features brought to mean 0 and deviation 1 over the pool; what is constant there only to mean 0."""
        center, scale = x[~held].mean(0), x[~held].std(0)
        return cls(((x - center) / np.where(scale > 0, scale, 1)).astype(np.float32), labels, held)

    @property
    def pool(self) -> Int[np.ndarray, " pool"]:
        """Rows that may be trained on."""
        return np.flatnonzero(~self.held)


@dataclass(frozen=True)
class Scored:
    """A trained head on held-out images: the losses that it was trained by, where its one highest class is right."""

    losses: Float[np.ndarray, " scored"]
    hits: Bool[np.ndarray, " scored"]
    head: nn.Module


Fitter = Callable[[Features, np.ndarray], Scored]
Order = Callable[[int], Int[np.ndarray, " pool"]]


def read_features(settings: HeadSettings, place: Workplace) -> Features:
    """Return features of all images, computed once and kept in the workplace's folder."""
    source = place.asset(settings.data, "data")
    plan = make_plan(data=source, model=place.asset(settings.model, "model"), adapt=["head"], sizes=2)
    bench, images = set_up(plan, place.folder.parent / "features" / Path(source).stem, Silent())
    bench.cache_inputs(["head"], images, place.progress)
    held = holdout(bench.labels, None, settings.held_out, settings.seed)
    return Features.standardized(np.asarray(bench.inputs("head"), dtype=np.float64), bench.labels, held)


def balanced(settings: HeadSettings, features: Features) -> Order:
    """Return class-stratified random orders of the pool, one for each repeat."""
    return lambda repeat: nested_order(features.labels, None, features.pool, settings.seed + repeat)


def by_cross_entropy(l2: float) -> Fitter:
    """Return a fit to the one optimum of cross-entropy with penalty l2 / (2k) (||W||^2 + ||b||^2)."""

    def fit(features: Features, rows: np.ndarray) -> Scored:
        head = nn.Linear(features.x.shape[1], int(features.labels.max()) + 1, dtype=torch.float64)
        fit_head(head, features.x, features.labels, rows, Recipe(l2=l2))
        return _scored(features, head, F.cross_entropy)

    return fit


def by_squares(l2: float) -> Fitter:
    """Return a fit to the one optimum of the squared distance from one-hot targets, with the same penalty."""

    def fit(features: Features, rows: np.ndarray) -> Scored:
        classes = int(features.labels.max()) + 1
        x = np.hstack([features.x[rows].astype(np.float64), np.ones((len(rows), 1))])
        targets = np.eye(classes)[features.labels[rows]]
        weights = np.linalg.solve(x.T @ x + 0.5 * classes * l2 * np.eye(x.shape[1]), x.T @ targets)
        head = nn.Linear(features.x.shape[1], classes, dtype=torch.float64)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weights[:-1].T))
            head.bias.copy_(torch.from_numpy(weights[-1]))
        return _scored(features, head, squared)

    return fit


def squared(scores: Any, labels: Any, reduction: str = "mean") -> Any:
    """Return the mean over classes of squared distances from one-hot targets, as `F.cross_entropy` is called."""
    each = (scores - F.one_hot(labels, scores.shape[-1])).square().mean(-1)
    return each if reduction == "none" else each.mean()


@torch.no_grad()
def _scored(features: Features, head: nn.Linear, loss: Callable[..., Any]) -> Scored:
    x, y = torch.tensor(features.x[features.held], dtype=torch.float64), torch.tensor(features.labels[features.held])
    z = head(x)
    first, second = z.topk(2, dim=1).values.unbind(1)
    hits = (z.argmax(1) == y) & (first - second > TIE)
    return Scored(loss(z, y, reduction="none").numpy(), hits.numpy(), head)


@dataclass(frozen=True)
class Condition:
    """One way to train and to draw data, and how it went.

    Attributes:
        label: of the legend.
        losses: held out, (orders, sizes, scored).
        hits: likewise.
        verdict: on accuracy at the tolerance of the plan's default.
        mean_norm: spectral norm of the mean Hessian of held-out losses at the largest size's head.
        difference_norm: mean over k of the norm of H_{k+1} - mean(H_1..H_k), likewise.
    """

    label: str
    losses: np.ndarray
    hits: np.ndarray
    verdict: Mapping[str, Any]
    mean_norm: float
    difference_norm: float


@dataclass(frozen=True)
class Way:
    """One way to train and to draw data: how heads are fitted, in which order images come, and the loss."""

    fit: Fitter
    order: Order
    loss: Callable[..., Any] = F.cross_entropy


def run_condition(label: str, settings: HeadSettings, features: Features, way: Way) -> Condition:
    """Train on nested subsets of several orders, and ask what `stillscape run` asks."""
    scored = []
    for repeat in range(settings.orders):
        rows = way.order(repeat)
        scored.append([way.fit(features, rows[:k]) for k in settings.sizes if k <= len(rows)])
    sizes = settings.sizes[: min(len(row) for row in scored)]
    losses = np.array([[one.losses for one in row[: len(sizes)]] for row in scored])
    hits = np.array([[one.hits for one in row[: len(sizes)]] for row in scored])
    panel = assemble(
        label,
        question=QUESTION,
        sizes=list(sizes),
        scores={"accuracy": hits, "heldout_loss": losses},
        groups=None,
        permutation_ids=list(range(settings.orders)),
        seed_ids=[0] * settings.orders,
        draws=300,
        seed=settings.seed,
    )
    mean, difference = _hessians(settings, features, scored[0][len(sizes) - 1].head, way.loss)
    return Condition(label, losses, hits, panel.result["verdict"], mean, difference)


def run_conditions(
    ways: Mapping[str, Way], settings: HeadSettings, features: Features, place: Workplace
) -> list[Condition]:
    """Run all conditions, in their order."""
    found = []
    for label, way in counted(ways.items(), len(ways), "fitting heads", place.progress):
        found.append(run_condition(label, settings, features, way))
    return found


def _hessians(
    settings: HeadSettings, features: Features, head: nn.Module, loss: Callable[..., Any]
) -> tuple[float, float]:
    if settings.hessians < 2:
        return math.nan, math.nan
    rows = np.flatnonzero(features.held)
    rows = np.random.default_rng(settings.seed).permutation(rows)[: settings.hessians]
    x, y = torch.tensor(features.x[rows], dtype=torch.float64), torch.tensor(features.labels[rows])
    curve = hessian_difference_curve(PerSampleHessian(head, loss, x, y, check=False), settings.rank)
    late = curve.k >= curve.k[-1] // 10
    return float(curve.mean_spectral[-1]), float(curve.spectral[late].mean())


def numbers_of(settings: HeadSettings, condition: Condition) -> Iterator[Number]:
    """Yield what one condition comes to at its largest size."""
    sizes, label = settings.sizes[: condition.hits.shape[1]], condition.label
    accuracy, loss = condition.hits.mean(2), condition.losses.mean(2)
    yield measured(f"{label}: accuracy at {sizes[-1]}", accuracy[:, -1], spread=0.01)
    yield measured(f"{label}: last doubling's gain of accuracy", accuracy[:, -1] - accuracy[:, -2], spread=0.01)
    yield measured(
        f"{label}: (k + 1) |L_k+1 - L_k| at {sizes[-1]}",
        [mean_absolute_deviation(one) for one in condition.losses[:, -1]],
        spread=0.1 * float(loss.mean()),
    )
    yield measured(
        f"{label}: last doubling's change of the held-out loss, as a share",
        np.abs(loss[:, -1] - loss[:, -2]) / loss[:, -1],
        spread=0.05,
    )
    if settings.hessians >= 2:
        for what, norm in (
            ("the mean Hessian", condition.mean_norm),
            ("one more sample's difference", condition.difference_norm),
        ):
            yield Number(f"{label}: norm of {what}", norm, spread=0.1 * norm)
    verdict = condition.verdict
    k = verdict["k_star"] if verdict["status"] == "reached" else None
    yield Number(
        f"{label}: k* (accuracy, {EPSILON:g} a doubling; {verdict['status']})",
        k,
        verdict["low"] if k else None,
        verdict["high"] if k else None,
        spread=float(sizes[-1]),
    )


def difference(name: str, a: Condition, b: Condition) -> tuple[float, float, float]:
    """Return a paired difference over orders with its 95 % interval.

    Args:
        name: "accuracy" at the largest size, "gain" of it by the last doubling, or "deviation" of single losses.
        a: of the first.
        b: what is taken off.
    """

    def of(condition: Condition) -> np.ndarray:
        accuracy = condition.hits.mean(2)
        if name == "accuracy":
            return np.asarray(accuracy[:, -1])
        if name == "gain":
            return np.asarray(accuracy[:, -1] - accuracy[:, -2])
        return np.array([mean_absolute_deviation(one) for one in condition.losses[:, -1]])

    return mean_interval(of(a) - of(b))


def panels_of(settings: HeadSettings, conditions: list[Condition]) -> tuple[Panel, ...]:
    """Return accuracy, change of the retrained loss, and deviation, against k, for all conditions."""
    accuracy, moved, deviation = [], [], []
    for one in conditions:
        sizes, loss = settings.sizes[: one.hits.shape[1]], one.losses.mean(2)
        accuracy.append(_with_interval(one.label, sizes, one.hits.mean(2)))
        moved.append(_with_interval(one.label, sizes[1:], np.abs(np.diff(loss, axis=1)) / loss[:, 1:]))
        spread = np.abs(one.losses - loss[:, :, None]).mean(2) / (np.array(sizes) + 1)
        deviation.append(_with_interval(one.label, sizes, spread))
    caption = "Bands are 95 % intervals over orders."
    return (
        Panel("accuracy, held out", "training images k", "accuracy", tuple(accuracy), "x", caption),
        Panel(
            "retrained: change of the loss per doubling",
            "training images 2k",
            "|L(w_2k) - L(w_k)| / L",
            tuple(moved),
            "xy",
            caption,
        ),
        Panel(
            "at fixed w_k: |L_k+1 - L_k| = MAD / (k + 1)",
            "training images k",
            "unit of the loss",
            tuple(deviation),
            "xy",
            "An identity; the factor before 1 / (k + 1) is all that differs.",
        ),
    )


def _with_interval(label: str, sizes: Any, table: np.ndarray) -> Any:
    ends = np.array([mean_interval(column) for column in table.T])
    return line(label, sizes, *ends.T)


def found(condition: Condition) -> str:
    """Say what the verdict on one condition is, in a few words."""
    verdict = condition.verdict
    if verdict["status"] == "reached":
        return f"{condition.label}: k* {verdict['k_star']}"
    return f"{condition.label}: {verdict['status'].replace('_', ' ')}"
