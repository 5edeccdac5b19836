"""Trace, Frobenius norm and diagonal of the mean Hessian, from products with random vectors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import at_least
from stillscape.curvature.estimate import Estimate, mean_and_stderr, signs
from stillscape.curvature.leave_one_out import LEAST_VECTORS, Complete, LeaveOneOut, leave_one_out
from stillscape.curvature.per_sample import PerSampleHessian


def trace(hv: PerSampleHessian, num_vectors: int = 16, seed: int = 0) -> Estimate:
    r"""Return the trace of the mean Hessian: the sum of its eigenvalues.

    XTrace (Epperly, Tropp and Webber 2024): exact on what the products span, Hutchinson's estimate of the rest, every
    vector in both roles. Unbiased, and exact where the rank is below `num_vectors`.

    Args:
        hv: the operator.
        num_vectors: random ones; at least 4.
        seed: of them.

    Returns:
        the estimate with its standard error, from the random vectors alone.

    Raises:
        InputError: if `num_vectors` is below 4.

    Cost: 2 x num_vectors products of each sample (P, and an exact answer, where that is less); memory 4 x num_vectors
        vectors.

    Example:
        Least squares, l = (w x)^2 at x = 3: the Hessian is 18.

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> hv = PerSampleHessian(model, lambda z, y: (z ** 2).sum(), torch.tensor([[3.0]]), None)
        >>> trace(hv).value, trace(hv).stderr
        (18.0, 0.0)
    """
    before = hv.num_sample_products
    found = _products(hv, num_vectors, seed).trace()
    return Estimate(found.mean(), found.stderr(), hv.num_sample_products - before)


def frobenius_norm(hv: PerSampleHessian, num_vectors: int = 16, seed: int = 0) -> Estimate:
    r"""Return the Frobenius norm of the mean Hessian: the root of the sum of its squared eigenvalues.

    As `trace`, of :math:`H^2`, by the same products: :math:`\|HP\|_F^2` for what they span and
    :math:`E\|Hu\|^2` for the rest. The square is unbiased; its root's error is the delta method's.

    Args:
        hv: the operator.
        num_vectors: random ones; at least 4.
        seed: of them.

    Returns:
        the estimate with its standard error, from the random vectors alone.

    Raises:
        InputError: if `num_vectors` is below 4.

    Cost: 2 x num_vectors products of each sample (P, and an exact answer, where that is less).

    Example:
        l = (w x + b)^2 at x = 2 has the Hessian [[8, 4], [4, 2]], of norm 10.

        >>> hv = PerSampleHessian(torch.nn.Linear(1, 1), lambda z, y: (z ** 2).sum(), torch.tensor([[2.0]]), None)
        >>> frobenius_norm(hv).value
        10.0
    """
    before = hv.num_sample_products
    value, stderr = _products(hv, num_vectors, seed).square().root()
    return Estimate(value, stderr, hv.num_sample_products - before)


def _products(hv: PerSampleHessian, num_vectors: int, seed: int) -> Complete | LeaveOneOut:
    at_least("num_vectors", num_vectors, LEAST_VECTORS)
    return leave_one_out(hv, num_vectors, torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class DiagonalEstimate:
    """The diagonal, entry by entry.

    Attributes:
        value: the estimates.
        stderr: their standard errors.
        num_sample_products: products of one sample with one vector that were spent.
    """

    value: Float[Tensor, " P"]
    stderr: Float[Tensor, " P"]
    num_sample_products: int


def diagonal(hv: PerSampleHessian, num_vectors: int = 32, seed: int = 0) -> DiagonalEstimate:
    r"""Return the diagonal of the mean Hessian, as the mean of :math:`z \odot Hz` over random signs z.

    (Bekas, Kokiopoulou and Saad 2007, with signs as vectors: exact on diagonal matrices.)

    Args:
        hv: the operator.
        num_vectors: random ones; at least 2.
        seed: of them.

    Returns:
        one estimate for each parameter. An entry's error is about the norm of the rest of its row over the root of
        num_vectors, which may be larger than the entry.

    Raises:
        InputError: if `num_vectors` is below 2.

    Cost: num_vectors products of each sample.

    Example:
        Two weights that never meet in a sample: l = (w x)^2 with x = (3, 0) and (0, 1).

        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> hv = PerSampleHessian(torch.nn.Linear(2, 1, bias=False), lambda z, y: (z ** 2).sum(), x, None)
        >>> diagonal(hv).value.tolist()
        [9.0, 1.0]
    """
    before = hv.num_sample_products
    vectors = signs(hv, at_least("num_vectors", num_vectors, 2), torch.Generator().manual_seed(seed))
    with hv.linearized():
        value, stderr = mean_and_stderr(vectors * hv.mean_matmat(vectors))
    return DiagonalEstimate(value, stderr, hv.num_sample_products - before)
