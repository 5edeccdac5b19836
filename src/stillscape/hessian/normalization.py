r"""Layer normalization to second order, in closed form (docs/theory, section 5.1).

For a row s of m features, P = I - 11'/m, tau = sqrt(|Ps|^2/m + eps), x = Ps/tau:

    D = (P - xx'/m) / tau = D'      the Jacobian of x
    N(l) = -[(Pl)x' + x(Pl)' + <l, x>(P - 3xx'/m)] / (m tau^2)      the Hessian of <l, x>
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.families import Family, Member
from stillscape.hessian.layers import Direction, Tokens
from stillscape.hessian.rights import identity, written_out
from stillscape.hessian.sweep import Step, Sweep, Trace

Rows = Float[Tensor, "*n m"]


class LayerNorm:
    """y = gamma x + beta with x the normalized row; frozen unless it has names.

    gamma and beta are two families, or one if what follows joins tokens, as attention does: it takes one at most.
    """

    def __init__(
        self,
        gamma: Float[Tensor, " m"],
        beta: Float[Tensor, " m"],
        eps: float,
        names: tuple[str, str] | None = None,
        one_family: bool = False,
    ) -> None:
        self.gamma, self.beta, self.eps = gamma, beta, eps
        self.names, self.one_family = names, one_family

    def forward(self, x: Tokens) -> Tokens:
        """Return gamma x + beta."""
        centered = x - x.mean(-1, keepdim=True)
        self.tau = (centered.square().mean(-1, keepdim=True) + self.eps).sqrt()
        self.unit = centered / self.tau
        return self.unit * self.gamma + self.beta

    def backward(self, adjoint: Tokens) -> Tokens:
        """Return D (gamma adjoint)."""
        self.adjoint = adjoint
        return slope(self.gamma * adjoint, self.unit, self.tau)

    def tangent(self, dx: Tokens, direction: Direction) -> tuple[Tokens, Any]:
        """Return gamma D dx + dgamma x + dbeta."""
        change = slope(dx, self.unit, self.tau)
        dy = self.gamma * change
        dgamma, dbeta = self._changes(direction)
        if dgamma is not None:
            dy = dy + dgamma * self.unit
        return (dy if dbeta is None else dy + dbeta), (dx, change)

    def tangent_backward(self, da: Tokens, memo: Any, direction: Direction, curved: bool, out: Direction) -> Tokens:
        """Return D (gamma da + dgamma adjoint) + N(gamma adjoint) dx."""
        dx, change = memo
        if self.names is not None:
            gain = (da * self.unit).sum(-2)
            out[self.names[0]] = gain + (self.adjoint * change).sum(-2) if curved else gain
            out[self.names[1]] = da.sum(-2)
        scaled = self.gamma * da
        if not curved:
            return slope(scaled, self.unit, self.tau)
        dgamma, _ = self._changes(direction)
        if dgamma is not None:
            scaled = scaled + dgamma * self.adjoint
        return slope(scaled, self.unit, self.tau) + curve(self.gamma * self.adjoint, dx, self.unit, self.tau)

    def carry(self, sweep: Sweep) -> None:
        """Note the curvature N; multiply every right matrix by D diag(gamma); enter gamma and beta."""
        # A right matrix has rows of its own for each token, hence the axis more.
        unit, tau = self.unit[..., None, :], self.tau[..., None, :]
        m = self.unit.shape[-1]
        if sweep.numbers:
            sweep.bend(curve((self.gamma * self.adjoint)[..., None, :], identity(self.unit), unit, tau))
        own = len(sweep.numbers) if self.names is not None else None  # gamma's number, once it is entered

        def through(trace: Trace) -> None:
            moved = slope(written_out(trace.right, m, self.unit), unit, tau)
            if own is not None:
                trace.cores[own] = moved * self.adjoint[..., None, :]  # with gamma; with beta nothing bends
            trace.right = moved * self.gamma

        sweep.then(through)
        for family, begin in self._families():
            sweep.enter(family, begin)

    def _families(self) -> list[tuple[Family, Step | None]]:
        if self.names is None:
            return []
        m, one, gain = self.unit.shape[-1], torch.ones_like(self.tau), self.adjoint * self.unit
        if self.one_family:
            places = (slice(0, m), slice(m, 2 * m))
            members = tuple(Member(name, slice(0, 1), at, 0, 1, 1) for name, at in zip(self.names, places, strict=True))
            return [(Family(one, torch.cat([gain, self.adjoint], -1), members), self._begin_both)]
        gamma, beta = (Member(name, slice(0, 1), slice(0, m), 0, 1, 1) for name in self.names)
        return [(Family(one, gain, (gamma,)), self._begin_gamma), (Family(one, self.adjoint, (beta,)), None)]

    def _begin_gamma(self, trace: Trace) -> None:
        trace.right = self.unit

    def _begin_both(self, trace: Trace) -> None:
        shift = identity(self.unit).expand(*self.unit.shape[:2], -1, -1)
        trace.right = torch.cat([torch.diag_embed(self.unit), shift], -2)

    def _changes(self, direction: Direction) -> tuple[Tensor | None, Tensor | None]:
        names = self.names or ("", "")
        found = [direction.get(name) for name in names]
        return tuple(None if change is None else change[..., None, :] for change in found)  # type: ignore[return-value]


def slope(v: Rows, unit: Rows, tau: Float[Tensor, "*n 1"]) -> Rows:
    """Return D v for each row."""
    along = (unit * v).mean(-1, keepdim=True)
    return torch.addcmul(v - v.mean(-1, keepdim=True), unit, along, value=-1.0).div_(tau)


def curve(adjoint: Rows, v: Rows, unit: Rows, tau: Float[Tensor, "*n 1"]) -> Rows:
    """Return N(adjoint) v for each row; `adjoint` is that of x, gamma included."""
    m = v.shape[-1]
    pulled, moved = adjoint - adjoint.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True)
    along, across = (unit * v).sum(-1, keepdim=True), (pulled * v).sum(-1, keepdim=True)
    level = (adjoint * unit).sum(-1, keepdim=True)
    return -(pulled * along + unit * across + level * (moved - unit * along * (3.0 / m))) / (m * tau.square())
