"""What turns a row of scores into a row of attention: softmax, the identity, or any map given with its derivatives."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stillscape._errors import InputError

Scores = Float[Tensor, "*rows L"]
Mask = Bool[Tensor, "*rows L"] | None


@runtime_checkable
class RowActivation(Protocol):
    """An attention activation of the caller's own, applied to each row of scores t; masked entries must come out 0."""

    def value(self, scores: Scores, mask: Mask) -> Float[Tensor, "*rows L"]:
        """Return the row a(t)."""

    def jacobian(self, scores: Scores, mask: Mask) -> Float[Tensor, "*rows L L"]:
        """Return [j, k] = da_j/dt_k."""

    def hessian(self, scores: Scores, mask: Mask) -> Float[Tensor, "*rows L L L"]:
        """Return [j, k, l] = d2a_j/dt_k dt_l."""


class RowMap(Protocol):
    """A row activation at given scores; S is its Jacobian, D[u] = sum_j u_j d2a_j the Hessian of u'a(t)."""

    @property
    def A(self) -> Float[Tensor, "n h L L"]:
        """The attention itself."""

    def push(self, tangent: Tensor) -> Tensor:
        """Return S t for each row."""

    def pull(self, adjoint: Tensor) -> Tensor:
        """Return S' u for each row."""

    def curve(self, adjoint: Tensor, tangent: Tensor) -> Tensor:
        """Return D[u] t for each row."""

    def moment(self, X: Float[Tensor, "n L e"]) -> Float[Tensor, "n h L e e"]:
        """Return C_i = X' S_i X."""

    def second_moment(self, adjoint: Tensor, X: Float[Tensor, "n L e"]) -> Float[Tensor, "n h L e e"] | None:
        """Return X' D_i[u_i] X, or None where it is zero."""


@dataclass(frozen=True)
class Softmax:
    r"""Softmax of each row over what the mask allows: S = diag(a) - aa', D[u] = diag(p) - ap' - pa', p = S u.

    (docs/theory, section 2: the second and third cumulants of the attended token.) A row with nothing allowed is 0.
    """

    A: Float[Tensor, "n h L L"]

    @classmethod
    def at(cls, scores: Float[Tensor, "n h L L"], mask: Mask) -> "Softmax":
        """Return the map at `scores`."""
        if mask is None:
            return cls(scores.softmax(-1))
        hidden = scores.masked_fill(~mask, -torch.inf)
        return cls(hidden.softmax(-1).masked_fill(~mask, 0.0))

    def push(self, tangent: Tensor) -> Tensor:
        """Return S t for each row."""
        return self.A * (tangent - (self.A * tangent).sum(-1, keepdim=True))

    def pull(self, adjoint: Tensor) -> Tensor:
        """Return S' u = S u for each row."""
        return self.push(adjoint)

    def curve(self, adjoint: Tensor, tangent: Tensor) -> Tensor:
        """Return D[u] t for each row."""
        p = self.push(adjoint)
        mean = (self.A * tangent).sum(-1, keepdim=True)
        return p * (tangent - mean) - self.A * (p * tangent).sum(-1, keepdim=True)

    def moment(self, X: Float[Tensor, "n L e"]) -> Float[Tensor, "n h L e e"]:
        """Return C_i, the covariance of the attended token: sum_j a_ij x_j x_j' - m_i m_i'."""
        M = self.A @ X[:, None]
        return _second_powers(self.A, X) - M[..., :, None] * M[..., None, :]

    def second_moment(self, adjoint: Tensor, X: Float[Tensor, "n L e"]) -> Float[Tensor, "n h L e e"]:
        """Return T_i = sum_j p_ij x_j x_j' - m_i r_i' - r_i m_i' with r_i = X' p_i."""
        p = self.push(adjoint)
        cross = (self.A @ X[:, None])[..., :, None] * (p @ X[:, None])[..., None, :]
        return _second_powers(p, X) - cross - cross.mT


