"""How far curvature and gradient of one half of the held-out samples are from those of the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape import _checks
from stillscape._errors import InputError
from stillscape._lanczos import lanczos
from stillscape.curvature import PerSampleHessian

NUMBERS_AT_ONCE = 50_000_000  # of per-sample products held together


@dataclass(frozen=True)
class Discrepancy:
    """Norm of a difference between halves, over the norm of the whole.

    Attributes:
        value: mean over random splits.
        stderr: standard error of `value` from the splits alone; all splits share the same samples.
        expected: what the samples' own scatter makes of it, root mean square over all splits; NaN where no closed form
            is known (the spectral norm). Halves at random differ by noise alone, so `value` comes out near it: a
            `value` far above means that the splits were few, never that the surface moved.
        num_samples: in both halves together.
    """

    value: float
    stderr: float
    expected: float
    num_samples: int

    def at(self, k: int) -> float:
        """Return what it would be for k samples instead, by the law of noise: value x (num_samples / k)^(1/2).

        >>> Discrepancy(0.3, 0.0, 0.3, 100).at(400)
        0.15
        """
        return self.value * (self.num_samples / k) ** 0.5


@dataclass(frozen=True)
class SplitHalf:
    """The same for three norms.

    Attributes:
        hessian: ||H_A - H_B|| / ||H||, spectral norms.
        hessian_frobenius: the same in Frobenius norms.
        gradient: |g_A - g_B| / |g|.
        num_sample_products: products of one sample with one vector that were spent.
    """

    hessian: Discrepancy
    hessian_frobenius: Discrepancy
    gradient: Discrepancy
    num_sample_products: int


def split_half(
    hv: PerSampleHessian,
    *,
    splits: int = 4,
    num_vectors: int = 4,
    tol: float = 0.03,
    max_steps: int = 12,
    seed: int = 0,
) -> SplitHalf:
    r"""Return how well the samples determine Hessian and gradient: both from disjoint halves, compared.

        ||H_A - H_B|| / ||H||,  |g_A - g_B| / |g|,   A and B a random cut of the samples into halves of n / 2

    Over all cuts, the mean squares of the Frobenius norm and of the gradient's are those of the samples themselves,

        E ||H_A - H_B||_F^2 = 4 / (n (n - 1)) sum_i ||H_i - H||_F^2,   and so for g           (sampling, 2 halves)

    so that the discrepancy falls like n^(-1/2), for any model. What it tells is whether n samples are enough to speak
    of curvature at all.

    Args:
        hv: held-out samples at the weights in question, at least 4; one more than an even number is left out.
        splits: cuts, at least 2.
        num_vectors: random ones for Frobenius norms, shared by the whole and all cuts; at least 2.
        tol: relative residual at which Lanczos stops.
        max_steps: of Lanczos, at most.
        seed: of cuts and vectors.

    Returns:
        the discrepancies. Spectral norms are Lanczos's, from below.

    Raises:
        InputError: fewer than 4 samples, or arguments out of range.

    Cost: about num_vectors + (splits + 1) x steps products of each sample, and one gradient of each; memory
        splits x num_vectors vectors and the bases of one Lanczos run.

    Example:
        One weight, l = (w x)^2 / 2 with x^2 = 1 and 3, each twice: H = 2, and the halves are (1, 3), (1, 3) or (1, 1),
        (3, 3), which is 0 or 1 over 2; the mean square of all six cuts is (4 x 0 + 2 x 4) / 6 over 4 = 1/3.

        >>> x = torch.tensor([[1.0], [1.0], [3.0 ** 0.5], [3.0 ** 0.5]])
        >>> hv = PerSampleHessian(torch.nn.Linear(1, 1, bias=False), lambda z, y: (z ** 2).sum() / 2, x, None)
        >>> round(split_half(hv).hessian_frobenius.expected ** 2, 6)
        0.333333
    """
    _checks.at_least("splits", splits, 2)
    _checks.at_least("num_vectors", num_vectors, 2)
    _checks.at_least("max_steps", max_steps, 1)
    _checks.positive("tol", tol)
    n = hv.num_samples // 2 * 2
    if n < 4:
        raise InputError(f"hv holds {hv.num_samples} samples; halves need at least 2 each.")
    before, generator = hv.num_sample_products, torch.Generator().manual_seed(seed)
    halves = [_halves(n, generator) for _ in range(splits)]
    signs = torch.stack([_weights(a, n) for a, _ in halves])
    vectors = torch.randn(num_vectors, hv.num_parameters, generator=generator).to(hv.device, hv.dtype)
    images = _chunks(lambda rows: hv.sample_matmat(rows, vectors), n, vectors.numel())
    frobenius = _discrepancy(images, signs)
    gradient = _discrepancy(_chunks(lambda rows: hv.gradients(rows)[:, None], n, hv.num_parameters), signs)
    start = torch.randn(1, hv.num_parameters, generator=generator).to(hv.device, hv.dtype)
    spent = hv.num_sample_products - before
    whole, used = _spectral([hv.subset(range(n))], [1.0], start, tol, max_steps)
    norms, spent = [], spent + used
    for half in halves:
        norm, used = _spectral([hv.subset(rows) for rows in half], [1.0, -1.0], start, tol, max_steps)
        norms.append(norm)
        spent += used
    ratios = torch.tensor(norms, dtype=torch.float64) / whole
    spectral = Discrepancy(float(ratios.mean()), float(ratios.std() / splits**0.5), float("nan"), n)
    return SplitHalf(spectral, frobenius, gradient, spent)


def _halves(n: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
    order = torch.randperm(n, generator=generator)
    return order[: n // 2].sort().values.tolist(), order[n // 2 :].sort().values.tolist()


def _weights(first: Sequence[int], n: int) -> Float[Tensor, " n"]:
    """+2/n for samples of the first half, -2/n for the others."""
    weights = torch.full((n,), -2.0 / n)
    weights[torch.as_tensor(first)] = 2.0 / n
    return weights


def _chunks(
    images: Callable[[list[int]], Tensor], n: int, numbers: int
) -> Iterator[tuple[list[int], Float[Tensor, "rows c P"]]]:
    at_once = max(1, NUMBERS_AT_ONCE // numbers)
    for first in range(0, n, at_once):
        rows = list(range(first, min(first + at_once, n)))
        yield rows, images(rows)


def _discrepancy(
    chunks: Iterator[tuple[list[int], Float[Tensor, "rows c P"]]], signs: Float[Tensor, "splits n"]
) -> Discrepancy:
    """Return the discrepancy of what is mapped to a few long vectors of each sample, by norms over all of them."""
    n = signs.shape[1]
    difference, total, squares = torch.zeros(()), torch.zeros(()), 0.0
    for rows, images in chunks:
        part = torch.einsum("sr,rcp->scp", signs[:, rows].to(images.device, images.dtype), images)
        difference, total = difference.to(part) + part, total.to(part) + images.sum(0)
        squares += float(images.double().square().sum())
    mean = float((total.double() / n).square().sum())
    ratios = (difference.double().square().sum((1, 2)) / mean).sqrt()
    scatter = max(squares / n - mean, 0.0) * n / (n - 1)
    stderr = float(ratios.std() / len(ratios) ** 0.5)
    return Discrepancy(float(ratios.mean()), stderr, (4 * scatter / n / mean) ** 0.5, n)


def _spectral(
    parts: list[PerSampleHessian], weights: list[float], start: Tensor, tol: float, max_steps: int
) -> tuple[float, int]:
    def product(vectors: Tensor) -> Tensor:
        return sum((w * part.mean_matmat(vectors) for w, part in zip(weights, parts, strict=True)), 0 * vectors)

    values, _, _ = lanczos(product, start, 1, tol, max_steps)
    return float(values.abs().max()), sum(part.num_sample_products for part in parts)
