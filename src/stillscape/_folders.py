"""Run folders on whatever can hold files: a disk by pathlib, anything else (s3://, sftp://, memory://) by fsspec.

A remote path answers to the few names of pathlib that run folders are read by, so that all code that reads them is
the same for both. How things are written differs, and stands here: a folder that must be there whole or not at all
is moved into place by one rename on a disk, and written file by file, the deciding one last, elsewhere.
"""

import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from stillscape._errors import InputError, RunError, StillscapeError
from stillscape._secrets import redacted

_REMOTE = re.compile(r"([a-z][a-z0-9+.-]+)://.*")  # of two letters at least: one is a drive of Windows
_CHAINED = re.compile(r"[a-z0-9]+::[a-z]")  # of fsspec: one file system by way of another
_COLLAPSED = re.compile(r"([a-z][a-z0-9+.-]+):/[^/].*")  # what pathlib makes of it
# Stores of objects: no folders to be made, and an object is there whole or not at all. To make a folder would make
# a bucket where its name is misspelt.
_OBJECTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "http", "https", "hf"}
_SSH = {"sftp", "ssh"}  # by way of paramiko, which has ways of its own


@dataclass(frozen=True)
class RemotePath:
    """A place in a file system that fsspec knows; `str` shows it without user, password or signature.

    Attributes:
        fs: the file system.
        path: in it, as it wants it.
        shown: as a person may see it.
    """

    fs: Any = field(repr=False, hash=False, compare=False)
    path: str
    shown: str

    def __str__(self) -> str:
        return self.shown

    def __truediv__(self, name: str) -> "RemotePath":
        parts = str(name).split("/")
        if not _plain(str(name)):
            raise InputError(f"{name!r} is no name of a file in {self.shown!r}; it would lead out of it.")
        return RemotePath(self.fs, "/".join([self.path.rstrip("/"), *parts]), f"{self.shown.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The ending of the last part."""
        return PurePosixPath(self.path).suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the path."""
        return PurePosixPath(self.path).parts

    @property
    def parent(self) -> "RemotePath":
        """The folder in which it lies."""
        return RemotePath(self.fs, self.path.rpartition("/")[0], self.shown.rpartition("/")[0])

    @property
    def protocols(self) -> set[str]:
        """The names under which fsspec knows the file system."""
        names = self.fs.protocol
        return {names} if isinstance(names, str) else set(names)

    def apart(self) -> "RemotePath":
        """Return the same for another thread: over a connection of its own, where two threads can't share one.

        Of two that ask by one client of SFTP at a time, one may get the other's answer, and wait for its own for ever.
        """
        if not self.protocols & _SSH:
            return self
        with spoken(self.shown):
            own = type(self.fs)(*self.fs.storage_args, **self.fs.storage_options, skip_instance_cache=True)
        return RemotePath(own, self.path, self.shown)

    def resolve(self) -> "RemotePath":
        """Return itself: there is no working directory in a remote place."""
        return self

    def exists(self) -> bool:
        """Return whether something is there."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Return whether a file is there."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Return whether a folder is there, or anything below it."""
        return self._kind() == "directory"

    def read_bytes(self) -> bytes:
        """Return what a file holds."""
        return self._asked(self.fs.cat_file)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return what a file holds, as text."""
        return self.read_bytes().decode(encoding)

    def glob(self, pattern: str) -> list["RemotePath"]:
        """Return what lies below and fits a pattern, a part for each part; links are not followed out of the folder."""
        wanted, root = pattern.split("/"), self.path.rstrip("/")
        found = set()
        for path in self._files():
            parts = path.removeprefix(root).strip("/").split("/")[: len(wanted)]
            if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)):
                found.add("/".join(parts))
        return [self / name for name in sorted(found)]

    def write_bytes(self, content: bytes) -> None:
        """Write a file so that a reader sees the old content or the new, as far as the file system can.

        In a store of objects by one upload; where there is a rename, through a file beside it; else it is not sure,
        and a reader's checksum tells.
        """
        with spoken(self.shown):
            self._make_parent()
            if type(self.fs).mv is _base().mv:
                self.fs.pipe_file(self.path, content)
                return
            draft = f"{self.path.rpartition('/')[0]}/.{self.name}.{uuid.uuid4().hex[:8]}"
            try:
                self.fs.pipe_file(draft, content)
                self._rename(draft, self.path)
            except BaseException:
                with suppress(Exception):
                    self.fs.rm_file(draft)
                raise

    def create(self, content: bytes) -> None:
        """Write a file that is not there yet.

        Raises:
            FileExistsError: if it is there. Not every file system can tell when two ask at the same time.
        """
        with spoken(self.shown):
            self._make_parent()
            self.fs.invalidate_cache()
            if self.fs.exists(self.path):
                raise FileExistsError(self.shown)
            # Paramiko's "x" alone makes a file that can't be written to.
            mode = "wxb" if self.protocols & _SSH else "xb"
            try:
                with self.fs.open(self.path, mode) as file:
                    file.write(content)
            except (NotImplementedError, ValueError):
                self.fs.pipe_file(self.path, content)
            except OSError as error:
                # Over SFTP, that somebody was faster is but a failure.
                if self.protocols & _SSH and self.fs.exists(self.path):
                    raise FileExistsError(self.shown) from error
                raise

    def unlink(self) -> None:
        """Remove a file; none there is no error."""
        with suppress(FileNotFoundError):
            self._asked(self.fs.rm_file)

    def remove(self) -> None:
        """Remove a folder and all that is in it."""
        with suppress(FileNotFoundError):
            self._asked(lambda path: self.fs.rm(path, recursive=True))

    def move(self, target: "RemotePath", first: str) -> None:
        """Move a folder, the file `first` before all others; killed in between, it is nowhere with all its files."""
        root = self.path.rstrip("/")
        names = sorted((path.removeprefix(root).strip("/") for path in self._files()), key=lambda n: (n != first, n))
        for name in names:
            (target / name).write_bytes((self / name).read_bytes())
            (self / name).unlink()
        with suppress(Exception):  # where a folder is a thing of its own
            self.fs.rmdir(root)

    def _files(self) -> list[str]:
        with spoken(self.shown):
            self.fs.invalidate_cache()
            try:
                found = self.fs.find(self.path)
            except FileNotFoundError:
                return []
            root = self.path.rstrip("/") + "/"
            return [path for path in found if path.startswith(root) and _plain(path.removeprefix(root))]

    def _kind(self) -> str | None:
        # Not by the file system's own `exists`: that takes a connection that breaks for a file that isn't there.
        try:
            return self._asked(self.fs.info)["type"]
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _asked(self, question: Any) -> Any:
        with spoken(self.shown):
            self.fs.invalidate_cache()  # others write into the folder, too
            return question(self.path)

    def _make_parent(self) -> None:
        if not self.protocols & _OBJECTS:
            self.fs.makedirs(self.path.rpartition("/")[0], exist_ok=True)

    def _rename(self, draft: str, path: str) -> None:
        try:
            self.fs.mv(draft, path)
        except FileExistsError:  # where a rename does not replace
            self.fs.rm_file(path)
            self.fs.mv(draft, path)


