"""Kiselev and Grabovoy (2024): loss differences of fully connected networks, by width and by depth."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from stillscape.convergence import mean_absolute_deviation
from stillscape.reproductions.arrays import grey_images
from stillscape.reproductions.catalogue import Reproduction, Settings, Workplace
from stillscape.reproductions.findings import Claim, Findings, Number, Panel, Verdict, line, sign
from stillscape.reproductions.starts import start_from
from stillscape.reproductions.tiny_vit import train

SOURCE = "Kiselev and Grabovoy (2024), arXiv 2409.11995"
DIGITIZED = "their vector figures, digitized by us; at k = 9,900"
LEVEL = 0.95
DRAWS = 2000
WIDTHS, DEPTHS = (4, 8, 16, 32, 64), (1, 3, 5, 7, 10)
POINTS = {"width": WIDTHS, "depth": DEPTHS}
#: Data set -> what is swept -> |L_k+1 - L_k| at k = 9,900 in the order of POINTS.
PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "MNIST": {"width": (4.8e-5, 7.6e-5, 5.5e-5, 4.0e-5, 2.8e-5), "depth": (4.3e-5, 5.0e-5, 5.6e-5, 8.3e-5, 6.5e-5)},
    "Fashion-MNIST": {
        "width": (4.4e-5, 6.5e-5, 6.3e-5, 5.1e-5, 4.7e-5),
        "depth": (4.7e-5, 5.4e-5, 6.3e-5, 6.3e-5, 6.7e-5),
    },
    "CIFAR-10": {"width": (2.4e-5, 6.0e-5, 7.2e-5, 7.5e-5, 7.4e-5), "depth": (7.8e-5, 8.0e-5, 7.4e-5, 6.5e-5, 6.5e-5)},
    "CIFAR-100": {
        "width": (2.9e-5, 6.8e-5, 8.2e-5, 9.6e-5, 1.04e-4),
        "depth": (1.06e-4, 9.4e-5, 8.2e-5, 6.2e-5, 5.0e-5),
    },
}
#: Their claim: wider networks lower the difference, deeper ones raise it.
CLAIMED = {"width": (-1, "Wider networks lower"), "depth": (1, "Deeper networks raise")}


class MlpSettings(Settings):
    """Settings of the sweeps over width and depth."""

    data: tuple[str, ...] = ("digits", "assets:mnist-5k", "assets:fashion-mnist", "assets:animal-mnist")
    widths: tuple[int, ...] = WIDTHS
    depths: tuple[int, ...] = DEPTHS
    width: int = 16
    depth: int = 5
    steps: int = 1570
    batch: int = 64
    learning_rate: float = 1e-3
    repeats: int = 5


def network(inputs: int, width: int, depth: int, classes: int, seed: int) -> nn.Sequential:
    """Return their network: `depth` + 1 hidden layers of ReLU without biases, and a linear one."""
    with start_from(seed):  # nn.Linear draws its start from the global state
        sizes = [inputs, *[width] * (depth + 1)]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, classes, bias=False))


def measure(settings: MlpSettings, place: Workplace) -> Findings:
    """Train their networks, take the deviation of single losses on training and held-out images, test the trends."""
    sweeps: dict[str, list[tuple[int, int]]] = {
        "width": [(width, settings.depth) for width in settings.widths],
        "depth": [(settings.width, depth) for depth in settings.depths],
    }
    names = {name: name.removeprefix("assets:") for name in settings.data}
    place.progress.stage("training networks", len(names) * settings.repeats)
    done, tables = 0, {}
    for source, name in names.items():
        pixels, classes = grey_images(place.asset(source, "data"))
        x, y = torch.tensor(pixels.reshape(len(pixels), -1), dtype=torch.float32), torch.tensor(classes)
        rows = {sweep: [] for sweep in sweeps}  # type: dict[str, list[Any]]
        for repeat in range(settings.repeats):
            for sweep, shapes in sweeps.items():
                rows[sweep].append([_one(settings, x, y, shape, settings.seed + repeat) for shape in shapes])
            done += 1
            place.progress.advance(done)
        tables[name] = {sweep: np.array(values) for sweep, values in rows.items()}  # (repeats, points, 3)
    trends = {
        (name, sweep): trend(getattr(settings, f"{sweep}s"), table[sweep][:, :, 0], settings.seed)
        for name, table in tables.items()
        for sweep in sweeps
    }
    return Findings(
        "mlp",
        "",
        {},
        tuple(_numbers(settings, tables, trends)),
        _claims(tables, trends),
        tuple(_panel(settings, name, sweep, table[sweep]) for name, table in tables.items() for sweep in sweeps),
        remarks=(
            "As many steps as their 10 epochs of 10,000 images have. Theirs are the first 10,000 training images "
            "and an EMA over k; ours are all images but a fifth, which is held out, and the closed form MAD / (k + "
            "1), so that no smoothing enters.",
            "CIFAR isn't among the data that could be had here; their own numbers for it stand in the table.",
        ),
    )


def _one(settings: MlpSettings, x: Any, y: Any, shape: tuple[int, int], seed: int) -> tuple[float, float, float]:
    """Return the deviation of training losses and of held-out losses, and the accuracy, of one network."""
    held = torch.arange(len(x)) % 5 == 0
    model = network(x.shape[1], *shape, int(y.max()) + 1, seed)
    train(
        model,
        x[~held],
        y[~held],
        (settings.steps,),
        lambda _: None,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        seed=seed,
    )
    with torch.no_grad():
        losses = F.cross_entropy(model(x), y, reduction="none").double()
        right = (model(x[held]).argmax(1) == y[held]).double().mean()
    return mean_absolute_deviation(losses[~held].numpy()), mean_absolute_deviation(losses[held].numpy()), float(right)


def trend(points: tuple[int, ...], values: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Return the rank correlation of means over repeats with the points, and its interval over draws of repeats.

    >>> trend((1, 2, 3), np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]), 0)
    (1.0, 1.0, 1.0)
    """
    rng = np.random.default_rng(seed)

    def correlation(table: np.ndarray) -> float:
        return float(spearmanr(points, table.mean(0)).statistic)

    draws = [correlation(values[rng.integers(len(values), size=len(values))]) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return correlation(values), float(low), float(high)


def _numbers(settings: MlpSettings, tables: dict[str, Any], trends: dict[tuple[str, str], Any]) -> list[Number]:
    found = []
    for (name, sweep), (value, low, high) in trends.items():
        found.append(Number(f"{name}: rank correlation of the difference with {sweep}", value, low, high, spread=0.3))
        deviation = tables[name][sweep][:, :, 0].mean(0)
        for point, one in zip(getattr(settings, f"{sweep}s"), deviation, strict=True):
            found.append(Number(f"{name}: MAD at {sweep} {point}", float(one), unit="nats", spread=0.15 * float(one)))
    for name, sweeps in PUBLISHED.items():
        for sweep, values in sweeps.items():
            correlation = float(spearmanr(POINTS[sweep], values).statistic)
            found.append(
                Number(
                    f"{name}, theirs: rank correlation of the difference with {sweep}",
                    None,
                    published=correlation,
                    source=DIGITIZED,
                )
            )
    return found


def _claims(tables: dict[str, Any], trends: dict[tuple[str, str], Any]) -> tuple[Claim, ...]:
    found = []
    for sweep, (claimed, words) in CLAIMED.items():
        signs = {name: sign(trends[name, sweep]) for name in tables}
        theirs = sum(
            np.sign(spearmanr(POINTS[sweep], values[sweep]).statistic) == claimed for values in PUBLISHED.values()
        )
        agree, against = (sum(sign == s for sign in signs.values()) for s in (claimed, -claimed))
        verdict: Verdict = "stands" if agree == len(signs) else "falls" if against else "cannot_tell"
        found.append(
            Claim(
                f"{words} the difference of losses.",
                SOURCE,
                verdict,
                f"here it does so beyond the interval over starts on {agree} of {len(signs)} data sets, and the "
                f"contrary on {against}; their own figures agree with it on {theirs} of {len(PUBLISHED)}.",
            )
        )
    stuck = _accuracy_correlation(tables)
    found.append(
        Claim(
            "What moves the difference is the shape of the network.",
            SOURCE,
            "amended" if abs(stuck) > 0.5 else "cannot_tell",
            "at fixed weights it is the mean absolute deviation of single losses over k + 1, whatever the shape: "
            f"over all networks its rank correlation with held-out accuracy is {stuck:.2f}.",
        )
    )
    return tuple(found)


def _accuracy_correlation(tables: dict[str, Any]) -> float:
    rows = np.concatenate([values.mean(0) for table in tables.values() for values in table.values()])
    return float(spearmanr(rows[:, 0], rows[:, 2]).statistic)


def _panel(settings: MlpSettings, name: str, sweep: str, table: np.ndarray) -> Panel:
    points = getattr(settings, f"{sweep}s")
    lines = [
        line(label, points, table[:, :, place].mean(0), table[:, :, place].min(0), table[:, :, place].max(0))
        for place, label in ((0, "training images"), (1, "held-out images"))
    ]
    published = {"mnist-5k": "MNIST", "fashion-mnist": "Fashion-MNIST"}.get(name)
    if published and tuple(points) == POINTS[sweep]:
        scaled = [9901 * value for value in PUBLISHED[published][sweep]]
        lines.append(line(f"{published}, theirs, times k + 1", points, scaled, kind="published"))
    return Panel(
        f"{name}: {sweep}", sweep, "(k + 1) |L_k+1 - L_k|, nats", tuple(lines), "x", "Bands reach over starts."
    )


MLP = Reproduction(
    "mlp",
    "Loss differences by width and depth of a fully connected network",
    SOURCE,
    MlpSettings,
    measure,
    quick={"data": ("digits",), "widths": (4, 16, 64), "depths": (1, 5), "steps": 150, "repeats": 2},
    needs="the image sets that benchmarks/verdict/prepare.py makes; others by --data",
)
