"""Tasks that take no time, so that what is left is the scheduler's and the store's own; workers import them by name."""

from pathlib import Path

import numpy as np

from stillscape.experiments import Bench, Store

IMAGES = 200  # in the table of a simulated cell, as of a small run


def nothing(bench: Bench, folder: Path, number: int) -> None:
    """Do nothing."""


def key_of(number: int) -> str:
    """Return the key of a simulated cell."""
    return f"{number:020d}"


def simulated_cell(bench: Bench, folder: Path, number: int) -> None:
    """Store a record with a table, of the form that a cell's has; nothing is trained."""
    losses = {"sample": np.arange(IMAGES), "loss": np.random.default_rng(number).random(IMAGES)}
    Store(folder).write(key_of(number), {"status": "ok", "number": number}, losses)
