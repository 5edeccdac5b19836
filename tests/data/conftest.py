"""Makers of small pictures and folders for the tests of data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _picture(seed: int, size: tuple[int, int] = (32, 24)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """Return a maker of smooth random colors: different seeds look different, and JPEG changes them little."""
    return _picture


@pytest.fixture
def class_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of a folder with the given numbers of PNG images per class, all different."""

    def make(name: str = "photos", **counts: int) -> Path:
        root = tmp_path / name
        for label, (owner, count) in enumerate(counts.items()):
            (root / owner).mkdir(parents=True)
            for number in range(count):
                _picture(1000 * label + number).save(root / owner / f"{number}.png")
        return root

    return make
