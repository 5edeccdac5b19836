"""Activations of the feed-forward layer with their first two derivatives."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import one_of


class Pointwise(Protocol):
    """A function of one number, with its first two derivatives."""

    def value(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return sigma(u)."""

    def slope(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return sigma'(u)."""

    def curvature(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return sigma''(u)."""


@dataclass(frozen=True)
class Identity:
    """sigma(u) = u."""

    def value(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return u."""
        return u

    def slope(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return 1."""
        return torch.ones_like(u)

    def curvature(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return 0."""
        return torch.zeros_like(u)


@dataclass(frozen=True)
class Relu:
    """sigma(u) = max(u, 0); the second derivative is 0 off the kink, and what is said at 0 is PyTorch's choice."""

    def value(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return max(u, 0)."""
        return u.clamp_min(0)

    def slope(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return 1 where u > 0, else 0."""
        return (u > 0).to(u.dtype)

    def curvature(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return 0."""
        return torch.zeros_like(u)


@dataclass(frozen=True)
class Gelu:
    r"""sigma(u) = u Phi(u), the exact form by erf (Hendrycks and Gimpel 2016).

    With phi the normal density: sigma' = Phi + u phi, sigma'' = (2 - u^2) phi.
    """

    def value(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return u Phi(u)."""
        return torch.nn.functional.gelu(u)

    def slope(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return Phi(u) + u phi(u)."""
        return 0.5 * torch.special.erfc(-u / math.sqrt(2)) + u * _density(u)

    def curvature(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return (2 - u^2) phi(u)."""
        return (2.0 - u.square()) * _density(u)


ACTIVATIONS: dict[str, Pointwise] = {"linear": Identity(), "relu": Relu(), "gelu": Gelu()}


def pointwise(activation: str) -> Pointwise:
    """Return the activation of that name, with its derivatives: "linear", "relu" or "gelu".

    >>> round(float(pointwise("gelu").curvature(torch.zeros(()))), 5)  # sigma''(0) = sqrt(2 / pi)
    0.79788
    """
    return ACTIVATIONS[one_of("activation", activation, tuple(ACTIVATIONS))]


def _density(u: Tensor) -> Tensor:
    return torch.exp(-0.5 * u.square()) / math.sqrt(2 * math.pi)