@dataclass(frozen=True)
class Linear:
    """A = T where the mask allows, else 0: S is the identity there, and there is no second derivative."""

    A: Float[Tensor, "n h L L"]
    allowed: Float[Tensor, "n h L L"]

    @classmethod
    def at(cls, scores: Float[Tensor, "n h L L"], mask: Mask) -> "Linear":
        """Return the map at `scores`."""
        allowed = torch.ones_like(scores) if mask is None else mask.to(scores.dtype).expand(scores.shape)
        return cls(scores * allowed, allowed)

    def push(self, tangent: Tensor) -> Tensor:
        """Return S t for each row."""
        return self.allowed * tangent

    def pull(self, adjoint: Tensor) -> Tensor:
        """Return S' u for each row."""
        return self.allowed * adjoint

    def curve(self, adjoint: Tensor, tangent: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like(tangent)

    def moment(self, X: Float[Tensor, "n L e"]) -> Float[Tensor, "n h L e e"]:
        """Return the sum of x_j x_j' over what the mask allows."""
        return _second_powers(self.allowed, X)

    def second_moment(self, adjoint: Tensor, X: Float[Tensor, "n L e"]) -> None:
        """Return None: it is zero."""
        return


@dataclass(frozen=True)
class Given:
    """A caller's own activation, by its dense derivatives; memory n h L^4."""

    A: Float[Tensor, "n h L L"]
    S: Float[Tensor, "n h L L L"]
    D: Float[Tensor, "n h L L L L"]

    @classmethod
    def at(cls, scores: Float[Tensor, "n h L L"], mask: Mask, activation: RowActivation) -> "Given":
        """Return the map at `scores`; raises where a derivative has another shape, or where D is not symmetric."""
        allowed = None if mask is None else mask.expand(scores.shape)
        parts = [part(scores, allowed) for part in (activation.value, activation.jacobian, activation.hessian)]
        tokens = scores.shape[-1]
        for power, (name, got) in enumerate(zip(("value", "jacobian", "hessian"), parts, strict=True)):
            wanted = (*scores.shape, *[tokens] * power)
            if tuple(got.shape) != wanted:
                raise InputError(f"attention.{name} returned shape {tuple(got.shape)}; it must be {wanted}.")
        if allowed is not None and bool((parts[0] != 0)[~allowed].any()):
            raise InputError("attention.value is not 0 where the mask is False; masked entries must come out 0.")
        return cls(*parts)

    def push(self, tangent: Tensor) -> Tensor:
        """Return S t for each row."""
        return (self.S @ tangent[..., None]).squeeze(-1)

    def pull(self, adjoint: Tensor) -> Tensor:
        """Return S' u for each row."""
        return (self.S.mT @ adjoint[..., None]).squeeze(-1)

    def curve(self, adjoint: Tensor, tangent: Tensor) -> Tensor:
        """Return D[u] t for each row."""
        return torch.einsum("...jkl,...j,...l->...k", self.D, adjoint, tangent)

    def moment(self, X: Float[Tensor, "n L e"]) -> Float[Tensor, "n h L e e"]:
        """Return C_i = X' S_i X."""
        return X[:, None, None].mT @ self.S @ X[:, None, None]

    def second_moment(self, adjoint: Tensor, X: Float[Tensor, "n L e"]) -> Float[Tensor, "n h L e e"]:
        """Return X' D_i[u_i] X."""
        weighted = torch.einsum("...jkl,...j->...kl", self.D, adjoint)
        return X[:, None, None].mT @ weighted @ X[:, None, None]


def row_map(attention: object, scores: Float[Tensor, "n h L L"], mask: Mask) -> RowMap:
    """Return the activation named or given by `attention` at `scores`."""
    if attention == "softmax":
        return Softmax.at(scores, mask)
    if attention == "linear":
        return Linear.at(scores, mask)
    if not isinstance(attention, str) and isinstance(attention, RowActivation):
        return Given.at(scores, mask, attention)
    raise InputError(
        f"attention is {attention!r}; it must be 'softmax', 'linear', or an object with the methods value, jacobian "
        "and hessian of a row of scores (see RowActivation)."
    )


def _second_powers(weights: Float[Tensor, "n h L L"], X: Float[Tensor, "n L e"]) -> Float[Tensor, "n h L e e"]:
    """Return sum_j w_ij x_j x_j', as one product with all x_j x_j'."""
    squares = (X[..., :, None] * X[..., None, :]).flatten(-2)
    return (weights @ squares[:, None]).unflatten(-1, (X.shape[-1], X.shape[-1]))
