r"""The norm of H_{k+1} - mean(H_1..H_k) for every k, from one pass over the samples.

What the drafts reduce their problem to. Each sample meets the same random vectors T, and then its own leading
directions, which their images show: so each H_i is known as a matrix of low rank plus a remainder known on T. Of the
samples gone by only sums are kept: of the images H_i T, and of the low-rank parts, cut to 2 x rank. Whatever that cut
loses is in the remainder again, since the images are exact. See docs/method.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillscape._checks import at_least
from stillscape._errors import InputError
from stillscape.curvature.low_rank import add, gram, orthonormal, symmetric_from
from stillscape.curvature.orders import Core, Shortener
from stillscape.curvature.per_sample import PerSampleHessian
from stillscape.curvature.remainder import Norms, norms_of_new_and_mean

COPIES = 5  # of a sample's images that are held at once, on the way to its low-rank part


@dataclass(frozen=True)
class HessianDifferenceCurve:
    """Norms of H_{k+1} - mean(H_1..H_k), and of mean(H_1..H_k), for every k.

    Attributes:
        k: 1, 2, ..., m - 1.
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

    k: Int[Tensor, " m-1"]
    spectral: Float[Tensor, " m-1"]
    spectral_stderr: Float[Tensor, " m-1"]
    frobenius: Float[Tensor, " m-1"]
    frobenius_stderr: Float[Tensor, " m-1"]
    mean_spectral: Float[Tensor, " m-1"]
    mean_spectral_stderr: Float[Tensor, " m-1"]
    mean_frobenius: Float[Tensor, " m-1"]
    mean_frobenius_stderr: Float[Tensor, " m-1"]
    num_sample_products: int


