"""Assumption 1 of the drafts, measured: is w*, the optimum of k samples, one of k + 1 samples as well?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

from stillscape.evidence import softmax_gradients
from stillscape.experiments.progress import counted
from stillscape.reproductions.arrays import grey_images, patches
from stillscape.reproductions.catalogue import NEEDS_MNIST, Reproduction, Settings, Workplace
from stillscape.reproductions.findings import Claim, Findings, Number, Panel, line, measured_ratio, slope
from stillscape.reproductions.heads import Features, by_cross_entropy
from stillscape.reproductions.tiny_vit import TinyVit, train

DRAFT = "drafts a and b, assumption 1"
VANISHED = 0.02  # of what it was at the smallest size: below it a gradient may be said to vanish
SUCCESSOR = "Petrov, Kiselev, Meshkov and Grabovoy (2025), arXiv 2510.16927"


class AssumptionSettings(Settings):
    """Settings of the gradient norms."""

    data: str = "assets:mnist-5k"
    patch: int = 4
    dim: int = 16
    width: int = 32
    sizes: tuple[int, ...] = (50, 100, 200, 400, 800, 1600)
    steps: int = 3000
    batch: int = 64
    learning_rate: float = 1e-3
    new: int = 300
    l2: float = 1e-3
    repeats: int = 3


RowLoss = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Gradients:
    """Of the optimum of k samples.

    Attributes:
        mean: norm of the gradient of L_k there.
        after: norm of the gradient of L_{k+1}, for each of several new samples, (new,).
        alone: norm of the gradient of each new sample's own loss, (new,).
        first: mean size of the first-order term of what a new sample changes at the next optimum's distance; nats.
        second: the same of the second-order term.
    """

    mean: float
    after: np.ndarray
    alone: np.ndarray
    first: float
    second: float


def measure(settings: AssumptionSettings, place: Workplace) -> Findings:
    """Measure gradients at optima of k samples: of a convex head, which are exact, and of a trained block."""
    pixels, classes = grey_images(place.asset(settings.data, "data"))
    x, labels = patches(pixels, settings.patch), torch.tensor(classes)
    found: dict[str, list[list[Gradients]]] = {"linear head, exact optimum": [], "transformer block": []}
    for repeat in counted(range(settings.repeats), settings.repeats, "measuring gradients at optima", place.progress):
        order = torch.from_numpy(np.random.default_rng(settings.seed + repeat).permutation(len(x)))
        found["linear head, exact optimum"].append(_heads(settings, x[order], labels[order]))
        found["transformer block"].append(_blocks(settings, x[order], labels[order], settings.seed + repeat))
    return Findings(
        "assumption-1",
        "",
        {},
        tuple(n for name, rows in found.items() for n in _numbers(settings, name, rows)),
        _claims(settings, found),
        tuple(_panel(settings, name, rows) for name, rows in found.items()),
        remarks=(
            "The successor takes the gradient of the mean loss over the first N samples at one checkpoint, on "
            "augmented batches; ours are retrained at each k, and new samples are never trained on.",
            f"The head's cross-entropy has a penalty of {settings.l2:g} / (2k), so that its optimum is finite; "
            "gradients are those of the penalized losses.",
        ),
    )


def _heads(settings: AssumptionSettings, x: Tensor, labels: Tensor) -> list[Gradients]:
    flat = x.flatten(1).numpy().astype(np.float32)
    features = Features(flat, labels.numpy(), np.arange(len(flat)) >= len(flat) - settings.new)
    wide = np.hstack([flat.astype(np.float64), np.ones((len(flat), 1))])
    fits = [by_cross_entropy(settings.l2)(features, np.arange(k)) for k in settings.sizes]
    weights = [np.hstack([p.detach().numpy().reshape(p.shape[0], -1) for p in fit.head.parameters()]) for fit in fits]
    found = []
    for place, k in enumerate(settings.sizes):
        w, other = weights[place], weights[place + 1 if place + 1 < len(weights) else place - 1]
        penalty = settings.l2 / k * w.ravel()
        old = softmax_gradients(wide[:k], features.labels[:k], w).mean(0) + penalty
        new = softmax_gradients(wide[-settings.new :], features.labels[-settings.new :], w) + penalty
        first, second = _head_terms(wide, features.labels, k, w, other - w, settings.new)
        after = np.linalg.norm((k * old + new) / (k + 1), axis=1)
        found.append(Gradients(float(np.linalg.norm(old)), after, np.linalg.norm(new, axis=1), first, second))
    return found


def _head_terms(
    x: Float[np.ndarray, "n p"], labels: np.ndarray, k: int, w: np.ndarray, step: np.ndarray, new: int
) -> tuple[float, float]:
    """Return the mean sizes of g'd and d'Hd / 2 of new samples, less the mean over the first k, along d = step."""
    z, dz = torch.from_numpy(x @ w.T), torch.from_numpy(x @ step.T)
    p, y = z.softmax(1), torch.from_numpy(labels)
    mean = (p * dz).sum(1)
    first = mean - dz[torch.arange(len(dz)), y]
    second = ((p * dz.square()).sum(1) - mean.square()) / 2
    return _mean_size(first, k, new), _mean_size(second, k, new)


def _mean_size(values: Tensor, k: int, new: int) -> float:
    return float((values[-new:] - values[:k].mean()).abs().mean())


def _blocks(settings: AssumptionSettings, x: Tensor, labels: Tensor, seed: int) -> list[Gradients]:
    models = []
    for k in settings.sizes:
        model = TinyVit(x.shape[2], x.shape[1], settings.dim, settings.width, int(labels.max()) + 1, seed)
        train(
            model,
            x[:k],
            labels[:k],
            (settings.steps,),
            lambda _: None,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
            seed=seed,
        )
        models.append({name: p.detach() for name, p in model.named_parameters()})

    def loss(weights: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (row[None],)), label[None])

    each = vmap(grad(loss), (None, 0, 0))
    found = []
    for place, k in enumerate(settings.sizes):
        w, other = models[place], models[place + 1 if place + 1 < len(models) else place - 1]
        old = (
            torch.stack(
                [_flat(each(w, *part)).sum(0) for part in zip(x[:k].split(100), labels[:k].split(100), strict=True)]
            ).sum(0)
            / k
        )
        new = _flat(each(w, x[-settings.new :], labels[-settings.new :]))
        step = {name: other[name] - w[name] for name in w}
        rows = torch.cat([torch.arange(k), torch.arange(len(x) - settings.new, len(x))])
        first, second = _terms(loss, w, step, x[rows], labels[rows])
        after = ((k * old + new) / (k + 1)).norm(dim=1)
        found.append(
            Gradients(
                float(old.norm()),
                after.numpy(),
                new.norm(dim=1).numpy(),
                _mean_size(first, k, settings.new),
                _mean_size(second, k, settings.new),
            )
        )
    return found


def _terms(
    loss: RowLoss, w: dict[str, Tensor], step: dict[str, Tensor], x: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each row's slope and half its second derivative along a direction."""

    def of(row: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        def along(t: Tensor) -> Tensor:
            return loss({name: w[name] + t * step[name] for name in w}, row, label)

        # The inner derivative is reverse: forward over anything else is wrong through LayerNorm in torch 2.13.
        start = torch.zeros((), dtype=x.dtype)
        slope_there, bend = jvp(grad(along), (start,), (torch.ones_like(start),))[:2]
        return slope_there, bend / 2

    first, second = vmap(of)(x, labels)
    return first, second


def _flat(gradients: dict[str, Tensor]) -> Float[Tensor, "n P"]:
    return torch.cat([part.flatten(1) for part in gradients.values()], 1)


def _numbers(settings: AssumptionSettings, name: str, rows: list[list[Gradients]]) -> list[Number]:
    found, last = [], settings.sizes[-1]
    means = np.array([[one.after.mean() for one in row] for row in rows])
    found.append(
        Number(
            f"{name}: slope in k of the mean norm of grad L_k+1 at w*_k",
            slope(settings.sizes, means.mean(0)),
            spread=0.3,
        )
    )
    for place, k in ((0, settings.sizes[0]), (-1, last)):
        found.append(
            measured_ratio(f"{name}: norm of grad L_k at w*_k, k = {k}", [row[place].mean for row in rows], spread=0.05)
        )
        found.append(
            measured_ratio(
                f"{name}: mean norm of a new sample's gradient, k = {k}",
                [row[place].alone.mean() for row in rows],
                spread=0.5,
            )
        )
        found.append(
            measured_ratio(
                f"{name}: median norm of a new sample's gradient, k = {k}",
                [np.median(row[place].alone) for row in rows],
                spread=0.5,
            )
        )
    ratio = [row[-2].first / row[-2].second for row in rows]
    found.append(
        measured_ratio(
            f"{name}: neglected gradient term over the Hessian term, from k = {settings.sizes[-2]} to {last}",
            ratio,
            spread=2.0,
        )
    )
    return found


def _claims(settings: AssumptionSettings, found: dict[str, list[list[Gradients]]]) -> tuple[Claim, ...]:
    smallest = {name: min(float(one.alone.min()) for row in rows for one in row) for name, rows in found.items()}
    grows = {
        name: np.mean([row[-1].alone.mean() / row[0].alone.mean() for row in rows]) for name, rows in found.items()
    }
    ratio = {name: np.mean([row[-2].first / row[-2].second for row in rows]) for name, rows in found.items()}
    worse = "; ".join(f"{name} {value:.2g}" for name, value in ratio.items())
    return (
        Claim(
            "w* is a minimum of L_k and of L_k+1.",
            DRAFT,
            "falls" if min(smallest.values()) > 0 else "cannot_tell",
            "it asks that the new sample's own gradient vanishes at w*; for cross-entropy with a bias it can't, and "
            "none of those measured does: mean norms at the largest size are "
            + "; ".join(f"{name} {np.mean([row[-1].alone.mean() for row in rows]):.2g}" for name, rows in found.items())
            + ".",
        ),
        Claim(
            "The assumption becomes more nearly true as k grows.",
            SUCCESSOR,
            "amended" if min(grows.values()) > VANISHED else "stands",
            "grad L_k+1 at w*_k falls as 1 / (k + 1) because L_k+1 counts the new sample once: an identity where "
            "grad L_k is zero. A new sample's own gradient changes by a factor of "
            + "; ".join(f"{value:.2f} ({name})" for name, value in grows.items())
            + f" from {settings.sizes[0]} to {settings.sizes[-1]} samples.",
        ),
        Claim(
            "The gradient term may be left out of the difference of losses.",
            f"{DRAFT}, section 4.3",
            "falls" if max(ratio.values()) > 0.1 else "stands",
            "at the distance to the next optimum the first-order term is this many times the second-order one: "
            f"{worse}.",
        ),
    )


def _panel(settings: AssumptionSettings, name: str, rows: list[list[Gradients]]) -> Panel:
    after, alone, mean = (
        np.array([[float(np.mean(getattr(one, what))) for one in row] for row in rows])
        for what in ("after", "alone", "mean")
    )
    k = np.array(settings.sizes)
    lines = (
        line("a new sample's own gradient", k, alone.mean(0), alone.min(0), alone.max(0)),
        line("grad L_k+1", k, after.mean(0), after.min(0), after.max(0)),
        line("grad L_k", k, mean.mean(0), mean.min(0), mean.max(0)),
        line("a new sample's, over k + 1", k, alone.mean(0) / (k + 1), kind="closed form"),
    )
    return Panel(f"{name}: gradients at w*_k", "training images k", "norm", lines, "xy", "Bands reach over repeats.")


ASSUMPTION_1 = Reproduction(
    "assumption-1",
    "Gradient norms at the optima of k and k + 1 samples",
    DRAFT,
    AssumptionSettings,
    measure,
    quick={
        "data": "digits",
        "patch": 4,
        "dim": 6,
        "width": 8,
        "sizes": (50, 100, 200),
        "steps": 300,
        "new": 60,
        "repeats": 2,
    },
    needs=NEEDS_MNIST,
)
