"""Images in parquet files: encoded bytes beside a label."""

import json
import logging
import re
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from stillscape._errors import InputError
from stillscape.data.codes import class_codes, column_groups
from stillscape.data.columns import Columns, decode_cell
from stillscape.data.image_set import ImageSet, named

_log = logging.getLogger(__name__)
_SPLIT = re.compile(r"(?:^|/)(train|validation|valid|val|dev|test)(?:[-_./]|$)", re.IGNORECASE)


class ParquetReader:
    """Reads the image of a row; holds the last row group, so that reading in order decodes each group once."""

    def __init__(self, files: Sequence[Path], column: str, window: tuple[float, float] | None):
        self._files = tuple(files)
        self._column = column
        self._window = window
        self._chunks: list[tuple[int, int]] = []
        counts: list[int] = []
        for number, file in enumerate(self._files):
            metadata = pq.read_metadata(file)
            self._chunks += [(number, group) for group in range(metadata.num_row_groups)]
            counts += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts: list[int] = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
        self._held: tuple[int, Any] | None = None

    def __call__(self, row: int) -> Image.Image:
        """Return the image of `row`."""
        chunk = bisect_right(self._starts, row) - 1
        number, group = self._chunks[chunk]
        held = self._held
        if held is None or held[0] != chunk:
            table = pq.ParquetFile(self._files[number]).read_row_group(group, columns=[self._column])
            held = self._held = (chunk, table.column(self._column))
        cell = held[1][row - self._starts[chunk]].as_py()
        return decode_cell(cell, self._files[number].parent, window=self._window, name=f"row {row}")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the held row group behind when pickled."""
        return self.__dict__ | {"_held": None}


def parquet_images(
    files: Sequence[Path], table: str, *, labels: str | None, groups: str | None, window: tuple[float, float] | None
) -> ImageSet:
    """Read parquet files, in the given order, as one set; `labels` and `groups` name columns."""
    columns = _columns(_schema(files[0]), table)
    label = columns.label(labels)
    wanted = [label] if groups is None else [label, columns.present("groups", groups)]
    image = columns.image()
    values: dict[str, list[object]] = {name: [] for name in wanted}
    for file in files:
        missing = sorted({*wanted, image} - set(_schema(file).names))
        if missing:
            raise InputError(
                f"{file.name} has no column {missing[0]}, which {files[0].name} has. All files of "
                f"{table} need the same columns."
            )
        part = pq.ParquetFile(file).read(columns=wanted)
        for name in wanted:
            values[name] += part.column(name).to_pylist()
    codes, classes = class_codes(values[label], columns.class_names.get(label), label)
    group_codes = None if groups is None else column_groups(values[groups], groups)
    names = tuple(f"row {row}" for row in range(codes.size))
    return ImageSet(table, names, codes, classes, group_codes, ParquetReader(files, image, window))


def training_part(names: Sequence[str], table: str) -> list[str]:
    """Choose among parquet files whose names tell splits: those of the training split, or all if none is told.

    >>> training_part(["data/test-0.parquet", "data/train-0.parquet"], "birds")
    ['data/train-0.parquet']
    """
    splits = {name: match.group(1).lower() for name in names if (match := _SPLIT.search(name))}
    found = sorted(set(splits.values()))
    if "train" in found:
        chosen = [name for name in names if splits.get(name) == "train"]
        if len(chosen) < len(names):
            _log.warning("%s: using its training split, %d of %d files", table, len(chosen), len(names))
        return chosen
    if len(found) > 1:
        raise InputError(f"{table} holds the splits {named(found)} and none called train. Pass one file or folder.")
    return list(names)


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        first_line = str(error).splitlines()[0]
        raise InputError(f"{file.name} can't be read as parquet: {first_line}") from error


def _columns(schema: pa.Schema, table: str) -> Columns:
    declared = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features") or {}
    kinds = {name: feature for name, feature in declared.items() if isinstance(feature, dict) and name in schema.names}
    return Columns(
        table=table,
        names=tuple(schema.names),
        images=tuple(name for name, feature in kinds.items() if feature.get("_type") == "Image"),
        encoded=tuple(field.name for field in schema if _holds_bytes(field.type)),
        class_names={name: feature["names"] for name, feature in kinds.items() if feature.get("_type") == "ClassLabel"},
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
