"""The upper half of a symmetric matrix while it is summed; the whole has its memory only once the sum is done.

Rows are held in panels, each from its own columns on. So a sum of large matrices has about half of the result's size
to spare, and with it larger parts of the samples at once.
"""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.layout import Block, Patch, mirror, place
from stillscape.hessian.memory import HUGE_BYTES, fresh, give_back

PANELS = 16  # at most; many small ones would cost time


class Upper:
    """Zero at first.

    Args:
        like: has the dtype and device.
        size: rows of the matrix.
        patches: where blocks will be added; those that overlap lie in one panel.
    """

    def __init__(self, like: Tensor, size: int, patches: Iterable[Patch]) -> None:
        least = size if size**2 * like.element_size() < HUGE_BYTES else -(-size // PANELS)
        starts = _cuts(patches, least)
        spans = list(zip(starts, [*starts[1:], size], strict=True))
        self._like, self._size = like, size
        self._panels = {first: fresh(like, 1, stop - first, size - first).zero_() for first, stop in spans}

    def at(self, a: Patch, b: Patch) -> Block:
        """Return the place of a block that has entries on or above the diagonal, as a view."""
        first = max(start for start in self._panels if start <= a.start)
        return place(self._panels[first], a, b, first)

    def add_squares(self, F: Float[Tensor, "K P"]) -> None:
        """Add F'F, some rows at a time, so that little is computed below the diagonal."""
        step = max(256, self._size // 16)
        for first, panel in self._panels.items():
            for i in range(0, panel.shape[1], step):
                rows = F[:, first + i : first + min(i + step, panel.shape[1])]
                panel[0, i : i + step, i:].addmm_(rows.mT, F[:, first + i :])

    def whole(self) -> Float[Tensor, "P P"]:
        """Return the whole matrix; what is held here is handed over or given back on the way."""
        if len(self._panels) == 1:
            out = self._panels.pop(0)
        else:
            give_back()
            out = fresh(self._like, 1, self._size, self._size)
            for first in list(self._panels):
                panel = self._panels.pop(first)
                out[:, first : first + panel.shape[1], first:] = panel
        mirror(out)
        return out[0]


def _cuts(patches: Iterable[Patch], least: int) -> list[int]:
    """Return where panels begin: where no patch goes on, and so many rows after the last."""
    starts, reached = [0], 0
    for patch in sorted(patches, key=lambda patch: patch.start):
        if patch.start >= max(reached, starts[-1] + least):
            starts.append(patch.start)
        reached = max(reached, patch.stop)
    return starts
