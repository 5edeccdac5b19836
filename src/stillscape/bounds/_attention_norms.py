"""Norms of the derivatives of a softmax attention layer, in three degrees of sharpness (docs/theory, sections 3, 4).

Weights may have a leading axis of samples here: draws that differ in their weights are then bounded at once.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.bounds import constants

Norms = Float[Tensor, " n"]
#: Relative allowance for the rounding of the bound itself, thousands of units in the last place of float64.
ROUNDING = 1.0 + 1e-12


@dataclass(frozen=True)
class Layer:
    """A softmax attention layer of one head at its weights: A = softmax(r X W_Q W_K' X'), M = AX, F = M W_V."""

    X: Float[Tensor, "n L d"]
    W_Q: Float[Tensor, "*#n d d_K"]
    W_K: Float[Tensor, "*#n d d_K"]
    W_V: Float[Tensor, "*#n d d_V"]

    @property
    def r(self) -> float:
        """The scale of the scores, d_K^(-1/2)."""
        return self.W_Q.shape[-1] ** -0.5

    @property
    def weight_norms(self) -> tuple[Tensor, Tensor, Tensor]:
        """The spectral norms of W_Q, W_K, W_V."""
        return spectral(self.W_Q), spectral(self.W_K), spectral(self.W_V)

    def attend(self) -> tuple[Float[Tensor, "n L L"], Float[Tensor, "n L d"], Float[Tensor, "n L d_V"]]:
        """Return A, M and F."""
        A = (self.r * (self.X @ self.W_Q) @ (self.X @ self.W_K).mT).softmax(-1)
        M = A @ self.X
        return A, M, M @ self.W_V


@dataclass(frozen=True)
class Pieces:
    """Bounds on the Jacobians j_a of the output and on the blocks f_ab of the functional Hessian; order Q, K, V."""

    jacobian: Float[Tensor, "n 3"]
    functional: Float[Tensor, "n 3 3"]


@dataclass(frozen=True)
class Moments:
    """The two moments of attention of each token: C_i = X' S_i X and T_i = X' D_i[u_i] X, and P = dl/dT."""

    C: Float[Tensor, "n L d d"]
    T: Float[Tensor, "n L d d"]
    P: Float[Tensor, "n L L"]

    @classmethod
    def at(cls, layer: Layer, A: Tensor, M: Tensor, G: Tensor) -> "Moments":
        """Return the moments for the gradient G at the output."""
        # Both are sums over x_j - m_i, in which nothing cancels when a token attends to one other alone.
        centered = layer.X[:, None] - M[:, :, None]
        P = A * (centered @ (G @ layer.W_V.mT)[..., None]).squeeze(-1)
        return cls((A[..., None] * centered).mT @ centered, (P[..., None] * centered).mT @ centered, P)


def a_priori(layer: Layer, weight_norms: tuple[Tensor, Tensor, Tensor], gradient: Norms, gradient_row: Norms) -> Pieces:
    """Return the pieces of Theorem 1' from norms alone: ||G||_F <= gradient, max_i |g_i| <= gradient_row."""
    w_Q, w_K, w_V = weight_norms
    x, half = spectral(layer.X), constants.SOFTMAX_JACOBIAN * layer.r
    bend = constants.SOFTMAX_SECOND * layer.r**2 * gradient_row * w_V * x**5
    slope = half * gradient * x**3
    j_V = math.sqrt(layer.X.shape[-2]) * row_norm(layer.X)
    functional = _symmetric(
        QQ=bend * w_K**2, KK=bend * w_Q**2, QK=bend * w_Q * w_K + slope * w_V, VQ=slope * w_K, VK=slope * w_Q
    )
    jacobian = torch.stack(torch.broadcast_tensors(half * x**3 * w_K * w_V, half * x**3 * w_Q * w_V, j_V), -1)
    return Pieces(jacobian, functional)


def data(layer: Layer, A: Tensor, M: Tensor, G: Tensor) -> Pieces:
    """Return the pieces of Theorem 1'': measured attention, no moments of single tokens."""
    x, q, c, k, v = _data_norms(layer)
    s_A, P = constants.softmax_jacobian_norm(A).amax(-1), _score_gradient(layer, A, G)
    u_star = _second_derivative(layer, A, G, s_A)
    f_QQ, f_KK = layer.r**2 * u_star * (x * k) ** 2, layer.r**2 * u_star * (c * q) ** 2
    g = spectral(G)
    functional = _symmetric(
        QQ=f_QQ,
        KK=f_KK,
        QK=layer.r**2 * u_star * x * k * c * q + layer.r * spectral(layer.X.mT @ P @ layer.X),
        VQ=g * layer.r * s_A * c * x * k,
        VK=g * layer.r * s_A * c**2 * q,
    )
    return Pieces(torch.stack([layer.r * s_A * x * k * v, layer.r * s_A * q * c * v, spectral(M)], -1), functional)


