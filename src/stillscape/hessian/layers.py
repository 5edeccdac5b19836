"""Layers at a point: their values, and first and second derivatives as maps.

Each layer is made once, run forward and backward, and then answers

    tangent            dy from dx and dtheta
    tangent_backward   the change of what backward returned, given the change of the output's adjoint
    carry              families of parameters through the layer, its own entering (see `sweep`)

With `curved` off, `tangent_backward` is the transposed Jacobian alone, which gives the outer part.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.families import Family, Member, entry
from stillscape.hessian.pointwise import Pointwise
from stillscape.hessian.rights import times
from stillscape.hessian.sweep import Sweep, Trace

Direction = dict[str, Tensor]  # changes of parameters by name, each with a leading axis of samples
Tokens = Float[Tensor, "*v n L m"]


class Layer(Protocol):
    """What the module's docstring describes."""

    def forward(self, x: Tokens) -> Tokens:
        """Return the output, and keep what derivatives need."""

    def backward(self, adjoint: Tokens) -> Tokens:
        """Return the adjoint of the input from that of the output, and keep it."""

    def tangent(self, dx: Tokens, direction: Direction) -> tuple[Tokens, Any]:
        """Return the change of the output, and a memo for `tangent_backward`."""

    def tangent_backward(self, da: Tokens, memo: Any, direction: Direction, curved: bool, out: Direction) -> Tokens:
        """Return the change of the input's adjoint, and write those of the parameters' gradients into `out`."""

    def carry(self, sweep: Sweep) -> None:
        """Carry the families through this layer."""


class Chain:
    """Layers one after the other."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)

    def forward(self, x: Tokens) -> Tokens:
        """Return the output of the last layer."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, adjoint: Tokens) -> Tokens:
        """Return the adjoint of the first layer's input."""
        for layer in reversed(self.layers):
            adjoint = layer.backward(adjoint)
        return adjoint

    def tangent(self, dx: Tokens, direction: Direction) -> tuple[Tokens, Any]:
        """Return the change of the output."""
        memos = []
        for layer in self.layers:
            dx, memo = layer.tangent(dx, direction)
            memos.append(memo)
        return dx, memos

    def tangent_backward(self, da: Tokens, memo: Any, direction: Direction, curved: bool, out: Direction) -> Tokens:
        """Return the change of the adjoint of the first layer's input."""
        for layer, kept in zip(reversed(self.layers), reversed(memo), strict=True):
            da = layer.tangent_backward(da, kept, direction, curved, out)
        return da

    def carry(self, sweep: Sweep) -> None:
        """Carry the families through every layer."""
        for layer in self.layers:
            layer.carry(sweep)


class Residual(Chain):
    """x + branch(x)."""

    def forward(self, x: Tokens) -> Tokens:
        """Return x + branch(x)."""
        return x + super().forward(x)

    def backward(self, adjoint: Tokens) -> Tokens:
        """Return the adjoint of x."""
        return adjoint + super().backward(adjoint)

    def tangent(self, dx: Tokens, direction: Direction) -> tuple[Tokens, Any]:
        """Return the change of the sum."""
        change, memos = super().tangent(dx, direction)
        return dx + change, memos

    def tangent_backward(self, da: Tokens, memo: Any, direction: Direction, curved: bool, out: Direction) -> Tokens:
        """Return the change of the adjoint of x."""
        return da + super().tangent_backward(da, memo, direction, curved, out)

    def carry(self, sweep: Sweep) -> None:
        """Carry the families through the branch, and add what passed beside it."""
        start = sweep.branch()
        super().carry(sweep)
        sweep.join(start)


class Gather(Chain):
    """The identity, at a place where families are better traced on as one."""

    def __init__(self) -> None:
        super().__init__(())

    def carry(self, sweep: Sweep) -> None:
        """Let the families that are there go on as one."""
        sweep.gather()


