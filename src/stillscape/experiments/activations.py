"""Activations at the frozen boundaries, computed once and kept on disk as memory-mapped arrays."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillscape._errors import InputError, RunError
from stillscape._files import write_whole
from stillscape.data import ImageSet, keep
from stillscape.experiments.progress import Progress, counted
from stillscape.experiments.store import file_digest
from stillscape.models import Pretrained, Split, pixel_values

READ_AT_ONCE = 64  # images; what is in memory at a time


def write_activations(
    targets: Mapping[Path, Split],
    images: ImageSet,
    pretrained: Pretrained,
    progress: Progress,
    most_bytes: float | None = None,
) -> None:
    """Write one array for each split, (images, ...) in float32, each moved into place when it is whole.

    Raises:
        InputError: if they would take more of the disk than is free, or make their folder larger than `most_bytes`.
        RunError: if the preprocessor gives arrays of more than one shape.

    Cost: each image is read and preprocessed once, and passes each frozen part once; memory is that of a batch.
    """
    arrays: dict[Path, np.memmap] = {}
    starts = range(0, len(images.files), READ_AT_ONCE)
    for start in counted(starts, len(starts), "caching what is frozen", progress):
        rows = range(start, min(start + READ_AT_ONCE, len(images.files)))
        batch = pixel_values(pretrained.processor, [images.read(row) for row in rows])
        if not arrays:
            first = {path: encoded(split, batch[:1], pretrained.device) for path, split in targets.items()}
            _refuse_if_too_large(first, len(images.files), most_bytes)
        for path, split in targets.items():
            activations = encoded(split, batch, pretrained.device)
            if path not in arrays:
                arrays[path] = _new_array(path, (len(images.files), *activations.shape[1:]))
            if activations.shape[1:] != arrays[path].shape[1:]:
                raise RunError(
                    f"images {rows[0]} to {rows[-1]} give arrays of shape {activations.shape[1:]}, the ones before "
                    f"{arrays[path].shape[1:]}; give the model a preprocessor that resizes to one size."
                )
            arrays[path][rows.start : rows.stop] = activations
    for path, array in arrays.items():
        _put_in_place(path, array)


def _refuse_if_too_large(first: Mapping[Path, np.ndarray], num_images: int, most_bytes: float | None) -> None:
    """Say before the first byte is written what would not fit, by one image of each array, and what can be done."""
    folder = next(iter(first)).parent
    folder.mkdir(parents=True, exist_ok=True)
    new = sum(array.nbytes * num_images for array in first.values())
    held = sum(path.stat().st_size for path in folder.glob("*.npy") if path not in first)
    free = shutil.disk_usage(folder).free
    if new > free:
        limit, way = f"{_gib(free)} are free there", "make room, name an --out on a larger disk"
    elif most_bytes is not None and held + new > most_bytes:
        limit, way = f"cache_gib allows {_gib(most_bytes)}", "raise cache_gib"
        if held:
            way += f", delete the {_gib(held)} of older arrays there (what is needed is computed again)"
    else:
        return
    raise InputError(
        f"what is frozen of the model takes {_gib(new)} in {str(folder)!r} for {num_images} images, but {limit}; "
        f"{way}, or choose adaptations whose frozen part ends later: head takes the least."
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"


def is_whole(path: Path) -> bool:
    """Return whether an array is there and is what was written; one of a version that kept no digest is believed.

    Cost: the file is read once.
    """
    digest = _digest(path)
    return path.is_file() and (not digest.is_file() or digest.read_text(errors="replace") == file_digest(path))


def grow_activations(
    path: Path, split: Split, images: ImageSet, digests: Sequence[str], pretrained: Pretrained, progress: Progress
) -> None:
    """Write the array of one split for data that have grown, computing only what the folder does not hold yet.

    Beside the arrays ``rows.json`` names the images, by digest, that stand in the last one; that array is replaced.

    Args:
        path: of the array to write; its folder serves one split of one model only.
        split: where to cut.
        images: all images.
        digests: of their pixels, from `scan`.
        pretrained: the model.
        progress: where to report to.

    Cost: each new image is read and passes the frozen part once; the others are copied.
    """
    index = path.parent / "rows.json"
    if is_whole(path):
        return
    held = _held_rows(index)
    old = path.parent / held["file"]
    rows = {digest: row for row, digest in enumerate(held["digests"])} if is_whole(old) else {}
    missing = [row for row, digest in enumerate(digests) if digest not in rows]
    if len(missing) == len(digests):
        write_activations({path: split}, images, pretrained, progress)
    else:
        part = path.with_name(f"new-{path.name}")
        if missing:
            write_activations({part: split}, keep(images, missing), pretrained, progress)
        before, new = np.load(old, mmap_mode="r"), np.load(part, mmap_mode="r") if missing else None
        array = _new_array(path, (len(digests), *before.shape[1:]))
        places = dict(zip(missing, range(len(missing)), strict=True))
        for row, digest in enumerate(digests):
            array[row] = before[rows[digest]] if new is None or row not in places else new[places[row]]
        _put_in_place(path, array)
        for left in (part, _digest(part)):
            left.unlink(missing_ok=True)
    write_whole(index, json.dumps({"file": path.name, "digests": list(digests)}).encode())
    if rows and old != path:
        for left in (old, _digest(old)):
            left.unlink(missing_ok=True)


def _held_rows(index: Path) -> dict[str, Any]:
    """Return which images stand in which array; none where that can't be read, since all can be computed again."""
    try:
        held = json.loads(index.read_text(encoding="utf-8"))
        name, digests = held["file"], held["digests"]
        if isinstance(name, str) and Path(name).name == name and all(isinstance(digest, str) for digest in digests):
            return {"file": name, "digests": digests}
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return {"file": "none", "digests": []}


@torch.no_grad()
def encoded(split: Split, batch: Tensor, device: torch.device) -> np.ndarray:
    """Return what the frozen part on a device gives for a batch, float32 on the CPU."""
    return (split.encode(batch.to(device)) if split.encode else batch).float().cpu().numpy()


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(_draft(path), mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # A mapped file is sparse; on a disk that gets full, writing to it would end the process without a word.
        with _draft(path).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END))
    return array


def _put_in_place(path: Path, array: np.memmap) -> None:
    array.flush()
    write_whole(_digest(path), file_digest(_draft(path)).encode())
    _draft(path).replace(path)


def _digest(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _draft(path: Path) -> Path:
    return path.with_suffix(".part")
