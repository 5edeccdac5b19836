"""Outlier eigenvalues and effective rank as the data grow: how many directions does the loss surface bend in?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillscape._checks import at_least, positive
from stillscape._errors import InputError
from stillscape.curvature.estimate import gaussian
from stillscape.curvature.lanczos import top_eigenvalues
from stillscape.curvature.per_sample import PerSampleHessian

ZERO = 1e-6  # relative to the largest magnitude
GAP = 1.5  # between neighboring eigenvalues, for the upper ones to be called outliers; found by trial


@dataclass(frozen=True)
class SpectrumBySize:
    """Top eigenvalues, outliers and effective rank of mean(H_1..H_k) for several k.

    Attributes:
        k: the sizes.
        values: eigenvalues of largest magnitude, largest first, and zeros where the rank is lower; (K, count).
        residuals: norms of H v - value v; (K, count).
        converged: whether all residuals of a size are within the tolerance.
        outliers: number of eigenvalues above the bulk, positive ones; -1 where no gap says where it begins.
        gaps: the widest ratio of an eigenvalue's magnitude to the next.
        num_classes: what outliers are counted against; None if unknown.
        frobenius: Frobenius norms.
        frobenius_stderr: their standard errors.
        stable_rank: ||H||_F^2 / ||H||_2^2, how many eigenvalues as large as the largest would give this Frobenius norm.
        stable_rank_stderr: its standard error, the largest eigenvalue taken as known.
        num_sample_products: products of one sample with one vector that were spent.
    """

    k: Int[np.ndarray, " K"]
    values: Float[np.ndarray, "K count"]
    residuals: Float[np.ndarray, "K count"]
    converged: np.ndarray
    outliers: Int[np.ndarray, " K"]
    gaps: Float[np.ndarray, " K"]
    num_classes: int | None
    frobenius: Float[np.ndarray, " K"]
    frobenius_stderr: Float[np.ndarray, " K"]
    stable_rank: Float[np.ndarray, " K"]
    stable_rank_stderr: Float[np.ndarray, " K"]
    num_sample_products: int


def spectrum_by_size(
    hv: PerSampleHessian,
    sizes: Sequence[int],
    count: int | None = None,
    num_classes: int | None = None,
    *,
    gap: float = GAP,
    num_vectors: int = 16,
    tol: float = 1e-2,
    max_steps: int = 100,
    seed: int = 0,
) -> SpectrumBySize:
    r"""Return the spectrum's top and its effective rank for the first k samples, for each k of `sizes`.

    Hessians of classifiers have about as many large eigenvalues as there are classes, apart from a bulk near zero
    (Sagun et al. 2017; Gur-Ari, Roberts, Dyer 2018; Papyan 2020, whose outliers of the outer part are C - 1 to C). Here
    outliers are the positive eigenvalues before the widest gap, in ratio of magnitudes, among the `count` that were
    computed; "cannot tell" (-1) if no ratio reaches `gap`. The stable rank is Rudelson and Vershynin's (2007).

    Args:
        hv: the operator; samples in their given order.
        sizes: values of k, each at least 1.
        count: eigenvalues to compute; twice the number of classes unless given.
        num_classes: kept beside the outliers.
        gap: least ratio.
        num_vectors: of Hutchinson's estimate of the Frobenius norm, at least 2.
        tol: of eigenvalues: residual relative to the largest magnitude.
        max_steps: products of each mean that its eigenvalues may take.
        seed: of all random vectors.

    Raises:
        InputError: if a size is out of range, or neither `count` nor `num_classes` is given.

    Cost: for each size at most `max_steps` + `num_vectors` products of each of its samples.

    Example:
        Least squares with three weights and inputs 3 e1, 2 e2 and e3: eigenvalues 6, 8/3 and 2/3.

        >>> x = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> hv = PerSampleHessian(model, lambda z, y: (z ** 2).sum(), x, None)
        >>> found = spectrum_by_size(hv, [3], count=3)
        >>> found.values.round(2).tolist(), found.outliers.tolist()
        ([[6.0, 2.67, 0.67]], [2])
    """
    if count is None and num_classes is None:
        raise InputError("count is None and so is num_classes; give one of them.")
    count = min(at_least("count", count if count is not None else 2 * (num_classes or 1), 1), hv.num_parameters)
    positive("gap", gap)
    at_least("num_vectors", num_vectors, 2)
    k = np.unique(np.asarray(sizes, dtype=np.int64))
    if len(k) == 0 or k[0] < 1 or k[-1] > hv.num_samples:
        raise InputError(
            f"sizes is {list(sizes)}; each must lie between 1 and {hv.num_samples}, the number of samples."
        )
    rows, spent = [], 0
    for size in k:
        first = hv.subset(range(size))
        with first.linearized():
            top = top_eigenvalues(first, count, tol, max_steps, seed)
            square = _squares(first, num_vectors, seed)
        spent += first.num_sample_products
        # Fewer than `count` are found where the mean has a lower rank: the others are zero.
        values, residuals = (np.pad(v.double().cpu().numpy(), (0, count - len(v))) for v in (top.values, top.residuals))
        rows.append((values, residuals, top.converged, *count_outliers(values, gap), *square))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    values, residuals, converged, outliers, gaps, mean, error = columns
    frobenius, largest = np.sqrt(mean), np.abs(values).max(1) ** 2
    return SpectrumBySize(
        k, values, residuals, converged, outliers, gaps, num_classes, frobenius, error / (2 * frobenius),
        mean / largest, error / largest, spent,
    )  # fmt: skip


def count_outliers(values: Float[np.ndarray, " count"], gap: float) -> tuple[int, float]:
    """Return how many positive eigenvalues lie before the widest gap, in ratio of magnitudes, and that ratio.

    Magnitudes, because the bulk may reach as far below zero as above: a negative eigenvalue bounds it like any other.

    Args:
        values: eigenvalues of largest magnitude; one that is zero says that the spectrum's end was reached.
        gap: least ratio.

    Returns:
        the number, or -1 if no ratio reaches `gap`; and the widest ratio, not a number for fewer than two eigenvalues.

    Example:
        >>> count_outliers(np.array([9.0, 8.0, 7.0, -1.0, -0.9]), gap=1.5)
        (3, 7.0)
    """
    magnitudes = np.abs(values)
    order = magnitudes.argsort(kind="stable")[::-1]
    known = order[magnitudes[order] > ZERO * magnitudes.max(initial=0.0)]
    edges = magnitudes[known]
    if len(known) < len(values):
        edges = np.append(edges, 0.0)
    if len(edges) < 2:
        return -1, float("nan")
    with np.errstate(divide="ignore"):
        ratios = edges[:-1] / edges[1:]
    widest = int(ratios.argmax())
    before = int((values[known[: widest + 1]] > 0).sum())
    return (before if ratios[widest] >= gap else -1), float(ratios[widest])


def _squares(hv: PerSampleHessian, num_vectors: int, seed: int) -> tuple[float, float]:
    """Return Hutchinson's estimate of the squared Frobenius norm, and its standard error."""
    generator = torch.Generator().manual_seed(seed + 1)
    products: Tensor = hv.mean_matmat(gaussian(hv, num_vectors, hv.num_parameters, generator))
    draws = products.double().square().sum(1)
    return float(draws.mean()), float(draws.std() / num_vectors**0.5)