class Linear:
    """y = x W + b; frozen unless it has names."""

    def __init__(self, W: Float[Tensor, "p q"], b: Float[Tensor, " q"] | None, names: tuple[str, str] | None) -> None:
        self.W, self.b, self.names = W, b, names

    def forward(self, x: Tokens) -> Tokens:
        """Return x W + b."""
        self.x = x
        return x @ self.W if self.b is None else x @ self.W + self.b

    def backward(self, adjoint: Tokens) -> Tokens:
        """Return the adjoint times W'."""
        self.adjoint = adjoint
        return adjoint @ self.W.mT

    def tangent(self, dx: Tokens, direction: Direction) -> tuple[Tokens, Any]:
        """Return dx W + x dW + db."""
        dy = dx @ self.W
        for name, change in self._changes(direction).items():
            dy = dy + (self.x @ change if name == self.names[0] else change[..., None, :])  # type: ignore[index]
        return dy, dx

    def tangent_backward(self, da: Tokens, memo: Any, direction: Direction, curved: bool, out: Direction) -> Tokens:
        """Return da W' + adjoint dW'."""
        if self.names is not None:
            weight = self.x.mT @ da
            out[self.names[0]] = weight + memo.mT @ self.adjoint if curved else weight
            out[self.names[1]] = da.sum(-2)
        back = da @ self.W.mT
        change = self._changes(direction).get(self.names[0]) if self.names else None
        return back + self.adjoint @ change.mT if curved and change is not None else back

    def carry(self, sweep: Sweep) -> None:
        """Multiply every right matrix by W; enter this layer's own family, its left vector (x, 1)."""
        own = len(sweep.numbers) if self.names is not None else None

        def through(trace: Trace) -> None:
            if own is not None:
                trace.inputs[own] = trace.right
            trace.right = times(trace.right, self.W[None, None])

        sweep.then(through)
        if self.names is not None:
            rows, columns = self.W.shape
            members = [entry(self.names[0], rows, columns)]
            if self.b is not None:
                members.append(Member(self.names[1], slice(rows, rows + 1), slice(0, columns), 0, 1, 1))
            left = self.x if self.b is None else with_one(self.x)
            sweep.enter(Family(left, self.adjoint, tuple(members)))

    def _changes(self, direction: Direction) -> Direction:
        return {name: direction[name] for name in self.names or () if name in direction}


class Elementwise:
    """h = sigma(u)."""

    def __init__(self, activation: Pointwise) -> None:
        self.activation = activation

    def forward(self, x: Tokens) -> Tokens:
        """Return sigma(x)."""
        self.slope, self.bend = self.activation.slope(x), self.activation.curvature(x)
        return self.activation.value(x)

    def backward(self, adjoint: Tokens) -> Tokens:
        """Return sigma'(x) times the adjoint."""
        self.curvature = adjoint * self.bend
        return self.slope * adjoint

    def tangent(self, dx: Tokens, direction: Direction) -> tuple[Tokens, Any]:
        """Return sigma'(x) dx."""
        return self.slope * dx, dx

    def tangent_backward(self, da: Tokens, memo: Any, direction: Direction, curved: bool, out: Direction) -> Tokens:
        """Return sigma'(x) da + adjoint sigma''(x) dx."""
        back = self.slope * da
        return back + self.curvature * memo if curved else back

    def carry(self, sweep: Sweep) -> None:
        """Note the curvature adjoint sigma''(x); scale every right matrix by sigma'(x)."""

        def scale(trace: Trace) -> None:
            trace.right = times(trace.right, self.slope)

        sweep.bend(self.curvature)
        sweep.then(scale)


def with_one(x: Float[Tensor, "... p"]) -> Float[Tensor, "... p+1"]:
    """Return x with a last feature of 1, by which a bias is a row of the weight."""
    return torch.nn.functional.pad(x, (0, 1), value=1.0)


def with_zero(x: Float[Tensor, "... p"]) -> Float[Tensor, "... p+1"]:
    """Return x with a last feature of 0: the 1 of `with_one` never moves."""
    return torch.nn.functional.pad(x, (0, 1))
