r"""The Kronecker forms, as the drafts print them and as they conform (docs/theory, section 2.1). For reading only.

vec_r is row by row; r = d_K^(-1/2). Sizes of what is formed here grow as L^6: the package itself computes otherwise.
"""

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.bounds import counterexamples

#: What stands for ⊗ of several matrices.
Matrix = Float[Tensor, "p q"]


class Layer:
    """One sample of a softmax attention layer, with the matrices that the formulas are made of."""

    def __init__(self, X: Matrix, W_Q: Matrix, W_K: Matrix, W_V: Matrix) -> None:
        self.X, self.W_Q, self.W_K, self.W_V = X, W_Q, W_K, W_V
        (self.L, self.d), self.d_K, self.d_V = X.shape, W_Q.shape[1], W_V.shape[1]
        self.r = 1.0 / math.sqrt(self.d_K)
        self.A = (self.r * (X @ W_Q) @ (X @ W_K).mT).softmax(-1)
        self.M = self.A @ X

    @functools.cached_property
    def dA(self) -> Matrix:
        """dA/dT, L^2 x L^2."""
        return counterexamples.softmax_derivative(self.A)

    @functools.cached_property
    def d2A(self) -> Matrix:
        """d2A/dT2, L^4 x L^2: entry D^i_jkl at row ((i, j), (i, k)), column (i, l)."""
        out = self.X.new_zeros(self.L, self.L, self.L, self.L, self.L, self.L)
        for i, a in enumerate(self.A):
            z = torch.eye(self.L, dtype=a.dtype) - a  # rows e_t - a
            out[i, :, i, :, i, :] = torch.einsum("t,tj,tk,tl->jkl", a, z, z, z)
        return out.reshape(self.L**4, self.L**2)

    @functools.cached_property
    def Z_1(self) -> Matrix:
        """(I_L (x) X') dA/dT (X (x) X), Ld x d^2."""
        return kron(eye(self.L), self.X.mT) @ self.dA @ kron(self.X, self.X)

    @functools.cached_property
    def Z_2(self) -> Matrix:
        """(I_L (x) X' (x) X' (x) X') d2A/dT2 (X (x) X), Ld^3 x d^2."""
        return kron(eye(self.L), self.X.mT, self.X.mT, self.X.mT) @ self.d2A @ kron(self.X, self.X)

    @functools.cached_property
    def Phi(self) -> dict[str, Matrix]:
        """Phi_Q = I_d (x) W_K and Phi_K = (W_Q (x) I_d) K_{d_K,d}, d^2 x d d_K."""
        to_transpose = commutation(self.d_K, self.d)
        return {"W_Q": kron(eye(self.d), self.W_K), "W_K": kron(self.W_Q, eye(self.d)) @ to_transpose}

    def jacobian(self, name: str) -> Matrix:
        """Return dF/dW: M (x) I for the values, r (I (x) W_V') Z_1 Phi for queries and keys."""
        if name == "W_V":
            return kron(self.M, eye(self.d_V))
        return self.r * kron(eye(self.L), self.W_V.mT) @ self.Z_1 @ self.Phi[name]

    def second(self, a: str, b: str) -> Matrix:
        """Return d2F/dW_a dW_b for queries and keys, (L d_V d d_K) x (d d_K)."""
        whole = self.r**2 * kron(eye(self.L), self.W_V.mT, self.Phi[a].mT) @ self.Z_2 @ self.Phi[b]
        return whole if a == b else whole + self.r * self._bilinear()

    def functional(self, G: Matrix, a: str, b: str) -> Matrix:
        """Return H_f(a, b) for (V, Q), (V, K), and pairs (Q, Q), (K, K), (Q, K)."""
        if a == "W_V":
            moved = kron(eye(self.L), spreader(self.d_V, self.d)) @ self.Z_1 @ self.Phi[b]
            return self.r * residual(G, self.d * self.d_V) @ moved
        return residual(G, self.d * self.d_K) @ self.second(a, b)

    def printed_outer(self) -> dict[tuple[str, str], Matrix]:
        """Return the four H_o of Appendix B.2 as printed, for the mean squared error with d = d_V."""
        c, I_V = 2.0 / (self.L * self.d_V), eye(self.d_V)
        right = kron(I_V, self.W_K)
        left = right.mT @ self.Z_1.mT @ kron(eye(self.L), self.W_V @ self.W_V.mT) @ self.Z_1
        return {
            ("W_V", "W_V"): c * kron(self.M.mT @ self.M, I_V),
            ("W_Q", "W_Q"): c / self.d_K * left @ right,
            ("W_V", "W_Q"): c * self.r * kron(self.M.mT, self.W_V.mT) @ self.Z_1 @ right,
            ("W_Q", "W_K"): c / self.d_K * left @ kron(self.W_Q, I_V) @ commutation(self.d_K, self.d_V),
        }

    def printed_functional_QQ(self, error: Matrix) -> Matrix:
        """Return H_f(Q, Q) of Appendix B.2 as printed, with R_m read as vec_r(F - Y)' (x) I_m."""
        inner = kron(eye(self.L), self.W_V.mT, eye(self.d_V), self.W_K.mT) @ self.Z_2 @ kron(eye(self.d_V), self.W_K)
        return 2.0 / (self.L * self.d_V * self.d_K) * residual(error, self.d_V * self.d_K) @ inner

    def _bilinear(self) -> Matrix:
        inner = kron(eye(self.L), self.W_V.mT, eye(self.d)) @ kron(self.Z_1, eye(self.d)) @ spreader(self.d, self.d)
        return kron(inner, eye(self.d_K))


def kron(*matrices: Matrix) -> Matrix:
    """Return the Kronecker product of all."""
    return functools.reduce(torch.kron, (matrix.contiguous() for matrix in matrices))


def eye(size: int) -> Matrix:
    """Return I in float64."""
    return torch.eye(size, dtype=torch.float64)


def commutation(p: int, q: int) -> Matrix:
    """Return K_{p,q}: K vec(M) = vec(M') for M of p x q, and vec_r(W') = K vec_r(W) for W of q x p."""
    return eye(p * q).reshape(q, p, p * q).transpose(0, 1).reshape(p * q, p * q)


def residual(G: Matrix, size: int) -> Matrix:
    """Return R = vec_r(G)' (x) I."""
    return kron(G.reshape(1, -1), eye(size))


def spreader(d_V: int, d: int) -> Matrix:
    """Return S = (I (x) K_{d,d_V})(vec_r(I) (x) I_d), d_V^2 d x d."""
    return kron(eye(d_V), commutation(d, d_V)) @ kron(eye(d_V).reshape(-1, 1), eye(d))
