r"""One set of products from which a matrix's trace and Frobenius norm follow, each with an honest standard error.

XTrace (Epperly, Tropp and Webber 2024, "XTrace: Making the most of every sample in stochastic trace estimation", SIAM
J. Matrix Anal. Appl. 45, secs. 2.1 and 2.3). Let P_i project on the images of all random vectors but the i-th. Inside,
the matrix is known exactly; outside, the i-th vector, which P_i doesn't know, gives an unbiased estimate of the rest:

    tr H     = tr(P_i H P_i) + E[u_i' H u_i]
    ||H||^2  = ||H P_i||^2 + E[||H u_i||^2],    u_i = (1 - P_i) omega_i, made sqrt(p - m + 1) long

so e_i, one estimate for each vector, are averaged. The length of u_i is what it is on average; set to it, the estimate
of a multiple of the identity has no error. The Frobenius norm by the same products isn't in the paper.

The standard error isn't the paper's. The e_i share their images, so that their spread alone says too little: on
spectra that end just beyond m, half as much as needed. Leave two out: e_ij is what vector i estimates with P_ij, which
knows neither i nor j. Given all vectors but j, the change d_ij = e_i - e_ij has mean zero, and e_ji doesn't depend on
i. So the covariance of e_i and e_j is E[d_ij d_ji], and the variance of the mean is estimated without bias by
spread^2 / m + mean(d_ij d_ji).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.curvature.estimate import gaussian
from stillscape.curvature.low_rank import gram
from stillscape.curvature.per_sample import PerSampleHessian

Place = Tensor | slice
ALL = slice(None)
LEAST_VECTORS = 4
PARALLEL = 1e-12  # sin^2 of an angle; below it two directions are one


@dataclass(frozen=True)
class Draws:
    """Estimates of one number, one for each of m random vectors; a single one is exact.

    Attributes:
        each: e_i, on the CPU, where what is known without error is made.
        change: d_ij, zero on the diagonal.
    """

    each: Float[Tensor, " m"]
    change: Float[Tensor, "m m"]

    @classmethod
    def exact(cls, value: float) -> "Draws":
        """Return what is known without error."""
        return cls(torch.tensor([value], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))

    def mean(self) -> float:
        """Return the estimate."""
        return float(self.each.mean())

    def stderr(self) -> float:
        """Return its standard error."""
        m = len(self.each)
        if m == 1:
            return 0.0
        shared = (self.change * self.change.mT).sum() / (m * (m - 1))
        return float((self.each.var() / m + shared.clamp_min(0)).sqrt())

    def root(self) -> tuple[float, float]:
        """Return the square root of the estimate with its standard error, to first order (the delta method)."""
        value, stderr = max(self.mean(), 0.0) ** 0.5, self.stderr()
        return value, stderr / (2 * value) if value else stderr**0.5

    def plus(self, other: "Draws", times: float = 1.0) -> "Draws":
        """Return the sum with a multiple of a number that is estimated by the same vectors."""
        return Draws(self.each + times * other.each, self.change + times * other.change)

    def over(self, other: "Draws") -> "Draws":
        """Return the ratio to a number estimated by the same vectors, to first order (the delta method); 0 over 0 is 0.

        The ratio moves by ``(dA - ratio dB) / B``, which is an average of the same kind as A and B: what both
        estimates get wrong together cancels.
        """
        below = other.mean()
        if below == 0:
            return Draws.exact(0.0)
        ratio = self.mean() / below
        each = ratio + (self.each - ratio * other.each) / below
        return Draws(each, (self.change - ratio * other.change) / below)


@dataclass(frozen=True)
class Complete:
    """Columns of a matrix that are known, p of them, at `own` among its rows."""

    columns: Float[Tensor, "p P"]
    own: Place

    def trace(self) -> Draws:
        """Return the trace of the square block at `own`."""
        return Draws.exact(float(self.columns[:, self.own].diagonal().sum(dtype=torch.float64)))

    def square(self, place: Place = ALL) -> Draws:
        """Return the squared Frobenius norm of the block with rows at `place`, all unless given."""
        return Draws.exact(float(_squares(self.columns[:, place]).sum()))


@dataclass(frozen=True)
class LeaveOneOut:
    """What is known of a matrix's columns at `own`, p of them, from products with m random vectors and their images.

    Attributes:
        vectors: the random ones.
        images: of these.
        basis: an orthonormal one, of the images at `own`.
        of_basis: its images.
        dropped: column i: the direction of the basis that the i-th image alone brings in.
        rank: of the images at `own`, to working precision.
        own: where the p columns lie among the rows.
    """

    vectors: Float[Tensor, "m p"]
    images: Float[Tensor, "m P"]
    basis: Float[Tensor, "m p"]
    of_basis: Float[Tensor, "m P"]
    dropped: Float[Tensor, "m m"]
    rank: int
    own: Place

    def trace(self) -> Draws:
        """Return the trace of the square block at `own`."""
        images = self.images[:, self.own]
        known = gram(self.basis, self.of_basis[:, self.own])
        own = (self.vectors * images).sum(1, dtype=torch.float64)
        return self._estimate((known + known.mT) / 2, gram(self.basis, images), own)

    def square(self, place: Place = ALL) -> Draws:
        """Return the squared Frobenius norm of the block with rows at `place`, all unless given."""
        images, of_basis = self.images[:, place], self.of_basis[:, place]
        return self._estimate(gram(of_basis), gram(of_basis, images), _squares(images))

    def _estimate(
        self, inside: Float[Tensor, "m m"], across: Float[Tensor, "m m"], outside: Float[Tensor, " m"]
    ) -> Draws:
        """Return the trace of a quadratic form.

        Args:
            inside: the form of two rows of the basis.
            across: of a row of the basis with a random vector.
            outside: of a random vector with itself.
        """
        size = self.vectors.shape[1]
        form = _Form(inside, across, outside, gram(self.basis, self.vectors), _squares(self.vectors), size)
        alone = self.dropped.mT
        one = form.estimates(alone[:, None])
        # Below full rank no image brings in anything alone: the basis holds all there is.
        is_shared = self.rank == len(one)
        change = self._changes(form, one) if is_shared else one.new_zeros(len(one), len(one))
        return Draws(one.cpu(), change.cpu())

    def _changes(self, form: "_Form", one: Float[Tensor, " m"]) -> Float[Tensor, "m m"]:
        """Return d_ij, what the image of j changes in the estimate by i."""
        alone = self.dropped.mT
        first = alone[:, None].expand(-1, len(alone), -1)
        second = alone - (alone @ alone.mT)[:, :, None] * first  # what j brings in, less what of it lies along i's
        squares = second.square().sum(2)
        is_plane = squares > PARALLEL  # and j is not i
        second = torch.where(is_plane, squares, 1.0).rsqrt()[:, :, None] * second
        return torch.where(is_plane, one[:, None] - form.estimates(torch.stack([first, second], 2)), 0.0)


@dataclass(frozen=True)
class _Form:
    """A quadratic form, of the rows of a basis and of random vectors.

    Attributes:
        inside: of two rows of the basis.
        across: of a row of the basis with a random vector.
        outside: of a random vector with itself.
        coordinates: of the random vectors in the basis.
        squares: of the random vectors.
        size: p, of their space.
    """

    inside: Float[Tensor, "m m"]
    across: Float[Tensor, "m m"]
    outside: Float[Tensor, " m"]
    coordinates: Float[Tensor, "m m"]
    squares: Float[Tensor, " m"]
    size: int

    def estimates(self, dropped: Float[Tensor, "m ... k m"]) -> Float[Tensor, "m ..."]:
        """Return the form's trace as vector i estimates it, from a basis without k orthonormal directions."""
        per_vector = (len(self.outside),) + (1,) * (dropped.ndim - 3)
        w, across = self.coordinates.mT.reshape(*per_vector, -1), self.across.mT.reshape(*per_vector, -1)
        kept = w - torch.einsum("i...kb,i...k->i...b", dropped, torch.einsum("i...kb,i...b->i...k", dropped, w))
        known = self.inside.trace() - torch.einsum("i...kb,bc,i...kc->i...", dropped, self.inside, dropped)
        left = self.outside.reshape(per_vector) - 2 * (kept * across).sum(-1)
        left = left + torch.einsum("i...b,bc,i...c->i...", kept, self.inside, kept)
        length = self.squares.reshape(per_vector) - kept.square().sum(-1)
        return known + (self.size - len(w) + dropped.shape[-2]) / length * left


