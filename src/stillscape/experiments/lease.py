"""A claim on a remote run folder: a file there that says who is at work, renewed for as long as that is so."""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime

from stillscape._errors import InputError, StillscapeError
from stillscape._folders import RemotePath

BEAT_S = 15.0  # between two renewals
STALE_S = 60.0  # without one, as watched from here: whoever held it is gone


@contextmanager
def leased(folder: RemotePath, lock: str, share: str = "") -> Iterator[None]:
    """Hold a remote run folder inside the block.

    A remote file system lets go of nothing by itself, so the claim is renewed every `BEAT_S`; one that another
    process is seen not to renew for `STALE_S` is taken over. No clock of two machines is compared: what counts is
    whether the claim changes while it is watched. What it can't promise, since not every file system can write a file
    only if it isn't there: two processes that begin in the same instant may both get in, and so may a process whose
    connection was lost for longer than `STALE_S`. They waste work and lose none: records are written whole, and the
    same key means the same numbers.

    Args:
        folder: the run folder.
        lock: name of the claim's file.
        share: name of a shard. Shards of different names may be in one folder together, but not beside a whole run.

    Raises:
        InputError: if another process is at work in the folder.
    """
    with ExitStack() as held:
        held.enter_context(_held(folder / (f"{lock}-{share}" if share else lock), folder))
        # Each takes its own first and looks at the others' after it, so that of two at least one sees the other.
        for other in [folder / lock] if share else folder.glob(f"{lock}-*"):
            _wait_until_gone(other, folder)
        yield


@contextmanager
def _held(claim: RemotePath, folder: RemotePath) -> Iterator[None]:
    name = f"{platform.node()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"
    taken = datetime.now(UTC).isoformat(timespec="seconds")
    for _attempt in range(3):
        try:
            claim.create(_content(name, taken, 0))
        except FileExistsError:
            _wait_until_gone(claim, folder)
            continue
        break
    if _holder(claim) != name:
        raise _at_work(folder, claim)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(claim.apart(), name, taken, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with suppress(StillscapeError):  # one that stays is stale in a minute
            if _holder(claim) == name:
                claim.unlink()


def _beat(claim: RemotePath, name: str, taken: str, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT_S):
        count += 1
        with suppress(StillscapeError):  # a connection that is lost for a moment
            if _holder(claim) != name:
                return  # it was taken over, and is not ours to renew
            claim.write_bytes(_content(name, taken, count))


def _wait_until_gone(claim: RemotePath, folder: RemotePath) -> None:
    """Return when a claim is gone, or is seen not to be renewed and was removed; refuse if it is."""
    seen, until = _read(claim), time.monotonic() + STALE_S
    while seen is not None and time.monotonic() < until:
        time.sleep(min(1.0, STALE_S / 20))
        now = _read(claim)
        if now is not None and now != seen:
            raise _at_work(folder, claim)
        seen = now
    if seen is not None and _read(claim) == seen:
        claim.unlink()


def _at_work(folder: RemotePath, claim: RemotePath) -> InputError:
    return InputError(
        f"out is {str(folder)!r}, where another process is at work ({_holder(claim) or 'unnamed'}). Wait until it has "
        "ended, or name another folder; shards of one plan (--shard 1/4, ...) may share one."
    )


def _read(claim: RemotePath) -> bytes | None:
    try:
        return claim.read_bytes()
    except FileNotFoundError:
        return None


def _holder(claim: RemotePath) -> str:
    try:
        return str(json.loads(_read(claim) or b"{}").get("owner", ""))
    except (ValueError, AttributeError):
        return ""


def _content(name: str, taken: str, count: int) -> bytes:
    return json.dumps({"owner": name, "taken": taken, "renewed": count}).encode()
