"""Random starts of modules that know only the global random state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def start_from(seed: int) -> Iterator[None]:
    """Let constructors inside the block draw from `seed`; the global random state is put back afterwards.

    >>> with start_from(1):
    ...     first = torch.nn.Linear(1, 1).weight.item()
    >>> with start_from(1):
    ...     first == torch.nn.Linear(1, 1).weight.item()
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        yield
