"""From families to matrices: blocks of the Hessian written straight into their place, per sample or summed."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.families import Sweep, written_out
from stillscape.hessian.layout import Block, Layout, Patch, above, place, put, turned
from stillscape.hessian.losses import Expansion

PARTS = ("full", "outer", "functional")
SLICE_BYTES = 16 * 2**20  # what a product may hold on its way into a mean: it then stays in the cache, and small


class Assembly:
    """The second derivatives of a chunk of samples, ready to be written.

    With `merged`, samples are laid end to end as if they were tokens of one: every sum over tokens is then the sum
    over samples too, and no matrix of a single sample is ever formed.
    """

    def __init__(self, sweep: Sweep, outputs: list[tuple[str, Expansion]], merged: bool) -> None:
        self.sweep, self.merged = sweep, merged
        self.outputs = outputs  # (part, what curves at the output beyond single tokens)
        self._factors: dict[tuple[int, int], Tensor] = {}

    def write(self, out: Float[Tensor, "n P Q"], rows: Layout, columns: Layout, part: str) -> None:
        """Write every block whose parameters stand in `rows` and `columns`."""
        symmetric = rows.shapes == columns.shapes
        for a, b in self._pairs(rows, columns, symmetric):
            self._put(out, (a, rows), (b, columns), self._block(a, b, part), add=False, symmetric=symmetric)

    def write_upper(self, out: Float[Tensor, "1 P P"], layout: Layout, part: str, add: bool) -> None:
        """Write (or add to) what is on and above the diagonal, and some of what is below it; see `mirror`."""
        for a, b in self._pairs(layout, layout, symmetric=True):
            self._write_curvature(out, layout, a, b, part, add)
            if part != "outer":
                self._add_moving(out, layout, a, b)
                self._add_moving(out, layout, b, a)
            for of, expansion in self.outputs:
                if part in ("full", of):
                    self._put(out, (a, layout), (b, layout), self._dense(a, b, expansion), add=True, symmetric=True)
        for which, (of, expansion) in enumerate(self.outputs):
            if part in ("full", of) and expansion.factor is not None:
                rank_update(out[0], self.factor(layout, which)[0])

    def gradient(self, layout: Layout) -> Float[Tensor, "n P"]:
        """Return the sum over tokens of left (x) adjoint."""
        families = self.sweep.families
        out = families[0].left.new_empty(len(families[0].left), layout.size)
        for number, family in enumerate(families):
            self._column(out, layout, number, family.left.mT @ family.adjoint)
        return out

    def factor(self, layout: Layout, which: int = 0) -> Float[Tensor, "n K P"]:
        """Return F with outer part F'F, from the factor of the loss numbered `which`."""
        first = self._factor(0, which)
        out = first.new_empty(first.shape[0] * first.shape[1], layout.size)
        for number in range(len(self.sweep.families)):
            self._column(out, layout, number, self._factor(number, which).flatten(0, 1))
        return out.unflatten(0, first.shape[:2])

    def _column(self, out: Float[Tensor, "n P"], layout: Layout, number: int, whole: Float[Tensor, "n l r"]) -> None:
        unit = Patch(slice(0, 1), slice(0, 1), 0, 1, 1)
        for patch in layout.patches(self.sweep.families[number].members):
            put(place(out[..., None], patch, unit), whole[:, patch.left, patch.right, None, None], add=False)

    def _pairs(self, rows: Layout, columns: Layout, symmetric: bool) -> Iterator[tuple[int, int]]:
        families = self.sweep.families
        for a in range(len(families)):
            for b in range(a if symmetric else 0, len(families)):
                if rows.patches(families[a].members) and columns.patches(families[b].members):
                    yield a, b

    def _put(
        self,
        out: Tensor,
        a: tuple[int, Layout],
        b: tuple[int, Layout],
        block: Block | None,
        add: bool,
        symmetric: bool,
    ) -> None:
        """Put a block into its place; of a symmetric matrix, on both sides of the diagonal."""
        for pa in a[1].patches(self.sweep.families[a[0]].members):
            for pb in b[1].patches(self.sweep.families[b[0]].members):
                piece = None if block is None else block[:, pa.left, pa.right, pb.left, pb.right]
                put(place(out, pa, pb), piece, add)
                if symmetric and a[0] != b[0]:
                    put(place(out, pb, pa), None if piece is None else turned(piece), add)

    def _block(self, a: int, b: int, part: str) -> Block | None:
        """Return the block of families a and b for each sample, or None where it is zero."""
        core = self.sweep.core(a, b, part)
        block = None
        if core is not None:
            left_a, left_b = self.sweep.families[a].left, self.sweep.families[b].left
            core = core.expand(*left_a.shape[:2], -1, -1)
            product = _powers(left_a, left_b).mT @ core.flatten(-2)
            powers = (left_a.shape[-1], left_b.shape[-1])
            block = product.unflatten(-1, core.shape[-2:]).unflatten(1, powers).permute(0, 1, 3, 2, 4)
        for first, second in ((a, b), (b, a)) if part != "outer" and a != b else ():
            if second in self.sweep.trace(first).inputs:
                fa, fb = self.sweep.families[a], self.sweep.families[b]
                if block is None:
                    sizes = (fa.left.shape[-1], fa.adjoint.shape[-1], fb.left.shape[-1], fb.adjoint.shape[-1])
                    block = fa.left.new_zeros(len(fa.left), *sizes)
                self._move(block if first == a else turned(block), first, second)
        for which, (of, expansion) in enumerate(self.outputs):
            if part in ("full", of):
                for term in (self._low_rank(a, b, which, expansion), self._dense(a, b, expansion)):
                    if term is not None:
                        block = term if block is None else block.add_(term)
        return block

    def _write_curvature(self, out: Tensor, layout: Layout, a: int, b: int, part: str, add: bool) -> None:
        """Write or add sum_i (left_a left_b') (x) core_i, in products small enough to stay in the cache."""
        left_a, left_b = self.sweep.families[a].left, self.sweep.families[b].left
        patches_a, patches_b = (layout.patches(self.sweep.families[x].members) for x in (a, b))
        # Rows of a matrix that acts from the left lie one below the other, so the upper half of them will do.
        upper = a == b and len(patches_a) == 1 and patches_a[0].stride_left > patches_a[0].stride_right
        for tokens in self._token_slices(a, b):
            core = self.sweep.core(a, b, part, tokens)
            if core is None:
                self._put(out, (a, layout), (b, layout), None, add=add, symmetric=True)
                return
            sizes = core.shape[-2:]
            core = self._lay(core.expand(len(left_a), left_a[:, tokens].shape[1], -1, -1)).flatten(-2)
            for pa in patches_a:
                for first, stop in _row_slices(pa, left_b.shape[-1] * core.shape[-1] * core.element_size(), upper):
                    for pb in patches_b:
                        columns = pb.some(first, pb.left.stop) if upper else pb
                        powers = _powers(left_a[:, tokens, first:stop], left_b[:, tokens, columns.left])
                        product = (self._lay(powers).mT @ core).unflatten(-1, sizes)
                        product = product.unflatten(1, (stop - first, columns.sizes[0])).permute(0, 1, 3, 2, 4)
                        product = product[:, :, pa.right, :, pb.right]
                        target = pa.some(first, stop)
                        if above(pa, pb):
                            put(place(out, target, columns), product, add or tokens.start > 0)
                        if a != b and above(pb, pa):
                            put(place(out, columns, target), turned(product), add or tokens.start > 0)

    def _add_moving(self, out: Tensor, layout: Layout, a: int, b: int) -> None:
        """Add the term of the left vector of b, which moves with a, above the diagonal."""
        if a == b or b not in self.sweep.trace(a).inputs:
            return
        product, diagonal = self._moving(a, b)
        for pa in layout.patches(self.sweep.families[a].members):
            for pb in layout.patches(self.sweep.families[b].members):
                if above(pa, pb):
                    _add_product(place(out, pa, pb), product, diagonal, pa, pb)
                if above(pb, pa):
                    _add_product(turned(place(out, pb, pa)), product, diagonal, pa, pb)

    def _move(self, block: Block, a: int, b: int) -> None:
        """Add the term of the left vector of b, which moves with a, to a whole block."""
        product, diagonal = self._moving(a, b)
        whole = [Patch(slice(0, block.shape[i]), slice(0, block.shape[i + 1]), 0, 1, 1) for i in (1, 3)]
        _add_product(block, product, diagonal, whole[0], whole[1])

    def _moving(self, a: int, b: int) -> tuple[Tensor, bool]:
        """Return sum_i left_a (x) X_ab (x) adjoint_b as (n, la, ra, lb, rb), or (n, la, r, rb) if X is diagonal.

        The last left entry of b is missing where it is the 1 of a bias, which never moves.
        """
        fa, fb = self.sweep.families[a], self.sweep.families[b]
        X = self.sweep.trace(a).inputs[b]
        moved = torch.ones_like(fa.adjoint) if X is None else X.expand(*fa.left.shape[:2], *X.shape[2:])
        outer = self._lay(_powers(fa.left, fb.adjoint)).mT  # (la rb, tokens)
        product = (outer @ self._lay(moved.flatten(2))).unflatten(1, (fa.left.shape[-1], fb.adjoint.shape[-1]))
        if moved.ndim == 3:
            return product.transpose(2, 3), True
        return product.unflatten(-1, moved.shape[2:]).permute(0, 1, 3, 4, 2), False

    def _low_rank(self, a: int, b: int, which: int, expansion: Expansion) -> Block | None:
        if expansion.factor is None:
            return None
        first, second = self._factor(a, which), self._factor(b, which)
        product = first.flatten(-2).mT @ second.flatten(-2)
        return product.unflatten(-1, second.shape[-2:]).unflatten(1, first.shape[-2:])

    def _factor(self, number: int, which: int) -> Float[Tensor, "n K l r"]:
        """Return sum_i left_i (x) (R_i f_i) for each direction f of the loss."""
        if (number, which) not in self._factors:
            f = self.outputs[which][1].factor
            assert f is not None
            right, each = self.sweep.trace(number).right, f.permute(0, 2, 3, 1)  # (n, L, D, K)
            moved = each if right is None else right[..., None] * each if right.ndim == 3 else right @ each
            left = self.sweep.families[number].left
            whole = (left.mT @ moved.flatten(2)).unflatten(2, moved.shape[2:]).permute(0, 3, 1, 2)
            self._factors[number, which] = self._lay(whole)
        return self._factors[number, which]

    def _dense(self, a: int, b: int, expansion: Expansion) -> Block | None:
        """Return J_a' B J_b for a B that couples tokens, with J_b written out and J_a in its Kronecker form."""
        if expansion.dense is None:
            return None
        left_a, left_b = self.sweep.families[a].left, self.sweep.families[b].left
        n, tokens = left_a.shape[:2]
        features = expansion.dense.shape[-1] // tokens
        right_a, right_b = (written_out(self.sweep.trace(x).right, features, left_a) for x in (a, b))
        spread = right_b.mT[:, :, :, None, :].expand(n, tokens, -1, -1, -1)
        jacobian = (left_b[:, :, None, :, None] * spread).flatten(3)
        pulled = (expansion.dense @ jacobian.flatten(1, 2)).unflatten(1, (tokens, -1))
        moved = self._lay(right_a @ pulled)
        product = self._lay(left_a).mT @ moved.flatten(-2)
        return product.unflatten(-1, (right_a.shape[-2], left_b.shape[-1], right_b.shape[-2]))

    def _lay(self, x: Float[Tensor, "n L ..."]) -> Tensor:
        return x.flatten(0, 1)[None] if self.merged else x

    def _token_slices(self, a: int, b: int) -> list[slice]:
        """Return the tokens in parts, few enough that the cores of one part are small beside the result."""
        n, tokens = self.sweep.families[a].left.shape[:2]
        each = 8 * n * self.sweep.families[a].adjoint.shape[-1] * self.sweep.families[b].adjoint.shape[-1]
        step = max(1, 2 * SLICE_BYTES // each)
        return [slice(i, i + step) for i in range(0, tokens, step)]


def rank_update(out: Float[Tensor, "P P"], F: Float[Tensor, "K P"]) -> None:
    """Add F'F to everything on and above the diagonal, in place, a panel of rows at a time."""
    step = max(256, out.shape[0] // 16)
    for i in range(0, out.shape[0], step):
        out[i : i + step, i:].addmm_(F[:, i : i + step].mT, F[:, i:])


def _add_product(target: Block, product: Tensor, diagonal: bool, pa: Patch, pb: Patch) -> None:
    """Add to the entries of two patches what `Assembly._moving` returned for their whole families."""
    moved = slice(pb.left.start, min(pb.left.stop, product.shape[2 if diagonal else 3]))
    if not diagonal:
        count = moved.stop - moved.start
        target[:, :, :, : max(count, 0)] += product[:, pa.left, pa.right, moved, pb.right]
        return
    first, stop = max(pa.right.start, moved.start), min(pa.right.stop, moved.stop)
    if first < stop:  # only r = l' is met
        rows = target[
            :, :, first - pa.right.start : stop - pa.right.start, first - pb.left.start : stop - pb.left.start
        ]
        rows.diagonal(dim1=2, dim2=3).add_(product[:, pa.left, first:stop, pb.right].transpose(2, 3))


def _powers(x: Float[Tensor, "n L a"], y: Float[Tensor, "n L b"]) -> Float[Tensor, "n L ab"]:
    """Return x y' of each token, flattened."""
    return (x[..., :, None] * y[..., None, :]).flatten(-2)


def _row_slices(patch: Patch, bytes_per_row: int, upper: bool) -> list[tuple[int, int]]:
    """Return left entries of a patch in parts; finer where only what lies above the diagonal is needed."""
    first, stop = patch.left.start, patch.left.stop
    step = max(1, SLICE_BYTES // bytes_per_row)
    step = min(step, max(1, (stop - first) // 4)) if upper else step
    return [(i, min(i + step, stop)) for i in range(first, stop, step)]
