"""Does a product contradict itself, a second pass, or a finite difference? A few samples tell, before hours go by."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stillscape._errors import SelfCheckError
from stillscape.curvature.second_order import log

if TYPE_CHECKING:
    from stillscape.curvature.per_sample import PerSampleHessian

SAMPLES = 2
STEP = {torch.float32: 1e-2, torch.float64: 1e-5}  # of w, relative to its norm: near the best for a central difference
AGREE = {torch.float32: 1e-3, torch.float64: 1e-8}  # of two ways to compute the same, relative
ALIKE = 0.1  # of a gradient's changes on both sides of w: how different they may be where it is smooth
NEAR = {torch.float32: 5e-2, torch.float64: 1e-3}  # of a finite difference: only gross errors are of interest


def self_check(hv: "PerSampleHessian", seed: int = 0) -> None:
    r"""Test products of a few samples; raise if they can't be right.

    - Two passes give the same numbers.
    - The mean's product is the mean of single samples' products.
    - Symmetry: :math:`u^\top H v = v^\top H u`.
    - A central difference: of gradients for the Hessian, of outputs or losses for the outer parts.

    Raises:
        SelfCheckError: with the test that failed, both numbers, and likely causes.

    Cost: about a dozen gradients of two samples.
    """
    hv = hv.subset(range(min(SAMPLES, hv.num_samples)))
    generator = torch.Generator().manual_seed(seed)
    u, v = (_direction(hv, generator) for _ in range(2))
    with hv.linearized():
        product, other = hv.mean_matmat(torch.stack([v, u]))
    agree = AGREE[hv.dtype]
    scale = float(product.norm() + other.norm())
    if not torch.isfinite(product).all():
        raise _failed("products are finite", "a product has entries that aren't", _NOT_FINITE)
    again = hv.mean_matvec(v)
    _compare("two passes give the same product", again, product, agree * scale, _RANDOM)
    single = hv.sample_matmat(range(hv.num_samples), v[None])[:, 0].mean(0)
    _compare("the mean's product is the mean of single samples' products", single, product, agree * scale, _MIXED)
    _compare("u'Hv = v'Hu", u @ product, v @ other, agree * scale * float(v.norm()), _RULE)
    _difference(hv, v, product)


def _difference(hv: "PerSampleHessian", v: Tensor, product: Tensor) -> None:
    """Compare with central differences: of losses for the Fisher, else of gradients, with the other part added."""
    step = STEP[hv.dtype]
    if hv.part == "fisher":
        before, here, after = (hv.losses(shift=shift * v) for shift in (-step, 0.0, step))
        truth, value = ((after - before) / (2 * step)).square().mean(), v @ product
    else:
        rest = {"full": None, "outer": "functional", "functional": "outer"}[hv.part]
        value = product if rest is None else product + hv.with_part(rest).mean_matvec(v)
        before, here, after = (hv.mean_gradient(shift=shift * v) for shift in (-step, 0.0, step))
        truth = (after - before) / (2 * step)
    noise = 30 * torch.finfo(hv.dtype).eps * float(here.norm()) / step
    if hv.part == "fisher":
        noise *= float((after - before).norm()) / step
    tolerance = NEAR[hv.dtype] * float(truth.norm()) + noise
    if float((value - truth).norm()) <= tolerance:
        return
    # Where it is smooth, both sides of w change alike. A kink (ReLU) bends the gradient of a difference but not that of
    # a derivative: there a difference says nothing about the product.
    if float((after - 2 * here + before).norm()) > ALIKE * float((after - before).norm()):
        log.warning("self-check: the model has kinks near w, so a finite difference can't confirm its Hessians.")
        return
    _compare("a product is a finite difference", value, truth, tolerance, _RULE)


def _direction(hv: "PerSampleHessian", generator: torch.Generator) -> Tensor:
    v = torch.randn(hv.num_parameters, generator=generator, dtype=torch.float64).to(hv.device, hv.dtype)
    return v * max(float(hv.point().norm()), 1e-3) / v.norm()


def _compare(what: str, value: Tensor, truth: Tensor, tolerance: float, causes: str) -> None:
    gap = float((value - truth).norm())
    if not gap <= tolerance:
        size = float(truth.norm())
        raise _failed(what, f"the difference is {gap:.3g}, the size {size:.3g}, the tolerance {tolerance:.3g}", causes)


def _failed(what: str, found: str, causes: str) -> SelfCheckError:
    return SelfCheckError(
        f"Products failed a self-check: {what}; {found}. Likely causes: {causes} (check=False skips it.)"
    )


_RANDOM = (
    "something random in the model or the loss (dropout by hand, noise, augmentation), or state kept between calls."
)
_MIXED = (
    "samples of a batch that see each other (normalization by batch statistics, a loss that is no mean over samples)."
)
_RULE = (
    "an operation with a missing or wrong second derivative (a custom autograd function), or detach() or no_grad() "
    "inside the model."
)
_NOT_FINITE = "a square root, norm or logarithm at zero; a loss that overflows."
