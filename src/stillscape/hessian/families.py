r"""Parameters whose effect on each token is a Kronecker product, and what their second derivatives are made of.

A family is a group of parameters theta (a matrix of l x r entries) that moves the row vector of token i, at any place
further on in the network, by

    dv_i = (left_i' dtheta) R_i                                              (docs/theory, section 5.3)

left_i is the same everywhere; R_i changes from layer to layer. The gradient is sum_i left_i (x) adjoint_i. Its
derivative, the functional Hessian, has two kinds of terms for families a and b:

    curvature   sum_i (left_a left_b') (x) (R_a N R_b')       N: second derivative of a layer, seen from its output
    inputs      sum_i  left_a (x) X_ab (x) adjoint_b          X_ab: how left_b moves with a

and the outer part is of the first kind, with N the Hessian of the loss at the output (docs/theory, section 5.4).
Right matrices of all families at all places would outweigh the result, so a family is traced when it is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

SHARED = 3  # pairs with a meeting place that are remembered where memory is short
Right = Tensor | None  # (n or 1, L or 1, r, D); (n, L, r) if diagonal; None: the identity


@dataclass(frozen=True)
class Member:
    """A parameter, or a slice of one, within a family: entry (l, r) lies at offset + l stride_left + r stride_right."""

    name: str
    left: slice
    right: slice
    offset: int
    stride_left: int
    stride_right: int


@dataclass(frozen=True, eq=False)
class Family:
    """Parameters that share a left vector and a right matrix; see the module's docstring."""

    left: Float[Tensor, "n L l"]
    adjoint: Float[Tensor, "n L r"]
    members: tuple[Member, ...]
    twin: "Twin | None" = None


@dataclass(frozen=True, eq=False)
class Twin:
    """A family that goes on as this one: its left vector times `matrix` is ours, and its right one, a constant, ours.

    Queries and keys are such: scores depend on W_Q W_K' alone, so both come from second derivatives in that product.
    """

    number: int
    matrix: Float[Tensor, "l l2"]


@dataclass
class Trace:
    """One family on its way through the network: its right matrix now, and what it left behind."""

    number: int
    born: int
    right: Right = None
    at_points: dict[int, Right] = field(default_factory=dict)
    inputs: dict[int, Right] = field(default_factory=dict)
    cores: dict[int, Tensor] = field(default_factory=dict)
    beside: list[Right] = field(default_factory=list)
    halves: dict[int, Tensor] = field(default_factory=dict)


Step = Callable[[Trace], None]


