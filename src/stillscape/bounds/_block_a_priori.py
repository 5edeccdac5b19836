"""Norms of a transformer block from the norms of its input and parameters alone, before any data have gone through."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.bounds import _attention_losses, constants
from stillscape.bounds import _attention_norms as norms
from stillscape.bounds._attention_losses import LossNorms
from stillscape.bounds._attention_norms import Layer, spectral
from stillscape.bounds._block_norms import BlockNorms, Inputs
from stillscape.hessian.losses import MSE, CrossEntropy, Loss

Norms = Float[Tensor, " n"]


def block_norms(
    X: Float[Tensor, "n L m"],
    params: Mapping[str, Tensor],
    loss: Loss,
    activation: str,
    taus: tuple[Norms, Norms],
) -> BlockNorms:
    r"""Return the norms of a block and a loss in float64, given lower bounds on sqrt(var + eps) of all tokens.

    A normalized row has mean 0 and norm at most sqrt(m), so none of its entries is above sqrt(m - 1), and y has norm at
    most max|gamma| sqrt(m) + |beta| (docs/theory, section 5.5). All activations here have |sigma(u)| <= |u|.
    """
    (n, tokens, features), root = X.shape, math.sqrt(X.shape[1])
    ones = torch.ones(n, dtype=X.dtype, device=X.device)
    w_1, w_2 = spectral(params["W_1"]), spectral(params["W_2"])
    slope, curvature = constants.activation_norms(activation)
    largest_1, largest_2 = (params[name].abs().amax() for name in ("gamma_1", "gamma_2"))
    (plain_1, bend_1), (plain_2, bend_2) = (constants.layer_norm_norms(tau, features) for tau in taus)
    D_1, D_2, F, W_a = largest_1 * plain_1, largest_2 * plain_2, 1.0 + slope * w_1 * w_2, slope * w_2
    rows = {k: params[f"gamma_{k}"].abs().amax() * math.sqrt(features) + _length(params[f"beta_{k}"]) for k in (1, 2)}
    of_Z = _output_norms(loss, X, root * rows[2], rows[2])
    of_V, of_V_row = D_2 * of_Z.gradient, D_2 * of_Z.gradient_row
    of_Y, of_Y_row = F * of_V, F * of_V_row
    N_1, N_2 = bend_1 * largest_1 * of_Y_row, bend_2 * largest_2 * of_Z.gradient_row
    c = curvature * w_2 * of_V_row
    layer = Layer(X, params["W_Q"], params["W_K"], params["W_V"])
    attention = norms.a_priori(layer, layer.weight_norms, D_1 * of_Y, D_1 * of_Y_row)

    def inputs(of_attention: Float[Tensor, "n 3"], size: float) -> Inputs:
        h, column = rows[1] * w_1 + _length(params["b_1"]), math.sqrt(features - 1.0)
        return Inputs(of_attention, *(size * ones * norm for norm in (1.0, rows[1], h, column, column)))

    everywhere = inputs(attention.jacobian, root)
    output_inputs, output_hessian = everywhere, of_Z.hessian
    if isinstance(loss, CrossEntropy) and _attention_losses.is_pooled(loss):
        # Weights s >= 0 of sum 1 make of L tokens at most the largest one; see the other file for the inequality.
        s = loss.pooling(tokens)
        output_inputs = inputs(norms.pooled_a_priori(layer, layer.weight_norms, s), 1.0)
        output_hessian = of_Z.hessian / s.square().sum()
    return BlockNorms(
        inputs=everywhere,
        output_inputs=output_inputs,
        output_hessian=output_hessian,
        attention=attention.functional,
        S_to_Y=D_1,
        S_to_V=D_1 * F,
        S_to_Z=D_1 * F * D_2,
        Y_to_V=F * ones,
        Y_to_Z=F * D_2,
        Y_to_H=slope * w_1 * ones,
        U_to_H=slope * ones,
        U_to_V=W_a * ones,
        U_to_Z=W_a * D_2,
        V_to_Z=D_2,
        plain_1=plain_1,
        plain_2=plain_2,
        curve_S=N_1,
        curve_Y=F**2 * N_2 + w_1**2 * c,
        curve_YU=w_1 * c + F * W_a * N_2,
        curve_YV=F * N_2,
        curve_U=c + W_a**2 * N_2,
        curve_UV=W_a * N_2,
        curve_V=N_2,
        adjoint_U=W_a * of_V,
        adjoint_V=of_V,
        adjoint_Y_column=of_Y,
        adjoint_Z_column=of_Z.gradient,
    )


def _output_norms(loss: Loss, X: Tensor, output: Tensor, output_row: Tensor) -> LossNorms:
    """Return the loss's norms at any output with ||Z||_F and longest row as given."""
    if isinstance(loss, CrossEntropy):
        return _attention_losses.cross_entropy(loss, X)
    assert isinstance(loss, MSE), "the door lets no other loss in"
    whole = output + _length(loss.target.flatten(-2))
    return _attention_losses.mean_square(X.shape[1], X.shape[2], whole, output_row + norms.row_norm(loss.target))


def _length(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1)
