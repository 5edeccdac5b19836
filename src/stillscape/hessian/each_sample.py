"""The Hessian of every sample, written row by row straight into its place.

The rows of a family a are one matrix product with its left vectors (docs/theory, section 5.4):

    H[(l, r), :] = sum_i left_i[l] Z_i[r, :]        Z_i[r, b] = core_i (x) left_b + X_ab (x) adjoint_b

so Z is filled for a few r at a time, and the product writes into the result.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.assemble import Assembly
from stillscape.hessian.families import Family, Right
from stillscape.hessian.layout import Layout, Patch, Run, place, runs, shifted, turned

PANEL_BYTES = 2 * 2**20  # what Z may hold: it is read at once, from the cache


class Terms(NamedTuple):
    """What a family and a later one bend together: Z of the module's docstring."""

    later: Family
    core: Float[Tensor, "#n #L ra rb"] | None
    moves: bool
    move: Right
    coupled: Float[Tensor, "n L ra lb rb"] | None
    factor: Float[Tensor, "n K lb rb"] | None


class EachSample(Assembly):
    """Second derivatives of a chunk of samples, each by itself."""

    def write(self, out: Float[Tensor, "n P Q"], rows: Layout, columns: Layout) -> None:
        """Write every block whose parameters stand in `rows` and `columns`."""
        # Every pair comes from its earlier family, the one that moves left vectors.
        self._write(out, rows, columns, beyond=0)
        if rows.shapes != columns.shapes:
            self._write(out.mT, columns, rows, beyond=1)
            return
        patches = [(a, patch) for a, family in self.families.items() for patch in rows.patches(family.members)]
        for a, pa in patches:
            for b, pb in patches:
                if a < b:
                    place(out, pb, pa).copy_(turned(place(out, pa, pb)))

    def _write(self, out: Float[Tensor, "n P Q"], rows: Layout, columns: Layout, beyond: int) -> None:
        """Write the rows of each family against itself, unless `beyond` is 1, and all later ones."""
        for a, family in self.families.items():
            own = rows.patches(family.members)
            later = [b for b in self.families if b >= a + beyond] if own else []
            patches = [(b, patch) for b in later for patch in columns.patches(self.families[b].members)]
            terms = {b: self._terms(a, b) for b in dict.fromkeys(b for b, _ in patches)}
            for run in runs(patches):
                for patch in own:
                    self._write_run(out, a, patch, run, terms)

    def _terms(self, a: int, b: int) -> Terms:
        moves = self.moves(a, b)
        move = self.sweep.move(a, b) if moves else None
        return Terms(self.families[b], self.core(a, b), moves, move, self.coupled(a, b), self.factor_of(b))

    def _write_run(self, out: Float[Tensor, "n P Q"], a: int, patch: Patch, run: Run, terms: dict[int, Terms]) -> None:
        """Write one patch of rows against columns that lie together."""
        left, factor = self.families[a].left[:, :, patch.left].mT, self.factor_of(a)
        n, _, tokens = left.shape
        height = tokens + (0 if factor is None else factor.shape[1])
        step = max(1, PANEL_BYTES // (n * height * run.width * left.element_size()))
        for first in range(patch.right.start, patch.right.stop, step):
            rows = patch.across(first, min(first + step, patch.right.stop))
            panel = self.buffer("panel", left, n, height, rows.sizes[1], run.width)
            for b, columns in run.patches:
                _fill(run.view(panel[:, :tokens], columns), terms[b], rows, columns)
                if factor is not None:
                    also = terms[b].factor[:, :, None, columns.left, columns.right]  # type: ignore[index]
                    run.view(panel[:, tokens:], columns).copy_(also)
            whole = factor is None and run.tight and rows.stride_right == 1 and out.stride()[1:] == (run.width, 1)
            if whole:  # rows lie end to end: all r at once
                torch.bmm(left, panel.flatten(2), out=rows.wide(out))
            else:
                _multiply(out, left, factor, panel, rows, run)


def _multiply(
    out: Float[Tensor, "n P Q"], left: Tensor, factor: Tensor | None, panel: Tensor, patch: Patch, run: Run
) -> None:
    """Multiply one right index after the other, into place or, where columns of others lie between, by a copy."""
    for i in range(patch.sizes[1]):
        rows = patch.across(patch.right.start + i, patch.right.start + i + 1)
        by = left if factor is None else torch.cat([left, factor[:, :, patch.left, rows.right.start].mT], -1)
        if run.tight:
            torch.bmm(by, panel[:, :, i], out=rows.rows(out, run.start, run.stop))
            continue
        product = torch.bmm(by, panel[:, :, i])[:, :, None]
        for _, columns in run.patches:
            place(out, rows, columns).copy_(run.view(product, columns))


def _fill(view: Float[Tensor, "n L r lb rb"], terms: Terms, rows: Patch, columns: Patch) -> None:
    """Fill Z for some rows and columns."""
    if terms.core is None:
        view.zero_()
    else:
        left = terms.later.left[:, :, None, columns.left, None]
        torch.mul(terms.core[:, :, rows.right, None, columns.right], left, out=view)
    if terms.coupled is not None:
        view.add_(terms.coupled[:, :, rows.right, columns.left, columns.right])
    if not terms.moves:
        return
    adjoint = terms.later.adjoint[:, :, columns.right]
    if terms.move is not None and terms.move.ndim == 4:
        moved = slice(columns.left.start, min(columns.left.stop, terms.move.shape[-1]))
        if moved.start < moved.stop:  # the 1 of a bias never moves
            moves = terms.move[:, :, rows.right, moved, None]
            view[..., : moved.stop - moved.start, :].addcmul_(moves, adjoint[:, :, None, None])
        return
    first, stop = max(rows.right.start, columns.left.start), min(rows.right.stop, columns.left.stop)
    if first < stop:  # only l = r moves
        meet = slice(first, stop)
        target = view[:, :, shifted(meet, rows.right), shifted(meet, columns.left)].diagonal(dim1=2, dim2=3)
        target.add_(adjoint[..., None] if terms.move is None else adjoint[..., None] * terms.move[:, :, None, meet])
