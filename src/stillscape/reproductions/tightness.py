"""How loose the library's bounds are along training: bound over truth, for each of them."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillscape import bounds
from stillscape.bounds.counterexamples import printed_theorem_1
from stillscape.experiments.progress import counted
from stillscape.hessian import MSE, CrossEntropy, self_attention
from stillscape.reproductions.addition import normal
from stillscape.reproductions.arrays import grey_images, patches
from stillscape.reproductions.catalogue import NEEDS_MNIST, Reproduction, Settings, Workplace
from stillscape.reproductions.findings import Claim, Findings, Number, Panel, line
from stillscape.reproductions.tightness_of_means import loss_difference_ratios, mean_hessian_ratio
from stillscape.reproductions.tiny_vit import TinyVit, train

DRAFT = "draft b, theorem 1"
LAYER_KINDS = ("printed", "a_priori", "data", "token")
BLOCK_KINDS = ("a_priori", "data")
ROUNDING = 1e-9
HEADS = 2
PANELS = {
    "attention": "an attention layer",
    f"{HEADS} heads": "the same weights as two heads",
    "block": "a block and its head",
    "mean of": "means",
    "loss difference": "Theorem 3",
}


class TightnessSettings(Settings):
    """Settings of the tightness of bounds."""

    data: str = "assets:mnist-5k"
    patch: int = 7
    dim: int = 8
    width: int = 16
    steps: tuple[int, ...] = (0, 10, 100, 1000, 5000)
    batch: int = 64
    learning_rate: float = 2e-3
    images: int = 100
    orders: int = 400
    radius: float = 0.1
    directions: int = 10
    repeats: int = 3


class AttentionLayer(nn.Module):
    """One softmax attention layer, A X W_V, in float64: the layer of Theorem 1."""

    def __init__(self, dim: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W_Q, self.W_K, self.W_V = (normal(dim, dim, generator) for _ in range(3))

    def forward(self, X: Tensor) -> Tensor:
        """Return the tokens after the layer."""
        scores = (X @ self.W_Q) @ (X @ self.W_K).transpose(-1, -2) / X.shape[-1] ** 0.5
        return scores.softmax(-1) @ X @ self.W_V


def measure(settings: TightnessSettings, place: Workplace) -> Findings:
    """Train an attention layer by MSE and a block by cross-entropy, and hold every bound against what it bounds."""
    pixels, classes = grey_images(place.asset(settings.data, "data"))
    x, labels = patches(pixels, settings.patch), torch.tensor(classes)
    ratios: dict[str, list[list[np.ndarray]]] = {}
    for repeat in counted(range(settings.repeats), settings.repeats, "holding bounds against truth", place.progress):
        for name, rows in (*_layer(settings, x, repeat).items(), *_block(settings, x, labels, repeat).items()):
            ratios.setdefault(name, []).append(rows)
    tables = {name: np.array(rows) for name, rows in ratios.items()}  # (repeats, steps, samples)
    below = {name: int((table < 1 - ROUNDING).sum()) for name, table in tables.items()}
    proved = {name: count for name, count in below.items() if "printed" not in name and "normal" not in name}
    return Findings(
        "tightness",
        "",
        {},
        tuple(_numbers(settings, tables, below)),
        _claims(settings, tables, below),
        tuple(_panel(settings, tables, start, title) for start, title in PANELS.items()),
        remarks=(
            "Bound over the exact spectral norm of single samples' Hessians, in float64; of means, bound over the "
            "95 % quantile over random orders at a tenth of the samples; of loss differences, bound at each k over the "
            "largest in several directions from w*.",
            "Left out are bounds that ask for a Lipschitz constant of the Hessian, which nothing gives for attention.",
        ),
        violations=tuple(f"{name} is below the truth {count} times" for name, count in proved.items() if count),
    )


def _layer(settings: TightnessSettings, x: Tensor, repeat: int) -> dict[str, list[np.ndarray]]:
    """Return ratios for the attention layer, which learns the outputs of another one from patches of images."""
    seed = settings.seed + 10 * repeat
    generator = torch.Generator().manual_seed(seed + 1)
    X = x @ normal(x.shape[-1], settings.dim, generator).detach()
    target = AttentionLayer(settings.dim, seed + 2)(X).detach()
    model = AttentionLayer(settings.dim, seed)
    found: dict[str, list[np.ndarray]] = defaultdict(list)

    def look(_step: int) -> None:
        part = slice(0, settings.images)
        loss, w = MSE(target[part]), (model.W_Q.detach(), model.W_K.detach(), model.W_V.detach())
        h = self_attention(X[part], *w, loss=loss)
        truth = h.spectral_norm()
        for kind in LAYER_KINDS:
            bound = bounds.self_attention(X[part], *w, loss=loss, kind=kind)
            found[f"attention, {kind}"].append((bound / truth).numpy())
        heads = self_attention(X[part], *w, loss=loss, heads=HEADS).spectral_norm()
        for kind in LAYER_KINDS[1:]:
            bound = bounds.multi_head_attention(X[part], *w, loss=loss, heads=HEADS, kind=kind)
            found[f"{HEADS} heads, {kind}"].append((bound / heads).numpy())
        of_means = mean_hessian_ratio(h.dense(), settings.images // 10, settings.orders, settings.seed)
        found["mean of Hessians, matrix_bernstein"].append(np.array([of_means]))
        differences = loss_difference_ratios(
            model, X[part], target[part], truth, settings.radius, settings.directions, settings.seed
        )
        for kind, ratios in differences.items():
            found[f"loss difference, {kind}"].append(ratios)

    train(
        model,
        X,
        target,
        settings.steps,
        look,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        seed=seed,
        loss=lambda z, y: (z - y).square().mean(),
    )
    return found


def _block(settings: TightnessSettings, x: Tensor, labels: Tensor, repeat: int) -> dict[str, list[np.ndarray]]:
    """Return ratios for the post-norm block, for the head behind it, and for means of its losses."""
    seed, held = settings.seed + 10 * repeat, torch.arange(len(x)) % 2 == 0
    model = TinyVit(x.shape[2], x.shape[1], settings.dim, settings.width, int(labels.max()) + 1, seed, plain=True)
    names = [f"block, {kind}" for kind in BLOCK_KINDS] + ["head", *(f"mean of losses, {kind}" for kind in _MEANS)]
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}

    @torch.no_grad()
    def look(_step: int) -> None:
        rows, y = x[held][: settings.images], labels[held][: settings.images]
        params = {name: p.detach() for name, p in model.block.items()}
        loss = CrossEntropy(y, model.W_h.detach(), model.b_h.detach(), pool="mean")
        truth = model.exact(rows, y).spectral_norm()
        for kind in BLOCK_KINDS:
            found[f"block, {kind}"].append(
                (bounds.transformer_block(model.embed(rows), params, loss=loss, kind=kind) / truth).numpy()
            )
        found["head"].append(_head_ratio(model, rows))
        for kind, ratio in _mean_ratios(settings, model, x[held], labels[held]):
            found[f"mean of losses, {kind}"].append(np.array([ratio]))

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
    return found


def _head_ratio(model: TinyVit, rows: Tensor) -> np.ndarray:
    """Return the head's bound over ||z||^2 ||Sigma_p||, with z the pooled tokens and a 1 behind them."""
    pooled = model.pooled(rows)
    p = (pooled @ model.W_h + model.b_h).softmax(1)
    covariance = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    truth = (pooled.square().sum(1) + 1) * torch.linalg.matrix_norm(covariance, 2)
    return np.asarray(bounds.softmax_head(pooled.numpy()) / truth.numpy())


