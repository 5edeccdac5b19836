"""A made-up result.json: three ways to train, curves as they look in earnest, and all that can be odd about them."""

from itertools import pairwise, product
from typing import Any

import numpy as np

from stillscape.convergence import settling_surface, share_within
from stillscape.experiments.landscape_result import packed

SIZES = [50, 100, 200, 400]
CLASSES = ["normal", "<script>alert('class')</script>", 'a & b "quoted"', "melanoma in situ"]
HELD_OUT = 500
NATS = "nats"

# accuracy at 50, 100, 200, 400; held-out loss; training loss
_SHAPES: dict[str, tuple[list[float], list[float], list[float]]] = {
    "head": ([0.842, 0.889, 0.907, 0.912], [0.553, 0.402, 0.334, 0.318], [0.061, 0.098, 0.143, 0.182]),
    "last-layers:1": ([0.820, 0.884, 0.911, 0.925], [0.602, 0.421, 0.322, 0.281], [0.012, 0.018, 0.029, 0.041]),
    "lora:4": ([0.655, 0.792, 0.868, 0.921], [1.121, 0.704, 0.431, 0.274], [0.310, 0.181, 0.092, 0.051]),
}
_VERDICTS: dict[str, dict[str, Any]] = {
    "head": {
        "status": "reached", "k_star": 200, "low": 100, "high": 200,
        "sentence": "200 images are enough for the head: the last doubling, from 200 to 400 images, brought +0.5 "
        "points of accuracy (90 % interval +0.1 to +0.9), no more than the tolerance of 1 point.",
    },
    "last-layers:1": {
        "status": "cannot_tell", "k_star": None, "low": None, "high": None,
        "sentence": "These runs cannot tell: the last doubling brought +1.4 points, but its interval "
        "(0.2 to 2.6) is wider than the tolerance. Hold out more images, repeat more often, or accept a larger one.",
    },
    "lora:4": {
        "status": "not_reached", "k_star": None, "low": None, "high": None,
        "sentence": "400 images are not enough: the last doubling still brought +5.3 points (3.9 to 6.8).",
    },
}  # fmt: skip


def example_result(
    adapts: tuple[str, ...] = ("head", "last-layers:1", "lora:4"), leader: str = "head"
) -> dict[str, Any]:
    """Return a result of the given adaptations whose overall verdict is that of `leader`."""
    return {
        "schema": 1,
        "question": {
            "data": "skin & moles", "model": "bundled-vit", "metric": "accuracy", "epsilon": 0.01, "epsilon_loss": 0.02,
            "target": None, "level": 0.9, "sizes": SIZES, "adapts": list(adapts), "evaluation": "5-fold cross-fitting",
            "num_images": HELD_OUT, "num_classes": len(CLASSES), "num_groups": None, "repeats": 3, "seeds": 2,
        },
        "provenance": {
            "stillscape": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2",
            "numpy": "2.4.6", "threads": 2,
            "data_fingerprint": "9f2c41d07be355aa", "model_fingerprint": "c41b77e2900d18f3",
        },
        "verdict": {**_VERDICTS[leader], "adapt": leader},
        "results": [_entry(adapt) for adapt in adapts],
    }  # fmt: skip


