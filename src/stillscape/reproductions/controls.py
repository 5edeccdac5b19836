"""Is the pre-trained model worth anything here? Its frozen features against raw pixels and a random model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stillscape._errors import InputError
from stillscape.data import ImageSet
from stillscape.experiments import Bench, Silent
from stillscape.models import pixel_values
from stillscape.reproductions.findings import Number, mean_interval
from stillscape.reproductions.starts import start_from

PENALTIES = tuple(10.0 ** np.arange(-4, 2))


@dataclass(frozen=True)
class Control:
    """Where a linear classifier is right on held-out images, by what it was given.

    Attributes:
        hits: "pre-trained" first, then what it must beat, each (n,) bool on the same samples.
    """

    hits: dict[str, np.ndarray]

    def numbers(self, name: str) -> list[Number]:
        """Return the accuracies and the paired differences, with 95 % intervals over the samples."""
        found = []
        for what, hits in self.hits.items():
            value, low, high = mean_interval(hits.astype(float))
            found.append(Number(f"{name}: linear accuracy on {what}", value, low, high, spread=0.02))
        for other in self.others:
            value, low, high = self.difference(other)
            found.append(Number(f"{name}: pre-trained above {other}", value, low, high, spread=0.03))
        return found

    def difference(self, other: str) -> tuple[float, float, float]:
        """Return how much more often the pre-trained features are right than others, on the same images."""
        return mean_interval(self.hits["pre-trained"].astype(float) - self.hits[other])

    @property
    def passed(self) -> bool:
        """Whether pre-trained features beat both others beyond the 95 % interval."""
        return all(self.difference(other)[1] > 0 for other in self.others)

    @property
    def others(self) -> list[str]:
        """What the pre-trained features are held against."""
        return [name for name in self.hits if name != "pre-trained"]


def control(bench: Bench, images: ImageSet, k: int, scored: int) -> Control:
    """Fit logistic regression on k training images of the first order, and score held-out ones.

    Features are standardized and the penalty is chosen by 3-fold cross-validation on the training images alone. The
    random model has the architecture of the pre-trained one; its features are those of the same layer.
    """
    bench.cache_inputs(["head"], images, Silent())
    training = bench.training_rows(k, 0, 0)
    rows = np.concatenate([training, bench.held_out_rows(0)[:scored]])
    pictures = [images.read(int(row)) for row in rows]
    sets = {
        "pre-trained": np.asarray(bench.inputs("head")[rows]),
        "raw pixels": np.stack([np.asarray(picture.convert("L"), dtype=np.float32).ravel() for picture in pictures]),
        "random model": _random_features(bench, pictures),
    }
    labels, split = bench.labels[rows], len(training)
    return Control({name: linear_hits(features, labels, split) for name, features in sets.items()})


def linear_hits(features: np.ndarray, labels: np.ndarray, split: int) -> np.ndarray:
    """Return where logistic regression on the first `split` rows is right on the others."""
    search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": PENALTIES}, cv=3)
    model = make_pipeline(StandardScaler(), search).fit(features[:split], labels[:split])
    return np.asarray(model.predict(features[split:]) == labels[split:])


@torch.no_grad()
def _random_features(bench: Bench, pictures: list[Any]) -> np.ndarray:
    pretrained = bench.pretrained
    with start_from(0):  # the constructor draws weights from the global state
        model = type(pretrained.backbone)(pretrained.config).eval()
    features: list[np.ndarray] = []

    def keep(_module: Any, inputs: tuple[Any, ...]) -> None:
        features.append(inputs[0].numpy())

    hook = model.get_submodule(pretrained.classifiers[0]).register_forward_pre_hook(keep)
    for start in range(0, len(pictures), 64):
        model(pixel_values(pretrained.processor, pictures[start : start + 64]))
    hook.remove()
    return np.concatenate(features)


def three_classes(source: Path, target: Path, kept: dict[str, str], seed: int) -> Path:
    """Write a parquet file that keeps some classes, and as many images of all others together as one of those holds.

    Args:
        source: parquet with columns image and label.
        target: where to write; left alone if it is there.
        kept: labels that are kept, and what they are called; the rest is "other".
        seed: of the draw of the others.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if target.is_file():
        return target
    table = pq.read_table(source)
    labels = np.array([str(label) for label in table["label"].to_pylist()])
    missing = set(kept) - set(labels.tolist())
    if missing:
        raise InputError(
            f"kept names {sorted(missing)}, which {source.name!r} does not hold; it has {sorted(set(labels))}."
        )
    own = np.isin(labels, list(kept))
    others = np.flatnonzero(~own)
    count = max(int((labels == name).sum()) for name in kept)
    chosen = np.random.default_rng(seed).choice(others, min(count, len(others)), replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(own), chosen]))
    names = [kept.get(label, "other") for label in labels[rows]]
    target.parent.mkdir(parents=True, exist_ok=True)
    part = table.take(rows)
    pq.write_table(part.set_column(part.column_names.index("label"), "label", pa.array(names)), target)
    return target
