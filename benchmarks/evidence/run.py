"""How well does the surface of a linear head foretell what the next doubling of the data brings? On digits, with truth.

    python benchmarks/evidence/run.py            # pixels and the bundled ViT's features; some ten minutes on one core
    python benchmarks/evidence/run.py --small    # two orders of the pixels; for a look, not for the record

For each strength of the penalty and each of several random orders, softmax regression is fitted to its optimum on
growing parts of the digits. At every size stand the true gain of doubling it, on held-out images, and what the surface
says at the smaller size. Ratios are of means over orders.
"""

import argparse
import json
import os
import platform
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from stillscape.data import open_images
from stillscape.evidence import (
    SoftmaxHead,
    added_sample,
    leave_one_out_losses,
    softmax_gradients,
    softmax_hessian,
    takeuchi,
    takeuchi_status,
)
from stillscape.models import load_pretrained, parse_adaptation, pixel_values, split_model
from stillscape.training import Recipe, fit

NAMES = ("true", "takeuchi_gain", "optimism_gain", "next_doubling_gain", "alo_loss", "heldout_loss")


def pixels() -> np.ndarray:
    """Return the 64 grey values of each digit."""
    return (load_digits().data / 16).astype(np.float32)


def features() -> np.ndarray:
    """Return what the bundled ViT's head reads."""
    pretrained, images = load_pretrained("bundled-vit"), open_images("digits")
    encode = split_model(pretrained, parse_adaptation("head"), 10, 0).encode
    with torch.no_grad():
        batches = [
            encode(pixel_values(pretrained.processor, [images.read(row) for row in rows]))
            for rows in np.array_split(np.arange(len(images.labels)), 8)
        ]
    return torch.cat(batches).float().numpy()


def weights_of(x: np.ndarray, y: np.ndarray, rows: np.ndarray, l2: float) -> np.ndarray:
    """Return the optimum's weights, the bias last."""
    layer = nn.Linear(x.shape[1], 10)
    found = fit(layer, x, y, rows, Recipe(l2=l2), seed=0)
    assert found.status == "ok", found.reason
    return np.concatenate([layer.weight.detach().numpy(), layer.bias.detach().numpy()[:, None]], axis=1, dtype=float)


def losses(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return cross-entropies."""
    z = x @ w.T
    return np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y]


def cell(x: np.ndarray, y: np.ndarray, held: np.ndarray, own: np.ndarray, w: np.ndarray, more: np.ndarray, l2: float):
    """Return the numbers of NAMES, and whether Takeuchi's forecast is called consistent."""
    out, training = losses(x[held], y[held], w), losses(x[own], y[own], w)
    gap = out.mean() - training.mean()
    head = SoftmaxHead(x[own], y[own], w, l2)
    forecast = takeuchi(
        softmax_hessian(x[held], w),
        softmax_gradients(x[held], y[held], w),
        len(own),
        damping=l2 / len(own),
        weights=w.ravel(),
    )
    error = float(np.hypot(out.std() / len(out) ** 0.5, training.std() / len(own) ** 0.5))
    numbers = (
        out.mean() - losses(x[held], y[held], more).mean(),
        forecast.gain,
        gap / 4,
        added_sample(head, x[held], y[held]).gain,
        leave_one_out_losses(head).mean(),
        out.mean(),
    )
    return numbers, takeuchi_status(forecast, gap, error)[0] == "consistent"


def measured(inputs: np.ndarray, penalties: list[float], sizes: list[int], held_out: int, orders: int) -> list[dict]:
    """Return a row for each penalty and size."""
    y = load_digits().target
    x, rows = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1, dtype=float), []
    for l2 in penalties:
        found: dict[int, list] = {k: [] for k in sizes}
        for order in range(orders):
            shuffled = np.random.default_rng([order, 5]).permutation(len(x))
            held, pool = shuffled[:held_out], shuffled[held_out:]
            at = {k: weights_of(inputs, y, pool[:k], l2) for k in sorted({*sizes, *(2 * k for k in sizes)})}
            for k in sizes:
                found[k].append(cell(x, y, held, pool[:k], at[k], at[2 * k], l2))
        for k, cells in found.items():
            table = np.array([numbers for numbers, _ in cells])
            mean, error = table.mean(0), table.std(0, ddof=1) / orders**0.5
            row = {"l2": l2, "k": k, "consistent": sum(ok for _, ok in cells)}
            row |= {n: {"mean": float(m), "stderr": float(e)} for n, m, e in zip(NAMES, mean, error, strict=True)}
            row |= {f"{n} / true": float(m / mean[0]) for n, m in zip(NAMES[1:4], mean[1:4], strict=True)}
            row["alo_loss / heldout_loss"] = float(mean[4] / mean[5])
            print({name: value if isinstance(value, int | float) else "..." for name, value in row.items()}, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Measure and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    orders = 2 if options.small else 10
    found = {"pixels": measured(pixels(), [0.03, 0.1, 0.3, 1.0, 3.0], [20, 40, 80, 160, 320, 640], 500, orders)}
    if not options.small:
        found["vit_features"] = measured(features(), [1.0, 10.0, 100.0], [50, 100, 200, 400], 900, orders)
    environment = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    options.out.write_text(json.dumps({"environment": environment, "orders": orders, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
