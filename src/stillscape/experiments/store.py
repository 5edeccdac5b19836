"""The run folder: each record is written whole or not at all, and is there for good once it can be seen."""

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stillscape._errors import InputError, RecordError
from stillscape._files import no_room_is_said, write_whole
from stillscape._folders import Folder, RemotePath, as_folder, made_whole, within

SCHEMA = 1  # of records and of result.json; a reader takes its own number and every lower one (see docs/run-folder.md)
RECORD, LOSSES, WEIGHTS = "record.json", "losses.parquet", "adapter.safetensors"
FILES, CHECKSUM = "files", "checksum"  # what a record holds beside its content: digests of its tables, and its own
_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)  # of kinds and records: one part of a path on every system
DAMAGED = "damaged"  # folder, in the run folder, of records that were set aside


def content_key(content: Any) -> str:
    """Return a short hash of anything that JSON can hold; equal content gives an equal key, whatever the order of keys.

    Example:
        >>> content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
        True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _name(name: str) -> str:
    """Return the name of a kind or a record, which is one part of a path on every system."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name of a record; letters, digits, '-', '_' and '.' are.")
    return name


def finite_or_none(number: float | None) -> float | None:
    """Return the number where JSON can hold it, else None."""
    return None if number is None or not np.isfinite(number) else float(number)


