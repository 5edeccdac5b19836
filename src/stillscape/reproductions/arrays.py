"""Labeled images as arrays of numbers, for networks that are trained from scratch."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillscape.data import open_images


def grey_images(source: str) -> tuple[Float[np.ndarray, "n side side"], Int[np.ndarray, " n"]]:
    """Return grey values from -1 to 1, and class numbers; "digits" is built in, else a folder or file of images."""
    images = open_images(source)
    if source == "digits":
        from sklearn.datasets import load_digits

        return load_digits().images / 8.0 - 1.0, np.asarray(images.labels)
    pixels = [np.asarray(images.read(row).convert("L"), dtype=np.float64) for row in range(len(images.labels))]
    return np.stack(pixels) / 127.5 - 1.0, np.asarray(images.labels)


def patches(images: Float[np.ndarray, "n side side"], side: int) -> Float[Tensor, "n tokens pixels"]:
    """Return square patches, row by row, each flattened.

    >>> patches(np.arange(16.0).reshape(1, 4, 4), 2)[0].tolist()[0]
    [0.0, 1.0, 4.0, 5.0]
    """
    n, rows, columns = images.shape
    cut = images.reshape(n, rows // side, side, columns // side, side).transpose(0, 1, 3, 2, 4)
    return torch.tensor(cut.reshape(n, -1, side * side).copy())