_MEANS = ("deterministic", "hoeffding_serfling", "bernstein_serfling", "normal")


def _mean_ratios(settings: TightnessSettings, model: TinyVit, x: Tensor, labels: Tensor) -> Iterator[tuple[str, float]]:
    """Yield bound over the 95 % quantile of |L_k - L_m| at k = m / 10, over random orders."""
    losses = nn.functional.cross_entropy(model(x), labels, reduction="none").numpy()
    m, rng = len(losses), np.random.default_rng(settings.seed)
    k = m // 10
    draws = [losses[rng.permutation(m)[:k]].mean() - losses.mean() for _ in range(settings.orders)]
    truth = np.quantile(np.abs(draws), 0.95)
    for kind in _MEANS:
        given: dict[str, Any] = {"loss_bound": float(losses.max())} if kind != "normal" else {}
        if kind in ("bernstein_serfling", "normal"):
            given["std"] = float(losses.std())
        yield kind, float(bounds.mean_deviation(k, kind=kind, population=m, **given) / truth)


def _numbers(settings: TightnessSettings, tables: dict[str, np.ndarray], below: dict[str, int]) -> list[Number]:
    found = []
    for name, table in tables.items():
        for place, step in ((0, settings.steps[0]), (-1, settings.steps[-1])):
            low, median, high = np.quantile(table[:, place], [0.0, 0.5, 1.0])
            found.append(
                Number(
                    f"{name}: bound over truth at step {step}, median (smallest to largest)",
                    float(median),
                    float(low),
                    float(high),
                    spread=float(median),
                )
            )
        found.append(
            Number(f"{name}: times below the truth, of {table.size}", float(below[name]), spread=0.02 * table.size)
        )
    return found


