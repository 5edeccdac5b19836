"""How Hessian blocks grow with the scale of the input (Ormaniec, Dangel and Singh, 2024), by two roads."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stillscape.curvature import PerSampleHessian, frobenius_norm
from stillscape.hessian import MSE, CrossEntropy, self_attention, transformer_block
from stillscape.reproductions.addition import VOCABULARY, Adder, LinearAttention, addition, answer_loss, normal
from stillscape.reproductions.catalogue import Reproduction, Settings, Workplace
from stillscape.reproductions.findings import Claim, Findings, Number, Panel, line, measured, slope

SOURCE = "Ormaniec, Dangel and Singh (2024), arXiv 2410.10986"
PICKLES = "their result files, read by us (20 repeats, Hutchinson's norms)"
PARTS = ("full", "outer", "functional")
NEGLIGIBLE = 1e-12  # of the whole block: what rounding leaves of a part that is zero
#: (block, part) -> slope of the norm in sigma that theory gives, and the one in their files; softmax, no LayerNorm.
SOFTMAX = {
    ("V", "outer"): (2.0, 2.00),
    ("V", "full"): (2.0, 1.99),
    ("Q", "functional"): (5.0, 5.00),
    ("Q", "outer"): (6.0, 6.01),
    ("Q", "full"): (5.0, 5.01),
}
#: Depth -> the same of linear attention's outer part.
LINEAR = {1: (6.0, 6.00), 2: (18.0, 18.0), 3: (54.0, 54.0)}
#: Pre-LN, one layer: theirs alone; theory says only that LayerNorm takes the growth away.
PRE_NORM = {("V", "full"): -0.69, ("Q", "full"): -0.36, ("Q", "outer"): -0.64, ("Q", "functional"): -0.41}

Norms = dict[tuple[str, str], float]


class GrowthSettings(Settings):
    """Settings of the growth rates."""

    sigmas: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    wide_sigmas: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    linear_sigmas: tuple[float, ...] = (0.5, 0.7, 1.0, 1.4, 2.0)
    repeats: int = 5
    digits: int = 5
    samples: int = 32
    exact_dim: int = 24
    dim: int = 128
    width: int = 512
    linear_dim: int = 12
    vectors: int = 6


def measure(settings: GrowthSettings, place: Workplace) -> Findings:
    """Measure slopes of block norms in the scale of the input, exactly and by products."""
    cases: dict[str, tuple[tuple[float, ...], Callable[[float, int], Norms]]] = {
        "softmax, exact": (settings.sigmas, lambda s, r: _exact_layer(settings, s, r)),
        "softmax, by products": (settings.sigmas, lambda s, r: _products(settings, s, r, pre_norm=False)),
        "pre-LN, exact": (settings.wide_sigmas, lambda s, r: _exact_block(settings, s, r)),
        "pre-LN, by products": (settings.wide_sigmas, lambda s, r: _products(settings, s, r, pre_norm=True)),
        "linear, exact": (settings.linear_sigmas, lambda s, r: _exact_linear(settings, s, r)),
        **{
            f"linear, depth {depth}, by products": (
                settings.linear_sigmas,
                partial(_linear_products, settings, depth),
            )
            for depth in LINEAR
        },
    }
    place.progress.stage("measuring growth", len(cases) * settings.repeats)
    curves: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    done = 0
    for name, (sigmas, norms) in cases.items():
        table: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
        for repeat in range(settings.repeats):
            found = [norms(sigma, repeat) for sigma in sigmas]
            for key in found[0]:
                table[key].append([one[key] for one in found])
            done += 1
            place.progress.advance(done)
        curves[name] = _not_rounding({key: np.array(rows) for key, rows in table.items()})
    slopes = {
        name: {key: np.array([slope(cases[name][0], row) for row in rows]) for key, rows in table.items()}
        for name, table in curves.items()
    }
    numbers = tuple(_numbers(slopes))
    return Findings(
        "growth-rates",
        "",
        {},
        numbers,
        _claims(slopes),
        tuple(_panel(name, cases[name][0], table) for name, table in curves.items()),
        remarks=(
            f"Norms are Frobenius norms of blocks of the mean Hessian over {settings.samples} sums of "
            f"{settings.digits} digits, at the start of training; only slopes compare, since their start and ours "
            "differ.",
            f"The exact calculus is run at width {settings.exact_dim}, on attention without a residual connection; "
            f"products at width {settings.dim}, with residual connections and a ReLU network, as theirs.",
            "Of their pre-LN slopes the range of sigma isn't known; ours is the whole of the range shown.",
        ),
    )


def _not_rounding(table: dict[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """Leave out what is zero but for rounding: the functional part of the values."""
    whole = {block: table[block, "full"] if (block, "full") in table else table[block, "outer"] for block, _ in table}
    return {key: rows for key, rows in table.items() if np.all(rows > NEGLIGIBLE * whole[key[0]])}


def _draws(settings: GrowthSettings, repeat: int, salt: int) -> torch.Generator:
    return torch.Generator().manual_seed(settings.seed * 1000 + repeat * 10 + salt)


def _embedded(settings: GrowthSettings, sigma: float, repeat: int, dim: int) -> tuple[Tensor, Tensor]:
    """Return tokens of sums, and embeddings of tokens and places with entries N(0, sigma^2)."""
    generator = _draws(settings, repeat, 1)
    tokens = addition(settings.samples, settings.digits, generator)
    table = torch.randn(VOCABULARY, dim, generator=generator, dtype=torch.float64)
    places = torch.randn(tokens.shape[1], dim, generator=generator, dtype=torch.float64)
    return tokens, sigma * (table[tokens] + places)


def _weights(settings: GrowthSettings, repeat: int, shapes: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    generator = _draws(settings, repeat, 2)
    return {name: normal(*shape, generator).detach() for name, shape in shapes.items()}


def _exact_layer(settings: GrowthSettings, sigma: float, repeat: int) -> Norms:
    dim = settings.exact_dim
    tokens, X = _embedded(settings, sigma, repeat, dim)
    w = _weights(settings, repeat, {"W_Q": (dim, dim), "W_K": (dim, dim), "W_V": (dim, dim), "W_h": (dim, VOCABULARY)})
    loss = CrossEntropy(tokens.roll(-1, 1), w.pop("W_h"), torch.zeros(VOCABULARY, dtype=torch.float64), pool="token")
    return dict(_block_norms(self_attention(X, w["W_Q"], w["W_K"], w["W_V"], loss=loss)))


def _exact_block(settings: GrowthSettings, sigma: float, repeat: int) -> Norms:
    dim = settings.exact_dim
    tokens, X = _embedded(settings, sigma, repeat, dim)
    square = dict.fromkeys(("W_Q", "W_K", "W_V"), (dim, dim))
    w = _weights(settings, repeat, {**square, "W_1": (dim, 4 * dim), "W_2": (4 * dim, dim), "W_h": (dim, VOCABULARY)})
    loss = CrossEntropy(tokens.roll(-1, 1), w.pop("W_h"), torch.zeros(VOCABULARY, dtype=torch.float64), pool="token")
    zeros, ones = torch.zeros(dim, dtype=torch.float64), torch.ones(dim, dtype=torch.float64)
    norms = {"gamma_1": ones, "gamma_2": ones, "beta_1": zeros, "beta_2": zeros}
    biases = {"b_1": torch.zeros(4 * dim, dtype=torch.float64), "b_2": zeros}
    return dict(_block_norms(transformer_block(X, w | norms | biases, loss=loss, activation="relu", norm="pre")))


def _exact_linear(settings: GrowthSettings, sigma: float, repeat: int) -> Norms:
    X, target = _linear_data(settings, sigma, repeat)
    model = LinearAttention(settings.linear_dim, 1, settings.seed + repeat)
    W_Q, W_K, W_V = (weight.detach() for weight in model.weights)
    h = self_attention(X, W_Q, W_K, W_V, loss=MSE(target), attention="linear")
    return {key: norm for key, norm in _block_norms(h) if key[1] == "outer"}


def _block_norms(h: object) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield the Frobenius norms of the mean Hessian's blocks of values and queries, by part."""
    for name in ("V", "Q"):
        for part in PARTS:
            block = h.block(f"W_{name}", f"W_{name}", part).mean(0)  # type: ignore[attr-defined]
            yield (name, part), float(block.norm())