def write_json(path: Folder, content: Any) -> None:
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
    or a whole record. In a remote folder its tables are written first and the JSON record last, which is what makes
    it a record. It holds a digest of each of its files and of itself, held against them whenever it is read.
    ``kind`` is ``cells`` or ``probes``.
    """

    def __init__(self, folder: str | Folder, kind: str = "cells") -> None:
        self.folder = as_folder(folder)
        self.place = self.folder / _name(kind)
        within(self.folder, self.place)

    def has(self, key: str) -> bool:
        """Return whether a record of this key has been written."""
        return (self.place / _name(key) / RECORD).is_file()

    def write(
        self,
        key: str,
        record: dict[str, Any],
        losses: dict[str, Any] | None = None,
        weights: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Write a record with its tables, whole or not at all; one that is there already stays as it is."""
        _name(key)
        if isinstance(self.place, RemotePath) and self.has(key):
            return
        with no_room_is_said(self.place):
            try:
                with made_whole(self.place / key, RECORD) as draft:
                    if losses:
                        pq.write_table(pa.table(losses), draft / LOSSES)
                    if weights:
                        save_file({name: np.ascontiguousarray(w) for name, w in weights.items()}, draft / WEIGHTS)
                    tables = [draft / name for name in (LOSSES, WEIGHTS) if (draft / name).is_file()]
                    digests = {path.name: file_digest(path) for path in tables}
                    (draft / RECORD).write_text(_sealed({"schema": SCHEMA, **record, FILES: digests}))
            except OSError:
                if not self.has(key):
                    raise

    def adopt(self, other: "Store", key: str) -> None:
        """Copy a record from another store, whole or not at all.

        Raises:
            RecordError: if it is damaged there, or a link.
        """
        parts = [other.place / key, *(other.place / key / name for name in (LOSSES, WEIGHTS, RECORD))]
        if any(isinstance(path, Path) and path.is_symlink() for path in parts):
            raise RecordError(f"{str(other.place / key)!r} is or holds a link; records are files.")
        what = other.damage(key)
        if what:
            raise RecordError(what)
        source = other.place / key
        with no_room_is_said(self.place), made_whole(self.place / key, RECORD) as draft:
            for name in (LOSSES, WEIGHTS, RECORD):  # and nothing else that may lie there
                path = source / name
                if isinstance(path, Path) and path.is_file():
                    shutil.copyfile(path, draft / name)
                elif not isinstance(path, Path) and path.is_file():
                    (draft / name).write_bytes(path.read_bytes())

    def record(self, key: str) -> dict[str, Any]:
        """Return a record.

        Raises:
            RecordError: if it is damaged, or of a schema newer than this version reads.
        """
        record = self._opened(key)
        return {name: value for name, value in record.items() if name != FILES}

    def losses(self, key: str) -> dict[str, np.ndarray]:
        """Return the table of per-sample losses, a column each; lists of probabilities come as one matrix."""
        path, content = self.place / key / LOSSES, self._checked(key, LOSSES)
        try:
            table = pq.read_table(content if isinstance(content, Path) else pa.BufferReader(content or b""))
            return {name: _column(table[name]) for name in table.column_names}
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _unreadable(path, error) from None

    def weights(self, key: str) -> dict[str, np.ndarray] | None:
        """Return the trained parameters, or None where they were not kept."""
        path, content = self.place / key / WEIGHTS, self._checked(key, WEIGHTS)
        try:
            if isinstance(content, Path):
                return load_file(content) if content.is_file() else None
            return None if content is None else _weights_of(content)
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

    def set_aside(self, key: str) -> Folder:
        """Move a record out of the way, to where a person can look at it, and return where that is."""
        aside = self.folder / DAMAGED / f"{self.place.name}-{key}-{uuid.uuid4().hex[:8]}"
        record = self.place / _name(key)
        within(self.folder, aside.parent)
        if isinstance(record, RemotePath) and isinstance(aside, RemotePath):
            record.move(aside, first=RECORD)
            return aside
        assert isinstance(record, Path)
        assert isinstance(aside, Path)
        with no_room_is_said(aside):
            aside.parent.mkdir(exist_ok=True)
            os.replace(record, aside)
        return aside

    def all_keys(self) -> list[str]:
        """Return the keys of all records, in order."""
        names = (path.parent.name for path in self.place.glob(f"[!.]*/{RECORD}"))
        return sorted(name for name in names if _NAME.fullmatch(name))

    def _opened(self, key: str) -> dict[str, Any]:
        path = self.place / _name(key) / RECORD
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

    def _checked(self, key: str, name: str, record: dict[str, Any] | None = None) -> Path | bytes | None:
        """Return one of a record's files after holding it against the record's digest: its path, or what was fetched.

        Of a remote file the content itself, so that what was checked is what is used; None where it isn't there.
        """
        path = self.place / key / name
        content = path if isinstance(path, Path) else _fetched(path)
        digests = (self._opened(key) if record is None else record).get(FILES)
        if digests is None:  # of an early version
            return content
        try:
            if isinstance(content, Path):
                found = file_digest(content) if content.is_file() else None
            else:
                found = None if content is None else hashlib.sha256(content).hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from None
        if found != digests.get(name):
            what = "is missing" if found is None else "is damaged: its digest is not that in its record"
            raise RecordError(f"{str(path)!r} {what}; {_AGAIN}")
        return content

    def sweep(self) -> None:
        """Remove what a killed process left half made."""
        if isinstance(self.place, RemotePath):
            whole = set(self.all_keys())
            for folder in self.place.glob("*"):
                if folder.name not in whole:
                    folder.remove()
            return
        for draft in self.place.glob(".*"):
            shutil.rmtree(draft, ignore_errors=True)


def kinds_in(folder: Folder) -> list[str]:
    """Return the kinds of records that a run folder holds; a later version may have more of them than this one."""
    kinds = {path.parent.parent.name for path in folder.glob(f"*/*/{RECORD}")} - {DAMAGED}
    return sorted(kind for kind in kinds if _NAME.fullmatch(kind))


_AGAIN = "run the same command again: it sets the record aside and measures it anew."


def _weights_of(content: bytes) -> dict[str, np.ndarray]:
    # By way of a disk, since what safetensors reads from memory comes in another order, and directions are drawn in it.
    with tempfile.TemporaryDirectory(prefix="stillscape-") as folder:
        path = Path(folder) / WEIGHTS
        path.write_bytes(content)
        return load_file(path)


def _fetched(path: RemotePath) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _unreadable(path: Folder, error: Exception) -> RecordError:
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
