"""The Hessian summed over many samples, without that of any single one.

Samples are laid end to end as if they were tokens of one: the sum over tokens is then the sum over samples too. Each
pair of families is one large product of all left_a (x) left_b with all cores, a few columns at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.assemble import Assembly
from stillscape.hessian.layout import Layout, Patch, above, shifted, slices, turned
from stillscape.hessian.symmetric import half_of, half_of_squares, half_size, places, unpacked
from stillscape.hessian.upper import Upper

SLICE_BYTES = 6 * 2**20  # what a product may hold on its way into the sum
CORE_BYTES = 10 * 2**20  # what goes into a product for some of the tokens

Tokens = Float[Tensor, "n L c"]
Block = Float[Tensor, "la ra lb rb"]
Product = tuple[slice, Float[Tensor, "la lb ra rb"]]  # and which columns of lb it has


@dataclass(frozen=True)
class Image:
    """A family seen from another: its left vector is that of the other times a matrix, or its right matrix is."""

    number: int
    left: Float[Tensor, "l l2"] | None = None
    right: Float[Tensor, "r2 r"] | None = None


class Summed(Assembly):
    """Second derivatives of a chunk of samples, summed."""

    def add_upper(self, out: Upper, layout: Layout) -> None:
        """Add what is on and above the diagonal, and some of what is below it."""
        keys = self._keys
        for b in self.families:
            for a in (number for number in self.families if number <= b):
                if a not in keys:
                    self._add_curved(out, layout, a, b)
                if self.moves(a, b) and keys.get(a, b) == b:
                    self._add_moved(out, layout, a, b)
                coupled = self.coupled(a, b)
                if coupled is not None:
                    product = _end_to_end(self.families[a].left).mT @ _end_to_end(coupled).flatten(1)
                    self._add(out, layout, a, b, product.unflatten(-1, coupled.shape[2:]))
        factor = self.factor(layout)
        if factor is not None:
            out.add_squares(factor.flatten(0, 1))

    @cached_property
    def _keys(self) -> dict[int, int]:
        """Return the families that are had from another's second derivatives for less work than by themselves."""
        twins = {number: family.twin for number, family in self.families.items() if family.twin is not None}
        return {twin.number: key for key, twin in twins.items() if twin.matrix.shape[0] < 2 * twin.matrix.shape[1]}

    def _images(self, number: int) -> tuple[Tokens, list[Image]]:
        """Return a left vector, and the families to be had from products with it and the right matrix here."""
        family = self.families[number]
        if family.twin is None or family.twin.number not in self._keys:
            return family.left, [Image(number)]
        right = self.sweep.trace(family.twin.number).right
        assert isinstance(right, Tensor)
        images = [Image(family.twin.number, right=right[0, 0]), Image(number, left=family.twin.matrix)]
        return self.families[family.twin.number].left, images

    def _add_curved(self, out: Upper, layout: Layout, a: int, b: int) -> None:
        """Add sum_i (left_a left_b') (x) core_i."""
        left_a, from_a = self._images(a)
        left_b, from_b = self._images(b) if a == b else (self.families[b].left, [Image(b)])
        # Rows of a matrix that acts from the left lie one below the other, so the upper half of them will do.
        own = layout.patches(self.families[a].members)
        upper = a == b and len(from_a) == 1 and len(own) == 1 and own[0].stride_left > own[0].stride_right
        found = self._with_itself(left_a, a, upper) if a == b else self._of_two(left_a, left_b, a, b)
        for columns, product in found:
            for one in from_a:
                seen = self._seen(product, one)
                for other in (image for image in from_b if one.number <= image.number):
                    block, since = _seen_from_behind(seen, other, columns)
                    self._add(out, layout, one.number, other.number, block.transpose(1, 2), since=since)

    def _of_two(self, x: Tokens, y: Tokens, a: int, b: int) -> Iterator[Product]:
        """Yield sum_i (x y') (x) core_i for some columns at a time, and for some of the tokens."""
        for tokens in self._token_slices(a, b):
            core = self.core(a, b, tokens)
            if core is None:
                return
            for columns in _slices(y.shape[-1], x.shape[-1] * core[0, 0].numel(), core):
                yield columns, self._product(x[:, tokens], y[:, tokens, columns], core)

    def _with_itself(self, x: Tokens, a: int, upper: bool) -> Iterator[Product]:
        """Yield sum_i (x x') (x) core_i for some columns at a time, of the rows all or those up to these columns."""
        (n, _, size), right = x.shape, self.families[a].adjoint.shape[-1]
        packed = self.buffers.get("packed", x, half_size(size), half_size(right)).zero_()
        for tokens in self._token_slices(a, a):
            core = self.core(a, a, tokens)
            if core is None:
                return
            some = _end_to_end(x[:, tokens])
            if core.shape[:2] == (1, 1):  # the same for all tokens
                packed.addr_(half_of((some.mT @ some)[None])[0], half_of(core[0])[0])
                continue
            squares = half_of_squares(some, self.buffers.get("powers", x, len(some), packed.shape[0]))
            cores = _end_to_end(core.expand(n, len(some) // n, right, right))
            packed.addmm_(squares.mT, half_of(cores, self.buffers.get("cores", x, len(some), packed.shape[1])))
        of_x, of_core = places(size, x.device), places(right, x.device)
        for columns in _slices(size, size * right * right, x):
            rows = slice(0, columns.stop) if upper else slice(None)
            yield columns, unpacked(packed, of_x[rows, columns], of_core)

    def _product(self, x: Tokens, y: Tokens, core: Float[Tensor, "#n #L *r"]) -> Float[Tensor, "lx ly *r"]:
        """Return sum_i (x y') (x) core_i, in memory that the next product takes again."""
        sizes = (x.shape[-1], y.shape[-1])
        if core.shape[:2] == (1, 1):
            return torch.tensordot(_end_to_end(x).mT @ _end_to_end(y), core[0, 0], dims=0)
        powers = self.buffers.get("powers", x, *x.shape[:2], *sizes)
        torch.mul(x[..., :, None], y[..., None, :], out=powers)
        cores = _end_to_end(core.expand(*x.shape[:2], *core.shape[2:])).flatten(1)
        product = self.buffers.get("product", x, sizes[0] * sizes[1], cores.shape[1])
        torch.mm(powers.view(len(cores), -1).mT, cores, out=product)
        return product.view(*sizes, *core.shape[2:])

    def _add_moved(self, out: Upper, layout: Layout, a: int, b: int) -> None:
        """Add sum_i left_a (x) X_ab (x) adjoint_b."""
        X, adjoint = self.sweep.move(a, b), self.families[b].adjoint
        X = torch.ones_like(self.families[a].adjoint) if X is None else X
        left, images = self._images(a) if X.ndim == 4 else (self.families[a].left, [])
        for columns in _slices(adjoint.shape[-1], left.shape[-1] * X[0, 0].numel(), X):
            product = self._product(left, adjoint[..., columns], X)
            if not images:
                self._add_diagonal(out, layout, a, b, product.mT, columns)
            for one in images:  # (la, rb, ra, lb)
                block = self._seen(product, one).permute(0, 2, 3, 1)
                self._add(out, layout, one.number, b, block, right=columns)

    def _seen(self, product: Float[Tensor, "la x ra y"], image: Image) -> Float[Tensor, "la2 x ra2 y"]:
        """Return a product for an image of its first family, in memory that the next takes again."""
        la, x, ra, y = product.shape
        if image.left is not None:
            seen = self.buffers.get("image", product, image.left.shape[1], x * ra * y)
            return torch.mm(image.left.mT, product.view(la, -1), out=seen).view(-1, x, ra, y)
        if image.right is not None:
            seen = self.buffers.get("image", product, la * x, image.right.shape[0], y)
            across = image.right.expand(la * x, -1, -1)
            return torch.bmm(across, product.view(la * x, ra, y), out=seen).view(la, x, -1, y)
        return product

    def _add(
        self, out: Upper, layout: Layout, a: int, b: int, block: Block, since: int = 0, right: slice | None = None
    ) -> None:
        """Add a block of two families where it is above the diagonal: of b, left entries since one, or some right."""
        rows, columns = slice(0, block.shape[0]), slice(since, since + block.shape[2])
        right = slice(0, block.shape[3]) if right is None else right
        for pa in self._within(layout, a, rows):
            for pb in self._within(layout, b, columns, right):
                piece = block[None, pa.left, pa.right, shifted(pb.left, columns), shifted(pb.right, right)]
                if above(pa, pb):
                    out.at(pa, pb).add_(piece)
                if a != b and above(pb, pa):
                    out.at(pb, pa).add_(turned(piece))

    def _add_diagonal(
        self, out: Upper, layout: Layout, a: int, b: int, entries: Float[Tensor, "la r rb"], right: slice
    ) -> None:
        """Add a block that has only entries (l, r; l' = r, r'), some of the right ones of b."""
        for pa in self._within(layout, a, slice(0, len(entries))):
            for pb in self._within(layout, b, slice(0, entries.shape[1]), right):
                meet = slice(max(pa.right.start, pb.left.start), min(pa.right.stop, pb.left.stop))
                if meet.start < meet.stop:
                    one, other = pa.across(meet.start, meet.stop), pb.along(meet.start, meet.stop)
                    piece = entries[None, pa.left, meet, shifted(pb.right, right)].transpose(2, 3)
                    if above(one, other):
                        out.at(one, other).diagonal(dim1=2, dim2=3).add_(piece)
                    if above(other, one):
                        turned(out.at(other, one)).diagonal(dim1=2, dim2=3).add_(piece)

    def _within(self, layout: Layout, number: int, left: slice, right: slice | None = None) -> Iterator[Patch]:
        """Yield what of a family's patches has left and right entries in a range."""
        for patch in layout.patches(self.families[number].members):
            some = (left, right or patch.right)
            spans = [(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(some, patch.spans, strict=True)]
            if all(first < stop for first, stop in spans):
                yield patch.along(*spans[0]).across(*spans[1])

    def _token_slices(self, a: int, b: int) -> list[slice]:
        """Return the tokens in parts, few enough that the cores of one part are small beside the result."""
        n, tokens = self.families[a].left.shape[:2]
        width = self.families[a].adjoint.shape[-1] * self.families[b].adjoint.shape[-1]
        if a == b:  # the squares of left vectors are there for all columns at once
            width = max(width, half_size(self.families[a].left.shape[-1]))
        return _slices(tokens, n * width, self.families[a].left, limit=CORE_BYTES)


def _seen_from_behind(
    product: Float[Tensor, "x lb y rb"], image: Image, columns: slice
) -> tuple[Float[Tensor, "x lb2 y rb2"], int]:
    """Return a product with some left entries of its second family for an image of that, and its first left entry."""
    if image.left is not None:
        return torch.tensordot(product, image.left[columns], dims=([1], [0])).movedim(-1, 1), 0
    return (product if image.right is None else product @ image.right.mT), columns.start


def _end_to_end(x: Float[Tensor, "n L ..."]) -> Tensor:
    """Return all tokens of all samples along one axis."""
    return x.flatten(0, 1)


def _slices(count: int, entries: int, like: Tensor, limit: int | None = None) -> list[slice]:
    """Return a range in parts, each with so few of `entries` that they stay within the limit."""
    most = (SLICE_BYTES if limit is None else limit) // (entries * like.element_size())
    return slices(count, max(1, most))
