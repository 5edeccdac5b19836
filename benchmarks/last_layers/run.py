"""How much faster is a sweep over dataset sizes when the frozen prefix is run once and cached?

    python benchmarks/last_layers/run.py            # the full size; one thread, a quarter of an hour or so
    python benchmarks/last_layers/run.py --small    # a minute; for a look, not for the record

Both sides fine-tune the same cells (sizes x repeats) by the same recipe, seeds and batches, and measure the loss of
every image after each cell. Plain: the whole model is run at every step, its
frozen part without gradients, as anyone would write it. Cached: the frozen part is run once over all images, which
counts, and only the rest at every step. The numbers must be the same: the largest difference of any image's loss in
any cell is reported. Images and weights are random, since only time and equality are measured.

The head is trained by AdamW on both sides here, to compare like with like; how long the package's own way takes (the
optimum of the convex objective, on the cached features) is reported beside it.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from stillscape.models import (
    Adaptation,
    Pretrained,
    Split,
    load_pretrained,
    load_trained_state,
    parse_adaptation,
    split_model,
    trained_state,
)
from stillscape.models.suffix import WholeModel
from stillscape.training import Recipe, fit_head, score
from stillscape.training.descent import descend

CLASSES = 10
ENCODE_BATCH = 50
TARGETS = {"head": 50.0, "last-layers:1": 4.0}
EQUAL = 1e-5
FULL = {
    "side": 112,
    "images": 500,
    "sizes": [50, 100, 200, 400],
    "repeats": 2,
    "steps": {"head": 115, "last-layers:1": 10},
}
SMALL = {"side": 112, "images": 60, "sizes": [25, 50], "repeats": 1, "steps": {"head": 12, "last-layers:1": 6}}


def make_model(folder: Path, side: int) -> Pretrained:
    """ViT-small's shape with random weights, written and loaded as a checkpoint would be."""
    config = ViTConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, image_size=side,
        patch_size=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return load_pretrained(str(folder))


def make_data(images: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise around one pattern for each class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, images)
    patterns = rng.normal(size=(CLASSES, 3, side, side)).astype(np.float32)
    noise = rng.normal(size=(images, 3, side, side)).astype(np.float32)
    return patterns[labels] + noise, labels


def plain_model(pretrained: Pretrained, adaptation: Adaptation, split: Split) -> nn.Module:
    """The whole model with the same trained parameters, run from the pixels at every step."""
    if adaptation.kind == "head":
        names = [f"{pretrained.classifiers[0]}.{name}" for name in trained_state(split.suffix)]
    else:
        names = [name.removeprefix("model.") for name in trained_state(split.suffix)]
    return WholeModel(pretrained.share(CLASSES, 0, names)).eval()


Fitter = Callable[[nn.Module, np.ndarray, np.ndarray, np.ndarray, int], object]


def sweep(suffix: nn.Module, inputs: np.ndarray, labels: np.ndarray, shape: dict, fitter: Fitter) -> list[np.ndarray]:
    """Fine-tune every cell from the same start, and return each cell's losses on all images."""
    start = trained_state(suffix)
    everything = np.arange(len(labels))
    losses = []
    for repeat in range(shape["repeats"]):
        order = np.random.default_rng(repeat).permutation(len(labels))
        for k in shape["sizes"]:
            load_trained_state(suffix, start)
            fitter(suffix, inputs, labels, order[:k], repeat)
            losses.append(score(suffix, inputs, labels, everything).losses)
    return losses


def compare(pretrained: Pretrained, text: str, pixels: np.ndarray, labels: np.ndarray, shape: dict) -> dict:
    """Time both sides of one adaptation."""
    adaptation = parse_adaptation(text)
    recipe = Recipe(steps=shape["steps"][text], batch=32, learning_rate=5e-4)
    split = split_model(pretrained, adaptation, CLASSES, 0)
    assert split.encode is not None

    def adamw(suffix, inputs, labels, rows, seed):
        return descend(suffix, inputs, labels, rows, recipe, seed=seed, measure_end=False)

    began = time.perf_counter()
    parts = [split.encode(batch) for batch in torch.from_numpy(pixels).split(ENCODE_BATCH)]
    activations = torch.cat(parts).numpy()
    encoded_seconds = time.perf_counter() - began
    cached_losses = sweep(split.suffix, activations, labels, shape, adamw)
    cached_seconds = time.perf_counter() - began

    plain = plain_model(pretrained, adaptation, split)
    plain_began = time.perf_counter()
    plain_losses = sweep(plain, pixels, labels, shape, adamw)
    plain_seconds = time.perf_counter() - plain_began

    difference = max(float(np.abs(a - b).max()) for a, b in zip(cached_losses, plain_losses, strict=True))
    ratio = plain_seconds / cached_seconds
    result = {
        "plain_s": plain_seconds, "cached_s": cached_seconds, "of_which_encoding_s": encoded_seconds,
        "ratio": ratio, "target_ratio": TARGETS[text], "largest_loss_difference": difference,
        "allowed_loss_difference": EQUAL, "mean_loss_of_last_cell": float(plain_losses[-1].mean()),
        "steps_of_a_cell": recipe.steps, "boundary": split.boundary,
        "reached": bool(ratio >= TARGETS[text] and difference <= EQUAL),
    }  # fmt: skip
    if adaptation.kind == "head":
        began = time.perf_counter()
        sweep(split.suffix, activations, labels, shape, lambda s, x, y, rows, _: fit_head(s, x, y, rows, Recipe()))
        result["cached_to_the_optimum_s"] = encoded_seconds + time.perf_counter() - began
    return result


def environment(threads: int) -> dict:
    """What the times depend on."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "numpy": np.__version__, "machine": platform.machine(), "processor": processor(), "cores": os.cpu_count(),
        "threads": threads,
    }  # fmt: skip


def processor() -> str:
    """Name of the processor, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Run, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few images, sizes and steps")
    parser.add_argument("--only", choices=sorted(TARGETS), help="one adaptation alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape = SMALL if args.small else FULL
    pixels, labels = make_data(shape["images"], shape["side"])
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        pretrained = make_model(Path(folder), shape["side"])
        for text in [args.only] if args.only else TARGETS:
            results[text] = compare(pretrained, text, pixels, labels, shape)
            print(text, json.dumps(results[text], indent=2), flush=True)
    record = {"small": args.small, "shape": shape, "results": results, "environment": environment(args.threads)}
    args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