Folder = Path | RemotePath


def as_folder(place: str | Path | RemotePath) -> Folder:
    """Return a run folder by its path or its address.

    Raises:
        InputError: the file system is unknown, its package is missing, or the address is not one.

    Example:
        >>> as_folder("runs/demo").name, str(as_folder("memory://runs/demo"))
        ('demo', 'memory://runs/demo')
    """
    if isinstance(place, RemotePath):
        return place
    if "\0" in str(place):
        raise InputError(f"{str(place)!r} is no name of a folder.")
    if isinstance(place, Path):
        found = _COLLAPSED.fullmatch(place.as_posix())
        if found and found[1] in _known_protocols():
            raise InputError(f"out is {redacted(str(place))!r}, an address made a path; give it as text, with ://.")
        return place
    return _remote(place) if _REMOTE.fullmatch(place) or _CHAINED.match(place) else Path(place)


def _remote(url: str) -> RemotePath:
    import fsspec

    shown = redacted(url).rstrip("/")
    tail = url.partition("://")[2].partition("?")[0]
    if "::" in url or any(part in (".", "..") for part in tail.split("/")) or "\\" in tail or "\0" in tail:
        raise InputError(
            f"{shown!r} is no address of a run folder; write it straight, such as s3://bucket/runs/photos."
        )
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InputError(f"{shown!r} needs a package: {redacted(str(error)).rstrip('.')}.") from None
    except ValueError as error:
        raise InputError(f"{shown!r} can't be used: {redacted(str(error)).rstrip('.')}.") from None
    except Exception as error:  # whatever a client raises that can't connect
        raise InputError(f"{shown!r} can't be reached ({_first_line(error)}).") from None
    return RemotePath(fs, str(path), shown)


