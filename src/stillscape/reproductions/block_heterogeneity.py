"""Which blocks of a transformer's Hessian dominate, at the start and after training: the successor's heat maps."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from stillscape.curvature import PerSampleHessian, block_table
from stillscape.experiments.progress import counted
from stillscape.hessian import ExactHessian
from stillscape.reproductions.arrays import grey_images, patches
from stillscape.reproductions.catalogue import NEEDS_MNIST, Reproduction, Settings, Workplace
from stillscape.reproductions.findings import (
    Claim,
    Findings,
    Heat,
    Number,
    Panel,
    heat,
    line,
    mean_interval,
    measured,
    measured_ratio,
    sign,
    verdict_of,
)
from stillscape.reproductions.tiny_vit import TinyVit, train

SOURCE = "Petrov, Kiselev, Meshkov and Grabovoy (2025), arXiv 2510.16927, Hessian heat maps"
GROUPS = {
    "queries": ("W_Q",),
    "keys": ("W_K",),
    "values": ("W_V",),
    "output": ("W_O",),
    "W_1": ("W_1",),
    "W_2": ("W_2",),
    "LayerNorms": ("gamma_1", "beta_1", "gamma_2", "beta_2"),
}
PARTS = ("full", "functional")


class BlockSettings(Settings):
    """Settings of the heat maps."""

    data: str = "assets:mnist-5k"
    patch: int = 4
    dim: int = 16
    width: int = 64
    steps: tuple[int, ...] = (0, 200, 1000, 5000)
    batch: int = 128
    learning_rate: float = 1e-3
    images: int = 128
    repeats: int = 5
    vectors: int = 16


def measure(settings: BlockSettings, place: Workplace) -> Findings:
    """Train from scratch, and take the norms of all pairs of blocks along the way."""
    pixels, classes = grey_images(place.asset(settings.data, "data"))
    x, labels = patches(pixels, settings.patch), torch.tensor(classes)
    held = torch.arange(len(x)) % 5 == 0
    tables: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    accuracies, apart = [], []
    for repeat in counted(range(settings.repeats), settings.repeats, "training and measuring blocks", place.progress):
        seed = settings.seed + repeat
        model = TinyVit(x.shape[2], x.shape[1], settings.dim, settings.width, int(labels.max()) + 1, seed)
        norms: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}

        def look(_step: int, model: TinyVit = model, norms: dict[str, list[np.ndarray]] = norms) -> None:
            h = model.exact(x[held][: settings.images], labels[held][: settings.images])
            for part in PARTS:
                norms[part].append(block_norms(h, part))

        train(
            model,
            x[~held],
            labels[~held],
            settings.steps,
            look,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
            seed=seed,
        )
        for part in PARTS:
            tables[part].append(np.array(norms[part]))
        with torch.no_grad():
            accuracies.append(float((model(x[held]).argmax(1) == labels[held]).double().mean()))
        apart.append(_by_products(settings, model, x[held], labels[held], norms["full"][-1]))
    full, functional = (np.array(tables[part]) for part in PARTS)  # (repeats, steps, groups, groups)
    return Findings(
        "block-heterogeneity",
        "",
        {},
        tuple(_numbers(settings, full, functional, accuracies, apart)),
        _claims(full),
        (*_heats(settings, full), _along(settings, full)),
        remarks=(
            "Frobenius norms of blocks of the mean Hessian over held-out images, in float64, by the exact calculus; "
            "theirs are drawn in float32, as colors without numbers, at step 20,000.",
            "W_Q, W_K, W_V and W_O without their biases, as in theirs.",
        ),
        violations=() if max(apart) < 5 else ("products and exact calculus differ by more than five standard errors",),
    )


def block_norms(h: ExactHessian, part: str) -> np.ndarray:
    """Return Frobenius norms of the mean Hessian's blocks, (groups, groups)."""
    mean, start, places = h.mean(part), 0, {}
    for name in h.names:
        size = int(np.prod(h.shapes[name]))
        places[name] = torch.arange(start, start + size)
        start += size
    rows = [torch.cat([places[name] for name in names]) for names in GROUPS.values()]
    return np.array([[float(mean[a][:, b].norm()) for b in rows] for a in rows])


