"""Thread counts: a cell's last digits depend on them, so each cell runs at the plan's own count, wherever it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """Run torch, BLAS and OpenMP at `count` threads inside the block, and as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(limits=count):
            yield
    finally:
        torch.set_num_threads(before)
