"""Numbers estimated from random vectors, and the vectors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.curvature.per_sample import PerSampleHessian


@dataclass(frozen=True)
class Estimate:
    """A number from random vectors.

    Attributes:
        value: the estimate.
        stderr: its standard error, from the random vectors alone: the samples are taken as given. 0 where it is exact.
        num_sample_products: products of one sample with one vector that were spent.
    """

    value: float
    stderr: float
    num_sample_products: int


def gaussian(hv: PerSampleHessian, count: int, size: int, generator: torch.Generator) -> Float[Tensor, "count size"]:
    """Return standard normal vectors, the same in either precision and on any device."""
    return torch.randn(count, size, generator=generator, dtype=torch.float32).to(hv.device, hv.dtype)


def signs(hv: PerSampleHessian, count: int, generator: torch.Generator) -> Float[Tensor, "count P"]:
    """Return vectors of +1 and -1 (Rademacher's), the same in either precision and on any device."""
    bits = torch.randint(0, 2, (count, hv.num_parameters), generator=generator, dtype=torch.int8)
    return (2 * bits - 1).to(hv.device, hv.dtype)


def mean_and_stderr(draws: Float[Tensor, "c ..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Return the mean over the first axis, and the standard error of that mean: not a number for a single draw."""
    mean = draws.mean(0)
    return mean, draws.std(0) / len(draws) ** 0.5 if len(draws) > 1 else torch.full_like(mean, float("nan"))
