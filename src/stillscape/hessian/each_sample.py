"""The Hessian of every sample, written row by row straight into its place.

The rows of a family a are one matrix product with its left vectors (docs/theory, section 5.4):

    H[(l, r), :] = sum_i left_i[l] Z_i[r, :]        Z_i[r, b] = core_i (x) left_b + X_ab (x) adjoint_b

so Z is filled for a few r at a time, and the product writes into the result.
"""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.assemble import Assembly
from stillscape.hessian.layout import Layout, Patch, Run, place, runs, shifted, slices, turned

TURNED_ROWS = 24  # rows that are turned at once: a few whose entries stay in a core's first cache while they are read
PANEL_BYTES = 2 * 2**20  # what Z may hold: it is read at once, from the cache


@dataclass(frozen=True, eq=False)
class Terms:
    """What a family and a later one bend together: Z of the module's docstring; None is the identity for a move."""

    left: Float[Tensor, "n L lb"]
    adjoint: Float[Tensor, "n L rb"]
    moves: bool
    move: Float[Tensor, "#n #L *r"] | None
    core: Float[Tensor, "#n #L ra rb"] | None
    factor: Float[Tensor, "n K lb rb"] | None
    coupled: Float[Tensor, "n L ra lb rb"] | None = None

    def take(self, samples: slice) -> "Terms":
        """Return the terms of some samples."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        taken = {name: x[samples] for name, x in held.items() if isinstance(x, Tensor) and len(x) > 1}
        return replace(self, **taken)  # type: ignore[arg-type]  # only tensors are taken


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one family, and what they meet."""

    number: int
    left: Float[Tensor, "n L la"]
    factor: Float[Tensor, "n K la ra"] | None
    patches: list[Patch]
    runs: list[Run]
    terms: dict[int, Terms]

    def take(self, samples: slice) -> "Rows":
        """Return the rows of some samples."""
        factor = None if self.factor is None else self.factor[samples]
        terms = {b: terms.take(samples) for b, terms in self.terms.items()}
        return replace(self, left=self.left[samples], factor=factor, terms=terms)


