"""File systems for tests of remote run folders: in memory, on a disk through fsspec, and such that fail at random."""

import random
from typing import ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

#: Which write fails next, and how; shared, since fsspec makes one instance for each set of options.
LUCK = {"moment": random.Random(0), "chance": 0.0, "failed": 0}


class NoSuchLuck(Exception):
    """As clients raise them: of no common base class, and with an address in it."""


def _perhaps(write, path, content):
    """Write, or fail before, in the middle (half the content is there) or after it."""
    if LUCK["moment"].random() >= LUCK["chance"]:
        write(path, content)
        return
    LUCK["failed"] += 1
    how = LUCK["moment"].randrange(3)
    if how:
        write(path, content if how == 2 else content[: len(content) // 2])
    raise NoSuchLuck(f"reset by peer: https://user:{SECRET}@store/{path}?signature={SECRET}")


SECRET = "pA55w0rdOfThisTest"


class FlakyObjects(MemoryFileSystem):
    """A store of objects without a rename."""

    protocol = ("flaky",)
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://", 1))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        _perhaps(lambda p, v: super(FlakyObjects, self).pipe_file(p, v, mode=mode, **kwargs), path, value)


class FlakyDisk(LocalFileSystem):
    """A disk with a rename."""

    protocol = ("flakydisk",)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("flakydisk://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        _perhaps(lambda p, v: super(FlakyDisk, self).pipe_file(p, v, mode=mode, **kwargs), path, value)


class Passworded(LocalFileSystem):
    """A disk whose addresses hold user and password, which its client keeps for itself."""

    protocol = ("passworded",)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).partition("@")[2] or str(path))

    @staticmethod
    def _get_kwargs_from_urls(path):
        return {"user": path.partition("://")[2].partition("@")[0]} if "@" in path else {}


def register():
    for kind in (FlakyObjects, FlakyDisk, Passworded):
        fsspec.register_implementation(kind.protocol[0], kind, clobber=True)