def _entry(adapt: str) -> dict[str, Any]:
    accuracy, heldout, train = _SHAPES[adapt]
    width = {"head": 0.004, "last-layers:1": 0.012, "lora:4": 0.0145}[adapt]
    cells = _cells(accuracy, heldout, train, failed=adapt == "lora:4")
    return {
        "adapt": adapt,
        "verdict": dict(_VERDICTS[adapt]),
        "criteria": _criteria(adapt),
        "curves": _curves(accuracy, heldout, train),
        "gains": [
            {"from": a, "to": b, "mean": accuracy[i + 1] - accuracy[i], "low": accuracy[i + 1] - accuracy[i] - width,
             "high": accuracy[i + 1] - accuracy[i] + width}
            for i, (a, b) in enumerate(pairwise(SIZES))
        ],
        "noise_floor": {"metric": 0.0125, "heldout_loss": 0.021},
        "variance": [
            {"k": k, "permutations": 0.16 / np.sqrt(k), "seeds": None if adapt == "head" else 0.004, "heldout": 0.0125}
            for k in SIZES
        ],
        "per_class": [
            {"class": name, "count": 125 - 20 * i, "k": SIZES,
             "recall": [None if i == 3 and at == 0 else min(1.0, a - 0.06 * i + 0.05) for at, a in enumerate(accuracy)],
             "status": ("enough", "short", "cannot_tell", "cannot_tell")[i],
             "gain": None if i == 3 else
             {"from": 200, "to": 400, "mean": 0.02 * i, "low": 0.02 * i - 0.008, "high": 0.02 * i + 0.008}}
            for i, name in enumerate(CLASSES)
        ],
        "spectrum": example_spectrum(
            ("head",) if adapt == "head" else ("query", "key", "value", "feed-forward", "<u>LayerNorm</u>", "head")
        ),
        "constants": {
            "loss_bound": {"value": 7.31, "meaning": "largest held-out loss measured, nats"},
            "hessian_bound": {"value": 218.4, "meaning": "largest directional curvature measured"},
            "radius": {"value": 0.83, "meaning": "largest distance between optima"},
        },
        "cells": cells,
        "notes": ["The held-out parts hold 100 images each."] if adapt == "lora:4" else [],
    }  # fmt: skip


def _cells(accuracy: list[float], heldout: list[float], train: list[float], *, failed: bool) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    cells = [
        {
            "k": k, "permutation": permutation, "seed": seed, "status": "ok", "reason": "",
            "accuracy": accuracy[place] + rng.normal() * 0.12 / np.sqrt(k),
            "heldout_loss": heldout[place] * (1 + rng.normal() * 0.05), "train_loss": train[place],
            "gradient_norm": 3.2e-9, "distance": 0.83, "steps": 120 + k, "stop": "steps done",
        }
        for (place, k), permutation, seed in product(enumerate(SIZES), range(3), range(2))
    ]  # fmt: skip
    if failed:
        nothing = dict.fromkeys(
            ("accuracy", "heldout_loss", "train_loss", "gradient_norm", "distance", "steps", "stop")
        )
        cells[1] = {**cells[1], **nothing, "status": "failed", "reason": "the loss became NaN at step 12 <b>of</b> 150"}
    return cells


def _criterion(status: str, epsilon: float, assumes: list[str], reason: str, **sizes: Any) -> dict[str, Any]:
    base = {"status": status, "k_star": None, "low": None, "high": None, "epsilon": epsilon, "assumes": assumes}
    return {**base, "is_null": False, "reason": reason, **sizes}


def _criteria(adapt: str) -> dict[str, Any]:
    verdict = _VERDICTS[adapt]
    sizes = {key: verdict[key] for key in ("k_star", "low", "high")}
    fresh = ["new images come from the same source"]
    null = ["an identity: it holds for any model, with slope -1"]
    plug_in = ["plug-in constants: measured maxima are no certificates", "the optimum does not move from k to k + 1"]
    return {
        "accuracy": _criterion(
            verdict["status"], 0.01, fresh, "the gain of the next doubling stays within 1 point", **sizes
        ),
        "heldout_loss": _criterion("not_reached", 0.02, fresh, "the last doubling still lowers the loss by 0.04 nats"),
        "fixed_surface": _criterion(
            "reached", 0.02, null, "mean absolute deviation 0.5 over k + 1", k_star=25, low=22, high=28, is_null=True
        ),
        "neighbourhood": _criterion(
            "reached", 0.02, null, "the same identity at other weights", k_star=41, low=37, high=46, is_null=True
        ),
        "theorem3_printed": _criterion("vacuous_bound", 0.02, plug_in, "the bound needs 8,252 images", k_star=8252),
        "theorem3_rigorous": _criterion("vacuous_bound", 0.02, plug_in, "the bound needs 7,886 images", k_star=7886),
    }


