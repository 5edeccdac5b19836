"""How families go through a network: each is traced when it is needed, for all of them at all places would not fit."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.families import Family
from stillscape.hessian.rights import Right, after, some, times, times_transposed, total_of, transposed, written_out

SHARED = 2  # pairs with a meeting place that are remembered where memory is short


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

    def core(self, a: int, b: int, part: str, tokens: slice = slice(None)) -> Float[Tensor, "#n #L ra rb"] | None:
        """Return the sum over places of R_a N R_b', and what a and a later b bend together in the layer of b.

        For each token (of some of them); one matrix if it is the same for all, None where there is nothing.
        """
        total = self._bent(a, b, part, tokens, mixed=part != "outer")
        return torch.diag_embed(total) if total is not None and total.ndim == 3 else total

    def has_move(self, a: int, b: int) -> bool:
        """Return whether the left vector of b moves with a."""
        return self._mover(a, b) is not None

    def move(self, a: int, b: int) -> Right:
        """Return how the left vector of b, but for the 1 of a bias, moves with the right entries of a."""
        mover = self._mover(a, b)
        assert mover is not None
        way = self._way(a)
        return self._through(way[: way.index(mover)], self.trace(mover).inputs[b])

    def end(self, number: int) -> Right:
        """Return the right matrix at the end."""
        return self._through(self._way(number), None)

    def pull(self, number: int, directions: Float[Tensor, "n L D K"]) -> Float[Tensor, "n L r K"]:
        """Return the right matrix at the end times some directions of the output."""
        pulled = self._through(self._way(number), directions)
        assert pulled is not None
        return pulled

    def _number(self, begin: Step | None) -> int:
        self._begins.append((len(self._steps), begin))
        return len(self._begins) - 1

    def _way(self, number: int) -> list[int]:
        """Return the numbers under which one goes on, itself first."""
        way = [number]
        while way[-1] in self._onward:
            way.append(self._onward[way[-1]][1])
        return way

    def _through(self, way: list[int], behind: Right) -> Right:
        """Return the right matrix of a way, and what is behind it, as one."""
        for number in reversed(way):
            behind = after(self.trace(number).right, behind)
        return behind

    def _mover(self, a: int, b: int) -> int | None:
        """Return under which number a moves the left vector of b, if it does."""
        return next((number for number in self._way(a) if b in self.trace(number).inputs), None)

    def _bent(self, a: int, b: int, part: str, tokens: slice, mixed: bool) -> Tensor | None:
        """Return the core; whichever of the two goes on first, what is behind is that of its successor."""
        key = (a, b, part, mixed, tokens.start, tokens.stop)
        if key in self._shared:
            return self._shared[key]
        terms = self._at_places(a, b, part, tokens)
        if mixed and b in self.trace(a).cores:
            terms.append(self.trace(a).cores[b][:, tokens].clone())
        leaves = {number: self._onward[number] for number in (a, b) if number in self._onward}
        if leaves:
            first = min(leaves, key=lambda number: leaves[number][0])
            # The layer of b is that of b alone, not of what it goes on as.
            pair = (leaves[a][1], b, part, tokens, mixed) if first == a else (leaves[b][1], a, part, tokens, False)
            behind, right = self._bent(*pair), self.trace(first).right
            if behind is not None:
                moved = behind.clone() if right is None else times(some(right, tokens), behind)
                terms.append(moved if first == a else transposed(moved))
        total = total_of(terms)
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
                right = some(from_b.at_points[point], tokens)
                part_of_half = some(half, tokens)
                assert part_of_half is not None
                # Terms are added to, what is remembered is not.
                terms.append(part_of_half.clone() if right is None else times_transposed(part_of_half, right))
        return terms
