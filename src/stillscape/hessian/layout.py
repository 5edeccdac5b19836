"""Where parameters lie in the vector of all, and where the entries of a family lie in a matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.families import Member

Block = Float[Tensor, "n la ra lb rb"]
TILE = 96  # rows that are turned at once: so many cache lines are read side by side


@dataclass(frozen=True)
class Layout:
    """Where each parameter begins in the vector of all, and its shape, in order."""

    shapes: dict[str, tuple[int, ...]]
    start: dict[str, int] = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        """Add up the sizes."""
        start, place = {}, 0
        for name, shape in self.shapes.items():
            start[name] = place
            place += _count(shape)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "size", place)

    def only(self, name: str) -> "Layout":
        """Return the layout of a single parameter."""
        return Layout({name: self.shapes[name]})

    def split(self, vector: Float[Tensor, "n P"]) -> dict[str, Tensor]:
        """Return a vector as parameters by name, each with its leading axis."""
        parts = vector.split([_count(shape) for shape in self.shapes.values()], -1)
        return {n: part.unflatten(-1, s) for (n, s), part in zip(self.shapes.items(), parts, strict=True)}

    def join(self, parts: dict[str, Float[Tensor, "n ..."]], samples: int) -> Float[Tensor, "n P"]:
        """Return parameters by name as one vector for each sample."""
        return torch.cat([parts[name].reshape(samples, -1) for name in self.shapes], -1)

    def patches(self, members: Sequence[Member]) -> list["Patch"]:
        """Return where the members of a family lie, those that continue each other as one."""
        found: list[Patch] = []
        for member in members:
            if member.name in self.start:
                start = self.start[member.name] + member.offset
                patch = Patch(member.left, member.right, start, member.stride_left, member.stride_right)
                joined = found[-1].joined(patch) if found else None
                found = [*found[:-1], joined] if joined else [*found, patch]
        return found


@dataclass(frozen=True)
class Patch:
    """Entries (l, r) of a family that lie evenly: at start + (l - left.start) dl + (r - right.start) dr."""

    left: slice
    right: slice
    start: int
    stride_left: int
    stride_right: int

    @property
    def stop(self) -> int:
        """One past the last place."""
        left, right = self.sizes
        return self.start + (left - 1) * self.stride_left + (right - 1) * self.stride_right + 1

    @property
    def spans(self) -> tuple[slice, slice]:
        """Which left and right entries."""
        return self.left, self.right

    @property
    def sizes(self) -> tuple[int, int]:
        """How many left and right entries."""
        return self.left.stop - self.left.start, self.right.stop - self.right.start

    @property
    def is_dense(self) -> bool:
        """Whether no place between the first and the last is left out."""
        left, right = self.sizes
        return left * right == self.stop - self.start

    def along(self, first: int, stop: int) -> "Patch":
        """Return the part with left entries first..stop of the family."""
        if (first, stop) == (self.left.start, self.left.stop):
            return self
        return replace(self, left=slice(first, stop), start=self.start + (first - self.left.start) * self.stride_left)

    def across(self, first: int, stop: int) -> "Patch":
        """Return the part with right entries first..stop of the family."""
        if (first, stop) == (self.right.start, self.right.stop):
            return self
        return replace(
            self, right=slice(first, stop), start=self.start + (first - self.right.start) * self.stride_right
        )

    def rows(self, out: Float[Tensor, "n P Q"], first: int, stop: int) -> Float[Tensor, "n l r columns"]:
        """Return columns first..stop of the rows as a view."""
        sample, row, column = out.stride()
        begin = out.storage_offset() + self.start * row + first * column
        strides = (sample, self.stride_left * row, self.stride_right * row, column)
        return out.as_strided((len(out), *self.sizes, stop - first), strides, begin)

    def wide(self, out: Float[Tensor, "n P Q"]) -> Float[Tensor, "n l rQ"]:
        """Return all columns of all rows as a view, those of one left entry end to end; for stride_right 1."""
        left, right = self.sizes
        begin = out.storage_offset() + self.start * out.stride(1)
        size = (len(out), left, right * out.shape[2])
        return out.as_strided(size, (out.stride(0), self.stride_left * out.stride(1), 1), begin)

    def joined(self, other: "Patch") -> "Patch | None":
        """Return both as one if `other` continues this one to the left or to the right, else None."""
        if self.left == other.left and self.right.stop == other.right.start and self._follows(other, 1):
            return replace(self, right=slice(self.right.start, other.right.stop))
        if self.right == other.right and self.left.stop == other.left.start and self._follows(other, 0):
            return replace(self, left=slice(self.left.start, other.left.stop))
        return None

    def _follows(self, other: "Patch", axis: int) -> bool:
        # A stride along an axis of a single entry says nothing, so only those that are walked must agree.
        steps = (self.stride_left, self.stride_right)
        alike = all(
            size == 1 or mine == theirs
            for size, mine, theirs in zip(other.sizes, steps, (other.stride_left, other.stride_right), strict=True)
        )
        return alike and other.start == self.start + self.sizes[axis] * steps[axis]


@dataclass(frozen=True)
class Run:
    """Places from start to stop in which patches of families lie; `tight` if they fill it."""

    start: int
    stop: int
    patches: tuple[tuple[int, Patch], ...]
    tight: bool

    @property
    def width(self) -> int:
        """How many places."""
        return self.stop - self.start

    def view(self, panel: Float[Tensor, "n L r width"], patch: Patch) -> Float[Tensor, "n L r l r2"]:
        """Return the entries of one of the patches within a panel of the run."""
        begin = panel.storage_offset() + patch.start - self.start
        strides = (*panel.stride()[:3], patch.stride_left, patch.stride_right)
        return panel.as_strided((*panel.shape[:3], *patch.sizes), strides, begin)


def runs(patches: Sequence[tuple[int, Patch]]) -> list[Run]:
    """Return patches of families, by number, as few runs, each tight if that can be.

    >>> def rows(first, stop, width, step):
    ...     return Patch(slice(first, stop), slice(0, width), first * step, step, 1)
    >>> [(run.start, run.stop, run.tight) for run in runs([(0, rows(0, 2, 2, 2)), (1, rows(2, 4, 2, 2))])]
    [(0, 8, True)]
    >>> [(run.start, run.stop, run.tight) for run in runs([(0, rows(0, 2, 1, 2))])]  # every other column is another's
    [(0, 3, False)]
    """
    found: list[Run] = []
    for number, patch in sorted(patches, key=lambda item: item[1].start):
        if found and patch.start < found[-1].stop:  # woven into one another, as the heads of a weight are
            start, stop = found[-1].start, max(found[-1].stop, patch.stop)
            inside = (*found[-1].patches, (number, patch))
            found[-1] = Run(start, stop, inside, sum(p.sizes[0] * p.sizes[1] for _, p in inside) == stop - start)
        else:
            found.append(Run(patch.start, patch.stop, ((number, patch),), patch.is_dense))
    joined: list[Run] = []
    for run in found:
        if joined and joined[-1].tight and run.tight and joined[-1].stop == run.start:
            run = Run(joined[-1].start, run.stop, (*joined.pop().patches, *run.patches), True)
        joined.append(run)
    return joined


def slices(count: int, step: int) -> list[slice]:
    """Return a range in parts of `step`, the last one maybe shorter.

    >>> slices(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


def shifted(entries: slice, within: slice) -> slice:
    """Return entries counted from where `within` begins."""
    return slice(entries.start - within.start, entries.stop - within.start)


def place(out: Float[Tensor, "n P Q"], a: Patch, b: Patch, first: int = 0) -> Block:
    """Return the entries of two patches as a view of five axes of `out`, whose rows and columns begin at `first`."""
    row, column = out.stride()[1:]
    strides = (a.stride_left * row, a.stride_right * row, b.stride_left * column, b.stride_right * column)
    begin = out.storage_offset() + (a.start - first) * row + (b.start - first) * column
    return out.as_strided((out.shape[0], *a.sizes, *b.sizes), (out.stride(0), *strides), begin)


def above(a: Patch, b: Patch) -> bool:
    """Return whether anything of the block (a, b) lies on or above the diagonal of a matrix that has both."""
    return a.start < b.stop


def turned(block: Block) -> Block:
    """Return the transposed block."""
    return block.permute(0, 3, 4, 1, 2)


def mirror(out: Float[Tensor, "n P P"]) -> None:
    """Copy what stands above the diagonal below it, in place."""
    size = out.shape[-1]
    for i in range(0, size, TILE):
        rows = slice(i, i + TILE)
        own, behind = out[:, rows, rows], slice(i + TILE, None)
        above_it = own.triu(1)
        own.triu_().add_(above_it.mT)
        if i + TILE < size:
            out[:, behind, rows] = out[:, rows, behind].mT


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
