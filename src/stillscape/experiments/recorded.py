"""What a run folder still holds of each training: seconds, trained parameters, and the held-out images one by one."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stillscape._errors import RecordError
from stillscape._folders import Folder, as_folder
from stillscape.experiments.store import Store

_SAME = ("heldout_loss", "train_loss")  # of a record and of its row in the result: the same training


@dataclass(frozen=True)
class HeldOut:
    """What one adaptation said of the held-out images at one size.

    Attributes:
        repeats: (order, seed) of each repeat, R of them.
        samples: numbers of the images in their data, ascending, (n,).
        labels: (n,).
        probabilities: (R, n, C).
    """

    repeats: list[tuple[int, int]]
    samples: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


class RecordedRun:
    """A run folder and its result, read for comparison; nothing is written.

    A folder may hold records of earlier plans. Those that belong to the result are told by their cell and by the
    numbers that the result quotes of it.

    Args:
        folder: the run folder.
        result: what its result.json holds.
    """

    def __init__(self, folder: str | Folder, result: Mapping[str, Any]) -> None:
        self.folder = as_folder(folder)
        self.result = result
        self._cells = Store(self.folder)

    @cached_property
    def plan(self) -> dict[str, Any]:
        """The plan as it was written; empty where the folder has none, as that of a `DataSufficiency`."""
        try:
            return tomllib.loads((self.folder / "plan.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def seconds(self, adapt: str) -> float | None:
        """Return the computing time of all trainings of an adaptation, scoring included; None if not recorded."""
        keys = self._keys(adapt)
        if not keys or len(keys) < len(self._rows(adapt)):
            return None
        return float(sum(self._records[key]["seconds"] for key in keys.values()))

    def trained_parameters(self, adapt: str) -> int | None:
        """Return how many numbers are trained; None where trained weights were not kept."""
        for key in self._keys(adapt).values():
            weights = self._cells.weights(key)
            if weights:
                fold = next(iter(weights)).partition("/")[0]
                return int(sum(array.size for name, array in weights.items() if name.partition("/")[0] == fold))
        return None

    def held_out(self, adapt: str, k: int) -> HeldOut | None:
        """Return what was said of each held-out image at size k; None where it isn't there for every repeat."""
        keys = {(order, seed): key for (size, order, seed), key in self._keys(adapt).items() if size == k}
        wanted = {(row["permutation"], row["seed"]) for row in self._rows(adapt) if row["k"] == k}
        if not keys or set(keys) != wanted:
            return None
        tables = []
        for repeat in sorted(keys):
            try:
                table = self._cells.losses(keys[repeat])
            except RecordError:
                return None
            rows = np.flatnonzero(table["role"] == "heldout")
            rows = rows[np.argsort(table["sample"][rows])]
            tables.append({name: column[rows] for name, column in table.items()})
        first = tables[0]
        if any(not np.array_equal(table["sample"], first["sample"]) for table in tables):
            return None
        probabilities = np.stack([table["probabilities"] for table in tables])
        return HeldOut(sorted(keys), first["sample"], first["label"], probabilities)

    def _rows(self, adapt: str) -> list[Mapping[str, Any]]:
        entry = next(entry for entry in self.result["results"] if entry["adapt"] == adapt)
        # an order or seed with a failed cell is left out of every curve of the result, and so it is here
        rows = entry.get("cells") or []
        failed = {(row["permutation"], row["seed"]) for row in rows if row["status"] != "ok"}
        return [row for row in rows if (row["permutation"], row["seed"]) not in failed]

    def _keys(self, adapt: str) -> dict[tuple[int, int, int], str]:
        rows = {(row["k"], row["permutation"], row["seed"]): row for row in self._rows(adapt)}
        found = {}
        for key, record in self._records.items():
            cell = record["cell"]
            place = (cell["k"], cell["permutation"], cell["seed"])
            row = rows.get(place)
            if cell["adapt"] == adapt and row and all(record.get(name) == row.get(name) for name in _SAME):
                found[place] = key
        return found

    @cached_property
    def _records(self) -> dict[str, dict[str, Any]]:
        records = {key: self._cells.record(key) for key in self._cells.all_keys()}
        return {key: record for key, record in records.items() if record["status"] == "ok"}
