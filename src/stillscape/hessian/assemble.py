"""From families to matrices: blocks of the Hessian written straight into their place, per sample or summed."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.families import Member, Sweep, written_out
from stillscape.hessian.losses import Expansion

PARTS = ("full", "outer", "functional")
SLICE_BYTES = 16 * 2**20  # cores of all tokens at once could outweigh the mean that they are summed into
Block = Float[Tensor, "n la ra lb rb"]


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
            place += int(torch.Size(shape).numel())
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "size", place)

    def only(self, name: str) -> "Layout":
        """Return the layout of a single parameter."""
        return Layout({name: self.shapes[name]})

    def split(self, vector: Float[Tensor, "n P"]) -> dict[str, Tensor]:
        """Return a vector as parameters by name, each with its leading axis."""
        parts = vector.split([int(torch.Size(shape).numel()) for shape in self.shapes.values()], -1)
        return {n: part.unflatten(-1, s) for (n, s), part in zip(self.shapes.items(), parts, strict=True)}

    def join(self, parts: dict[str, Float[Tensor, "n ..."]], samples: int) -> Float[Tensor, "n P"]:
        """Return parameters by name as one vector for each sample."""
        return torch.cat([parts[name].reshape(samples, -1) for name in self.shapes], -1)


class Assembly:
    """The second derivatives of a chunk of samples, ready to be written.

    With `merged`, samples are laid end to end as if they were tokens of one: every sum over tokens is then the sum
    over samples too, and no matrix of a single sample is ever formed.
    """

    def __init__(self, sweep: Sweep, outputs: list[tuple[str, Expansion]], merged: bool) -> None:
        self.sweep, self.merged = sweep, merged
        self.outputs = outputs  # (part, what curves at the output beyond single tokens)
        self._factors: dict[tuple[int, int], Tensor] = {}

    def write(self, out: Float[Tensor, "n P Q"], rows: Layout, columns: Layout, part: str, add: bool) -> None:
        """Write (or add) every block whose parameters stand in `rows` and `columns`; other entries stay as they are.

        Where rows and columns are the same, only blocks on and above the diagonal are; see `mirror`.
        """
        for a, b in self._pairs(rows, columns):
            block = self._block(a, b, part)
            for ma in self._members(a, rows):
                for mb in self._members(b, columns):
                    piece = None if block is None else block[:, ma.left, ma.right, mb.left, mb.right]
                    _put(_place(out, rows, ma, columns, mb), piece, add)

    def mirror(self, out: Float[Tensor, "n P P"], layout: Layout) -> None:
        """Copy every block above the diagonal below it."""
        for a, b in self._pairs(layout, layout):
            for ma in self._members(a, layout) if a != b else ():
                for mb in self._members(b, layout):
                    above = _place(out, layout, ma, layout, mb)
                    _place(out, layout, mb, layout, ma).copy_(above.permute(0, 3, 4, 1, 2))

    def gradient(self, layout: Layout) -> Float[Tensor, "n P"]:
        """Return the sum over tokens of left (x) adjoint."""
        families = self.sweep.families
        out = families[0].left.new_empty(len(families[0].left), layout.size, 1)
        for number, family in enumerate(families):
            self._column(out, layout, number, family.left.mT @ family.adjoint)
        return out.squeeze(-1)

    def factor(self, layout: Layout, which: int = 0) -> Float[Tensor, "n K P"]:
        """Return F with outer part F'F, from the factor of the loss numbered `which`."""
        first = self._factor(0, which)
        out = first.new_empty(first.shape[0] * first.shape[1], layout.size, 1)
        for number in range(len(self.sweep.families)):
            self._column(out, layout, number, self._factor(number, which).flatten(0, 1))
        return out.squeeze(-1).unflatten(0, first.shape[:2])

    def _column(self, out: Tensor, layout: Layout, number: int, whole: Float[Tensor, "n l r"]) -> None:
        unit, single = Layout({"": (1,)}), Member("", slice(0, 1), slice(0, 1), 0, 1, 1)
        for member in self._members(number, layout):
            piece = whole[:, member.left, member.right, None, None]
            _put(_place(out, layout, member, unit, single), piece, add=False)

    def _pairs(self, rows: Layout, columns: Layout) -> Iterator[tuple[int, int]]:
        count = len(self.sweep.families)
        for a in range(count):
            for b in range(a if rows.shapes == columns.shapes else 0, count):
                if self._members(a, rows) and self._members(b, columns):
                    yield a, b

    def _members(self, number: int, layout: Layout) -> list[Member]:
        return [member for member in self.sweep.families[number].members if member.name in layout.shapes]

    def _block(self, a: int, b: int, part: str) -> Block | None:
        """Return the block of families a and b, or None where it is zero."""
        block = self._curvature(a, b, part)
        if part != "outer":
            block = self._with_inputs(block, a, b)
            block = _turned(self._with_inputs(_turned(block), b, a)) if a != b else block
        for which, (of, expansion) in enumerate(self.outputs):
            if part in ("full", of):
                for term in (self._low_rank(a, b, which, expansion), self._dense(a, b, expansion)):
                    if term is not None:
                        block = term if block is None else block.add_(term)
        return block

    def _curvature(self, a: int, b: int, part: str) -> Block | None:
        """Return sum_i (left_a left_b') (x) core_i as products of matrices."""
        left_a, left_b = self.sweep.families[a].left, self.sweep.families[b].left
        above = a == b and self.merged  # then core and powers are symmetric, so half the powers do
        pairs = torch.triu_indices(left_a.shape[-1], left_a.shape[-1], device=left_a.device) if above else None
        product, sizes = None, torch.Size(())
        for tokens in self._token_slices(a, b):
            core = self.sweep.core(a, b, part, tokens)
            if core is None:
                return None
            sizes = core.shape[-2:]
            core = self._lay(core.expand(left_a.shape[0], left_a[:, tokens].shape[1], -1, -1)).flatten(-2)
            powers = self._lay(_powers(left_a[:, tokens], left_b[:, tokens], pairs)).mT
            product = powers @ core if product is None else product.baddbmm_(powers, core)
        assert product is not None
        if pairs is not None:
            product = product.index_select(1, _spread(pairs, left_a.shape[-1]))
        shape = (left_a.shape[-1], left_b.shape[-1])
        return product.unflatten(-1, sizes).unflatten(1, shape).permute(0, 1, 3, 2, 4)

    def _with_inputs(self, block: Block | None, a: int, b: int) -> Block | None:
        """Add sum_i left_a (x) X_ab (x) adjoint_b: the left vector of b moves with a (but not its 1 for a bias)."""
        moves = self.sweep.trace(a).inputs
        if b not in moves:
            return block
        fa, fb = self.sweep.families[a], self.sweep.families[b]
        sizes = (fa.left.shape[-1], fa.adjoint.shape[-1], fb.left.shape[-1], fb.adjoint.shape[-1])
        if block is None:
            n = 1 if self.merged else len(fa.left)
            block = fa.left.new_zeros(n, *sizes)
        X = moves[b]
        moved = torch.ones_like(fa.adjoint) if X is None else X.expand(*fa.left.shape[:2], *X.shape[2:])
        outer = self._lay(_powers(fa.left, fb.adjoint)).mT  # (la rb, tokens)
        product = (
            (outer @ self._lay(moved.flatten(2))).unflatten(-1, moved.shape[2:]).unflatten(1, (sizes[0], sizes[3]))
        )
        target = block[:, :, :, : moved.shape[-1]]
        if moved.ndim == 3:  # X is diagonal, so only r = l' is met
            target.diagonal(dim1=2, dim2=3).add_(product)
        else:
            target.add_(product.permute(0, 1, 3, 4, 2))
        return block

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
            right = self.sweep.trace(number).right
            if right is None or right.ndim == 3:
                moved = f if right is None else f * right[:, None]
            else:
                moved = (right[:, None] @ f[..., None]).squeeze(-1)
            whole = torch.einsum("nla,nklr->nkar", self.sweep.families[number].left, moved)
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
        if not self.merged:
            return [slice(None)]
        n, tokens = self.sweep.families[a].left.shape[:2]
        each = 8 * n * self.sweep.families[a].adjoint.shape[-1] * self.sweep.families[b].adjoint.shape[-1]
        step = max(1, SLICE_BYTES // each)
        return [slice(i, i + step) for i in range(0, tokens, step)]


def _powers(x: Float[Tensor, "n L a"], y: Float[Tensor, "n L b"], pairs: Tensor | None = None) -> Tensor:
    """Return x y' of each token, flattened; of the given pairs of entries only, where they are given."""
    if pairs is not None:
        return x[..., pairs[0]] * y[..., pairs[1]]
    return (x[..., :, None] * y[..., None, :]).flatten(-2)


def _spread(pairs: Float[Tensor, "2 h"], size: int) -> Tensor:
    """Return where each entry of a symmetric matrix, row by row, stands among its pairs above the diagonal."""
    where = torch.empty(size, size, dtype=torch.long, device=pairs.device)
    count = torch.arange(pairs.shape[1], device=pairs.device)
    where[pairs[0], pairs[1]] = count
    where[pairs[1], pairs[0]] = count
    return where.flatten()


def _turned(block: Block | None) -> Block | None:
    return None if block is None else block.permute(0, 3, 4, 1, 2)


def _place(out: Tensor, rows: Layout, ma: Member, columns: Layout, mb: Member) -> Block:
    """Return the entries of two members within `out` as a five-axis view."""
    sizes, strides, place = [out.shape[0]], [out.stride(0)], out.storage_offset()
    for axis, layout, member in ((1, rows, ma), (2, columns, mb)):
        step = out.stride(axis)
        sizes += [member.left.stop - member.left.start, member.right.stop - member.right.start]
        strides += [member.stride_left * step, member.stride_right * step]
        place += (layout.start[member.name] + member.offset) * step
    return out.as_strided(sizes, strides, place)


def _put(place: Block, piece: Block | None, add: bool) -> None:
    if piece is not None:
        place.add_(piece) if add else place.copy_(piece)
    elif not add:
        place.zero_()
