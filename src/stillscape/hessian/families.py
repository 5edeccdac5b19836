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

    Attributes:
        families: in the order in which they are met.
        curvatures: N of each place that curves, (n, L, D) if diagonal, else (n, L, D, D), and whether it is outer.
        keep: how many traces are remembered; None: all.
    """

    families: list[Family] = field(default_factory=list)
    curvatures: list[tuple[Tensor, bool]] = field(default_factory=list)
    keep: int | None = None
    _begins: list[tuple[int, Step | None]] = field(default_factory=list)
    _steps: list[Step] = field(default_factory=list)
    _traces: dict[int, Trace] = field(default_factory=dict)

    def enter(self, family: Family, begin: Step | None = None) -> int:
        """Enter a new family here, and return its number; `begin` sets its first right matrix, else the identity."""
        self.families.append(family)
        self._begins.append((len(self._steps), begin))
        return len(self.families) - 1

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
        """Return the family carried to the end."""
        found = self._traces.pop(number, None)
        if found is None:
            if self.keep is not None and len(self._traces) >= self.keep:
                self._traces.pop(next(iter(self._traces)))
            born, begin = self._begins[number]
            found = Trace(number, born)
            if begin is not None:
                begin(found)
            for step in self._steps[born:]:
                step(found)
        self._traces[number] = found
        return found

    def core(self, a: int, b: int, part: str, tokens: slice = slice(None)) -> Float[Tensor, "n L ra rb"] | None:
        """Return the sum over places of R_a N R_b' for each token (of some of them), or None where there is nothing."""
        total: Tensor | None = None
        from_a, from_b = self.trace(a), self.trace(b)
        for point, (curvature, outer) in enumerate(self.curvatures):
            wanted = part in ("full", "outer" if outer else "functional")
            if wanted and point in from_a.at_points and point in from_b.at_points:
                if point not in from_a.halves:  # R_a N serves every b that a meets
                    from_a.halves[point] = times(from_a.at_points[point], curvature)
                half, right = some(from_a.halves[point], tokens), some(from_b.at_points[point], tokens)
                assert half is not None
                total = _plus(total, times_transposed(half, right))
        if part != "outer":
            for term in self._mixed(a, b):
                total = _plus(total, term[:, tokens])
        return total

    def _mixed(self, a: int, b: int) -> list[Tensor]:
        found = [self.trace(a).cores[b]] if b in self.trace(a).cores else []
        return found + ([self.trace(b).cores[a].mT] if a != b and a in self.trace(b).cores else [])


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


def _plus(total: Tensor | None, term: Tensor) -> Tensor:
    """Return the sum as a full matrix, reusing the memory of `total`, which is ours by then."""
    if term.ndim == 3 and total is not None and total.shape[:2] == term.shape[:2]:
        total.diagonal(dim1=-2, dim2=-1).add_(term)
        return total
    term = torch.diag_embed(term) if term.ndim == 3 else term
    if total is None:
        return term.clone()
    return total.add_(term) if total.shape[:2] == term.shape[:2] else total + term