def _by_products(settings: BlockSettings, model: TinyVit, x: Any, labels: Any, exact: np.ndarray) -> float:
    """Return by how many standard errors products with random vectors differ from the exact norms, at most."""
    hv = PerSampleHessian(
        model,
        F.cross_entropy,
        x[: settings.images],
        labels[: settings.images],
        params=[f"block.{name}" for names in GROUPS.values() for name in names],
        check=False,
    )
    groups = {group: [f"block.{name}" for name in names] for group, names in GROUPS.items()}
    table = block_table(hv, groups, parts=["full"], num_vectors=settings.vectors, max_steps=2)
    found = {block.group: (block.frobenius["full"], block.frobenius_stderr["full"]) for block in table.blocks}
    return max(
        abs(found[group][0] - exact[place, place]) / max(found[group][1], 1e-9 * exact[place, place])
        for place, group in enumerate(GROUPS)
    )


def _numbers(
    settings: BlockSettings, full: np.ndarray, functional: np.ndarray, accuracies: list[float], apart: list[float]
) -> list[Number]:
    found = [measured("accuracy, held out", accuracies, spread=0.05)]
    for place, step in ((0, settings.steps[0]), (-1, settings.steps[-1])):
        for row, group in enumerate(GROUPS):
            found.append(
                measured_ratio(
                    f"step {step}: {group}, norm of the diagonal block",
                    full[:, place, row, row],
                    spread=_share(full, place, row),
                )
            )
        share = functional[:, place].diagonal(axis1=1, axis2=2) / full[:, place].diagonal(axis1=1, axis2=2)
        for row, group in enumerate(list(GROUPS)[:2]):
            found.append(measured(f"step {step}: {group}, functional over full", share[:, row], spread=0.1))
    found.append(Number("products against exact, largest distance in standard errors", max(apart), spread=3.0))
    return found


def _share(full: np.ndarray, place: int, row: int) -> float:
    return 0.2 * float(full[:, place, row, row].mean())


def _ratio(full: np.ndarray, place: int, above: str, below: tuple[str, ...]) -> tuple[float, float, float]:
    """Return the ratio of one diagonal block to the largest of some others: geometric mean and 95 % interval."""
    names = list(GROUPS)
    diagonal = full[:, place].diagonal(axis1=1, axis2=2)
    ratio = diagonal[:, names.index(above)] / diagonal[:, [names.index(name) for name in below]].max(1)
    value, low, high = np.exp(mean_interval(np.log(ratio)))
    return float(value), float(low), float(high)


def _claims(full: np.ndarray) -> tuple[Claim, ...]:
    others = tuple(name for name in GROUPS if name != "values")
    attention = ("queries", "keys")
    found = []
    for place, when in ((0, "at the start"), (-1, "after training")):
        against = {
            "queries and keys": _ratio(full, place, "values", attention),
            "every other block": _ratio(full, place, "values", others),
        }
        for what, ratio in against.items():
            value, low, high = ratio
            found.append(
                Claim(
                    f"The block of the values dominates {what} {when}.",
                    SOURCE,
                    verdict_of(sign(ratio, of=1.0)),
                    f"its norm is {value:.2f} ({low:.2f} to {high:.2f}) times that of the largest of them.",
                )
            )
    value, low, high = ratio = _ratio(full, -1, "keys", ("queries", "W_1", "W_2"))
    found.append(
        Claim(
            "After training the block of the keys is far larger than those of queries, W_1 and W_2.",
            SOURCE,
            verdict_of(sign(ratio, of=1.0)),
            f"it is {value:.2f} ({low:.2f} to {high:.2f}) times the largest of them.",
        )
    )
    return tuple(found)


def _heats(settings: BlockSettings, full: np.ndarray) -> tuple[Heat, ...]:
    return tuple(
        heat(
            f"step {settings.steps[place]}",
            list(GROUPS),
            list(GROUPS),
            np.exp(np.log(full[:, place]).mean(0)),
            "Frobenius norms of blocks of the mean Hessian, geometric mean over starts.",
        )
        for place in (0, -1)
    )


def _along(settings: BlockSettings, full: np.ndarray) -> Panel:
    lines = tuple(
        line(
            group,
            settings.steps,
            full[:, :, row, row].mean(0),
            full[:, :, row, row].min(0),
            full[:, :, row, row].max(0),
        )
        for row, group in enumerate(GROUPS)
    )
    return Panel("diagonal blocks along training", "step", "Frobenius norm", lines, "y", "Bands reach over the starts.")


BLOCK_HETEROGENEITY = Reproduction(
    "block-heterogeneity",
    "Which blocks of the Hessian dominate",
    SOURCE,
    BlockSettings,
    measure,
    quick={
        "data": "digits",
        "patch": 4,
        "dim": 6,
        "width": 8,
        "steps": (0, 50, 200),
        "images": 32,
        "repeats": 2,
        "vectors": 8,
    },
    needs=NEEDS_MNIST,
)
