"""What theory expects of norms and bounds at the start: tokens N(0, 1), weights N(0, 2/(rows + columns)) (Xavier)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import ndtr

from stillscape.bounds import constants


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network; with heads beside each other d_K is that of one head, and an output projection follows."""

    L: int
    d: int
    d_K: int
    heads: int
    d_f: int
    depth: int
    classes: int
    projected: bool = False

    @property
    def d_V(self) -> int:
        """Width of the values of one head: all heads together are as wide as the tokens."""
        return self.d // self.heads


def gaussian_norm(rows: int, columns: int, variance: float) -> float:
    """Return the expected norm of a Gaussian matrix, to second order in its size.

        E ||W||^2 / variance = (sqrt(n - 1) + sqrt p)^2 - 1.2065 s,    n >= p its sizes, n variance at the least

    with s = (sqrt(n - 1) + sqrt p)(1/sqrt(n - 1) + 1/sqrt p)^(1/3) and -1.2065 the mean of the Tracy-Widom law
    (Johnstone 2001). The leading part is sqrt(rows) + sqrt(columns).

    >>> round(gaussian_norm(10000, 10000, 1.0), 1)  # the leading part is 200
    199.8
    """
    n, p = max(rows, columns), min(rows, columns)
    if n == 1:
        return math.sqrt(variance)
    edge = math.sqrt(n - 1) + math.sqrt(p)
    spread = edge * (1 / math.sqrt(n - 1) + 1 / math.sqrt(p)) ** (1 / 3)
    return math.sqrt(variance * max(edge**2 - 1.2065 * spread, float(n)))


def a_priori(s: Sizes, loss: str) -> float:
    r"""Return Theorem 1' (for heads: its form in `heads`) at the norms that are expected, in place of measured ones.

    ||X|| and the weights as in `gaussian_norm`, the longest row of X sqrt d + sqrt(ln L), the residual that of a target
    N(0, 1). Heads are alike in expectation, so that the top vector of the matrix of block norms is symmetric
    under exchange of heads: 3 (with W_O: 4) rows are left.
    """
    x, x_row = gaussian_norm(s.L, s.d, 1.0), math.sqrt(s.d) + math.sqrt(math.log(s.L))
    r, spread = s.d_K**-0.5, _xavier(s.d, s.heads * s.d_K)
    omega = max(gaussian_norm(s.d, s.d_K, spread), gaussian_norm(s.d, s.d_V, _xavier(s.d, s.d)))
    w_O = gaussian_norm(s.d_V, s.d, _xavier(s.d, s.d)) if s.projected else 1.0
    beta, gradient, gradient_row, pooled = _loss(s, loss)
    whole = 1.0 / math.sqrt(s.L) if pooled else 1.0  # ||diag(sqrt s) X|| for the mean over tokens
    turn = constants.SOFTMAX_JACOBIAN * r * x**3
    to_head = np.array([turn * omega**2, turn * omega**2, math.sqrt(s.L) * x_row]) * whole
    bend = constants.SOFTMAX_SECOND * r**2 * w_O * gradient_row * omega**3 * x**5
    slope = turn * w_O * gradient * omega
    f = np.array([[bend, bend + slope, slope], [bend + slope, bend, slope], [slope, slope, 0.0]])
    share = s.heads * w_O**2
    if loss == "mse":
        # Two heads meet through W_O^g W_O^h' only, a product of independent Gaussian matrices.
        between = 2.0 * math.sqrt(s.d_V * s.d) * _xavier(s.d, s.d)
        share = w_O**2 + (s.heads - 1) * min(w_O**2, between) if s.projected else 1.0
    N = beta * share * np.outer(to_head, to_head) + f
    if s.projected:
        rows = omega * to_head[2]
        side = s.heads * beta * w_O * to_head * rows + gradient / whole * to_head
        N = np.block([[N, side[:, None]], [side[None], np.array([[s.heads * beta * rows**2]])]])
    return float(np.linalg.eigvalsh(N)[-1])


def value_block(s: Sizes, loss: str) -> float:
    r"""Return the expected norm of H(W_V, W_V), a block and so a floor of the whole Hessian, for one head.

        squared error:   c ||M||^2,  ||M||^2 = d (1 + p_2 - 1/L) + L t (1 - p_2),    p_2 = 1/(1 + (L - 1) exp(-v))
        cross-entropy:   |M's|^2 ||W_h Sigma W_h'||,  |M's|^2 = d/L,  Sigma at equal probabilities

    M = AX is the common mean of all tokens, and what differs: p_2 of a softmax of scores of variance
    v = (2d/(d + d_K))^2, and the tilt of token i toward W_K W_Q' x_i, with t = ||r W_Q W_K'||^2 by Chevet's inequality,
    which a softmax that has settled on one token no longer follows.
    """
    if loss == "mse":
        spread = _xavier(s.d, s.d_K)
        tilt = (spread * (s.d + 2.0 * math.sqrt(s.d * s.d_K))) ** 2 / s.d_K
        own = _concentration(s, 0.0)
        return 2.0 / (s.L * s.d) * (s.d * (1.0 + own - 1.0 / s.L) + s.L * tilt * (1.0 - own))
    head = gaussian_norm(s.d, s.classes - 1, _xavier(s.d, s.classes)) ** 2 / s.classes
    return s.d / s.L * head