@dataclass
class Sweep:
    """The families of a network, and the steps that carry each from its birth to the end.

    What moves a place at which several families have met moves everything behind it, whoever it came from. So families
    may go on as one: they end there, with the right matrix they have, and what is behind is traced once for all. Such a
    meeting place has a number as families have, but no left vector.

    Attributes:
        families: by number, in the order in which they are met.
        curvatures: N of each place that curves, (n, L, D) if diagonal, else (n, L, D, D), and whether it is outer.
        keep: how many traces are remembered; None: all.
    """

    families: dict[int, Family] = field(default_factory=dict)
    curvatures: list[tuple[Tensor, bool]] = field(default_factory=list)
    keep: int | None = None
    _begins: list[tuple[int, Step | None]] = field(default_factory=list)
    _steps: list[Step] = field(default_factory=list)
    _onward: dict[int, tuple[int, int]] = field(default_factory=dict)  # after which step a number goes on, and as which
    _traces: dict[int, Trace] = field(default_factory=dict)
    _shared: dict[tuple, Tensor | None] = field(default_factory=dict)

    @property
    def numbers(self) -> range:
        """All numbers given so far: families and meeting places."""
        return range(len(self._begins))

    def enter(self, family: Family, begin: Step | None = None, onward: int | None = None) -> int:
        """Enter a new family here, and return its number; `begin` sets its first right matrix, else the identity.

        With `onward` it goes on at once as the family of that number, which is to be entered here too.
        """
        number = self._number(begin)
        self.families[number] = family
        if onward is not None:
            self._onward[number] = (len(self._steps), onward)
        return number

    def gather(self) -> None:
        """Let all that goes on so far go on as one."""
        meeting = [number for number in self.numbers if number not in self._onward]
        place = self._number(None)
        self._onward |= dict.fromkeys(meeting, (len(self._steps), place))

    def then(self, step: Step) -> None:
        """Let every family entered so far, and none entered later, take a step."""
        self._steps.append(step)

    def bend(self, curvature: Float[Tensor, "n L *D"], outer: bool = False) -> None:
        """Note the curvature N at the present place."""
        point = self.curve(curvature, outer)

        def mark(trace: Trace) -> None:
            trace.at_points[point] = trace.right

        self.then(mark)

    def curve(self, curvature: Float[Tensor, "n L *D"], outer: bool = False) -> int:
        """Note a curvature that only some families meet, by their own doing; return the number of its place."""
        self.curvatures.append((curvature, outer))
        return len(self.curvatures) - 1

    def branch(self) -> int:
        """Begin a branch beside which the input passes unchanged; return what `join` wants."""
        self.then(lambda trace: trace.beside.append(trace.right))
        return len(self._steps)

    def join(self, start: int) -> None:
        """End the branch: add what passed beside it, for families that were there before."""

        def add(trace: Trace) -> None:
            if trace.born < start:
                moved = trace.right
                assert moved is not None  # a branch begins with a layer that has a matrix
                size = moved.shape[-1]
                trace.right = written_out(trace.beside.pop(), size, moved) + written_out(moved, size, moved)

        self.then(add)

    def trace(self, number: int) -> Trace:
        """Return what becomes of a number, up to where it goes on as another."""
        found = self._traces.pop(number, None)
        if found is None:
            if self.keep is not None and len(self._traces) >= self.keep:
                self._traces.pop(next(iter(self._traces)))
            born, begin = self._begins[number]
            found = Trace(number, born)
            if begin is not None:
                begin(found)
            until, _ = self._onward.get(number, (len(self._steps), None))
            for step in self._steps[born:until]:
                step(found)
        self._traces[number] = found
        return found

    def core(self, a: int, b: int, part: str, tokens: slice = slice(None)) -> Float[Tensor, "n L ra rb"] | None:
        """Return the sum over places of R_a N R_b' for each token (of some of them), or None where there is nothing."""
        bent = self._bent(a, b, part, tokens)
        mixed = None if part == "outer" else self._mixed(a, b, tokens)
        # Both may be remembered, so neither is added to.
        total = mixed if bent is None else bent if mixed is None else _sum([mixed.clone(), bent])
        return torch.diag_embed(total) if total is not None and total.ndim == 3 else total

    def has_move(self, a: int, b: int) -> bool:
        """Return whether the left vector of b moves with a."""
        return self._mover(a, b) is not None

    def move(self, a: int, b: int, tokens: slice = slice(None)) -> Right:
        """Return how the left vector of b moves with a: its l entries, but for the 1 of a bias, to r of a."""
        mover = self._mover(a, b)
        assert mover is not None
        found = some(self.trace(mover).inputs[b], tokens)
        for number in self._way(a, mover):
            found = after(some(self.trace(number).right, tokens), found)
        return found

    def end(self, number: int) -> Right:
        """Return the right matrix at the end."""
        *before, last = self._way(number)
        found = self.trace(last).right
        for earlier in reversed(before):
            found = after(self.trace(earlier).right, found)
        return found

    def pull(self, number: int, directions: Float[Tensor, "n L D K"]) -> Float[Tensor, "n L r K"]:
        """Return the right matrix at the end times some directions of the output."""
        for passed in reversed(self._way(number)):
            right = self.trace(passed).right
            directions = directions if right is None else times(right, directions)
        return directions

    def _number(self, begin: Step | None) -> int:
        self._begins.append((len(self._steps), begin))
        return len(self._begins) - 1

    def _way(self, number: int, until: int | None = None) -> list[int]:
        """Return the numbers under which one goes on, itself first; with `until`, the last first, without that."""
        way = [number]
        while way[-1] != until and way[-1] in self._onward:
            way.append(self._onward[way[-1]][1])
        return way if until is None else way[-2::-1]

    def _mover(self, a: int, b: int) -> int | None:
        """Return under which number a moves the left vector of b, if it does."""
        return next((number for number in self._way(a) if b in self.trace(number).inputs), None)

    def _bent(self, a: int, b: int, part: str, tokens: slice) -> Tensor | None:
        """Return what places curve; whichever of the two goes on first, what is behind is that of its successor."""
        key = (a, b, part, tokens.start, tokens.stop)
        if key in self._shared:
            return self._shared[key]
        terms = self._at_places(a, b, part, tokens)
        leaves = {number: self._onward[number] for number in (a, b) if number in self._onward}
        if leaves:
            first = min(leaves, key=lambda number: leaves[number][0])
            behind = self._bent(leaves[first][1], b if first == a else a, part, tokens)
            if behind is not None:
                right = self.trace(first).right
                moved = behind.clone() if right is None else times(some(right, tokens), behind)
                terms.append(moved if first == a else _turned(moved))
        total = _sum(terms)
        if a not in self.families:  # a meeting place against one family serves all that met there
            while self.keep is not None and len(self._shared) >= SHARED:
                self._shared.pop(next(iter(self._shared)))
            self._shared[key] = total
        return total

    def _at_places(self, a: int, b: int, part: str, tokens: slice) -> list[Tensor]:
        """Return R_a N R_b' of every place that both meet under these numbers."""
        from_a, from_b, terms = self.trace(a), self.trace(b), []
        for point, (curvature, outer) in enumerate(self.curvatures):
            wanted = part in ("full", "outer" if outer else "functional")
            if wanted and point in from_a.at_points and point in from_b.at_points:
                half = from_a.halves.get(point)
                if half is None:
                    half = times(from_a.at_points[point], curvature)
                    if a in self.families:  # it serves every b that a meets; of a meeting place, `_shared` does
                        from_a.halves[point] = half
                half = some(half, tokens)
                assert half is not None
                term = times_transposed(half, some(from_b.at_points[point], tokens))
                terms.append(term.clone() if term is half else term)
        return terms

    def _mixed(self, a: int, b: int, tokens: slice) -> Tensor | None:
        """Return what a and b bend together, in a layer of which b are the parameters."""
        found = None
        for number in reversed(self._way(a)):
            if b in self.trace(number).cores:
                found = self.trace(number).cores[b][:, tokens]
            elif found is not None:
                found = times(some(self.trace(number).right, tokens), found)
        return found


