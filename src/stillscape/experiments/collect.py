"""From records to arrays: per-sample losses of every repeat and size, in one order of the scored images."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stillscape.experiments.bench import Bench, Cell
from stillscape.experiments.store import Store
from stillscape.training import weighted_metric


@dataclass(frozen=True)
class Collected:
    """What was measured for one adaptation, over the repeats of which no cell failed.

    Axes: R repeats (order, seed), K sizes, n scored images.

    Attributes:
        bench: the bench.
        store: its cells.
        adapt: the adaptation.
        repeats: (order, seed) of each complete repeat.
        records: every cell's record, failed ones too.
    """

    bench: Bench
    store: Store
    adapt: str
    repeats: list[tuple[int, int]]
    records: dict[Cell, dict[str, Any]]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The grid of k."""
        return self.bench.sizes

    @property
    def permutation_ids(self) -> list[int]:
        """The order of each repeat."""
        return [permutation for permutation, _ in self.repeats]

    @property
    def seed_ids(self) -> list[int]:
        """The training seed of each repeat."""
        return [seed for _, seed in self.repeats]

    @property
    def labels(self) -> np.ndarray:
        """(n,) class numbers of the scored images."""
        return self.bench.labels[self.bench.scored]

    @property
    def groups(self) -> np.ndarray:
        """(n,) group codes of the scored images."""
        return self.bench.groups[self.bench.scored]

    @cached_property
    def losses(self) -> np.ndarray:
        """(R, K, n) held-out losses, nats."""
        return self._table[0]

    @cached_property
    def predictions(self) -> np.ndarray:
        """(R, K, n) predicted classes."""
        return self._table[1]

    @cached_property
    def hits(self) -> np.ndarray:
        """(R, K, n) whether the prediction is right."""
        return self.predictions == self.labels

    def cell(self, repeat: int, k: int) -> Cell:
        """Return the cell of a repeat at a size."""
        return Cell(self.adapt, k, *self.repeats[repeat])

    def value(self, name: str) -> np.ndarray:
        """Return one number of the records, as (R, K)."""
        return np.array([[self._of_cell(r, k)[name] for k in self.sizes] for r in range(len(self.repeats))])

    def score(self, metric: str) -> Any:
        """Return what the bootstrap needs: hits where the metric is their mean, else a function of image weights."""
        if metric == "accuracy":
            return self.hits
        probabilities = [[self._held_out(r, k)["probabilities"] for k in self.sizes] for r in range(len(self.repeats))]
        return weighted_metric(metric, self.labels, probabilities)

    @cached_property
    def distances(self) -> np.ndarray | None:
        """Return (R, K) root mean square over folds of ||w_k - w_m||, or None where weights were not kept."""
        rows = []
        for r in range(len(self.repeats)):
            states = [self.store.weights(self.bench.key(self.cell(r, k))) for k in self.sizes]
            if any(state is None for state in states):
                return None
            rows.append([_distance(state, states[-1]) for state in states])
        return np.array(rows)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(self.repeats), len(self.sizes), len(self.bench.scored))
        losses, predictions = np.empty(shape), np.empty(shape, dtype=np.int64)
        for r in range(shape[0]):
            for column, k in enumerate(self.sizes):
                rows = self._held_out(r, k)
                losses[r, column], predictions[r, column] = rows["loss"], rows["probabilities"].argmax(1)
        return losses, predictions

    def _held_out(self, repeat: int, k: int) -> dict[str, np.ndarray]:
        table = self.store.losses(self.bench.key(self.cell(repeat, k)))
        chosen = np.flatnonzero(table["role"] == "heldout")
        chosen = chosen[np.argsort(table["sample"][chosen])]  # the order of `scored`
        return {name: column[chosen] for name, column in table.items()}

    def _of_cell(self, repeat: int, k: int) -> dict[str, Any]:
        return self.records[self.cell(repeat, k)]


def collect(bench: Bench, store: Store, adapt: str) -> Collected:
    """Return what the records hold for one adaptation.

    A repeat in which any size failed is left out at all sizes, so that sizes are compared over the same repeats.
    """
    records = {cell: store.record(bench.key(cell)) for cell in bench.cells() if cell.adapt == adapt}
    failed = {(cell.permutation, cell.seed) for cell, record in records.items() if record["status"] != "ok"}
    repeats = sorted({(cell.permutation, cell.seed) for cell in records} - failed)
    return Collected(bench, store, adapt, repeats, records)


def _distance(state: Any, other: Any) -> float:
    squares: dict[str, float] = {}
    for name, values in state.items():
        fold = name.partition("/")[0]
        difference = values.astype(np.float64) - other[name]
        squares[fold] = squares.get(fold, 0.0) + float((difference**2).sum())
    return float(np.sqrt(np.mean(list(squares.values()))))
