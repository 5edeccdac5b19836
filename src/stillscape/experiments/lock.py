"""One process at a time in a run folder; shards of one plan may share it, since each has cells of its own."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stillscape._errors import InputError
from stillscape._files import no_room_is_said
from stillscape._folders import Folder, RemotePath
from stillscape.experiments.lease import leased

LOCK = ".lock"


@contextmanager
def locked(folder: Folder, share: str = "") -> Iterator[None]:
    """Hold a run folder inside the block.

    On a disk the system lets go of a lock when its process ends, however it ends, so none is ever left behind. For a
    remote folder see `stillscape.experiments.lease.leased`.

    Args:
        folder: the run folder; made if missing.
        share: name of a shard. Shards of different names may be in one folder together, but not beside a whole run.

    Raises:
        InputError: if another process is at work in the folder.
    """
    if isinstance(folder, RemotePath):
        with leased(folder, LOCK, share):
            yield
        return
    own = folder / (f"{LOCK}-{share}" if share else LOCK)
    with ExitStack() as held, no_room_is_said(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(_held(own, folder))
        # Each takes its own lock first and looks at the others' after it, so that of two at least one sees the other.
        others = [folder / LOCK] if share else sorted(folder.glob(f"{LOCK}-*"))
        for other in others:
            with _held(other, folder, patience_s=1.0):  # another may be looking at it, too
                pass
        yield


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for this folder, which is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        yield


@contextmanager
def _held(path: Path, folder: Path, *, patience_s: float = 0.0) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        raise InputError(
            f"out is {str(folder)!r}, where another process is at work. Wait until it has ended, or name "
            "another folder; shards of one plan (--shard 1/4, ...) may share one."
        ) from None
    except NotImplementedError:  # a disk that knows no locks; records are still written whole or not at all
        yield
        return
    try:
        yield
    finally:
        lock.release()