def exponent(axis: str, loss: str, curve: str) -> float | None:
    r"""Return the power of a formula's leading term in its variable, or None where it is no power.

    c = 2/(L d) of the squared error, 1/L of a mean-pooled cross-entropy, and j_Q^2 ~ r^2 x^6 with x^6 ~ L^3 or d^3
    lead in Theorem 1'; H heads, each with r^2 = H/d, add up: to H^2 where the loss lets every two of them meet, to
    H^1.5 where they do by W_O^g W_O^h' ~ H^(-1/2). Norms of weights tend to constants, so d_f has the power 0. What
    does not lead can win in the end: terms of W_V alone know no d_K, and the tilt in `value_block` knows no L.
    """
    powers = {
        "a_priori": {"L": (2.0, 2.0), "d": (2.0, 3.0), "d_K": (-1.0, -1.0), "heads": (1.5, 2.0)},
        "value_block": {"L": (-1.0, -1.0), "d": (0.0, 1.0), "d_K": (0.0, 0.0)},
        "law": {"d_f": (0.0, 0.0)},
    }
    found = powers[curve].get(axis)
    return None if found is None else found[loss == "cross_entropy"]


def depth_law(s: Sizes, depths: list[int], place: str) -> list[float]:
    r"""Return how the Hessian of the first or the last block of a post-norm chain grows with depth, 1 at depth 1.

    Two numbers follow the tokens through the chain (mean-field): rho, the correlation of two tokens, and the energy of
    a gradient that is the same for all tokens. Through attention it is multiplied by (1 + 1)/tau_1^2, by the residual
    and by the values, through the feed-forward by (1 + E sigma'^2 ...)/tau_2^2, with tau^2 the variance before each
    normalization. The first block's outer part grows as the product over the blocks behind it; the last block's as the
    pooled hidden layer, for tokens grow alike.
    """
    deepest = max(depths)
    gains, shares = _through_blocks(s, deepest)
    if place == "first block":
        grown = np.cumprod([1.0, *gains[1:]])
        return [float(grown[depth - 1]) for depth in depths]
    return [shares[depth - 1] / shares[0] for depth in depths]


def _through_blocks(s: Sizes, depth: int) -> tuple[list[float], list[float]]:
    """Return, for each block, the gain of a common gradient's energy and the energy of the pooled hidden layer."""
    rho, gains, shares = 0.0, [], []
    amplify, variance = s.d_f * _xavier(s.d, s.d_f), s.d * _xavier(s.d, s.d_f)
    for _ in range(depth):
        before = 1.0 + rho + (1.0 - rho) * _concentration(s, rho)
        rho_1 = (rho + rho + (1.0 - rho) / s.L) / before
        own, common, slope = _gelu_moments(variance, rho_1)
        after = 1.0 + amplify * own
        gains.append(2.0 / before * (1.0 + amplify * variance * slope) / after)
        shares.append((common + (own - common) / s.L) / after)
        rho = (rho_1 + amplify * common) / after
    return gains, shares


def _gelu_moments(variance: float, rho: float) -> tuple[float, float, float]:
    """Return E gelu(u)^2, E gelu(u) gelu(u') at correlation rho and E gelu'(u)^2 for u, u' ~ N(0, variance)."""
    nodes, weights = hermegauss(40)
    weights = weights / weights.sum()
    u = math.sqrt(variance) * nodes
    other = math.sqrt(variance) * (rho * nodes[:, None] + math.sqrt(max(0.0, 1.0 - rho**2)) * nodes[None])
    slope = ndtr(u) + u * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    common = float(weights @ (u[:, None] * ndtr(u)[:, None] * other * ndtr(other)) @ weights)
    return float(weights @ (u * ndtr(u)) ** 2), common, float(weights @ slope**2)


def _concentration(s: Sizes, rho: float) -> float:
    """Return p_2 = E sum_j a_ij^2 of a softmax whose scores vary along a row as those of tokens of correlation rho."""
    variance = (2.0 * s.d / (s.d + s.d_K)) ** 2 * (1.0 - rho)
    return 1.0 / (1.0 + (s.L - 1) * math.exp(-variance))


def _loss(s: Sizes, loss: str) -> tuple[float, float, float, bool]:
    """Return beta, ||G||_F, the longest row of G, and whether beta belongs to the pooled output."""
    if loss == "mse":
        scale, wide = 2.0 / (s.L * s.d), math.sqrt(1.0 + _concentration(s, 0.0))
        row = math.sqrt(s.d) + math.sqrt(math.log(s.L))
        return scale, scale * math.sqrt(s.L * s.d) * wide, scale * row * wide, False
    head = gaussian_norm(s.d, s.classes, _xavier(s.d, s.classes))
    pull = constants.PROBABILITY_RESIDUAL * head
    return constants.SOFTMAX_JACOBIAN * head**2, pull / math.sqrt(s.L), pull / s.L, True


def _xavier(rows: int, columns: int) -> float:
    return 2.0 / (rows + columns)
