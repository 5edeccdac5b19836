"""From a plan to a verdict: set up, measure every cell that is not there yet, analyze, report."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillscape._errors import InputError, RecordError
from stillscape._files import write_whole
from stillscape._folders import Folder, as_folder
from stillscape._notebook import Result
from stillscape.data import ImageSet
from stillscape.experiments.analyze import analyze
from stillscape.experiments.bench import Bench, Cell, set_up
from stillscape.experiments.cell import OUT_OF_MEMORY
from stillscape.experiments.cost import fit_budget
from stillscape.experiments.devices import unused
from stillscape.experiments.evidence import KIND as EVIDENCE
from stillscape.experiments.evidence import Part, missing_parts, parts_of
from stillscape.experiments.extras import missing_of
from stillscape.experiments.hessian_curve import KIND as HESSIANS
from stillscape.experiments.hessian_curve import missing_curves, num_parameters
from stillscape.experiments.hessian_shards import KIND as SHARDS
from stillscape.experiments.hessian_shards import shares
from stillscape.experiments.landscape import KIND as SURFACES
from stillscape.experiments.landscape import missing_views
from stillscape.experiments.local import Task, num_workers, run_tasks, within_reach, workers_ready
from stillscape.experiments.lock import locked
from stillscape.experiments.mend import grant_more_time, set_aside_damaged, try_again_with_memory
from stillscape.experiments.plan import REVISABLE, Plan, make_plan
from stillscape.experiments.probe import Probe, all_probes, probe_key
from stillscape.experiments.progress import Progress, Silent, counted
from stillscape.experiments.provenance import circumstances
from stillscape.experiments.shards import Shard
from stillscape.experiments.spectrum import KIND as SPECTRA
from stillscape.experiments.spectrum import missing_spectra
from stillscape.experiments.store import SCHEMA, Store, write_json
from stillscape.experiments.tasks import (
    measure_cell,
    measure_hessian_curve,
    measure_hessian_share,
    measure_part,
    measure_probe,
    measure_spectrum,
    measure_trajectory,
    measure_view,
)
from stillscape.experiments.threads import ready_cublas
from stillscape.experiments.trajectory import KIND as TRAJECTORIES
from stillscape.experiments.trajectory import missing_trajectories
from stillscape.models import parse_adaptation

GUESSED_SECONDS = {"head": 0.02, "last-layers": 0.3, "lora": 1.0, "full": 1.5}  # of a step, until one is measured


def run(
    plan: Plan, folder: str | Folder, *, progress: Progress | None = None, budget_s: float | None = None
) -> dict[str, Any]:
    """Return the result of a plan, measuring only the cells that the run folder does not hold yet.

    Args:
        plan: what to measure.
        folder: the run folder, a path or an address such as "s3://bucket/runs/photos" (any file system of fsspec);
            made if missing, taken up again if it was made by the same plan or one that differs only in sizes,
            repeats, seeds, adaptations or the question.
        progress: where to report to; nowhere by default.
        budget_s: seconds that the run may take; sizes and repeats are cut to fit, and the cut plan is kept.

    Returns:
        The content of ``result.json``; a notebook shows it as verdict and figure.

    Raises:
        InputError: if data, model, sizes or folder can't be used.
        RunError: if it can't be finished; what is recorded is kept, and the same call goes on from there.
    """
    folder, progress = as_folder(folder), progress or Silent()
    started = time.perf_counter()
    with _prepared(plan, folder, progress, budget_s) as (bench, images):
        _measure(bench, images, folder, progress)
        progress.stage("analyzing", 1)
        result = Result(analyze(bench, images.name, folder))
        write_json(folder / "result.json", result)
    progress.advance(1)
    progress.say(f"finished in {time.perf_counter() - started:.0f} s")
    return result


def run_shard(plan: Plan, folder: str | Folder, shard: Shard, *, progress: Progress | None = None) -> dict[str, Any]:
    """Measure one share of a plan's cells, and return how far it got; `run` on the whole makes the result of them.

    Each shard may have a folder of its own, to be merged by `stillscape.experiments.merge`, or all may share one on
    a common disk. What is asked of trained cells (the neighborhood, Hessians, evidence) waits for `run`.

    Args:
        plan: what to measure, the same for all shards.
        folder: the run folder, a path or an address.
        shard: which share.
        progress: where to report to; nowhere by default.

    Returns:
        {"shard": "1/4", "cells": of this share, "failed": of them, "cells_of_all", "there_of_all": in this folder}.

    Raises:
        InputError: if data, model, sizes or folder can't be used.
        RunError: if it can't be finished; what is recorded is kept, and the same call goes on from there.
    """
    folder, progress = as_folder(folder), progress or Silent()
    with _prepared(plan, folder, progress, None, shard) as (bench, images):
        every, cells = bench.cells(), Store(folder)
        mine = [every[index] for index in shard.of([guessed_seconds(bench, cell) for cell in every])]
        keys = [bench.key(cell) for cell in mine]
        set_aside_damaged(folder, progress, only=keys)
        try_again_with_memory(cells, keys, progress)
        _measure_cells(bench, images, folder, mine, [], progress)
        failed = sum(cells.record(bench.key(cell))["status"] == "failed" for cell in mine)
        there = sum(cells.has(bench.key(cell)) for cell in every)
    return {
        "shard": str(shard),
        "cells": len(mine),
        "failed": failed,
        "cells_of_all": len(every),
        "there_of_all": there,
    }


@contextmanager
def _prepared(
    plan: Plan, folder: Folder, progress: Progress, budget_s: float | None, shard: Shard | None = None
) -> Iterator[tuple[Bench, ImageSet]]:
    """Have the bench of a plan and its images inside the block, workers ready, and the folder to ourselves."""
    plan, chosen_before = _agree_with(folder, within_reach(folder, plan), budget_s)
    if plan.deterministic and (said := ready_cublas()):
        progress.say(said)
    if said := unused(plan.device):
        progress.say(said)
    with workers_ready(plan):
        bench, images = set_up(plan, folder, progress)
        if budget_s is not None and not chosen_before:
            plan, seconds = fit_budget(bench, images, budget_s)
            bench = bench.with_plan(plan)
            sizes = ", ".join(map(str, bench.sizes))
            chosen = f"sizes {sizes}, {plan.repeats} orders, {plan.seeds} seeds"
            progress.say(f"the budget leaves room for {chosen}: about {seconds / 60:.1f} min")
        with locked(folder, f"{shard.number}-of-{shard.count}" if shard else ""):
            write_whole(folder / "plan.toml", plan.to_toml().encode())
            write_json(folder / "provenance.json", circumstances(bench, num_workers(bench, len(bench.cells()))))
            yield bench, images


def _agree_with(folder: Folder, plan: Plan, budget_s: float | None) -> tuple[Plan, bool]:
    """Return the plan to run in this folder, and whether a budget has chosen its sizes before."""
    path = folder / "plan.toml"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out is {str(folder)!r}, which is a file; name a folder.")
    if not path.is_file():
        return plan, False
    before = make_plan(path)
    old, new = before.without_revisable(), plan.without_revisable()
    differing = [name for name in new if old[name] != new[name]]
    if differing:
        changes = "; ".join(f"{name} was {old[name]!r}, is {new[name]!r}" for name in differing)
        raise InputError(
            f"out is {str(folder)!r}, which another plan made ({changes}). Name another folder; "
            f"within one folder only these may change: {', '.join(sorted(REVISABLE))}."
        )
    if budget_s is None:
        return plan, False
    kept = {name: getattr(before, name) for name in ("sizes", "repeats", "seeds")}
    return plan.model_copy(update=kept), True


def _measure(bench: Bench, images: ImageSet, folder: Folder, progress: Progress) -> None:
    cells, probes = Store(folder), Store(folder, "probes")
    extras = [Store(folder, kind) for kind in (SHARDS, HESSIANS, SPECTRA, EVIDENCE, SURFACES, TRAJECTORIES)]
    for store in (cells, probes, *extras):
        store.sweep()
    set_aside_damaged(folder, progress)
    grant_more_time(bench, cells)
    try_again_with_memory(cells, [bench.key(cell) for cell in bench.cells()], progress)
    for store in (probes, *extras):
        try_again_with_memory(store, store.all_keys(), progress)
    later = [probe.adapt for probe in _missing_probes(bench, cells, probes)]
    later += missing_curves(bench, folder)
    later += missing_spectra(bench, folder)
    later += [part.cell.adapt for part in missing_parts(bench, folder, _parts(bench, cells))]
    later += [view.adapt for view in missing_views(bench, folder)] + missing_trajectories(bench, folder)
    _measure_cells(bench, images, folder, bench.cells(), later, progress)
    wanted = [(measure_probe, (probe,)) for probe in _missing_probes(bench, cells, probes)]
    _run_all("probing the neighborhood", wanted, bench, folder, progress)
    for probe in all_probes(bench, cells):
        record = probes.record(probe_key(bench, probe))
        if record.get(OUT_OF_MEMORY):
            progress.say(f"{probe} was left out: {record['reason']}")
    adapts = [(measure_hessian_curve, (adapt,)) for adapt in missing_curves(bench, folder)]
    lengths = {adapt: num_parameters(bench, cells, adapt) for _, (adapt,) in adapts}
    on_disk = lengths if isinstance(folder, Path) else {}  # shards are large, and read again
    if apart := [(measure_hessian_share, (share,)) for share in shares(bench, on_disk)]:
        _run_all("multiplying with Hessians", apart, bench, folder, progress)
    if adapts:
        _run_all("measuring Hessians", adapts, bench, folder, progress)
    spectra = [(measure_spectrum, (adapt,)) for adapt in missing_spectra(bench, folder)]
    if spectra:
        _run_all("measuring spectra", spectra, bench, folder, progress)
    parts = [(measure_part, (part,)) for part in missing_parts(bench, folder, _parts(bench, cells))]
    if parts:
        _run_all("asking the surfaces", parts, bench, folder, progress)
    views = [(measure_view, (view,)) for view in missing_views(bench, folder)]
    if views:
        _run_all("drawing the surfaces", views, bench, folder, progress)
    ways = [(measure_trajectory, (adapt,)) for adapt in missing_trajectories(bench, folder)]
    if ways:
        _run_all("following the training", ways, bench, folder, progress)


def _measure_cells(
    bench: Bench, images: ImageSet, folder: Folder, wanted: list[Cell], later: list[str], progress: Progress
) -> None:
    """Measure those of the wanted cells that are not there yet, with the caches for them and for what comes later."""
    cells = Store(folder)
    pending = [cell for cell in wanted if not cells.has(bench.key(cell))]
    if len(pending) < len(wanted):
        progress.say(f"{len(wanted) - len(pending)} of {len(wanted)} cells are there already")
    bench.cache_inputs(dict.fromkeys([*(cell.adapt for cell in pending), *later]), images, progress)
    run_cells(bench, folder, pending, cells, progress)


def _run_all(
    title: str, tasks: list[tuple[Task, tuple[Any, ...]]], bench: Bench, folder: Folder, progress: Progress
) -> None:
    for _ in counted(run_tasks(bench, folder, tasks), len(tasks), title, progress):
        pass


def _parts(bench: Bench, cells: Store) -> list[Part]:
    return parts_of(bench, cells, deep=bench.plan.evidence)


def _missing_probes(bench: Bench, cells: Store, probes: Store) -> list[Probe]:
    return missing_of(probes, all_probes(bench, cells), lambda probe: probe_key(bench, probe))


def run_cells(bench: Bench, folder: Folder, pending: list[Cell], cells: Store, progress: Progress) -> None:
    """Measure cells, long ones first, and store them as they are done."""
    clock = Clock(bench, pending)
    pending = sorted(pending, key=clock.seconds, reverse=True)  # long ones first, so that no worker idles at the end
    progress.stage(f"training {len(pending)} cells", clock.left())
    done = 0.0
    for index in run_tasks(bench, folder, [(measure_cell, (cell,)) for cell in pending]):
        record = cells.record(bench.key(pending[index]))
        if record["status"] == "failed":
            progress.say(f"{pending[index]} failed: {record['reason']}")
        cut = [fold["micro_batch"] for fold in record["folds"] if "micro_batch" in fold]
        if cut:
            progress.say(f"{pending[index]}: for want of memory batches were taken {min(cut)} images at a time")
        done += record["seconds"]
        clock.finished(pending[index], record["seconds"])
        progress.advance(done, total=done + clock.left(), seconds_left=clock.left() / clock.workers)


@dataclass
class Clock:
    """Estimates what is left from what was measured: seconds per step of each adaptation, once it has finished one."""

    bench: Bench
    pending: list[Cell]
    spent: dict[str, float] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pending = list(self.pending)
        self.workers = num_workers(self.bench, len(self.pending))

    def finished(self, cell: Cell, seconds: float) -> None:
        """Take note of a cell that is done."""
        self.pending.remove(cell)
        self.spent[cell.adapt] = self.spent.get(cell.adapt, 0.0) + seconds
        self.steps[cell.adapt] = self.steps.get(cell.adapt, 0.0) + self._steps(cell)

    def seconds(self, cell: Cell) -> float:
        """Return the estimate for one cell."""
        if cell.adapt in self.spent:
            return self._steps(cell) * self.spent[cell.adapt] / self.steps[cell.adapt]
        guess = guessed_seconds(self.bench, cell)
        measured = sum(self.spent.values())
        expected = sum(n * GUESSED_SECONDS[parse_adaptation(a).kind] for a, n in self.steps.items())
        return guess * (measured / expected if expected else 1.0)

    def left(self) -> float:
        """Return the estimated seconds of computing that are left, before sharing them out over workers."""
        return sum(self.seconds(cell) for cell in self.pending)

    def _steps(self, cell: Cell) -> float:
        return num_steps(self.bench, cell)


def num_steps(bench: Bench, cell: Cell) -> float:
    """Return the steps of training that a cell takes."""
    return len(bench.fold_numbers) * bench.plan.recipe(cell.adapt).num_steps(cell.k)


def guessed_seconds(bench: Bench, cell: Cell) -> float:
    """Return a guess that depends on the plan alone: right in proportion, whatever the machine."""
    return num_steps(bench, cell) * GUESSED_SECONDS[parse_adaptation(cell.adapt).kind]


def read_result(folder: str | Folder) -> dict[str, Any]:
    """Return the content of a run folder's ``result.json``.

    Raises:
        InputError: if there is none.
        RecordError: if it is damaged, or of a schema newer than this version reads.
    """
    folder = as_folder(folder)
    path = folder / "result.json"
    if not path.is_file():
        raise InputError(
            f"{str(folder)!r} holds no result.json; run the plan to its end first: stillscape run --out {folder}"
        )
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{str(path)!r} can't be read ({error}); run again to rebuild it from the records.") from None
    if not isinstance(result, dict) or result.get("schema", SCHEMA + 1) > SCHEMA:
        raise RecordError(f"{str(path)!r} is not of a schema that this version reads (up to {SCHEMA}).")
    return Result(result)
