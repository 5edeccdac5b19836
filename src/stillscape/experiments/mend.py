"""Before a run goes on: records that were damaged, or that the plan now gives more time, are measured again."""

from collections.abc import Collection

from stillscape._folders import Folder
from stillscape.experiments.bench import Bench
from stillscape.experiments.cell import OUT_OF_MEMORY
from stillscape.experiments.progress import Progress
from stillscape.experiments.store import Store, kinds_in


def set_aside_damaged(folder: Folder, progress: Progress, only: Collection[str] | None = None) -> int:
    """Move every damaged record of a run folder out of the way, say each one's name, and return how many.

    Args:
        folder: the run folder.
        progress: where each is said.
        only: keys to look at; all by default.

    Raises:
        RecordError: if a record is of a schema newer than this version reads; nothing is done to it.

    Cost: every file of every record is read once.
    """
    found = 0
    for store in (Store(folder, kind) for kind in kinds_in(folder)):
        for key in store.all_keys():
            if only is not None and key not in only:
                continue
            what = store.damage(key)
            if what:
                aside = store.set_aside(key)
                progress.say(f"damaged, set aside as {aside.name} and measured again: {what}")
                found += 1
    return found


def try_again_with_memory(store: Store, keys: Collection[str], progress: Progress) -> None:
    """Set aside what ran out of memory, to be measured again: there may be more of it now, or fewer workers."""
    for key in keys:
        if store.has(key) and store.record(key).get(OUT_OF_MEMORY):
            store.set_aside(key)
            progress.say(f"{store.place.name}/{key} ran out of memory before and is measured again")


def grant_more_time(bench: Bench, cells: Store) -> None:
    """Set aside cells that ran out of time, where the plan now gives them more."""
    limit = bench.plan.cell_seconds
    for key in (bench.key(cell) for cell in bench.cells()):
        record = cells.record(key) if cells.has(key) else {}
        if "cell_seconds" in record and (limit is None or limit > record["cell_seconds"]):
            cells.set_aside(key)
