r"""Parameters whose effect on each token is a Kronecker product, and what their second derivatives are made of.

A family is a group of parameters theta (a matrix of l x r entries) that moves the row vector of token i, at any place
further on in the network, by

    dv_i = (left_i' dtheta) R_i                                              (docs/theory, section 5.3)

left_i is the same everywhere; R_i changes from layer to layer. The gradient is sum_i left_i (x) adjoint_i. Its
derivative, the functional Hessian, has two kinds of terms for families a and b:

    curvature   sum_i (left_a left_b') (x) (R_a N R_b')       N: second derivative of a layer, seen from its output
    inputs      sum_i  left_a (x) X_ab (x) adjoint_b          X_ab: how left_b moves with a

and the outer part is of the first kind, with N the Hessian of the loss at the output (docs/theory, section 5.4).
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


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


def entry(name: str, rows: int, columns: int) -> Member:
    """Return the member that is a whole (rows, columns) matrix, acting from the left."""
    return Member(name, slice(0, rows), slice(0, columns), 0, columns, 1)
