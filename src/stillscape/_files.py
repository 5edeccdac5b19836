"""Files that are there whole or not at all, and a disk that can take no more said in one line."""

import errno
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from stillscape._errors import InputError
from stillscape._folders import Folder, RemotePath

_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOTDIR: "a file stands where a folder is needed",
}


@contextmanager
def no_room_is_said(place: Folder) -> Iterator[None]:
    """Turn the errors of a disk that can't take more into one line; whatever was written before is kept."""
    try:
        yield
    except OSError as error:
        reason = _NO_ROOM.get(error.errno or 0)
        if reason is None:
            raise
        message = f"{str(place)!r} can't be written: {reason}. Everything so far is kept; make room and run again."
        raise InputError(message) from error


def write_whole(path: Folder, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; folders are made where missing."""
    if isinstance(path, RemotePath):
        path.write_bytes(content)
        return
    with no_room_is_said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            draft.write_bytes(content)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def make_folder(path: Folder) -> None:
    """Make a folder on a disk; elsewhere it comes with its first file."""
    if not isinstance(path, RemotePath):
        with no_room_is_said(path):
            path.mkdir(parents=True, exist_ok=True)


def remove_folder(path: Folder) -> None:
    """Remove a folder and all that is in it."""
    if isinstance(path, RemotePath):
        path.remove()
    else:
        shutil.rmtree(path)