class EachSample(Assembly):
    """Second derivatives of a chunk of samples, each by itself."""

    def write(self, out: Float[Tensor, "n P Q"], rows: Layout, columns: Layout) -> None:
        """Write every block whose parameters stand in `rows` and `columns`."""
        symmetric = rows.shapes == columns.shapes
        # Every pair comes from its earlier family, the one that moves left vectors.
        found = self._rows(rows, columns, beyond=0)
        others = [] if symmetric else self._rows(columns, rows, beyond=1)
        patches = [(a, patch) for a, family in self.families.items() for patch in rows.patches(family.members)]
        later = [(patch, runs([(b, other) for b, other in patches if b > a])) for a, patch in patches]
        for samples in self._few(out):
            here = out[samples]
            for one in found:
                self._write(here, self._taken(one, samples))
            for one in others:
                self._write(here.mT, self._taken(one, samples))
            for patch, behind in later if symmetric else ():
                for run in behind:
                    _turn(here, patch, run)

    def _few(self, out: Float[Tensor, "n P Q"]) -> list[slice]:
        """Return the samples in parts of which Z holds all r at once, as far as that can be."""
        width = max(family.adjoint[0].numel() for family in self.families.values()) * max(out.shape[1:])
        return slices(len(out), max(1, PANEL_BYTES // (width * out.element_size())))

    def _rows(self, rows: Layout, columns: Layout, beyond: int) -> list[Rows]:
        """Return the rows of each family against itself, unless `beyond` is 1, and all later ones."""
        found = []
        for a, family in self.families.items():
            own = rows.patches(family.members)
            later = [b for b in self.families if b >= a + beyond] if own else []
            patches = [(b, patch) for b in later for patch in columns.patches(self.families[b].members)]
            terms = {b: self._terms(a, b) for b in dict.fromkeys(b for b, _ in patches)}
            found.append(Rows(a, family.left, self.factor_of(a), own, runs(patches), terms))
        return found

    def _terms(self, a: int, b: int) -> Terms:
        moves, family = self.moves(a, b), self.families[b]
        move = self.sweep.move(a, b) if moves else None
        return Terms(family.left, family.adjoint, moves, move, self.core(a, b), self.factor_of(b))

    def _taken(self, rows: Rows, samples: slice) -> Rows:
        """Return the rows of some samples, with what couples tokens, which is too large to have for all at once."""
        taken = rows.take(samples)
        coupled = {b: self.coupled(rows.number, b, samples) for b in taken.terms}
        return replace(taken, terms={b: replace(terms, coupled=coupled[b]) for b, terms in taken.terms.items()})

    def _write(self, out: Float[Tensor, "n P Q"], all_rows: Rows) -> None:
        n, tokens, _ = all_rows.left.shape
        for run in all_rows.runs:
            along = self._along_run(all_rows, run)
            for patch in all_rows.patches:
                step = max(1, PANEL_BYTES // (n * tokens * run.width * out.element_size()))
                for first in range(patch.right.start, patch.right.stop, step):
                    some = patch.across(first, min(first + step, patch.right.stop))
                    self._write_run(out, all_rows, some, run, along)

    def _along_run(self, all_rows: Rows, run: Run) -> Float[Tensor, "n K width"] | None:
        """Return what the columns of a run have along the directions of the loss, if it has any."""
        if all_rows.factor is None:
            return None
        n, directions = all_rows.factor.shape[:2]
        along = self.buffers.get("along", all_rows.left, n, directions, 1, run.width)
        for b, columns in run.patches:
            factor = all_rows.terms[b].factor
            assert factor is not None
            run.view(along, columns).copy_(factor[:, :, None, columns.left, columns.right])
        return along[:, :, 0]

    def _write_run(
        self, out: Float[Tensor, "n P Q"], all_rows: Rows, patch: Patch, run: Run, along: Tensor | None
    ) -> None:
        """Write a patch of rows against columns that lie together."""
        left, factor, terms = all_rows.left[:, :, patch.left].mT, all_rows.factor, all_rows.terms
        n, height, tokens = left.shape
        width = patch.sizes[1]
        panel = self.buffers.get("panel", left, n, tokens, width, run.width)
        for b, columns in run.patches:
            _fill(run.view(panel, columns), terms[b], patch, columns)
        if factor is None and run.tight and patch.stride_right == 1 and out.stride()[1:] == (run.width, 1):
            torch.bmm(left, panel.flatten(2), out=patch.wide(out))  # rows lie end to end, as they come
            return
        product = self.buffers.get("product", left, n, height, width, run.width)
        torch.bmm(left, panel.flatten(2), out=product.flatten(2))
        if factor is not None and along is not None:
            product.flatten(1, 2).baddbmm_(factor[:, :, patch.left, patch.right].flatten(2).mT, along)
        if run.tight:
            patch.rows(out, run.start, run.stop).copy_(product)
        else:  # columns of others lie between
            for _, columns in run.patches:
                place(out, patch, columns).copy_(run.view(product, columns))


def _turn(out: Float[Tensor, "n P P"], rows: Patch, run: Run) -> None:
    """Copy what a patch of rows has in a run of columns to where it stands transposed."""
    if not (rows.is_dense and run.tight):
        for _, columns in run.patches:
            place(out, columns, rows).copy_(turned(place(out, rows, columns)))
        return
    for some in slices(rows.stop - rows.start, TURNED_ROWS):
        here = slice(rows.start + some.start, rows.start + some.stop)
        out[:, run.start : run.stop, here] = out[:, here, run.start : run.stop].mT


def _fill(view: Float[Tensor, "n L r lb rb"], terms: Terms, rows: Patch, columns: Patch) -> None:
    """Fill Z for some rows and columns."""
    if terms.core is None:
        view.zero_()
    else:
        left = terms.left[:, :, None, columns.left, None]
        torch.mul(terms.core[:, :, rows.right, None, columns.right], left, out=view)
    if terms.coupled is not None:
        view.add_(terms.coupled[:, :, rows.right, columns.left, columns.right])
    if not terms.moves:
        return
    adjoint = terms.adjoint[:, :, columns.right]
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
