r"""Norms of a symmetric matrix A = E + D: E of low rank and known, D known by its products with a few random vectors.

All long vectors lie in rows Z; their inner products G = Z Z' and those with the random vectors, O = Z T', are all that
is needed, so that everything here is small.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import t as student_t
from torch import Tensor

from stillscape.curvature.low_rank import largest

GROUPS = 8  # of random vectors, left out in turn for the standard error


@dataclass(frozen=True)
class Known:
    """What is known of A.

    Attributes:
        gram: inner products of the long rows Z.
        overlap: inner products of Z with the random vectors.
        rows: combinations of Z that are the rows of E.
        values: E = rows' diag(values) rows.
        images: combinations of Z that are the random vectors' images A T'.
        num_fitted: so many of the random vectors, the first ones, had a part in finding E; the others are independent
            of it, and of A.
        precision: machine epsilon of the long rows.
    """

    gram: Float[Tensor, "z z"]
    overlap: Float[Tensor, "z t"]
    rows: Float[Tensor, "e z"]
    values: Float[Tensor, " e"]
    images: Float[Tensor, "t z"]
    num_fitted: int
    precision: float

    @property
    def noise(self) -> float:
        """What an eigenvalue of the remainder's core may be from rounding alone: E was subtracted.

        The factor is three times the largest seen, which moves with the order that threads sum in.
        """
        largest = float(self.values.abs().max()) if len(self.values) else 0.0
        return 100 * self.precision * largest * self.overlap.shape[1]

    def explained(self) -> Float[Tensor, "t z"]:
        """Return the images of the random vectors under E."""
        return torch.einsum("zt,ez,e,ey->ty", self.overlap, self.rows, self.values, self.rows)


@dataclass(frozen=True)
class Norms:
    """Spectral and Frobenius norm, with standard errors."""

    spectral: float
    spectral_stderr: float
    frobenius: float
    frobenius_stderr: float


def norms(known: Known, rank: int) -> Norms:
    r"""Return the norms of A, its remainder D taken to be of `rank` for the spectral one.

    Spectral: D by a Nystrom approximation whose core is cut to `rank` (Nakatsukasa and Park 2023: without the cut, an
    indefinite core makes it useless). Its standard error is that of the eigenvector's Rayleigh quotient, from random
    vectors left out in turn, in the spirit of Epperly and Tropp (2024).

    Frobenius: :math:`||E||^2 + \mathbb E[2\langle Ex, Dx\rangle + ||Dx||^2]` over the random vectors that are
    independent of E: Hutchinson's estimate of the remainder only.
    """
    explained = known.explained()
    remainder = known.images - explained
    spectral, spectral_stderr = _spectral(known, remainder, rank)
    return Norms(spectral, spectral_stderr, *_frobenius(known, explained, remainder))


def norms_of_new_and_mean(
    inner: Float[Tensor, "z z"],
    overlap: Float[Tensor, "z t"],
    new: Float[Tensor, " e"],
    old: Float[Tensor, " f"],
    k: int,
    num_fitted: int,
    rank: int,
    precision: float,
) -> tuple[Norms, Norms]:
    """Return the norms of H_{k+1} - mean(H_1..H_k), and those of the mean.

    Args:
        inner: inner products of the long rows: of the new sample its low-rank rows, then its images of the random
            vectors; of the sum over the k samples gone by the same.
        overlap: of the long rows with the random vectors.
        new: values of the new sample's low-rank part.
        old: values of the sum's.
        k: how many samples the sum is over.
        num_fitted: as in `Known`.
        rank: of the remainder.
        precision: as in `Known`.
    """
    e, f, t = len(new), len(old), overlap.shape[1]
    pick = torch.eye(len(inner), dtype=torch.float64, device=inner.device)
    own, images, explicit, gone = pick.split([e, t, f, t])
    rows, values = torch.cat([own, explicit]), torch.cat([new, -old / k])
    difference = Known(inner, overlap, rows, values, images - gone / k, num_fitted, precision)
    mean = Known(inner, overlap, explicit, old / k, gone / k, num_fitted, precision)
    return norms(difference, rank), norms(mean, rank)


def _spectral(known: Known, remainder: Tensor, rank: int) -> tuple[float, float]:
    core = remainder @ known.overlap
    # D is symmetric: what its core lacks in symmetry is rounding of the products, which may be all there is of it (a
    # saturated softmax in float32).
    noise = max(known.noise, float(torch.linalg.matrix_norm(core - core.mT, 2)))
    core = (core + core.mT) / 2
    weights, vectors = _cut(core, rank, noise)
    rows = torch.cat([known.rows, vectors.mT @ remainder])
    values = torch.cat([known.values, weights])
    square, half = torch.linalg.eigh(rows @ known.gram @ rows.mT)
    half = half * square.clamp_min(0).sqrt()
    eigenvalues, eigenvectors = torch.linalg.eigh(half.mT @ (values[:, None] * half))
    top = int(eigenvalues.abs().argmax())
    if eigenvalues[top] == 0:
        return 0.0, 0.0
    # The eigenvector is a combination y of the rows: (rows' diag(values) rows) rows' y = value rows' y.
    eigenvector = rows.mT @ (values * (half @ eigenvectors[:, top]) / eigenvalues[top])
    image = remainder @ known.gram @ eigenvector  # x'Dq
    return float(eigenvalues[top].abs()), _unexplained(core, image, rank, noise)


def _unexplained(core: Float[Tensor, "t t"], image: Float[Tensor, " t"], rank: int, noise: float) -> float:
    """Return the standard error of q'Rq, R being what neither E nor the remainder's approximation explain.

    Random vectors are left out in turn, group by group: those left out are independent of the approximation N that the
    others give, so x'Rq = x'Dq - x'Nq has the mean square ||Rq||^2, and q'Rq is known as well as a mean over t of them.
    """
    t = len(core)
    groups = min(GROUPS, t)
    group = torch.arange(t) % groups
    square = 0.0
    for number in range(groups):
        kept, left = group != number, group == number
        weights, vectors = _cut(core[kept][:, kept], rank, noise)
        predicted = core[left][:, kept] @ vectors @ (weights * (vectors.mT @ image[kept]))
        square += float((image[left] - predicted).square().sum())
    return (square / t) ** 0.5 / t**0.5


def _cut(core: Float[Tensor, "t t"], rank: int, noise: float) -> tuple[Float[Tensor, " r"], Float[Tensor, "t r"]]:
    """Return the inverses of the leading eigenvalues of a core (0 for noise), and their eigenvectors."""
    values, vectors = largest(core, rank)
    known = values.abs() > (1e-10 * values.abs().amax()).clamp_min(noise)
    return torch.where(known, 1 / torch.where(known, values, 1.0), 0.0), vectors


def _frobenius(known: Known, explained: Tensor, remainder: Tensor) -> tuple[float, float]:
    rows = known.rows @ known.gram @ known.rows.mT
    square = torch.einsum("ab,b,ba,a->", rows, known.values, rows, known.values)
    free = slice(known.num_fitted, None)
    rest = torch.einsum("tz,zy,ty->t", remainder[free], known.gram, 2 * explained[free] + remainder[free])
    total = float((square + rest.mean()).clamp_min(0)) ** 0.5
    count = len(rest)
    # So few vectors don't tell their spread well: widened as Student has it, 1.96 standard errors hold 95 %.
    error = float(rest.std() / count**0.5 * (student_t.ppf(0.975, count - 1) / 1.96))
    return total, (error / (2 * total) if total > 0 else error**0.5)
