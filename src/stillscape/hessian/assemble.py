"""What the blocks of a Hessian are made of, pair by pair of families, ready to be written."""

from collections.abc import Iterable
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.layout import Layout, Patch, place
from stillscape.hessian.losses import Expansion
from stillscape.hessian.memory import Buffers
from stillscape.hessian.rights import written_out
from stillscape.hessian.sweep import Sweep

PARTS = ("full", "outer", "functional")


class Assembly:
    """The second derivatives of a chunk of samples.

    Args:
        sweep: the families and what curves at each token.
        outputs: (part, what curves at the output beyond single tokens).
        part: one of `PARTS`.
        buffers: those of the chunk before, if there was one.
    """

    def __init__(
        self, sweep: Sweep, outputs: list[tuple[str, Expansion]], part: str, buffers: Buffers | None = None
    ) -> None:
        self.sweep, self.part, self.families = sweep, part, sweep.families
        self.buffers = Buffers() if buffers is None else buffers
        wanted = [expansion for of, expansion in outputs if part in ("full", of)]
        factors = [expansion.factor for expansion in wanted if expansion.factor is not None]
        self.directions = torch.cat(factors, 1) if factors else None
        dense = [expansion.dense for expansion in wanted if expansion.dense is not None]
        self.coupling = reduce(torch.add, dense) if dense else None
        self._factors: dict[int, Tensor] = {}

    def patches(self, layout: Layout) -> list[Patch]:
        """Return where all families lie."""
        return [patch for family in self.families.values() for patch in layout.patches(family.members)]

    def gradient(self, layout: Layout) -> Float[Tensor, "n P"]:
        """Return the sum over tokens of left (x) adjoint."""
        return self._joined(layout, ((a, family.left.mT @ family.adjoint) for a, family in self.families.items()))

    def factor(self, layout: Layout) -> Float[Tensor, "n K P"] | None:
        """Return F with F'F what the losses of few directions curve; None where there are none such."""
        if self.directions is None:
            return None
        whole = self._joined(layout, ((a, self._along(a).flatten(0, 1)) for a in self.families))
        return whole.unflatten(0, self.directions.shape[:2])

    def factor_of(self, number: int) -> Float[Tensor, "n K l r"] | None:
        """Return a family's part of the same, (l, r) as in its own order; it is remembered."""
        if self.directions is not None and number not in self._factors:
            self._factors[number] = self._along(number)
        return self._factors.get(number)

    def _along(self, number: int) -> Float[Tensor, "n K l r"]:
        """Return sum_i left_i (x) (R_i f_i) for each direction f."""
        assert self.directions is not None
        moved = self.sweep.pull(number, self.directions.permute(0, 2, 3, 1))  # (n, L, r, K)
        whole = self.families[number].left.mT @ moved.flatten(2)
        return whole.unflatten(2, moved.shape[2:]).permute(0, 3, 1, 2)

    def core(self, a: int, b: int, tokens: slice = slice(None)) -> Float[Tensor, "#n #L ra rb"] | None:
        """Return what a and b curve together for each token; see `Sweep.core`."""
        return self.sweep.core(a, b, self.part, tokens)

    def moves(self, a: int, b: int) -> bool:
        """Return whether the left vector of b moves with a, and counts."""
        return self.part != "outer" and a != b and self.sweep.has_move(a, b)

    def coupled(self, a: int, b: int, samples: slice = slice(None)) -> Float[Tensor, "n L ra lb rb"] | None:
        """Return the sum over tokens j of R_a B_ij (left_b (x) R_b)' if B couples tokens.

        Memory n L ra lb rb: about as much as the rows of a, so it is asked for a family and a few samples at a time.
        """
        if self.coupling is None:
            return None
        left = self.families[b].left[samples]
        n, tokens = left.shape[:2]
        features = self.coupling.shape[-1] // tokens
        ends = (written_out(self.sweep.end(x), features, left) for x in (a, b))
        right_a, right_b = (right if len(right) == 1 else right[samples] for right in ends)
        spread = right_b.mT[:, :, :, None, :].expand(n, tokens, -1, -1, -1)
        jacobian = (left[:, :, None, :, None] * spread).flatten(3).flatten(1, 2)
        pulled = (self.coupling[samples] @ jacobian).unflatten(1, (tokens, -1))
        return (right_a @ pulled).unflatten(-1, (-1, right_b.shape[-2]))

    def _joined(self, layout: Layout, parts: Iterable[tuple[int, Float[Tensor, "n l r"]]]) -> Float[Tensor, "n P"]:
        """Return what every family has for its entries as one vector."""
        out, unit = None, Patch(slice(0, 1), slice(0, 1), 0, 1, 1)
        for number, values in parts:
            out = values.new_empty(len(values), layout.size) if out is None else out
            for patch in layout.patches(self.families[number].members):
                place(out[..., None], patch, unit).copy_(values[:, patch.left, patch.right, None, None])
        assert out is not None  # there is no network without parameters
        return out