def _curve(k: Any, mean: Any, kind: str = "measured", unit: str = NATS, width: Any = None) -> dict[str, Any]:
    mean = np.asarray(mean, dtype=float)
    low, high = (None, None) if width is None else ((mean - width).tolist(), (mean + width).tolist())
    none = [None] * len(mean)
    return {"k": list(k), "mean": mean.tolist(), "low": low or none, "high": high or none, "kind": kind, "unit": unit}


def _curves(accuracy: list[float], heldout: list[float], train: list[float]) -> dict[str, Any]:
    k = np.arange(1, HELD_OUT)
    far = np.append(k, [1000, 2000])
    rng = np.random.default_rng(3)
    spread, wobble = heldout[-1] * 1.4, np.exp(0.05 * rng.normal(size=len(k)))
    near = 1.7 * spread / (k + 1)
    broken = _curve(SIZES, [0.0, 0.41, 0.62, 0.83], unit="")
    broken["mean"][0] = None
    return {
        "accuracy": _curve(SIZES, accuracy, unit="share", width=0.18 / np.sqrt(SIZES) + 0.006),
        "heldout_loss": _curve(SIZES, heldout, width=0.5 / np.sqrt(SIZES)),
        "train_loss": _curve(SIZES, train, width=0.05 / np.sqrt(SIZES)),
        "fixed_surface": _curve(k, spread / (k + 1) * wobble, "identity", width=0.6 * spread / (k + 1)),
        "fixed_surface_closed_form": _curve(far, spread / (far + 1), "closed form"),
        "neighbourhood": _curve(k, near * wobble, "identity", width=0.5 * near),
        "neighbourhood_loss_part": _curve(k, spread / (k + 1), "identity"),
        "neighbourhood_gradient_part": _curve(k, 0.6 * spread / (k + 1), "identity"),
        "neighbourhood_remainder_part": _curve(k, 0.21 * spread / (k + 1), "identity"),
        "theorem3_printed": _curve(SIZES, 165.0 / (np.array(SIZES) + 1.0), "plug-in bound"),
        "theorem3_rigorous": _curve(SIZES, 157.7 / (np.array(SIZES) + 1.0), "plug-in bound"),
        "hessian_difference": _curve(k, 6 + 2 / k, unit="curvature", width=3 / np.sqrt(k)),
        "hessian_norm": _curve(k, 1 + 4 / k, unit="curvature", width=0.9 / np.sqrt(k)),
        "hessian_bound": _curve(k, np.full(len(k), 60.0), "plug-in bound", unit="curvature"),
        "distance": broken,
        **_evidence(heldout, train),
    }  # fmt: skip


def _evidence(heldout: list[float], train: list[float]) -> dict[str, Any]:
    fall, gap = -np.diff(heldout), np.subtract(heldout, train)
    return {
        "heldout_loss_gain": _curve(SIZES[:-1], fall, width=0.2 / np.sqrt(SIZES[:-1])),
        "optimism_gap": _curve(SIZES, gap, width=0.3 / np.sqrt(SIZES)),
        "optimism_gain": _curve(SIZES, gap / 4, "estimate", width=0.07 / np.sqrt(SIZES)),
        "takeuchi_gain": _curve(SIZES, 40 / np.array(SIZES), "estimate", width=4 / np.array(SIZES)),
        "next_doubling_gain": _curve(SIZES, np.append(fall, fall[-1] / 2), "estimate", width=0.2 / np.sqrt(SIZES)),
    }


EVIL_CLASS = "<img src=x onerror=alert(1)>"


def surface_result(points: int = 9, images: int = 40) -> dict[str, Any]:
    """Return the result with surfaces over the planes of two adaptations, and a class that would like to be markup."""
    result = example_result()
    for number, entry in enumerate(result["results"][:2]):
        entry["surface"] = example_surface(points, images, seed=number)
    result["results"][0]["per_class"][0]["class"] = EVIL_CLASS
    result["results"][0]["said"] = [f"Short of data: {EVIL_CLASS}."]
    return result


