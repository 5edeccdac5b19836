"""Multi-head attention at a point, to second order (docs/theory, section 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stillscape.hessian.families import Family, Member, Twin
from stillscape.hessian.layers import Direction, Linear, Tokens, with_one, with_zero
from stillscape.hessian.rights import written_out
from stillscape.hessian.row_maps import row_map
from stillscape.hessian.sweep import Step, Sweep, Trace

Heads = Float[Tensor, "*v n h L c"]


class Moves(NamedTuple):
    """How queries, keys, values, scores and attention change along a direction."""

    query: Heads
    key: Heads
    value: Heads
    scores: Heads
    attention: Heads


class Attention:
    """Heads beside each other, (n, L, heads d_V), without the output projection, which is a `Linear` of its own.

    Args:
        params: W_Q, W_K, W_V and, where there are any, b_Q, b_K, b_V.
        heads: number of heads.
        attention: "softmax", "linear" or a `RowActivation`.
        mask: (1 or n, L, L), True = may attend.
        trainable: whether its parameters enter as families.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        heads: int,
        attention: object,
        mask: Bool[Tensor, "#n L L"] | None,
        trainable: bool = True,
    ) -> None:
        self.maps = {
            letter: Linear(
                params[f"W_{letter}"], params.get(f"b_{letter}"), (f"W_{letter}", f"b_{letter}") if trainable else None
            )
            for letter in "QKV"
        }
        self.heads, self.attention, self.trainable = heads, attention, trainable
        self.mask = None if mask is None else mask[:, None]
        self.scale = (params["W_Q"].shape[1] // heads) ** -0.5

    def forward(self, x: Tokens) -> Tokens:
        """Return the attended values of all heads."""
        self.x = x
        self.query, self.key, self.value = (self._split(map_.forward(x)) for map_ in self.maps.values())
        self.rows = row_map(self.attention, self.scale * (self.query @ self.key.mT), self.mask)
        return self._merge(self.rows.A @ self.value)

    def backward(self, adjoint: Tokens) -> Tokens:
        """Return the adjoint of x."""
        self.adjoint = self._split(adjoint)
        self.reach = self.adjoint @ self.value.mT  # U, the adjoint of A
        self.score_adjoint = self.rows.pull(self.reach)  # P, the adjoint of T
        back = {
            "Q": self.scale * (self.score_adjoint @ self.key),
            "K": self.scale * (self.score_adjoint.mT @ self.query),
            "V": self.rows.A.mT @ self.adjoint,
        }
        return sum(self.maps[letter].backward(self._merge(part)) for letter, part in back.items())  # type: ignore[return-value]

    def tangent(self, dx: Tokens, direction: Direction) -> tuple[Tokens, Any]:
        """Return the change of the attended values (docs/theory, Proposition 3)."""
        changes = [map_.tangent(dx, direction) for map_ in self.maps.values()]
        dq, dk, dv = (self._split(change) for change, _ in changes)
        scores = self.scale * (dq @ self.key.mT + self.query @ dk.mT)
        attention = self.rows.push(scores)
        moves = Moves(dq, dk, dv, scores, attention)
        return self._merge(attention @ self.value + self.rows.A @ dv), (moves, [memo for _, memo in changes])

    def tangent_backward(self, da: Tokens, memo: Any, direction: Direction, curved: bool, out: Direction) -> Tokens:
        """Return the change of the adjoint of x."""
        moves, inner = memo
        *parts, _ = self._core_backward(self._split(da), moves, curved)
        return self._maps_backward(parts, inner, direction, curved, out)

    def carry(self, sweep: Sweep) -> None:
        """Enter the families of every head; carry those that reach the input, such as a LayerNorm before it."""
        first, count = len(sweep.numbers), 3 * self.heads if self.trainable else 0
        own = [(first + i, first + i + 1, first + i + 2) for i in range(0, count, 3)]
        if sweep.families:
            assert len(sweep.families) == 1  # two would bend together here, token by token
            assert all(family.left.shape[-1] == 1 for family in sweep.families.values())
            sweep.then(lambda trace: self._through(trace, own))
        if self.trainable:
            self._enter_heads(sweep, own)

    def _core_backward(self, da: Heads, moves: Moves, curved: bool) -> tuple[Heads, Heads, Heads, Heads]:
        """Return the changes of the adjoints of queries, keys, values and scores."""
        reach = da @ self.value.mT
        if curved:
            reach = reach + self.adjoint @ moves.value.mT
        scores = self.rows.pull(reach)
        if curved:
            scores = scores + self.rows.curve(self.reach, moves.scores)
        query, key, value = scores @ self.key, scores.mT @ self.query, self.rows.A.mT @ da
        if curved:
            query = query + self.score_adjoint @ moves.key
            key = key + self.score_adjoint.mT @ moves.query
            value = value + moves.attention.mT @ self.adjoint
        return self.scale * query, self.scale * key, value, scores

    def _maps_backward(
        self, parts: list[Heads], memos: list[Any], direction: Direction, curved: bool, out: Direction
    ) -> Tokens:
        """Return the change of the adjoint of x from those of queries, keys and values."""
        query, key, value = (
            map_.tangent_backward(self._merge(part), kept, direction, curved, out)
            for map_, part, kept in zip(self.maps.values(), parts, memos, strict=True)
        )
        return query + key + value

    def _enter_heads(self, sweep: Sweep, own: list[tuple[int, int, int]]) -> None:
        """Enter queries, keys and values of each head; Proposition 1 in terms of left and right (docs/theory, 5.3)."""
        x, weights = self._augmented()
        # r C', (n, h, L, e, e): how m moves with W_K q
        covariance = (self.scale * self.rows.moment(x)).mT.contiguous()
        curvature = self.rows.second_moment(self.reach, x)  # T
        mean, pull = self.rows.A @ x[:, None], self.score_adjoint @ x[:, None]  # m and r, (n, h, L, e)
        for head, (query, key, value) in enumerate(own):
            twin = Twin(query, weights["Q"][head])
            queries = Family(x, self._query_adjoint(head), self._members("Q", head))
            keys = Family(self.query[:, head], self.scale * pull[:, head], self._members("K", head), twin)
            values = Family(mean[:, head], self.adjoint[:, head], self._members("V", head))
            slot = self._slot(head, weights["V"][head].shape[1])
            place = None if curvature is None else sweep.curve(curvature[:, head])
            at = Head(covariance[:, head], weights["K"][head], weights["V"][head] @ slot, self.scale, place, key, value)
            sweep.enter(queries, at.begin_query, onward=key)
            sweep.enter(keys, at.begin_key)
            sweep.enter(values, _first_right(slot))

    def _through(self, trace: Trace, own: list[tuple[int, int, int]]) -> None:
        """Carry a family that moves the input: tokens meet here, so its left vector is 1 and its right all there is."""
        right = written_out(trace.right, self.x.shape[-1], self.x)
        dx = right.expand(*self.x.shape[:2], *right.shape[2:]).permute(2, 0, 1, 3)
        change, (moves, inner) = self.tangent(dx, {})
        query, key, value, scores = self._core_backward(torch.zeros_like(self._split(change)), moves, curved=True)
        twice = right @ _last(self._maps_backward([query, key, value], inner, {}, True, {})).mT
        trace.cores[trace.number] = 0.5 * (twice + twice.mT)  # symmetric once summed over tokens; here for each
        trace.right = _last(change)
        x, _ = self._augmented()
        spread = with_zero(dx) if x.shape[-1] > dx.shape[-1] else dx
        for head, (q, k, v) in enumerate(own):
            pull = scores[:, :, head] @ x + self.score_adjoint[:, head] @ spread
            mean = moves.attention[:, :, head] @ x + self.rows.A[:, head] @ spread
            trace.cores[q] = _last(query[:, :, head])
            trace.cores[k] = _last(self.scale * pull)
            trace.inputs[q] = _last(dx)
            trace.inputs[k] = _last(moves.query[:, :, head])
            trace.inputs[v] = _last(mean)

    def _augmented(self) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Return x and the weights of each head, with the biases as a last row where any map has one."""
        if all(map_.b is None for map_ in self.maps.values()):
            return self.x, {letter: list(map_.W.chunk(self.heads, 1)) for letter, map_ in self.maps.items()}
        rows = {
            letter: torch.cat([map_.W, map_.W.new_zeros(1, map_.W.shape[1]) if map_.b is None else map_.b[None]])
            for letter, map_ in self.maps.items()
        }
        return with_one(self.x), {letter: list(row.chunk(self.heads, 1)) for letter, row in rows.items()}

    def _members(self, letter: str, head: int) -> tuple[Member, ...]:
        """Return where the weight of one head lies, and its bias as the last row."""
        map_ = self.maps[letter]
        rows, columns = map_.W.shape
        width = columns // self.heads
        start, features, last = head * width, slice(0, rows), slice(rows, rows + 1)
        inner = slice(0, width)
        weight_name, bias_name = f"W_{letter}", f"b_{letter}"
        if letter == "K":  # scores are q_i' W_K' x_j: the weight acts transposed, with the query as its left vector
            weight = Member(weight_name, inner, features, start, 1, columns)
            bias = Member(bias_name, inner, last, start, 1, 1)
        else:
            weight = Member(weight_name, features, inner, start, columns, 1)
            bias = Member(bias_name, last, inner, start, 1, 1)
        return (weight,) if map_.b is None else (weight, bias)

    def _slot(self, head: int, width: int) -> Float[Tensor, "c hc"]:
        """Return the matrix that puts the output of one head into its place beside the others."""
        whole = torch.eye(self.heads * width, dtype=self.x.dtype, device=self.x.device)
        return whole[head * width : (head + 1) * width]

    def _query_adjoint(self, head: int) -> Tensor:
        return self.scale * (self.score_adjoint[:, head] @ self.key[:, head])

    def _split(self, x: Tokens) -> Heads:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def _merge(self, x: Heads) -> Tokens:
        return x.transpose(-2, -3).flatten(-2)


def _last(x: Float[Tensor, "r n L c"]) -> Float[Tensor, "n L r c"]:
    """Return several changes at once as the rows of a right matrix."""
    return x.permute(1, 2, 0, 3)


@dataclass(frozen=True)
class Head:
    """What the queries and keys of one head begin with: how they move scores, the attended mean and the output."""

    to_mean: Float[Tensor, "n L e e"]
    W_K: Float[Tensor, "e c"]
    W_V: Float[Tensor, "e hc"]
    scale: float
    place: int | None
    key: int
    value: int

    def begin_query(self, trace: Trace) -> None:
        """Set R = W_K', with which queries go on as keys; the query is the left vector of those, and moves with it."""
        trace.right = self.W_K.mT[None, None]
        trace.inputs[self.key] = None

    def begin_key(self, trace: Trace) -> None:
        """Set R = r C' W_V."""
        trace.right = self.to_mean @ self.W_V
        trace.inputs[self.value] = self.to_mean
        if self.place is not None:
            trace.at_points[self.place] = self.to_mean.new_full((1, 1, self.to_mean.shape[-1]), self.scale)


def _first_right(right: Float[Tensor, "r D"]) -> Step:
    def begin(trace: Trace) -> None:
        trace.right = right[None, None]

    return begin