def hessian_difference_curve(
    hv: PerSampleHessian, rank: int = 16, seed: int = 0, progress: Callable[[int], None] | None = None
) -> HessianDifferenceCurve:
    r"""Return, for k = 1 to m - 1, the norms of :math:`H_{k+1} - \frac1k\sum_{i\le k} H_i` and of the mean itself.

    Samples come in their given order. See `DifferenceSketch` for the method, and for passes that stop and go on.

    Args:
        hv: the operator; its part is the part that is measured.
        rank: of what is kept of each sample; 16 errs by 1 % at worst on Hessians of very small transformers
            (P about 1,000), by 3 % on one of P about 100,000; the standard errors tell.
        seed: of the random vectors.
        progress: called with the number of samples done, after each chunk.

    Raises:
        InputError: if there are fewer than two samples, or `rank` is below 2.

    Cost: 5/2 x rank products for each sample, once; memory some 7 x rank vectors, whatever m is.

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
    sketch = DifferenceSketch(hv.num_parameters, rank, seed, hv.dtype, hv.device)
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

    Raises:
        InputError: if `rank` is below 2.
    """

    def __init__(
        self,
        num_parameters: int,
        rank: int = 16,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        width: int = 0,
    ) -> None:
        self.rank = at_least("rank", rank, 2)
        self.num_fitted = rank  # of the random vectors, these look for directions; the others check
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(rank + max(2, rank // 2), num_parameters, generator=generator, dtype=torch.float32)
        self.vectors = vectors.to(device, dtype)
        self.images = torch.zeros_like(self.vectors)  # the sum of H_i T over the samples gone by
        self.rows, self.values = self.vectors[:0], self.vectors.new_zeros(0, dtype=torch.float64)
        self.num_samples = self.num_sample_products = 0
        self.cores: list[Core] = []
        self._shortener = Shortener(num_parameters, width, seed + 1, device) if width > 0 else None
        self._differences: list[Norms] = []
        self._means: list[Norms] = []

    def extend(self, hv: PerSampleHessian, rows: Sequence[int], progress: Callable[[int], None] | None = None) -> None:
        """Go on with the samples of `rows`, in this order."""
        if hv.num_parameters != self.vectors.shape[1]:
            raise InputError(f"hv has {hv.num_parameters} parameters, this sketch {self.vectors.shape[1]}.")
        before = hv.num_sample_products
        at_once = max(1, hv.memory_bytes // (COPIES * self.vectors.numel() * self.vectors.element_size()))
        for start in range(0, len(rows), at_once):
            chunk = list(rows[start : start + at_once])
            with hv.linearized():
                images, bases, of_bases = self._products(hv, chunk)
            for one in zip(images, bases, of_bases, strict=True):
                self._take(*one)
            if progress is not None:
                progress(self.num_samples)
        self.num_sample_products += hv.num_sample_products - before

    def _products(self, hv: PerSampleHessian, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images of the random vectors, each sample's leading directions, and the images of those."""
        images = hv.sample_matmat(rows, self.vectors)
        bases = self.vectors.new_zeros(len(rows), self.rank, self.vectors.shape[1])
        for image, basis in zip(images, bases, strict=True):
            found = orthonormal(image[: self.num_fitted], self.rank)
            basis[: len(found)] = found
        of_bases = torch.stack([hv.products(rows, bases[:, j]) for j in range(self.rank)], 1)
        return images, bases, of_bases

    def _take(self, images: Tensor, basis: Tensor, of_basis: Tensor) -> None:
        """Measure one more sample against the mean of those before it, then count it among them."""
        rows, values = symmetric_from(basis, of_basis, self.rank)
        long = torch.cat([rows, images, self.rows, self.images])
        inner, overlap = gram(long), gram(long, self.vectors)
        if self.num_samples > 0:
            precision = torch.finfo(long.dtype).eps
            difference, mean = norms_of_new_and_mean(
                inner, overlap, values, self.values, self.num_samples, self.num_fitted, self.rank // 2, precision
            )
            self._differences.append(difference)
            self._means.append(mean)
        if self._shortener is not None:
            own = slice(len(rows) + len(images))
            short = self._shortener(long[own])
            self.cores.append(Core(values, inner[own, own], overlap[own], short, self.num_fitted))
        self.images += images
        self.rows, self.values = add(self.rows, self.values, rows, values, 2 * self.rank)
        self.num_samples += 1

    def state(self) -> dict[str, Tensor]:
        """Return everything that a later sketch of the same rank, seed and width needs to go on, as tensors."""
        measured = [
            [*vars(one).values(), *vars(two).values()] for one, two in zip(self._differences, self._means, strict=True)
        ]
        state = {
            "images": self.images,
            "rows": self.rows,
            "values": self.values,
            "counts": torch.tensor([self.num_samples, self.num_sample_products]),
            "norms": torch.tensor(measured, dtype=torch.float64).reshape(-1, 8),
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
        device = self.vectors.device
        self.images, self.rows = state["images"].clone().to(self.vectors), state["rows"].to(self.vectors)
        self.values = state["values"].to(device)
        self.num_samples, self.num_sample_products = state["counts"].tolist()
        self._differences = [Norms(*row[:4]) for row in state["norms"].tolist()]
        self._means = [Norms(*row[4:]) for row in state["norms"].tolist()]
        self.cores = []
        for number in range(sum(name.endswith(".short") for name in state)):
            values, inner, overlap, short = (
                state[f"core.{number}.{name}"].to(device) for name in ("values", "gram", "overlap", "short")
            )
            self.cores.append(Core(values, inner, overlap, short, self.num_fitted))

    def curve(self) -> HessianDifferenceCurve:
        """Return what was measured so far."""

        def series(measured: list[Norms], name: str) -> Tensor:
            return torch.tensor([getattr(one, name) for one in measured], dtype=torch.float64)

        names = [field.name for field in fields(Norms)]
        return HessianDifferenceCurve(
            k=torch.arange(1, len(self._differences) + 1),
            **{name: series(self._differences, name) for name in names},
            **{f"mean_{name}": series(self._means, name) for name in names},
            num_sample_products=self.num_sample_products,
        )
