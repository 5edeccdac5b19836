"""Many machines without a cluster: each measures its share of a plan's cells, and the folders are merged."""

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass

from stillscape._errors import InputError, RecordError
from stillscape._folders import Folder, as_folder
from stillscape.experiments.lock import locked
from stillscape.experiments.plan import Plan, resumed_plan
from stillscape.experiments.progress import Progress, Silent
from stillscape.experiments.store import Store, kinds_in

_MOVE_NOTHING = {"workers", "executor", "cache_gib"}  # of the fields of a plan; shards may differ in them


@dataclass(frozen=True)
class Shard:
    """Share `number` of `count`, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, costs: Sequence[float]) -> list[int]:
        """Return the indices of this share's items; the shares of all numbers hold each item once, at even cost.

        Example:
            >>> [Shard(number, 2).of([1.0, 1.0, 2.0]) for number in (1, 2)]
            [[2], [0, 1]]
        """
        loads = [(0.0, number) for number in range(1, self.count + 1)]
        mine = []
        for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):  # the dearest first, to the least loaded
            load, number = heapq.heappop(loads)
            heapq.heappush(loads, (load + costs[index], number))
            if number == self.number:
                mine.append(index)
        return sorted(mine)


def parse_shard(text: str) -> Shard:
    """Read a share written as i/N.

    Example:
        >>> parse_shard("2/4")
        Shard(number=2, count=4)
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    shard = Shard(*map(int, found.groups())) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.count:
        raise InputError(f"shard is {text!r}; write i/N with i from 1 to N, such as 1/4.")
    return shard


def merge(
    folders: Sequence[str | Folder],
    out: str | Folder,
    *,
    progress: Progress | None = None,
    trust_remote_code: bool = False,
) -> Plan:
    """Copy the records of run folders of one plan into one folder, and return the plan, to be run there to its end.

    What is in `out` already stays. A damaged record is left behind and said; it will be measured again.

    Args:
        folders: run folders, paths or addresses.
        out: the folder for the whole; may be one of them.
        progress: where to report to; nowhere by default.
        trust_remote_code: whether a plan that runs code that comes with its model is to be trusted.

    Raises:
        InputError: if a folder is no run folder, they are of different plans, or of one that is not trusted.
    """
    out, progress = as_folder(out), progress or Silent()
    places = [as_folder(folder) for folder in folders]
    plan = _common_plan(trust_remote_code, [*places, *([out] if (out / "plan.toml").is_file() else [])])
    with locked(out):
        for folder in places:
            if folder.resolve() != out.resolve():
                _adopt_all(folder, out, progress)
    return plan


def _adopt_all(folder: Folder, out: Folder, progress: Progress) -> None:
    # Whatever kinds of records there are: a later version may have more of them.
    adopted = 0
    for kind in kinds_in(folder):
        source, target = Store(folder, kind), Store(out, kind)
        for key in source.all_keys():
            if target.has(key):
                continue
            try:
                target.adopt(source, key)
                adopted += 1
            except RecordError as error:
                progress.say(f"left behind: {error}")
    progress.say(f"{adopted} records taken from {folder}")


def _common_plan(trusted: bool, folders: Sequence[Folder]) -> Plan:
    plans = []
    for folder in folders:
        if not (folder / "plan.toml").is_file():
            raise InputError(f"{str(folder)!r} is no run folder: it holds no plan.toml. Name folders that --out made.")
        plans.append(resumed_plan(folder / "plan.toml", trust_remote_code=trusted or None))
    first = plans[0].model_dump(mode="json", exclude=_MOVE_NOTHING)
    for folder, plan in zip(folders, plans, strict=True):
        other = plan.model_dump(mode="json", exclude=_MOVE_NOTHING)
        differing = "; ".join(f"{name} is {other[name]!r} instead of {first[name]!r}" for name in first
                              if other[name] != first[name])  # fmt: skip
        if differing:
            raise InputError(f"{str(folder)!r} is of another plan than {str(folders[0])!r}: {differing}. Merge alike.")
    return plans[0]