def example_trail(k: int, end: list[float], off: float) -> dict[str, Any]:
    """Return a way that begins beyond the plane's edge and ends at a point of it."""
    start, out = np.array([1.3, 1.0]), 4.0
    shares = np.linspace(0, 1, 6) ** 0.5
    points = []
    for step, share in zip((0, 1, 4, 9, 16, 25), shares, strict=True):
        at, beyond = (1 - share) * start + share * np.array(end), (1 - share) * out + share * off
        moved = float(np.hypot(np.linalg.norm(at - start), out - beyond))
        points.append({"step": step, "at": at.tolist(), "off": float(beyond), "moved": moved})
    return {"k": k, "points": points, "hidden": float((out - off) ** 2 / points[-1]["moved"] ** 2)}


def example_spectrum(groups: tuple[str, ...]) -> dict[str, Any]:
    """Return a spectrum of four sizes: three outliers that settle, a bulk, one negative; shares that settle."""
    sizes = []
    for k in (16, 32, 50, 64):
        values = [8 + 20 / k, 5.0, 3 + 2 / k, 0.2, -0.15, 0.1, 0.05, 0.02]
        shares = np.array([1 / (2 + n) + (0.3 / k if n else -0.3 / k) for n in range(len(groups))])
        shares = 0.9 * shares / shares.sum() if len(groups) > 1 else np.ones(1)
        sizes.append({
            "k": k, "values": values, "values_stderr": [None if k == 1 else abs(v) / k**0.5 for v in values],
            "residuals": [1e-3] * len(values), "converged": True, "outliers": None if k == 16 else 3, "gap": 15.0,
            "frobenius": 10 + 1 / k, "frobenius_stderr": 0.1, "trace": 16.0, "trace_stderr": 0.4, "stable_rank": 1.5,
            "stable_rank_stderr": 0.05, "intrinsic_dimension": 2.1, "intrinsic_dimension_stderr": 0.1,
            "blocks": [{"group": name, "size": 10, "norm_share": float(share), "norm_share_stderr": 0.02}
                       for name, share in zip(groups, shares, strict=True)],
            "between_blocks": float(1 - shares.sum()), "between_blocks_stderr": 0.01,
        })  # fmt: skip
    return {"version": 1, "images": 64, "parameters": 100, "num_classes": 4, "num_sample_products": 999, "sizes": sizes}


def example_surface(points: int, images: int, seed: int) -> dict[str, Any]:
    """Return quadratic losses around centers that scatter, as a result holds them."""
    rng = np.random.default_rng(seed)
    centers, scale = rng.normal(scale=0.6, size=(images, 2)), np.array([1.0, 0.3])
    planes = []
    for name, axes in {
        "curvature": ("curvature 1", "curvature 2"),
        "path": ("path", "curvature 1"),
        "random": ("random 1", "random 2"),
    }.items():
        first, second = np.linspace(-1.0, 1.0, points), np.linspace(-1.5, 1.5, points)
        places = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1)
        losses = (scale * (places[..., None, :] - centers) ** 2).sum(-1) + 0.02
        found, sizes = settling_surface(losses, [1, 3, 8, 20]), [50, 100, 200, 400]
        share = share_within(losses, [1, 3, 8, 20], 0.05)
        planes.append({
            "name": name,
            "axes": [{"name": axis, "low": at[0], "high": at[-1], "length": 1.0, "curvature": None, "at": at.tolist()}
                     for axis, at in zip(axes, (first, second), strict=True)],
            "k": found.k.tolist(),
            **{each: packed(getattr(found, each)) for each in ("losses", "next_step", "to_whole")},
            "share_within": {end: getattr(share, end).tolist() for end in ("mean", "low", "high")},
            "settled": found.settled(0.05),
            "way": [{"k": k, "at": [0.8 - 0.2 * n if n < 3 else 0.0, 0.1 * (3 - n)], "off": 1.5 - 0.5 * n}
                    for n, k in enumerate(sizes)],
            "trails": [example_trail(k, [0.8 - 0.2 * n if n < 3 else 0.0, 0.1 * (3 - n)], 1.5 - 0.5 * n)
                       for n, k in enumerate(sizes) if n != 2],
        })  # fmt: skip
    return {"images": images, "tolerance": 0.05, "planes": planes}
