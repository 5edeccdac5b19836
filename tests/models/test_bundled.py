"""The bundled ViT: small, complete, and better than pixels and than a random ViT on data that it has never seen."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import ViTForImageClassification

from stillscape.data import open_images
from stillscape.models import load_pretrained, parse_adaptation, pixel_values, split_model
from stillscape.models.load import BUNDLED
from tests.models.checkpoints import quiet


def test_the_checkpoint_is_complete_and_small():
    names = {path.name for path in BUNDLED.iterdir()}
    assert {"config.json", "preprocessor_config.json", "model.safetensors", "README.md", "pretraining.json"} <= names
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 3 * 2**20


def test_the_card_says_what_was_measured():
    facts = json.loads((BUNDLED / "pretraining.json").read_text())
    card = (BUNDLED / "README.md").read_text()
    for entry in facts["digits_probe"].values():
        assert f"{100 * entry['mean']:.1f} ± {100 * entry['standard_error']:.1f} %" in card.replace("*", "")
    assert f"{100 * facts['held_out_accuracy']['fashion']:.1f} %" in card
    assert f"{facts['parameters']:,}" in card


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory):
    """Test accuracy at k = 200, over three splits, of one linear classifier on three kinds of features."""
    folder = tmp_path_factory.mktemp("random")
    bundled = load_pretrained("bundled-vit")
    with quiet():
        ViTForImageClassification(bundled.config).save_pretrained(folder)
    bundled.processor.save_pretrained(folder)
    images = open_images("digits")
    pixels = pixel_values(bundled.processor, [images.read(row) for row in range(len(images))])

    def features(pretrained):
        return split_model(pretrained, parse_adaptation("head"), 10, seed=0).encode(pixels).numpy()

    kinds = {
        "bundled": features(bundled),
        "random": features(load_pretrained(str(folder))),
        "pixels": load_digits().data,
    }

    def accuracy(x, seed):
        a, b, ya, yb = train_test_split(x, images.labels, train_size=200, stratify=images.labels, random_state=seed)
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(a, ya).score(b, yb)

    return {kind: np.mean([accuracy(x, seed) for seed in range(3)]) for kind, x in kinds.items()}


def test_it_beats_pixels_and_a_random_vit_by_a_clear_margin(accuracies):
    assert accuracies["bundled"] > 0.96
    assert accuracies["bundled"] - accuracies["pixels"] > 0.03
    assert accuracies["bundled"] - accuracies["random"] > 0.10
