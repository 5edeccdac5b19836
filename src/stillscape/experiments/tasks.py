"""What workers do; importing this module brings in all they need, so that it can be loaded once and forked.

A cell whose record is there already returns at once: a worker may have been lost between its record and its answer.
Of the other tasks, which are short, a second record is dropped.
"""

from stillscape._folders import Folder
from stillscape.experiments.bench import Bench, Cell
from stillscape.experiments.cell import record_timeout, run_cell
from stillscape.experiments.evidence import Part, run_part
from stillscape.experiments.hessian_curve import run_hessian_curve, run_hessian_share
from stillscape.experiments.hessian_shards import Share
from stillscape.experiments.landscape import View, run_view
from stillscape.experiments.limits import time_limit
from stillscape.experiments.probe import Probe, run_probe
from stillscape.experiments.spectrum import run_spectrum
from stillscape.experiments.store import Store
from stillscape.experiments.trajectory import run_trajectory


def measure_cell(bench: Bench, folder: Folder, cell: Cell) -> None:
    """Measure one cell and store it."""
    store = Store(folder)
    if store.has(bench.key(cell)):
        return
    with time_limit(bench.plan.cell_seconds, lambda seconds: record_timeout(bench, store, cell, seconds)):
        run_cell(bench, store, cell)


def measure_probe(bench: Bench, folder: Folder, probe: Probe) -> None:
    """Measure the neighborhood of one largest cell and store it."""
    run_probe(bench, Store(folder), Store(folder, "probes"), probe)


def measure_hessian_curve(bench: Bench, folder: Folder, adapt: str) -> None:
    """Measure the Hessians at one adaptation's w* and store their curve."""
    run_hessian_curve(bench, folder, adapt)


def measure_hessian_share(bench: Bench, folder: Folder, share: Share) -> None:
    """Measure one worker's share of the Hessians at an adaptation's w* and store them."""
    run_hessian_share(bench, folder, share)


def measure_spectrum(bench: Bench, folder: Folder, adapt: str) -> None:
    """Measure the spectra at one adaptation's w* and store them."""
    run_spectrum(bench, folder, adapt)


def measure_part(bench: Bench, folder: Folder, part: Part) -> None:
    """Measure what one trained surface says of more data, and store it."""
    run_part(bench, folder, part)


def measure_view(bench: Bench, folder: Folder, view: View) -> None:
    """Measure the loss surface over one plane and store it."""
    run_view(bench, folder, view)


def measure_trajectory(bench: Bench, folder: Folder, adapt: str) -> None:
    """Follow some trainings of one adaptation in the planes of its surface, and store their ways."""
    run_trajectory(bench, folder, adapt)