def token(layer: Layer, M: Tensor, G: Tensor, moments: Moments) -> Pieces:
    """Return the pieces of Theorem 1''': every token with its own moments."""
    X, Q, r = layer.X, layer.X @ layer.W_Q, layer.r
    W_K, C, T = layer.W_K[..., None, :, :], moments.C, moments.T
    KT = W_K.mT @ T
    mixed, g = spectral(KT), spectral(G)
    functional = _symmetric(
        QQ=r**2 * gram(X, spectral(KT @ W_K)),
        KK=r**2 * gram(Q, spectral(T)),
        QK=r**2 * (gram(X, mixed) * gram(Q, mixed)).sqrt() + r * spectral(X.mT @ moments.P @ X),
        VQ=g * r * gram(X, spectral(C @ W_K) ** 2).sqrt(),
        VK=g * r * gram(Q, spectral(C) ** 2).sqrt(),
    )
    return Pieces(token_jacobians(layer, M, C), functional)


def token_jacobians(layer: Layer, M: Tensor, C: Tensor, s: Float[Tensor, " L"] | None = None) -> Float[Tensor, "n 3"]:
    r"""Return the bounds of Theorem 1''' on the Jacobians; with weights s, on those of the tokens times sqrt(s_i).

    For s >= 0 with sum 1 the latter bound the pooled Jacobian too, for |sum_i s_i dv_i|^2 <= sum_i s_i |dv_i|^2.
    """
    s = torch.ones_like(layer.X[0, :, 0]) if s is None else s
    W_K, W_V = layer.W_K[..., None, :, :], layer.W_V[..., None, :, :]
    j_Q = layer.r * gram(layer.X, s * spectral(W_V.mT @ C @ W_K) ** 2).sqrt()
    j_K = layer.r * gram(layer.X @ layer.W_Q, s * spectral(W_V.mT @ C) ** 2).sqrt()
    return torch.stack([j_Q, j_K, spectral(s.sqrt()[:, None] * M)], -1)


def pooled_a_priori(
    layer: Layer, weight_norms: tuple[Tensor, Tensor, Tensor], s: Float[Tensor, " L"]
) -> Float[Tensor, "n 3"]:
    r"""Return bounds on the norms of sum_i s_i J^(i), from norms alone; s >= 0 with sum 1.

    That of `pooled_data` with s_A <= 1/2: ||diag(sqrt s) X|| takes the place of one ||X||. For the mean and for one
    token it is at most the |s| ||X|| of docs/theory, section 4. And |M's| is at most the longest token.
    """
    w_Q, w_K, w_V = weight_norms
    step = constants.SOFTMAX_JACOBIAN * layer.r * spectral(layer.X) ** 2 * spectral(s.sqrt()[:, None] * layer.X) * w_V
    return torch.stack(torch.broadcast_tensors(step * w_K, step * w_Q, row_norm(layer.X)), -1)


def pooled_data(layer: Layer, A: Tensor, M: Tensor, s: Float[Tensor, " L"]) -> Float[Tensor, "n 3"]:
    r"""Return bounds on the norms of sum_i s_i J^(i), in the terms of Theorem 1''; s >= 0 with sum 1.

    Proof. The change of the pooled output is (X~ W_V)' sum_i s_i S_i dT_i, for S_i 1 = 0. Its norm is at most
    ||X~ W_V|| s_A sum_i s_i |dT_i|, where dT may be centered along its rows as well. By Cauchy-Schwarz and sum s = 1
    the sum is at most sqrt(sum_i s_i |dT_i|^2) = ||diag(sqrt s) dT||_F, with dT = r X dW_Q (X~ W_K)' for W_Q and
    dT = r X W_Q dW_K' X~' for W_K. The change by W_V is (M's)' dW_V, whose norm is |M's|.
    """
    _, _, c, k, v = _data_norms(layer)
    active = torch.where(s > 0, constants.softmax_jacobian_norm(A), 0.0).amax(-1)  # tokens left out have no part in it
    root = s.sqrt()[:, None]
    step = layer.r * active * v
    j_Q, j_K = step * spectral(root * layer.X) * k, step * spectral(root * (layer.X @ layer.W_Q)) * c
    return torch.stack([j_Q, j_K, torch.linalg.vector_norm(s @ M, dim=-1)], -1)