def _products(settings: GrowthSettings, sigma: float, repeat: int, *, pre_norm: bool) -> Norms:
    tokens, X = _embedded(settings, sigma, repeat, settings.dim)
    model = Adder(settings.dim, settings.width, 1, pre_norm, settings.seed + repeat)
    found = {}
    for name in ("V", "Q"):
        hv = PerSampleHessian(model, answer_loss, X, tokens, params=[f"layers.0.W_{name}"], check=False)
        for part in PARTS:
            found[name, part] = frobenius_norm(hv.with_part(part), settings.vectors, seed=repeat).value
    return found


def _linear_data(settings: GrowthSettings, sigma: float, repeat: int) -> tuple[Tensor, Tensor]:
    generator = _draws(settings, repeat, 3)
    shape = (settings.samples, 6, settings.linear_dim)
    X = sigma * torch.randn(shape, generator=generator, dtype=torch.float64)
    return X, torch.randn(shape, generator=generator, dtype=torch.float64)


def _linear_products(settings: GrowthSettings, depth: int, sigma: float, repeat: int) -> Norms:
    X, target = _linear_data(settings, sigma, repeat)
    model = LinearAttention(settings.linear_dim, depth, settings.seed + repeat)
    hv = PerSampleHessian(
        model, lambda z, y: (z - y).square().mean(), X, target, params=["weights.0"], part="outer", check=False
    )
    return {("Q", "outer"): frobenius_norm(hv, settings.vectors, seed=repeat).value}


