"""What a run measures of trained cells beside their scores: one record each, which says why where it can't be had."""

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from stillscape._errors import InputError, MemoryShortError, SelfCheckError
from stillscape._room import is_short_of_memory
from stillscape.experiments.cell import OUT_OF_MEMORY, peak_memory_bytes
from stillscape.experiments.store import Store

#: Memory that ran out, an operator without second derivative, a surface that is singular, optima on one another.
CANT_BE_HAD = (MemoryShortError, MemoryError, RuntimeError, NotImplementedError, SelfCheckError, InputError)

T = TypeVar("T")
Measured = tuple[dict[str, Any], dict[str, Any] | None]  # a record and its table, if it has one


def missing_of(store: Store, items: Iterable[T], key_of: Callable[[T], str | None]) -> list[T]:
    """Return the items that have a key and no record yet."""
    return [item for item in items if (key := key_of(item)) is not None and not store.has(key)]


def store_extra(store: Store, key: str, measure: Callable[[], Measured], before: str = "", **fields: Any) -> None:
    """Measure something and store it; where it can't be had, the record says why.

    Where memory runs out the record says so in `OUT_OF_MEMORY`, and a later call, with more of it, measures again.

    Args:
        store: where to.
        key: of the record.
        measure: returns the record, with a status, and its table.
        before: what stands before a reason, to name the thing that can't be had.
        fields: of the record in any case.
    """
    started, table = time.perf_counter(), None
    try:
        record, table = measure()
    except CANT_BE_HAD as error:
        if is_short_of_memory(error):
            record = {"reason": f"{before}memory ran out", OUT_OF_MEMORY: True}
        else:
            record = {"reason": f"{before}{(str(error) or type(error).__name__).splitlines()[0]}"}
        record["status"] = "missing"
    spent = {"seconds": time.perf_counter() - started, "peak_memory_bytes": peak_memory_bytes()}
    store.write(key, {"reason": "", **fields, **record, **spent}, table)
