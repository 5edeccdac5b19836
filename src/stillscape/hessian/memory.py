"""Memory for results and for what is written and read again on the way: handing it out can cost more than the sums."""

import contextlib
import ctypes

import numpy as np
import torch
from torch import Tensor

HUGE_BYTES = 32 * 2**20  # less than that comes from memory already at hand
NUMPY_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


def fresh(like: Tensor, *shape: int) -> Tensor:
    """Return uninitialised memory for a result, of the dtype and device of `like`.

    If it is large, from NumPy where that can be: it asks the system for huge pages, and PyTorch doesn't. A large result
    is handed out in a fraction of the time then, which otherwise exceeds that of computing it (benchmarks/hessian).
    """
    size = int(torch.Size(shape).numel()) * like.element_size()
    if size >= HUGE_BYTES and like.device.type == "cpu" and like.dtype in NUMPY_DTYPES:
        return torch.from_numpy(np.empty(shape, NUMPY_DTYPES[like.dtype]))
    return like.new_empty(shape)


def give_back() -> None:
    """Let the system have what was freed, before a large result is asked for.

    glibc keeps freed memory that has something alive behind it; elsewhere nothing needs to be done.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # TypeError: no CDLL(None) on Windows
        ctypes.CDLL(None).malloc_trim(0)


class Buffers:
    """Memory by name, kept from one chunk of samples to the next."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def get(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Return the buffer of that name in a shape; what it held is lost."""
        size = int(torch.Size(shape).numel())
        if name not in self._held or self._held[name].numel() < size:
            self._held[name] = like.new_empty(size)
        return self._held[name][:size].view(shape)