def factor_norms(layer: Layer, M: Tensor, C: Tensor, factor: Float[Tensor, "n K L d_V"]) -> Float[Tensor, "n 3"]:
    r"""Return the norms of Phi_a = factor J_a, for an output Hessian B = sum_k f_k f_k' of low rank.

    Proof of its use. J_a' B J_b = Phi_a' Phi_b, so ||H_o(a, b)|| <= ||Phi_a|| ||Phi_b||; for a = b that is exact.
    Phi_a has one row for each direction f_k: sum_i f_ki' J_a^(i) with the token Jacobians of docs/theory, section 2.2.
    """
    pulled = factor @ layer.W_V[..., None, :, :].mT  # (n, K, L, d): W_V f_ki
    pulled = (C[:, None] @ pulled[..., None]).squeeze(-1)
    Phi_Q = torch.einsum("nkid,nia->nkad", pulled, layer.X) @ layer.W_K[..., None, :, :]
    Phi_K = torch.einsum("nkid,nic->nkdc", pulled, layer.X @ layer.W_Q)
    Phi_V = torch.einsum("nkif,nia->nkaf", factor, M)
    return torch.stack([layer.r * spectral(Phi_Q.flatten(-2)), layer.r * spectral(Phi_K.flatten(-2)),
                        spectral(Phi_V.flatten(-2))], -1)  # fmt: skip


def block_matrix_norm(N: Float[Tensor, "n a a"]) -> Norms:
    """Return the norm of a symmetric matrix of block norms: no matrix with smaller blocks has a larger norm."""
    return torch.linalg.eigvalsh(N)[..., -1]


def outer(j: Float[Tensor, "n a"]) -> Float[Tensor, "n a a"]:
    """Return jj' of each sample."""
    return j[..., :, None] * j[..., None, :]


def spectral(matrix: Float[Tensor, "*n p q"]) -> Float[Tensor, "*n"]:
    """Return the largest singular value of each matrix."""
    if 1 in matrix.shape[-2:]:
        return torch.linalg.vector_norm(matrix, dim=(-2, -1))
    return torch.linalg.matrix_norm(matrix, ord=2)


def row_norm(matrix: Float[Tensor, "*n p q"]) -> Float[Tensor, "*n"]:
    """Return the norm of the longest row."""
    return torch.linalg.vector_norm(matrix, dim=-1).amax(-1)


def gram(Z: Float[Tensor, "n L e"], weights: Float[Tensor, "n L"]) -> Norms:
    """Return Lambda(Z, w), the largest eigenvalue of sum_i w_i z_i z_i'."""
    if Z.shape[-1] == 1:
        return (weights * Z.square().squeeze(-1)).sum(-1)
    return torch.linalg.eigvalsh((weights[..., None] * Z).mT @ Z)[..., -1].clamp_min(0.0)


def rounded_up(bound: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a float64 bound in `dtype`, with an allowance for its own rounding, never below what it was."""
    bound = bound * ROUNDING
    cast = bound.to(dtype)
    return torch.where(cast < bound, torch.nextafter(cast, torch.full_like(cast, torch.inf)), cast)


def _data_norms(layer: Layer) -> tuple[Norms, Norms, Norms, Norms, Norms]:
    """Return ||X||, ||X W_Q||, ||X~||, ||X~ W_K||, ||X~ W_V|| with X~ = X less the mean token."""
    centered = layer.X - layer.X.mean(-2, keepdim=True)
    return (
        spectral(layer.X),
        spectral(layer.X @ layer.W_Q),
        spectral(centered),
        spectral(centered @ layer.W_K),
        spectral(centered @ layer.W_V),
    )


def _score_gradient(layer: Layer, A: Tensor, G: Tensor) -> Float[Tensor, "n L L"]:
    U = G @ (layer.X @ layer.W_V).mT
    return A * (U - (A * U).sum(-1, keepdim=True))


def _second_derivative(layer: Layer, A: Tensor, G: Tensor, s_A: Norms) -> Norms:
    """Return u* of Theorem 1'': the smaller of the two bounds of Lemma 2."""
    U = G @ (layer.X @ layer.W_V).mT
    whole = constants.SOFTMAX_SECOND * row_norm(U - U.mean(-1, keepdim=True))
    largest = (U - (A * U).sum(-1, keepdim=True)).abs().amax((-2, -1))
    return torch.minimum(whole, s_A * largest)


def _symmetric(QQ: Norms, KK: Norms, QK: Norms, VQ: Norms, VK: Norms) -> Float[Tensor, "n 3 3"]:
    VV = torch.zeros_like(QQ)
    return torch.stack(torch.broadcast_tensors(QQ, QK, VQ, QK, KK, VK, VQ, VK, VV), -1).unflatten(-1, (3, 3))