def identity(like: Float[Tensor, "... r"]) -> Float[Tensor, "1 1 r r"]:
    """Return the identity that fits the last axis of `like`, once for all tokens."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)[None, None]


def entry(name: str, rows: int, columns: int) -> Member:
    """Return the member that is a whole (rows, columns) matrix, acting from the left."""
    return Member(name, slice(0, rows), slice(0, columns), 0, columns, 1)


def some(right: Right, tokens: slice) -> Right:
    """Return a right matrix of some tokens only."""
    return right if right is None or right.shape[1] == 1 else right[:, tokens]


def written_out(right: Right, size: int, like: Tensor) -> Float[Tensor, "#n #L r D"]:
    """Return a right matrix with all its entries, `size` columns of them."""
    if right is None:
        return torch.eye(size, dtype=like.dtype, device=like.device)[None, None]
    return torch.diag_embed(right) if right.ndim == 3 else right


def times(right: Right, N: Tensor) -> Tensor:
    """Return R N, diagonal if both are."""
    if right is None:
        return N
    if right.ndim == 3:
        return right * N if N.ndim == 3 else right[..., None] * N
    if N.ndim == 3:
        return right * N[..., None, :]
    # The same matrix for all tokens: one large product instead of many small ones.
    if N.shape[:2] == (1, 1):
        return right @ N[0, 0]
    return (N.mT @ right[0, 0].mT).mT if right.shape[:2] == (1, 1) else right @ N


def times_transposed(half: Tensor, right: Right) -> Tensor:
    """Return half R', diagonal if both are."""
    if right is None:
        return half
    if right.ndim == 3:
        return half * right if half.ndim == 3 else half * right[..., None, :]
    if half.ndim == 3:
        return half[..., None] * right.mT
    return half @ (right[0, 0].mT if right.shape[:2] == (1, 1) else right.mT)


def after(right: Right, found: Right) -> Right:
    """Return the product of two right matrices, the first that of the way before."""
    return right if found is None else times(right, found)


def _turned(core: Tensor) -> Tensor:
    return core if core.ndim == 3 else core.mT


def _sum(terms: list[Tensor]) -> Tensor | None:
    """Return the sum, in the memory of one of the terms; diagonal only if all are."""
    # Full matrices first: a diagonal one is then added in place, and never written out.
    total, *rest = sorted(terms, key=lambda term: (term.ndim == 3, term.shape[:2] == (1, 1))) or [None]
    for term in rest:
        if total.shape[:2] == (1, 1) != term.shape[:2]:
            total = total.expand(*term.shape[:2], *total.shape[2:]).clone()
        target = total if term.ndim == total.ndim else total.diagonal(dim1=-2, dim2=-1)
        target.add_(term)
    return total
