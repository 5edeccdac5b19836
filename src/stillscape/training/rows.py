"""Read rows of an array, which may be memory-mapped, as tensors."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stillscape._errors import InputError

# Subsets up to this size are read once; larger ones batch by batch, so that memory stays flat.
_IN_MEMORY_BYTES = 1 << 30


def check_rows(inputs: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return `rows` as integers if they, `inputs` and `labels` belong together, else raise `InputError`."""
    rows = np.asarray(rows)
    if len(inputs) != len(labels):
        raise InputError(
            f"inputs has {len(inputs)} rows and labels {len(labels)}; they must have one label for each row."
        )
    if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu":
        raise InputError(f"rows is {rows.dtype} of shape {rows.shape}; it must be one axis of at least one row number.")
    if rows.min() < 0 or rows.max() >= len(inputs):
        raise InputError(f"rows runs from {rows.min()} to {rows.max()}; inputs has rows 0 to {len(inputs) - 1}.")
    if np.asarray(labels).dtype.kind not in "iu" or np.min(labels) < 0:
        raise InputError("labels must be whole numbers from 0 to the number of classes less one.")
    return rows.astype(np.int64)


def check_classes(labels: Tensor, logits: Tensor) -> None:
    """Raise `InputError` if a label has no class score."""
    if int(labels.max()) >= logits.shape[-1]:
        raise InputError(f"labels go up to {int(labels.max())}, but the model has {logits.shape[-1]} classes.")


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next(module.parameters()).device


class Rows:
    """Rows of inputs and labels, addressed by their place 0, 1, ... in `rows`.

    Args:
        inputs: float32, (n, ...), in memory or memory-mapped; copied only in part.
        labels: (n,).
        rows: (m,) row numbers.
        device: where batches go.
    """

    def __init__(
        self,
        inputs: Float[np.ndarray, "n ..."],
        labels: Int[np.ndarray, " n"],
        rows: Int[np.ndarray, " m"],
        device: torch.device,
    ) -> None:
        self._inputs, self._rows, self._device = inputs, rows, device
        self.labels = torch.from_numpy(np.asarray(labels)[rows].astype(np.int64)).to(device)
        size = len(rows) * inputs[0].size * 4
        self._held = self._read(rows) if size <= _IN_MEMORY_BYTES else None

    def __len__(self) -> int:
        return len(self._rows)

    def _read(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self._inputs[rows], dtype=np.float32)).to(self._device)

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels at `places`."""
        if self._held is not None:
            return self._held[places], self.labels[places]
        return self._read(self._rows[places.cpu().numpy()]), self.labels[places]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            if self._held is not None:
                yield self._held[start : start + size], self.labels[start : start + size]
            else:
                yield self._read(self._rows[start : start + size]), self.labels[start : start + size]
