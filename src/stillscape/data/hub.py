"""Hugging Face datasets: saved to disk, or by their Hub id."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stillscape._errors import InputError
from stillscape.data.codes import class_codes, column_groups
from stillscape.data.columns import Columns, decode_cell
from stillscape.data.image_set import ImageSet, named

_log = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class DatasetReader:
    """Reads the image of a row of a Hugging Face dataset, from its encoded bytes."""

    def __init__(self, dataset: Any, column: str, window: tuple[float, float] | None, folder: Path | None):
        self._dataset = dataset
        self._column = column
        self._window = window
        self._folder = folder

    def __call__(self, row: int) -> Image.Image:
        """Return the image of `row`."""
        cell = self._dataset[row][self._column]
        home = self._folder or _caches()[0]
        return decode_cell(cell, home, window=self._window, name=f"row {row}", also=_caches())


def is_saved_dataset(folder: Path) -> bool:
    """Tell whether `folder` was written by `save_to_disk`."""
    if (folder / "dataset_dict.json").is_file():
        return True
    return (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()


def looks_like_hub_id(source: str) -> bool:
    """Tell whether `source` has the form "owner/name" or "name" of a dataset on the Hub."""
    return _HUB_ID.fullmatch(source) is not None and not source.lower().endswith((".zip", ".csv", ".parquet"))


def saved_dataset(
    folder: Path, *, labels: str | None, groups: str | None, window: tuple[float, float] | None
) -> ImageSet:
    """Read a dataset that `save_to_disk` wrote."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # arrow, json, pickle... a damaged folder raises whatever it meets first
        raise InputError(
            f"{folder.name} can't be read as a saved dataset: {_first_line(error)}. Save it again with save_to_disk."
        ) from error
    return _dataset_images(loaded, folder.resolve().name, folder, labels=labels, groups=groups, window=window)


def hub_dataset(name: str, *, labels: str | None, groups: str | None, window: tuple[float, float] | None) -> ImageSet:
    """Read a dataset of the Hugging Face Hub, downloading it unless it is in the cache."""
    import datasets

    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # network, permissions, missing names, scripts: no common base class
        raise InputError(
            f"data is {name!r}; there is no such file or folder here, no built-in data of that name, and "
            f"the Hugging Face Hub did not deliver it: {_first_line(error)}"
        ) from error
    return _dataset_images(loaded, name, None, labels=labels, groups=groups, window=window)


def _dataset_images(
    loaded: Any,
    name: str,
    folder: Path | None,
    *,
    labels: str | None,
    groups: str | None,
    window: tuple[float, float] | None,
) -> ImageSet:
    dataset, name = _one_split(loaded, name)
    columns = _columns(dataset, name)
    label = columns.label(labels)
    image = columns.image()
    codes, classes = class_codes(_values(dataset, label), columns.class_names.get(label), label)
    group_codes: np.ndarray | None = None
    if groups is not None:
        group_codes = column_groups(_values(dataset, columns.present("groups", groups)), groups)
    # Undecoded, so that these images take the same way through our reader as files do.
    encoded = dataset.with_format(None).select_columns([image]).cast_column(image, _undecoded())
    names = tuple(f"row {row}" for row in range(codes.size))
    return ImageSet(name, names, codes, classes, group_codes, DatasetReader(encoded, image, window, folder))


def _one_split(loaded: Any, name: str) -> tuple[Any, str]:
    if not isinstance(loaded, dict):
        return loaded, name
    splits = sorted(loaded)
    if "train" not in splits and len(splits) != 1:
        raise InputError(
            f"{name} holds the splits {named(splits)} and none called train. Save the one to use with "
            "save_to_disk and pass that folder."
        )
    chosen = "train" if "train" in splits else splits[0]
    if len(splits) > 1:
        _log.warning("%s: using its split %s; left unused: %s", name, chosen, named([s for s in splits if s != chosen]))
    return loaded[chosen], f"{name} ({chosen} split)"


def _columns(dataset: Any, table: str) -> Columns:
    import datasets

    features = dataset.features
    binary = [name for name, kind in features.items() if getattr(kind, "dtype", None) in ("binary", "large_binary")]
    structs = [name for name, kind in features.items() if isinstance(kind, dict) and "bytes" in kind]
    return Columns(
        table=table,
        names=tuple(features),
        images=tuple(name for name, kind in features.items() if isinstance(kind, datasets.Image)),
        encoded=(*binary, *structs),
        class_names={name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)},
    )


def _caches() -> tuple[Path, ...]:
    """Return where the libraries of the Hub keep the files that they have downloaded."""
    import datasets
    import huggingface_hub

    return Path(datasets.config.HF_DATASETS_CACHE), Path(huggingface_hub.constants.HF_HUB_CACHE)


def _values(dataset: Any, column: str) -> list[object]:
    return list(dataset.with_format(None).select_columns([column])[:][column])


def _undecoded() -> Any:
    import datasets

    return datasets.Image(decode=False)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
