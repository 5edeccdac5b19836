r"""The norm of H_{k+1} - mean(H_1..H_k) for every k, from one pass over the samples.

What the drafts reduce their problem to. Each sample meets the same random vectors T, and then its own leading
directions, a block Krylov space grown from the images of some of them: so each H_i is known as a matrix of low rank
plus a remainder known on T. Of the samples gone by only sums are kept: of the images H_i T, and of the low-rank
parts, cut to 2 x rank. Whatever that cut loses is in the remainder again, since the images are exact. See
docs/method.md.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillscape._checks import at_least
from stillscape._errors import InputError
from stillscape.curvature.low_rank import add, combine, gram, orthonormal, symmetric_from
from stillscape.curvature.orders import Core, Shortener
from stillscape.curvature.per_sample import MEMORY_BYTES, PerSampleHessian
from stillscape.curvature.remainder import Norms, norms_of_new_and_mean

COPIES = 6  # of a sample's images that are held at once, on the way to its low-rank part
AT_ONCE = 256  # samples whose images are held at once at most, whatever the memory: more are no faster
NAMES = tuple(field.name for field in fields(Norms))
Measured = tuple[Tensor, Tensor, Tensor]  # of one sample: images of the random vectors, low-rank rows, their values


@dataclass(frozen=True)
class HessianDifferenceCurve:
    """Norms of H_{k+1} - mean(H_1..H_k), and of mean(H_1..H_k), for every k, or those asked for.

    Attributes:
        k: 1, 2, ..., m - 1; or the sizes asked for.
        spectral: spectral norms of the differences.
        spectral_stderr: their standard errors, from the random vectors alone: the samples are taken as given.
        frobenius: Frobenius norms of the differences.
        frobenius_stderr: their standard errors.
        mean_spectral: spectral norms of the means of the first k.
        mean_spectral_stderr: their standard errors.
        mean_frobenius: Frobenius norms of the means.
        mean_frobenius_stderr: their standard errors.
        num_sample_products: products of one sample with one vector that were spent.
    """

    k: Int[Tensor, " sizes"]
    spectral: Float[Tensor, " sizes"]
    spectral_stderr: Float[Tensor, " sizes"]
    frobenius: Float[Tensor, " sizes"]
    frobenius_stderr: Float[Tensor, " sizes"]
    mean_spectral: Float[Tensor, " sizes"]
    mean_spectral_stderr: Float[Tensor, " sizes"]
    mean_frobenius: Float[Tensor, " sizes"]
    mean_frobenius_stderr: Float[Tensor, " sizes"]
    num_sample_products: int


def hessian_difference_curve(
    hv: PerSampleHessian,
    rank: int = 16,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    sizes: Sequence[int] | None = None,
) -> HessianDifferenceCurve:
    r"""Return, for k = 1 to m - 1, the norms of :math:`H_{k+1} - \frac1k\sum_{i\le k} H_i` and of the mean itself.

    Samples come in their given order. See `DifferenceSketch` for the method, and for passes that stop and go on;
    `curve_shard` for a pass that is shared out.

    Args:
        hv: the operator; its part is the part that is measured.
        rank: of what is kept of each sample; 16 errs by 1 % at worst on Hessians of very small transformers
            (P about 1,000), by 2 % on one of P about 100,000; the standard errors tell. Let it exceed the number of
            outputs by half under squared loss, which gives every sample as many equal eigenvalues.
        seed: of the random vectors.
        progress: called with the number of samples done, after each chunk.
        sizes: values of k to measure at, from 1 to m - 1; all unless given.

    Raises:
        InputError: if there are fewer than two samples, `rank` is below 2, or a size is out of range.

    Cost: 2 x rank products for each sample, once. Memory: some 7 x rank vectors and what the samples of one chunk
        take (at most 256 of them, 6 x rank vectors each, and at most ``hv.memory_bytes``), whatever m is; and eight
        numbers, 64 bytes, for each size that is measured.

    Example:
        Least squares with one weight, l = (w x - y)^2: H = 2 x^2, here 2, 8 and 18. The differences are 8 - 2 and
        18 - 5.

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> x = torch.tensor([[1.0], [2.0], [3.0]])
        >>> hv = PerSampleHessian(model, lambda z, y: ((z - y) ** 2).sum(), x, torch.zeros(3, 1))
        >>> curve = hessian_difference_curve(hv, rank=2)
        >>> curve.k.tolist(), curve.spectral.round(decimals=3).tolist()
        ([1, 2], [6.0, 13.0])
    """
    if hv.num_samples < 2:
        raise InputError(f"hv holds {hv.num_samples} sample; a difference needs at least two.")
    sketch = DifferenceSketch(hv.num_parameters, rank, seed, hv.dtype, hv.device, sizes=sizes)
    if sketch.sizes is not None and sketch.sizes[-1] >= hv.num_samples:
        raise InputError(
            f"sizes go up to {sketch.sizes[-1]}; with {hv.num_samples} samples the largest is {hv.num_samples - 1}."
        )
    sketch.extend(hv, range(hv.num_samples), progress)
    return sketch.curve()


class DifferenceSketch:
    """What a pass over the samples keeps: it can stop, be stored by its `state`, and go on with further samples.

    Args:
        num_parameters: P.
        rank: of what is kept of each sample.
        seed: of the random vectors.
        dtype: of long vectors.
        device: of long vectors.
        width: of the short images in the cores that other orders of the samples are had from (see
            `curves_over_orders`); 0 to keep none. A core takes 10 x rank x width bytes (float32).
        sizes: values of k to measure at; all unless given.

    Raises:
        InputError: if `rank` is below 2, or a size below 1.
    """

    def __init__(
        self,
        num_parameters: int,
        rank: int = 16,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        width: int = 0,
        sizes: Sequence[int] | None = None,
    ) -> None:
        self.sizes = None if sizes is None else _in_order(sizes)
        self.rank = at_least("rank", rank, 2)
        self.num_fitted, num_checks = _num_random(rank)
        self.later = -(-rank // 4)  # directions in each further block of a sample's Krylov space
        generator = torch.Generator().manual_seed(seed)
        count = self.num_fitted + num_checks
        vectors = torch.randn(count + self.later, num_parameters, generator=generator, dtype=torch.float32)
        self.vectors, self.fresh = vectors.to(device, dtype).split([count, self.later])
        self.images = torch.zeros_like(self.vectors)  # the sum of H_i T over the samples gone by
        self.rows, self.values = self.vectors[:0], self.vectors.new_zeros(0, dtype=torch.float64)
        self.num_samples = self.num_sample_products = 0
        self.cores: list[Core] = []
        self._shortener = Shortener(num_parameters, width, seed + 1, device) if width > 0 else None
        self._norms = array("d")  # at each size those of the difference, then those of the mean

    def extend(self, hv: PerSampleHessian, rows: Sequence[int], progress: Callable[[int], None] | None = None) -> None:
        """Go on with the samples of `rows`, in this order."""
        for measured in self.measured(hv, rows, progress):
            self.count(*measured)

    def measured(
        self, hv: PerSampleHessian, rows: Sequence[int], progress: Callable[[int], None] | None = None
    ) -> Iterator[Measured]:
        """Yield what `count` takes of each of `rows`: all that costs products, and nothing of it from other samples."""
        if hv.num_parameters != self.vectors.shape[1]:
            raise InputError(f"hv has {hv.num_parameters} parameters, this sketch {self.vectors.shape[1]}.")
        at_once = self.at_once(hv)
        for start in range(0, len(rows), at_once):
            before, chunk = hv.num_sample_products, list(rows[start : start + at_once])
            with hv.linearized():
                images, bases, of_bases = self._products(hv, chunk)
            self.num_sample_products += hv.num_sample_products - before
            for image, basis, of_basis in zip(images, bases, of_bases, strict=True):
                yield image, *symmetric_from(basis, of_basis, self.rank)
            if progress is not None:
                progress(self.num_samples)

    def at_once(self, hv: PerSampleHessian) -> int:
        """Return how many samples' products are taken together: what fits, in whole chunks of `hv` above 256."""
        fit = hv.memory_bytes // (COPIES * self.vectors.numel() * self.vectors.element_size())
        most = max(1, AT_ONCE // hv.at_once) * hv.at_once  # whole chunks of hv, so that it makes no number another
        return max(1, min(fit, most))

    def _products(self, hv: PerSampleHessian, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images of the random vectors, each sample's leading directions, and the images of those."""
        images = hv.sample_matmat(rows, self.vectors)
        bases = self.vectors.new_zeros(len(rows), self.rank, self.vectors.shape[1])
        of_bases, latest, start = torch.zeros_like(bases), images[:, : self.num_fitted], 0
        while start < self.rank:
            block = slice(start, min(start + (self.later if start else self.num_fitted), self.rank))
            for sample, seen in enumerate(latest):
                bases[sample, block] = self._beyond(bases[sample, :start], seen, block.stop - start)
            of_bases[:, block] = torch.stack([hv.products(rows, bases[:, j]) for j in range(start, block.stop)], 1)
            latest, start = of_bases[:, block], block.stop
        return images, bases, of_bases

    def _beyond(
        self, basis: Float[Tensor, "b P"], images: Float[Tensor, "a P"], count: int
    ) -> Float[Tensor, "count P"]:
        """Return so many orthonormal directions of the images that a basis lacks.

        An invariant space shows no more of them, whatever it is multiplied with (one of a repeated eigenvalue need not
        hold all its eigenvectors). Then fresh vectors take their place, whose images the next block is made of.
        """
        outside = images - combine(gram(images, basis), basis)
        found = orthonormal(outside, count, scale=float(images.norm(dim=1).max()))
        if missing := count - len(found):
            basis = torch.cat([basis, found])
            more = self.fresh[:missing] - combine(gram(self.fresh[:missing], basis), basis)
            more = orthonormal(more, missing, scale=float(self.fresh.norm(dim=1).max()))
            found = torch.cat([found, more, basis.new_zeros(missing - len(more), basis.shape[1])])
        return found

    def count(self, images: Tensor, rows: Tensor, values: Tensor) -> None:
        """Measure one more sample against the mean of those before it, then count it among them."""
        long = torch.cat([rows, images, self.rows, self.images])
        is_asked = self.num_samples > 0 and (self.sizes is None or self._is_next(self.num_samples))
        if is_asked or self._shortener is not None:
            inner, overlap = gram(long), gram(long, self.vectors)
        if is_asked:
            precision = torch.finfo(long.dtype).eps
            difference, mean = norms_of_new_and_mean(
                inner, overlap, values, self.values, self.num_samples, self.num_fitted, self.rank // 2, precision
            )
            self._norms.extend([*vars(difference).values(), *vars(mean).values()])
        if self._shortener is not None:
            own = slice(len(rows) + len(images))
            short = self._shortener(long[own])
            self.cores.append(Core(values, inner[own, own], overlap[own], short, self.num_fitted))
        self.images += images
        self.rows, self.values = add(self.rows, self.values, rows, values, 2 * self.rank)
        self.num_samples += 1

    def _is_next(self, k: int) -> bool:
        assert self.sizes is not None
        done = len(self._norms) // (2 * len(NAMES))
        return done < len(self.sizes) and self.sizes[done] == k

    def state(self) -> dict[str, Tensor]:
        """Return everything that a later sketch of the same rank, seed, width and sizes needs to go on, as tensors."""
        state = {
            "images": self.images,
            "rows": self.rows,
            "values": self.values,
            "counts": torch.tensor([self.num_samples, self.num_sample_products]),
            "norms": self._table(),
        }
        for name in ("values", "gram", "overlap", "short") if self.cores else ():
            for number, core in enumerate(self.cores):
                state[f"core.{number}.{name}"] = getattr(core, name)
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        if state["images"].shape != self.images.shape:
            got, own = tuple(state["images"].shape), tuple(self.images.shape)
            raise InputError(
                f"state is of a sketch of shape {got}, this one is of {own}; rank and model must be the same."
            )
        counted, norms = int(state["counts"][0]), state["norms"]
        wanted = counted - 1 if self.sizes is None else sum(k < counted for k in self.sizes)
        if len(norms) != max(0, wanted):
            raise InputError(
                f"state has norms at {len(norms)} sizes after {counted} samples; this sketch's sizes ask for "
                f"{max(0, wanted)} by then: they must be the same."
            )
        device = self.vectors.device
        self.images, self.rows = state["images"].clone().to(self.vectors), state["rows"].to(self.vectors)
        self.values = state["values"].to(device)
        self.num_samples, self.num_sample_products = state["counts"].tolist()
        self._norms = array("d", norms.double().flatten().tolist())
        self.cores = []
        for number in range(sum(name.endswith(".short") for name in state)):
            values, inner, overlap, short = (
                state[f"core.{number}.{name}"].to(device) for name in ("values", "gram", "overlap", "short")
            )
            self.cores.append(Core(values, inner, overlap, short, self.num_fitted))

    def curve(self) -> HessianDifferenceCurve:
        """Return what was measured so far."""
        table = self._table()
        k = torch.arange(1, len(table) + 1) if self.sizes is None else torch.tensor(self.sizes[: len(table)])
        columns = dict(zip([*NAMES, *(f"mean_{name}" for name in NAMES)], table.unbind(1), strict=True))
        return HessianDifferenceCurve(k=k, **columns, num_sample_products=self.num_sample_products)

    def _table(self) -> Float[Tensor, "sizes 8"]:
        return torch.from_numpy(np.array(self._norms, dtype=np.float64)).reshape(-1, 2 * len(NAMES))


def most_at_once(num_parameters: int, rank: int, memory_bytes: int = MEMORY_BYTES) -> int:
    """Return the most float32 samples whose products are taken together; a pass over more has several chunks."""
    return max(1, min(AT_ONCE, memory_bytes // (4 * COPIES * sum(_num_random(rank)) * max(1, num_parameters))))


def _num_random(rank: int) -> tuple[int, int]:
    """Return how many random vectors look for directions, and how many others check what was found."""
    return -(-rank // 2), max(2, rank // 2)


def _in_order(sizes: Sequence[int]) -> tuple[int, ...]:
    chosen = sorted({int(k) for k in sizes})
    if not chosen or chosen[0] < 1:
        raise InputError(f"sizes are {list(sizes)[:5]}; give whole numbers from 1 to one less than there are samples.")
    return tuple(chosen)
