"""Everything that the surfaces of a finished run say of more data, as one table: for benchmarks, at every k."""

from collections.abc import Sequence
from typing import Any

from stillscape import _checks
from stillscape._errors import InputError
from stillscape._folders import Folder, as_folder
from stillscape.experiments.bench import set_up
from stillscape.experiments.evidence import IMAGES, missing_parts, parts_of, values_of
from stillscape.experiments.local import run_tasks
from stillscape.experiments.plan import resumed_plan
from stillscape.experiments.progress import Progress, Silent, counted
from stillscape.experiments.store import Store
from stillscape.experiments.tasks import measure_part


def measure_evidence(
    folder: str | Folder,
    *,
    adapt: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    parts: Sequence[str] | None = None,
    images: int = IMAGES,
    seeds: int = 1,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measure what a run's trained surfaces say of more data, at the stored weights of every cell.

    What the folder holds already is read, and what is new is stored there under ``evidence/``: a second call is cheap,
    and one that was killed goes on. Cells that failed and quantities that can't be had are left out.

    Args:
        folder: a run folder, its plan run to the end; the data and the model must still be where they were.
        adapt: adaptations; all of the plan unless given.
        sizes: of training sets; all of the plan unless given.
        parts: of "head", "takeuchi", "split_half", "moving_optimum"; all unless given. "head" (Takeuchi, one added
            sample and leave-one-out, from features) exists for the adaptation of that name only, and stands for
            "takeuchi" there.
        images: held-out images at most, for all parts but "head", which takes up to 500 of each fold.
        seeds: training seeds of each order, from the first on; the head has one.
        trust_remote_code: whether code that comes with the run's model may be run.
        progress: where to report to; nowhere by default.

    Returns:
        rows {"adapt", "k", "permutation", "seed", "quantity", "value", "stderr"}, in the plan's order; "stderr" is None
        where there is none. Quantities in nats: takeuchi_gain, takeuchi_optimism, penalty_pull, optimism_gap,
        optimism_gain, next_doubling_slope, next_doubling_gain, alo_loss, moving_optimum_shift; in nats squared:
        moving_optimum (with _null); without unit: split_half_hessian (with _frobenius, _expected), split_half_gradient
        (with _expected), effective_dimension, takeuchi_consistent (1 or 0); damping in nats per squared weight.

    Raises:
        InputError: no run there, a cell that was not measured, or an argument that names nothing.

    Cost: for P parameters and n images, some 84 products of each image for "takeuchi" and 70 for "split_half"; four
        passes over the training images for "moving_optimum"; seconds for "head".
    """
    _checks.at_least("images", images, 8)
    _checks.at_least("seeds", seeds, 1)
    folder = as_folder(folder)
    path = folder / "plan.toml"
    if not path.is_file():
        raise InputError(f"{str(folder)!r} holds no plan.toml; run the plan first: stillscape run --out {folder}")
    progress = progress or Silent()
    bench, pictures = set_up(resumed_plan(path, trust_remote_code=trust_remote_code or None), folder, progress)
    cells = Store(folder)
    unmeasured = [cell for cell in bench.cells() if not cells.has(bench.key(cell))]
    if unmeasured:
        raise InputError(f"{str(folder)!r} lacks {len(unmeasured)} cells of its plan; run it to its end first.")
    _known("adapt", adapt, bench.plan.adapt)
    _known("sizes", sizes, bench.sizes)
    _known("parts", parts, ("head", "takeuchi", "split_half", "moving_optimum"))
    wanted = [
        part
        for part in parts_of(bench, cells, deep=True, images=images, seeds=seeds)
        if (adapt is None or part.cell.adapt in adapt)
        and (sizes is None or part.cell.k in sizes)
        and (parts is None or part.name in parts or (part.name == "head" and "takeuchi" in parts))
    ]
    missing = missing_parts(bench, folder, wanted)
    bench.cache_inputs(dict.fromkeys(part.cell.adapt for part in missing), pictures, progress)
    tasks = [(measure_part, (part,)) for part in missing]
    for _ in counted(run_tasks(bench, folder, tasks), len(tasks), "reading the surfaces", progress):
        pass
    return [
        {**part.cell.__dict__, "quantity": name, "value": value, "stderr": stderr}
        for part in wanted
        for name, (value, stderr) in values_of(bench, folder, part).items()
    ]


def _known(name: str, given: Sequence[Any] | None, there: Sequence[Any]) -> None:
    odd = [one for one in given or () if one not in there]
    if odd:
        raise InputError(f"{name} names {odd[0]!r}; there are {', '.join(map(str, there))}.")
