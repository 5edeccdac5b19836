"""What workers do; importing this module brings in all they need, so that it can be loaded once and forked.

A cell whose record is there already returns at once: a worker may have been lost between its record and its answer.
Of the other tasks, which are short, a second record is dropped.
"""

from pathlib import Path

from stillscape.experiments.bench import Bench, Cell
from stillscape.experiments.cell import record_timeout, run_cell
from stillscape.experiments.evidence import Part, run_part
from stillscape.experiments.hessian_curve import run_hessian_curve
from stillscape.experiments.landscape import View, run_view
from stillscape.experiments.limits import time_limit
from stillscape.experiments.probe import Probe, run_probe
from stillscape.experiments.store import Store


def measure_cell(bench: Bench, folder: Path, cell: Cell) -> None:
    """Measure one cell and store it."""
    store = Store(folder)
    if store.has(bench.key(cell)):
        return
    with time_limit(bench.plan.cell_seconds, lambda seconds: record_timeout(bench, store, cell, seconds)):
        run_cell(bench, store, cell)


def measure_probe(bench: Bench, folder: Path, probe: Probe) -> None:
    """Measure the neighborhood of one largest cell and store it."""
    run_probe(bench, Store(folder), Store(folder, "probes"), probe)


def measure_hessian_curve(bench: Bench, folder: Path, adapt: str) -> None:
    """Measure the Hessians at one adaptation's w* and store their curve."""
    run_hessian_curve(bench, folder, adapt)


def measure_part(bench: Bench, folder: Path, part: Part) -> None:
    """Measure what one trained surface says of more data, and store it."""
    run_part(bench, folder, part)


def measure_view(bench: Bench, folder: Path, view: View) -> None:
    """Measure the loss surface over one plane and store it."""
    run_view(bench, folder, view)
