"""From the norms of the stages of a transformer block to a bound on each of its 11 x 11 blocks of the Hessian."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.bounds._attention_norms import outer
from stillscape.hessian.transformer_block import PARAMETERS

Norms = Float[Tensor, " n"]

# Inside this file parameters stand in the order in which they enter, so that what a stage feeds is a prefix.
_ENTERING = ("W_Q", "W_K", "W_V", "gamma_1", "beta_1", "W_1", "b_1", "W_2", "b_2", "gamma_2", "beta_2")
_ATTENTION, _BELOW_FFN, _FIRST, _SECOND, _BELOW_NORM = slice(0, 3), slice(0, 5), slice(5, 7), slice(7, 9), slice(0, 9)
_GAMMA_1, _GAMMA_2 = slice(3, 4), slice(9, 10)


@dataclass(frozen=True)
class Inputs:
    r"""Norms of what multiplies each parameter, taken over all tokens: du = (input)' d(parameter), then a matrix.

    Attributes:
        attention: Jacobians of S in W_Q, W_K, W_V.
        one: a column of ones, one for each token; what multiplies every shift.
        Y: that of W_1.
        H: that of W_2.
        column_1: longest column of the normalized S; that of gamma_1.
        column_2: longest column of the normalized V; that of gamma_2.
    """

    attention: Float[Tensor, "n 3"]
    one: Norms
    Y: Norms
    H: Norms
    column_1: Norms
    column_2: Norms


@dataclass(frozen=True)
class BlockNorms:
    r"""Norms of a post-norm block, each for every sample and the largest over its tokens (docs/theory, section 5).

    The stages are S = X + AXW_V, Y = LN_1(S), U = YW_1 + b_1, H = sigma(U), V = Y + HW_2 + b_2, Z = LN_2(V), with
    D_k the derivative of LN_k, F = I + W_1 diag(sigma') W_2 that of Y -> V, and N_k the second derivative of LN_k
    along the adjoint at its output.

    Attributes:
        inputs: norms of the inputs over all tokens.
        output_inputs: the same for the Hessian of the loss; where that reads only the pooled output s'Z, token i
            counts with weight s_i.
        output_hessian: ||B||; of a pooled loss ||B||/|s|^2.
        attention: functional blocks of the attention layer for the gradient Lambda_S at its output.
        S_to_Y: ||D_1||.
        S_to_V: ||D_1 F||.
        S_to_Z: ||D_1 F D_2||.
        Y_to_V: ||F||.
        Y_to_Z: ||F D_2||.
        Y_to_H: ||W_1 diag(sigma')||.
        U_to_H: max |sigma'|.
        U_to_V: ||diag(sigma') W_2||.
        U_to_Z: ||diag(sigma') W_2 D_2||.
        V_to_Z: ||D_2||.
        plain_1: ||D_1|| without gamma_1.
        plain_2: ||D_2|| without gamma_2.
        curve_S: ||N_1||.
        curve_Y: ||F N_2 F' + W_1 c W_1'|| with c = diag(lambda_H sigma'').
        curve_YU: ||W_1 c + F N_2 (diag(sigma') W_2)'||.
        curve_YV: ||F N_2||.
        curve_U: ||c + diag(sigma') W_2 N_2 W_2' diag(sigma')||.
        curve_UV: ||diag(sigma') W_2 N_2||.
        curve_V: ||N_2||.
        adjoint_U: ||Lambda_U||.
        adjoint_V: ||Lambda_V||.
        adjoint_Y_column: longest column of Lambda_Y.
        adjoint_Z_column: longest column of G.
    """

    inputs: Inputs
    output_inputs: Inputs
    output_hessian: Norms
    attention: Float[Tensor, "n 3 3"]
    S_to_Y: Norms
    S_to_V: Norms
    S_to_Z: Norms
    Y_to_V: Norms
    Y_to_Z: Norms
    Y_to_H: Norms
    U_to_H: Norms
    U_to_V: Norms
    U_to_Z: Norms
    V_to_Z: Norms
    plain_1: Norms
    plain_2: Norms
    curve_S: Norms
    curve_Y: Norms
    curve_YU: Norms
    curve_YV: Norms
    curve_U: Norms
    curve_UV: Norms
    curve_V: Norms
    adjoint_U: Norms
    adjoint_V: Norms
    adjoint_Y_column: Norms
    adjoint_Z_column: Norms


def pair_norms(b: BlockNorms) -> Float[Tensor, "n 11 11"]:
    """Return a bound on the norm of every block of the Hessian, in the order of `PARAMETERS` (section 5.5)."""
    N = b.output_hessian[:, None, None] * outer(_to_Z(b, b.output_inputs)) + _functional(b)
    place = [_ENTERING.index(name) for name in PARAMETERS]
    return N[:, place][:, :, place]


def _to_Y(b: BlockNorms) -> Float[Tensor, "n 5"]:
    """Return norms of the Jacobians of Y in the parameters that reach it."""
    return _rows(b.S_to_Y[:, None] * b.inputs.attention, b.inputs.column_1, b.inputs.one)


def _to_V(b: BlockNorms) -> Float[Tensor, "n 9"]:
    """Return norms of the Jacobians of V in the parameters that reach it."""
    i = b.inputs
    first, second = (b.Y_to_V * i.column_1, b.Y_to_V * i.one), (b.U_to_V * i.Y, b.U_to_V * i.one)
    return _rows(b.S_to_V[:, None] * i.attention, *first, *second, i.H, i.one)


def _to_Z(b: BlockNorms, i: Inputs) -> Float[Tensor, "n 11"]:
    """Return norms of the Jacobians of Z in all parameters."""
    first, second = (b.Y_to_Z * i.column_1, b.Y_to_Z * i.one), (b.U_to_Z * i.Y, b.U_to_Z * i.one)
    third = (b.V_to_Z * i.H, b.V_to_Z * i.one)
    return _rows(b.S_to_Z[:, None] * i.attention, *first, *second, *third, i.column_2, i.one)


def _functional(b: BlockNorms) -> Float[Tensor, "n 11 11"]:
    """Return norms of the blocks of the functional Hessian: the second derivative of each stage, one after another."""
    i, to_Y, none = b.inputs, _to_Y(b), torch.zeros_like(b.inputs.Y)
    to_U, to_linear = _rows(i.Y, i.one), _rows(i.H, i.one)
    f = torch.zeros(*none.shape, 11, 11, dtype=none.dtype, device=none.device)

    def add(rows: slice, columns: slice, value: Tensor) -> None:
        f[:, rows, columns] += value
        if rows != columns:
            f[:, columns, rows] += value.mT

    add(_ATTENTION, _ATTENTION, b.attention + b.curve_S[:, None, None] * outer(i.attention))
    add(_ATTENTION, _GAMMA_1, (b.adjoint_Y_column * b.plain_1)[:, None, None] * i.attention[..., None])
    add(_BELOW_FFN, _BELOW_FFN, b.curve_Y[:, None, None] * outer(to_Y))
    through = b.curve_YU[:, None] * to_U + _rows(b.adjoint_U, none)
    add(_BELOW_FFN, _FIRST, to_Y[..., None] * through[:, None])
    through = b.curve_YV[:, None] * to_linear + _rows(b.Y_to_H * b.adjoint_V, none)
    add(_BELOW_FFN, _SECOND, to_Y[..., None] * through[:, None])
    add(_FIRST, _FIRST, b.curve_U[:, None, None] * outer(to_U))
    through = b.curve_UV[:, None] * to_linear + _rows(b.U_to_H * b.adjoint_V, none)
    add(_FIRST, _SECOND, to_U[..., None] * through[:, None])
    add(_SECOND, _SECOND, b.curve_V[:, None, None] * outer(to_linear))
    add(_BELOW_NORM, _GAMMA_2, (b.adjoint_Z_column * b.plain_2)[:, None, None] * _to_V(b)[..., None])
    return f


def _rows(*parts: Tensor) -> Tensor:
    """Return the parts, (n,) or (n, a), side by side."""
    return torch.cat([part[:, None] if part.ndim == 1 else part for part in parts], -1)