def _claims(settings: TightnessSettings, tables: dict[str, np.ndarray], below: dict[str, int]) -> tuple[Claim, ...]:
    printed, token = tables["attention, printed"][:, -1], tables["attention, token"][:, -1]
    example = printed_theorem_1()
    exact = self_attention(*example.layer, loss=example.loss).spectral_norm()
    counter = float(exact / bounds.self_attention(*example.layer, loss=example.loss, kind="printed"))
    certified = [
        float(np.median(tables[f"mean of losses, {kind}_serfling"][:, -1])) for kind in ("hoeffding", "bernstein")
    ]
    layers = ("attention, a_priori", "attention, data", "attention, token", *(f"block, {kind}" for kind in BLOCK_KINDS))
    return (
        Claim(
            "Theorem 1 bounds the Hessian of a self-attention layer.",
            DRAFT,
            "falls" if counter > 1 else "cannot_tell",
            f"as printed it is broken {counter:.2f} times over by the counterexample of `stillscape audit`; on these "
            f"trained layers it was below the truth {below['attention, printed']} of "
            f"{tables['attention, printed'].size} times, and {np.median(printed):.3g} times above it in the median.",
        ),
        Claim(
            "A bound that is proved can be informative.",
            "ours",
            "stands" if np.median(token) < 10 else "amended",
            f"the bound by tokens is {np.median(token):.2f} times the truth after training, that of the whole block "
            f"from measured stages {np.median(tables['block, data'][:, -1]):.1f} times, from norms alone "
            f"{np.median(tables['block, a_priori'][:, -1]):.1e} times: vacuous. None was below the truth in "
            f"{sum(tables[name].size for name in layers)} cases.",
        ),
        Claim(
            "The theory gives the sufficient number of samples.",
            "draft a, abstract",
            "falls" if min(certified) > 2 else "stands",
            "of the bounds on |L_k - L_m| the one that is asymptotic is "
            f"{np.median(tables['mean of losses, normal'][:, -1]):.2f} times the truth, the certified ones "
            f"{certified[0]:.1f} and {certified[1]:.1f} times, and they speak of fixed weights only.",
        ),
    )


def _panel(settings: TightnessSettings, tables: dict[str, np.ndarray], start: str, title: str) -> Panel:
    lines = []
    for name, table in tables.items():
        if name.startswith(start) or (start == "block" and name == "head"):
            flat = table.transpose(1, 0, 2).reshape(len(settings.steps), -1)
            ends = np.quantile(flat, [0.5, 0.0, 1.0], axis=1)
            lines.append(line(name.split(", ")[-1], [max(step, 1) for step in settings.steps], *ends))
    lines.append(
        line("the truth", [max(step, 1) for step in settings.steps], np.ones(len(settings.steps)), kind="bound")
    )
    return Panel(
        f"{title}: bound over truth",
        "step (start drawn at 1)",
        "ratio",
        tuple(lines),
        "xy",
        "Median, smallest to largest.",
    )


TIGHTNESS = Reproduction(
    "tightness",
    "Bound over truth for the bounds, along training",
    "drafts a and b, theorems 1 and 3",
    TightnessSettings,
    measure,
    quick={
        "data": "digits",
        "patch": 4,
        "dim": 4,
        "width": 6,
        "steps": (0, 20, 200),
        "images": 30,
        "orders": 100,
        "repeats": 1,
    },
    needs=NEEDS_MNIST,
)
