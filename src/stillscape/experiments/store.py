"""The run folder: each record is written whole or not at all, and is there for good once it can be seen."""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from stillscape._errors import RecordError
from stillscape._files import no_room_is_said, write_whole

SCHEMA = 1  # of records and of result.json; a reader takes its own number and every lower one (see docs/run-folder.md)
RECORD, LOSSES, WEIGHTS = "record.json", "losses.parquet", "adapter.safetensors"


def content_key(content: Any) -> str:
    """Return a short hash of anything that JSON can hold; equal content gives an equal key, whatever the order of keys.

    Example:
        >>> content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
        True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def finite_or_none(number: float | None) -> float | None:
    """Return the number where JSON can hold it, else None."""
    return None if number is None or not np.isfinite(number) else float(number)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, since no reader of JSON has to know them."""
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


class Store:
    """Records under ``<folder>/<kind>/<key>/``: a JSON record, and beside it per-sample losses and trained weights.

    A record is made in a hidden folder and moved into place by one rename, so a killed process leaves either nothing
    or a whole record. ``kind`` is ``cells`` or ``probes``.
    """

    def __init__(self, folder: Path, kind: str = "cells") -> None:
        self.place = folder / kind

    def has(self, key: str) -> bool:
        """Return whether a record of this key has been written."""
        return (self.place / key / RECORD).is_file()

    def write(
        self,
        key: str,
        record: dict[str, Any],
        losses: dict[str, Any] | None = None,
        weights: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Write a record with its tables, whole or not at all; one that is there already stays as it is."""
        draft = self.place / f".{key}-{uuid.uuid4().hex[:8]}"
        with no_room_is_said(self.place):
            try:
                draft.mkdir(parents=True)
                if losses:
                    pq.write_table(pa.table(losses), draft / LOSSES)
                if weights:
                    save_file({name: np.ascontiguousarray(w) for name, w in weights.items()}, draft / WEIGHTS)
                (draft / RECORD).write_text(json.dumps({"schema": SCHEMA, **record}, allow_nan=False) + "\n")
                os.replace(draft, self.place / key)
            except OSError:
                if not self.has(key):
                    raise
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def record(self, key: str) -> dict[str, Any]:
        """Return a record.

        Raises:
            RecordError: if it is damaged, or of a schema newer than this version reads.
        """
        path = self.place / key / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecordError(
                f"record {str(path)!r} can't be read ({error}); delete its folder and run again."
            ) from None
        if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
            raise RecordError(f"record {str(path)!r} has no schema number; delete its folder and run again.")
        if record["schema"] > SCHEMA:
            raise RecordError(f"record {str(path)!r} has schema {record['schema']}; this version reads up to {SCHEMA}.")
        return record

    def losses(self, key: str) -> dict[str, np.ndarray]:
        """Return the table of per-sample losses, a column each; lists of probabilities come as one matrix."""
        path = self.place / key / LOSSES
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise RecordError(f"{str(path)!r} can't be read ({error}); delete its folder and run again.") from None
        return {name: _column(table[name]) for name in table.column_names}

    def weights(self, key: str) -> dict[str, np.ndarray] | None:
        """Return the trained parameters, or None where they were not kept."""
        path = self.place / key / WEIGHTS
        return load_file(path) if path.is_file() else None

    def sweep(self) -> None:
        """Remove what a killed process left half made."""
        for draft in self.place.glob(".*"):
            shutil.rmtree(draft, ignore_errors=True)


def _column(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
    return array.to_numpy(zero_copy_only=False)