def _numbers(slopes: dict[str, dict[tuple[str, str], np.ndarray]]) -> Iterator[Number]:
    for case, table in slopes.items():
        for (block, part), values in table.items():
            published = None
            if case.startswith("softmax"):
                published = SOFTMAX.get((block, part), (None, None))[1]
            elif case.startswith("pre-LN"):
                published = PRE_NORM.get((block, part))
            elif block == "Q":
                published = LINEAR[int(case.split("depth ")[1][0]) if "depth" in case else 1][1]
            source = "" if published is None else PICKLES
            yield measured(f"{case}: slope of {block}, {part}", values, published=published, source=source, spread=0.05)


def _claims(slopes: dict[str, dict[tuple[str, str], np.ndarray]]) -> tuple[Claim, ...]:
    off = {
        road: max(abs(slopes[f"softmax, {road}"][key].mean() - theory) for key, (theory, _) in SOFTMAX.items())
        for road in ("exact", "by products")
    }
    linear = max(
        abs(slopes[f"linear, depth {depth}, by products"]["Q", "outer"].mean() - theory)
        for depth, (theory, _) in LINEAR.items()
    )
    norm = max(abs(values.mean()) for road in ("exact", "by products") for values in slopes[f"pre-LN, {road}"].values())
    return (
        Claim(
            "Without LayerNorm the blocks grow as sigma^2 (values), sigma^5 (queries, functional), sigma^6 "
            "(queries, outer).",
            SOURCE,
            "stands" if max(off.values()) < 0.15 else "falls",
            f"slopes are within {off['exact']:.3f} of these by the exact calculus, and within "
            f"{off['by products']:.3f} by products.",
        ),
        Claim(
            "With linear attention the outer part grows as sigma^(2 3^n) in depth n.",
            SOURCE,
            "stands" if linear < 0.15 else "falls",
            f"slopes at depths 1 to 3 are within {linear:.1g} of 6, 18 and 54.",
        ),
        Claim(
            "LayerNorm before each layer takes the growth away.",
            SOURCE,
            "stands" if norm < 1.5 else "falls",
            f"over three decades of sigma no slope is larger than {norm:.2f} in size.",
        ),
    )


def _panel(case: str, sigmas: tuple[float, ...], table: dict[tuple[str, str], np.ndarray]) -> Panel:
    lines = [
        line(f"{block}, {part}", sigmas, rows.mean(0), rows.min(0), rows.max(0))
        for (block, part), rows in table.items()
    ]
    caption = "Lines are means over repeats, bands reach from the smallest to the largest."
    return Panel(case, "scale of the input, sigma", "Frobenius norm of the block", tuple(lines), "xy", caption)


GROWTH_RATES = Reproduction(
    "growth-rates",
    "How Hessian blocks grow with the scale of the input",
    SOURCE,
    GrowthSettings,
    measure,
    quick={
        "sigmas": (0.01, 0.05, 0.2),
        "wide_sigmas": (0.01, 0.1, 1.0, 10.0),
        "linear_sigmas": (0.5, 1.0, 2.0),
        "repeats": 2,
        "digits": 2,
        "samples": 8,
        "exact_dim": 8,
        "dim": 16,
        "width": 32,
        "linear_dim": 6,
        "vectors": 4,
    },
)
