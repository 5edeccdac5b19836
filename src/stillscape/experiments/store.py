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
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stillscape._errors import RecordError
from stillscape._files import no_room_is_said, write_whole

SCHEMA = 1  # of records and of result.json; a reader takes its own number and every lower one (see docs/run-folder.md)
RECORD, LOSSES, WEIGHTS = "record.json", "losses.parquet", "adapter.safetensors"
FILES, CHECKSUM = "files", "checksum"  # what a record holds beside its content: digests of its tables, and its own
DAMAGED = "damaged"  # folder, in the run folder, of records that were set aside


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


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class NewerSchemaError(RecordError):
    """A record of a later version of Stillscape: whole, but not for this one to read, nor to set aside."""


class Store:
    """Records under ``<folder>/<kind>/<key>/``: a JSON record, and beside it per-sample losses and trained weights.

    A record is made in a hidden folder and moved into place by one rename, so a killed process leaves either nothing
    or a whole record. It holds a digest of each of its files and of itself, held against them whenever it is read.
    ``kind`` is ``cells`` or ``probes``.
    """

    def __init__(self, folder: Path, kind: str = "cells") -> None:
        self.folder, self.place = folder, folder / kind

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
                digests = {name: file_digest(draft / name) for name in (LOSSES, WEIGHTS) if (draft / name).is_file()}
                (draft / RECORD).write_text(_sealed({"schema": SCHEMA, **record, FILES: digests}))
                os.replace(draft, self.place / key)
            except OSError:
                if not self.has(key):
                    raise
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def adopt(self, other: "Store", key: str) -> None:
        """Copy a record from another store, whole or not at all.

        Raises:
            RecordError: if it is damaged there.
        """
        what = other.damage(key)
        if what:
            raise RecordError(what)
        draft = self.place / f".{key}-{uuid.uuid4().hex[:8]}"
        with no_room_is_said(self.place):
            try:
                draft.mkdir(parents=True)
                for name in (LOSSES, WEIGHTS, RECORD):  # and nothing else that may lie there
                    if (other.place / key / name).is_file():
                        shutil.copyfile(other.place / key / name, draft / name)
                os.replace(draft, self.place / key)
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def record(self, key: str) -> dict[str, Any]:
        """Return a record.

        Raises:
            RecordError: if it is damaged, or of a schema newer than this version reads.
        """
        record = self._opened(key)
        return {name: value for name, value in record.items() if name != FILES}

    def losses(self, key: str) -> dict[str, np.ndarray]:
        """Return the table of per-sample losses, a column each; lists of probabilities come as one matrix."""
        path = self._checked(key, LOSSES)
        try:
            table = pq.read_table(path)
            return {name: _column(table[name]) for name in table.column_names}
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _unreadable(path, error) from None

    def weights(self, key: str) -> dict[str, np.ndarray] | None:
        """Return the trained parameters, or None where they were not kept."""
        path = self._checked(key, WEIGHTS)
        try:
            return load_file(path) if path.is_file() else None
        except (OSError, ValueError, SafetensorError) as error:
            raise _unreadable(path, error) from None

    def damage(self, key: str) -> str:
        """Return what is wrong with a record or its files, in one line; empty where nothing is.

        Raises:
            RecordError: if it is of a newer schema, which is no damage.
        """
        try:
            record = self._opened(key)
            for name in (LOSSES, WEIGHTS):
                self._checked(key, name, record)
        except NewerSchemaError:
            raise
        except RecordError as error:
            return str(error)
        return ""

    def set_aside(self, key: str) -> Path:
        """Move a record out of the way, to where a person can look at it, and return where that is."""
        aside = self.folder / DAMAGED / f"{self.place.name}-{key}-{uuid.uuid4().hex[:8]}"
        with no_room_is_said(aside):
            aside.parent.mkdir(exist_ok=True)
            os.replace(self.place / key, aside)
        return aside

    def all_keys(self) -> list[str]:
        """Return the keys of all records, in order."""
        return sorted(path.parent.name for path in self.place.glob(f"[!.]*/{RECORD}"))

    def _opened(self, key: str) -> dict[str, Any]:
        path = self.place / key / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        except (OSError, ValueError, RecursionError) as error:
            raise _unreadable(path, error) from None
        if not isinstance(record, dict) or type(record.get("schema")) is not int:
            raise RecordError(f"record {str(path)!r} has no schema number; {_AGAIN}")
        if record["schema"] > SCHEMA:
            message = f"record {str(path)!r} has schema {record['schema']}; this version reads up to {SCHEMA}."
            raise NewerSchemaError(message)
        # Records of early versions have no checksum. A newer one can't lose its own by a flipped bit unnoticed: its
        # list of files, which they don't have either, would stay.
        expected = record.pop(CHECKSUM, None)
        if (expected is not None or FILES in record) and expected != _checksum(record):
            raise RecordError(f"record {str(path)!r} is damaged: its checksum is another; {_AGAIN}")
        return record

    def _checked(self, key: str, name: str, record: dict[str, Any] | None = None) -> Path:
        """Return the path of one of a record's files, after holding it against the record's digest of it."""
        path = self.place / key / name
        digests = (self._opened(key) if record is None else record).get(FILES)
        if digests is None:  # of an early version
            return path
        try:
            found = file_digest(path) if path.is_file() else None
        except OSError as error:
            raise _unreadable(path, error) from None
        if found != digests.get(name):
            what = "is missing" if found is None else "is damaged: its digest is not that in its record"
            raise RecordError(f"{str(path)!r} {what}; {_AGAIN}")
        return path

    def sweep(self) -> None:
        """Remove what a killed process left half made."""
        for draft in self.place.glob(".*"):
            shutil.rmtree(draft, ignore_errors=True)


_AGAIN = "run the same command again: it sets the record aside and measures it anew."


def _unreadable(path: Path, error: Exception) -> RecordError:
    return RecordError(
        f"{str(path)!r} can't be read ({str(error).splitlines()[0] if str(error) else error!r}); {_AGAIN}"
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _sealed(record: dict[str, Any]) -> str:
    return json.dumps({**record, CHECKSUM: _checksum(record)}, allow_nan=False) + "\n"


def _checksum(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _column(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
    return array.to_numpy(zero_copy_only=False)
