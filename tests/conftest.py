"""A tiny random ViT and small folders of images, made once: the path of a run, without its waiting time."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from tests.report.browser import chromium, visit

__all__ = ["chromium", "visit"]  # fixtures; one browser for all, since a second can't be driven beside it


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory):
    """Folder of a randomly started ViT: 8 x 8 pixels, 4 patches, 2 blocks."""
    folder = tmp_path_factory.mktemp("tiny-vit")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
    )
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        folder
    )
    return folder


def save_images(folder, counts, seed=0, suffixes=("png", "jpg")):
    """Write noisy images of uneven sizes and colors, a folder per class; class c is brightest in channel c."""
    rng = np.random.default_rng(seed)
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            height, width = rng.integers(9, 30, size=2)
            pixels = rng.integers(0, 160, size=(height, width, 3))
            pixels[:, :, label % 3] += 80
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / name / f"patient{number // 2}_{number}.{suffixes[number % len(suffixes)]}")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Folder of 52 color images in two uneven classes."""
    return save_images(tmp_path_factory.mktemp("photos"), {"moss": 30, "rust": 22})