def in_one_process(folder: Folder) -> bool:
    """Return whether no other process can see what is in a folder: that of memory."""
    return isinstance(folder, RemotePath) and "memory" in folder.protocols


def cache_folder(folder: Folder) -> Path:
    """Return where a run keeps what is large and can be computed again: in its folder, or on this machine's disk.

    For a remote run folder it is below STILLSCAPE_CACHE, else XDG_CACHE_HOME, else ~/.cache.
    """
    if isinstance(folder, Path):
        return folder / "cache"
    named = os.environ.get("STILLSCAPE_CACHE")
    root = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillscape"
    return root.expanduser() / hashlib.sha256(folder.shown.encode()).hexdigest()[:20]


def within(folder: Folder, path: Folder) -> None:
    """Refuse a place in a run folder that lies outside of it, by way of a link; links above the folder may stand.

    Raises:
        InputError: if it does.
    """
    if isinstance(folder, Path) and isinstance(path, Path) and not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{str(path)!r} is a link that leads out of the run folder; nothing is written there.")


@contextmanager
def made_whole(target: Folder, last: str) -> Iterator[Path]:
    """Have a draft on a disk inside the block; what was put into it is at its place after it, whole or not at all.

    Args:
        target: the folder to be.
        last: name of the file that decides whether the folder is there.
    """
    if isinstance(target, RemotePath):
        with tempfile.TemporaryDirectory(prefix="stillscape-") as draft_name:
            draft = Path(draft_name)
            yield draft
            for path in sorted(draft.iterdir(), key=lambda path: (path.name == last, path.name)):
                (target / path.name).write_bytes(path.read_bytes())
        return
    draft = target.parent / f".{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        draft.mkdir(parents=True)
        yield draft
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def spoken(shown: str) -> Iterator[None]:
    """Turn what a client of a remote file system raises into one line without secrets."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError, StillscapeError):
        raise
    except PermissionError as error:
        raise InputError(f"{shown!r} can't be read or written: {_first_line(error)}. Ask for access.") from None
    except Exception as error:  # clients have no common base class
        raise RunError(
            f"{shown!r} can't be read or written ({_first_line(error)}); everything recorded is kept. "
            "Run the same command again."
        ) from None


def _plain(name: str) -> bool:
    """Tell whether a name stays in its folder, whichever system reads it."""
    return not any(part in ("", ".", "..") for part in name.split("/")) and not set(name) & {"\\", "\0"}


def _base() -> Any:
    from fsspec.spec import AbstractFileSystem

    return AbstractFileSystem


def _known_protocols() -> set[str]:
    import fsspec

    return set(fsspec.available_protocols())


def _first_line(error: Exception) -> str:
    return redacted((str(error).strip() or type(error).__name__).splitlines()[0].rstrip("."))
