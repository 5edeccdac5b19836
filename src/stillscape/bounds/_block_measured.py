"""Norms of a transformer block as they are at the data: every stage evaluated, every token with its own matrices."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.bounds import _attention_losses
from stillscape.bounds import _attention_norms as norms
from stillscape.bounds._attention_norms import Layer, spectral
from stillscape.bounds._block_norms import BlockNorms, Inputs
from stillscape.hessian import normalization
from stillscape.hessian.losses import CrossEntropy, Loss
from stillscape.hessian.pointwise import pointwise

Params = Mapping[str, Tensor]


class NormalizedRows:
    """Layer normalization of each row of S, with its derivatives as matrices: dy = ds D (docs/theory, section 5.1)."""

    def __init__(self, S: Float[Tensor, "n L m"], gamma: Tensor, beta: Tensor, eps: float) -> None:
        centered = S - S.mean(-1, keepdim=True)
        self.tau = (centered.square().mean(-1, keepdim=True) + eps).sqrt()
        self.gamma, self.rows = gamma, centered / self.tau
        self.output = gamma * self.rows + beta
        self._units = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
        self.plain = normalization.slope(self._units, self.rows[..., None, :], self.tau[..., None, :])

    @property
    def slope(self) -> Float[Tensor, "n L m m"]:
        """D of each row, gamma included."""
        return self.plain * self.gamma

    def pull(self, adjoint: Float[Tensor, "n L m"]) -> Float[Tensor, "n L m"]:
        """Return the adjoint at S."""
        return normalization.slope(adjoint * self.gamma, self.rows, self.tau)

    def curvature(self, adjoint: Float[Tensor, "n L m"]) -> Float[Tensor, "n L m m"]:
        """Return N, the second derivative of <adjoint, y> in s."""
        scaled = (adjoint * self.gamma)[..., None, :]
        return normalization.curve(scaled, self._units, self.rows[..., None, :], self.tau[..., None, :])


def smallest_taus(X: Tensor, params: Params, activation: str, eps: float) -> tuple[Tensor, Tensor]:
    """Return the smallest sqrt(var + eps) of each sample before the first and the second normalization."""
    first = _first_half(X, params, eps)[1]
    second = _second_half(first.output, params, activation, eps)[2]
    return first.tau.amin((-2, -1)), second.tau.amin((-2, -1))


def block_norms(
    X: Float[Tensor, "n L m"], params: Params, loss: Loss, activation: str, eps: float, dtype: torch.dtype
) -> BlockNorms:
    """Return the norms of a block and a loss in float64; `dtype` is what a loss of other make expects."""
    (layer, A, M), first = _first_half(X, params, eps)
    U, H, second = _second_half(first.output, params, activation, eps)
    W_1, W_2, sigma = params["W_1"], params["W_2"], pointwise(activation)
    at = _attention_losses.expand(loss, second.output, dtype)
    of_V = second.pull(at.gradient)
    of_H = of_V @ W_2.mT
    of_U = sigma.slope(U) * of_H
    of_Y = of_V + of_U @ W_1.mT
    of_S = first.pull(of_Y)
    N_1, N_2 = first.curvature(of_Y), second.curvature(at.gradient)
    W_a = sigma.slope(U)[..., None] * W_2
    F = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device) + W_1 @ W_a
    c = of_H * sigma.curvature(U)
    W_1c, FN, WN = W_1 * c[..., None, :], F @ N_2, W_a @ N_2
    D_1, D_2, moments = first.slope, second.slope, norms.Moments.at(layer, A, M, of_S)

    def inputs(weights: Float[Tensor, " L"]) -> Inputs:
        root = weights.sqrt()[:, None]
        return Inputs(
            attention=norms.token_jacobians(layer, M, moments.C, weights),
            one=spectral(root).expand(len(X)),
            Y=spectral(root * first.output),
            H=spectral(root * H),
            column_1=norms.row_norm((root * first.rows).mT),
            column_2=norms.row_norm((root * second.rows).mT),
        )

    everywhere = inputs(torch.ones_like(X[0, :, 0]))
    output_inputs, output_hessian = everywhere, at.spectral_norm()
    if isinstance(loss, CrossEntropy) and _attention_losses.is_pooled(loss):
        # |sum_i s_i (l_i' dtheta) R_i|^2 <= max_i ||R_i||^2 sum_i s_i |dtheta' l_i|^2 by Cauchy-Schwarz, for sum s = 1.
        s = loss.pooling(X.shape[1])
        output_inputs, output_hessian = inputs(s), output_hessian / s.square().sum()
    return BlockNorms(
        inputs=everywhere,
        output_inputs=output_inputs,
        output_hessian=output_hessian,
        attention=norms.token(layer, M, of_S, moments).functional,
        S_to_Y=_largest(D_1),
        S_to_V=_largest(D_1 @ F),
        S_to_Z=_largest(D_1 @ F @ D_2),
        Y_to_V=_largest(F),
        Y_to_Z=_largest(F @ D_2),
        Y_to_H=_largest(W_1 * sigma.slope(U)[..., None, :]),
        U_to_H=sigma.slope(U).abs().amax((-2, -1)),
        U_to_V=_largest(W_a),
        U_to_Z=_largest(W_a @ D_2),
        V_to_Z=_largest(D_2),
        plain_1=_largest(first.plain),
        plain_2=_largest(second.plain),
        curve_S=_largest(N_1),
        curve_Y=_largest(FN @ F.mT + W_1c @ W_1.mT),
        curve_YU=_largest(W_1c + FN @ W_a.mT),
        curve_YV=_largest(FN),
        curve_U=_largest(torch.diag_embed(c) + WN @ W_a.mT),
        curve_UV=_largest(WN),
        curve_V=_largest(N_2),
        adjoint_U=spectral(of_U),
        adjoint_V=spectral(of_V),
        adjoint_Y_column=norms.row_norm(of_Y.mT),
        adjoint_Z_column=norms.row_norm(at.gradient.mT),
    )


def _first_half(X: Tensor, params: Params, eps: float) -> tuple[tuple[Layer, Tensor, Tensor], NormalizedRows]:
    layer = Layer(X, params["W_Q"], params["W_K"], params["W_V"])
    A, M, F = layer.attend()
    return (layer, A, M), NormalizedRows(X + F, params["gamma_1"], params["beta_1"], eps)


def _second_half(Y: Tensor, params: Params, activation: str, eps: float) -> tuple[Tensor, Tensor, NormalizedRows]:
    U = Y @ params["W_1"] + params["b_1"]
    H = pointwise(activation).value(U)
    return U, H, NormalizedRows(Y + H @ params["W_2"] + params["b_2"], params["gamma_2"], params["beta_2"], eps)


def _largest(matrices: Float[Tensor, "n L p q"]) -> Float[Tensor, " n"]:
    """Return the largest spectral norm over tokens."""
    return spectral(matrices).amax(-1)
