"""Activations at the frozen boundaries, computed once and kept on disk as memory-mapped arrays."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stillscape._errors import RunError
from stillscape.data import ImageSet
from stillscape.experiments.progress import Progress, counted
from stillscape.models import Pretrained, Split, pixel_values

READ_AT_ONCE = 64  # images; what is in memory at a time


def write_activations(
    targets: Mapping[Path, Split], images: ImageSet, pretrained: Pretrained, progress: Progress
) -> None:
    """Write one array for each split, (images, ...) in float32, each moved into place when it is whole.

    Raises:
        RunError: if the preprocessor gives arrays of more than one shape.

    Cost: each image is read and preprocessed once, and passes each frozen part once; memory is that of a batch.
    """
    arrays: dict[Path, np.memmap] = {}
    starts = range(0, len(images.files), READ_AT_ONCE)
    for start in counted(starts, len(starts), "caching what is frozen", progress):
        rows = range(start, min(start + READ_AT_ONCE, len(images.files)))
        batch = pixel_values(pretrained.processor, [images.read(row) for row in rows])
        for path, split in targets.items():
            activations = _encoded(split, batch)
            if path not in arrays:
                arrays[path] = _new_array(path, (len(images.files), *activations.shape[1:]))
            if activations.shape[1:] != arrays[path].shape[1:]:
                raise RunError(
                    f"images {rows[0]} to {rows[-1]} give arrays of shape {activations.shape[1:]}, the ones before "
                    f"{arrays[path].shape[1:]}; give the model a preprocessor that resizes to one size."
                )
            arrays[path][rows.start : rows.stop] = activations
    for path, array in arrays.items():
        array.flush()
        _draft(path).replace(path)


@torch.no_grad()
def _encoded(split: Split, batch: Tensor) -> np.ndarray:
    return (split.encode(batch) if split.encode else batch).float().numpy()


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(_draft(path), mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # A mapped file is sparse; on a disk that gets full, writing to it would end the process without a word.
        with _draft(path).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END))
    return array


def _draft(path: Path) -> Path:
    return path.with_suffix(".part")