def leave_one_out(
    hv: PerSampleHessian, num_vectors: int, generator: torch.Generator, own: Place = ALL
) -> Complete | LeaveOneOut:
    """Return what 2 x `num_vectors` products of the mean tell of its columns at `own`, all unless given.

    Cost: 2 x `num_vectors` products of each sample; as many as there are columns, and all is known, where these are no
    more. Memory 4 x `num_vectors` vectors.
    """
    size = hv.num_parameters if isinstance(own, slice) else len(own)

    def product(vectors: Float[Tensor, "c p"]) -> Float[Tensor, "c P"]:
        whole = vectors.new_zeros(len(vectors), hv.num_parameters)
        whole[:, own] = vectors
        return hv.mean_matmat(whole)

    with hv.linearized():
        if size <= 2 * num_vectors:
            return Complete(product(torch.eye(size, dtype=hv.dtype, device=hv.device)), own)
        vectors = gaussian(hv, num_vectors, size, generator)
        return from_products(hv.mean_matmat if own is ALL else product, vectors, own)


def from_products(
    product: Callable[[Float[Tensor, "c p"]], Float[Tensor, "c P"]], vectors: Float[Tensor, "m p"], own: Place
) -> LeaveOneOut:
    """Return what two rounds of m products tell: of random vectors, then of a basis of their images.

    Args:
        product: combinations of the columns; the square block at `own` is symmetric.
        vectors: standard normal; fewer than p.
        own: where the columns lie among the rows.
    """
    images = product(vectors)
    q, r = torch.linalg.qr(images[:, own].mT)  # q's columns are orthonormal to working precision, whatever the rank
    basis = q.mT.contiguous()
    left, values, right = torch.linalg.svd(r.double())
    least = (len(r) * torch.finfo(r.dtype).eps * values[0]).clamp_min(torch.finfo(torch.float64).tiny)
    # The columns of the transposed inverse of R: each is orthogonal to all images but its own. Singular values are kept
    # off zero; where R is singular these directions lie in the part of the basis that holds no image, so that dropping
    # them loses nothing: rightly, for there each image is a combination of the others.
    alone = left @ (right / values.clamp_min(least)[:, None])
    rank = int((values > least).sum())
    return LeaveOneOut(vectors, images, basis, product(basis), alone / alone.norm(dim=0), rank, own)


def _squares(rows: Float[Tensor, "c P"]) -> Float[Tensor, " c"]:
    return rows.square().sum(1, dtype=torch.float64)
