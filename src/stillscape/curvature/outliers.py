"""Outlier eigenvalues and effective rank as the data grow: how many directions does the loss surface bend in?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from stillscape._checks import at_least, positive
from stillscape._errors import InputError
from stillscape.curvature.lanczos import Eigenpairs, top_eigenvalues
from stillscape.curvature.leave_one_out import LEAST_VECTORS, Draws, leave_one_out
from stillscape.curvature.per_sample import PerSampleHessian

ZERO = 1e-6  # relative to the largest magnitude
SAMPLE_NUMBERS = 50_000_000  # of products of single samples that are held at once: 200 MB in single precision
GAP = 1.5  # between neighboring eigenvalues, for the upper ones to be called outliers; found by trial


@dataclass(frozen=True)
class SpectrumBySize:
    """Top eigenvalues, outliers and effective rank of mean(H_1..H_k) for several k.

    Attributes:
        k: the sizes.
        values: eigenvalues of largest magnitude, largest first; (K, count).
        values_stderr: their standard errors over samples, as if these were drawn anew; not a number for one sample.
        residuals: norms of H v - value v; (K, count).
        converged: whether all residuals of a size are within the tolerance, the outer part's largest eigenvalue's too.
        outliers: number of eigenvalues above the bulk, positive ones; -1 where no gap says where it begins.
        gaps: the widest ratio of an eigenvalue's magnitude to the next.
        num_classes: what outliers are counted against; None if unknown.
        frobenius: Frobenius norms.
        frobenius_stderr: their standard errors.
        stable_rank: ||H||_F^2 / ||H||_2^2, how many eigenvalues as large as the largest would give this Frobenius norm.
        stable_rank_stderr: its standard error, the largest eigenvalue taken as known.
        trace: traces.
        trace_stderr: their standard errors.
        intrinsic_dimension: tr G / ||G||_2 of the outer part G (Gauss-Newton), how many directions as stiff as the
            stiffest would give its trace; at most its rank.
        intrinsic_dimension_stderr: its standard error, ||G||_2 taken as known.
        num_sample_products: products of one sample with one vector that were spent.
    """

    k: Int[np.ndarray, " K"]
    values: Float[np.ndarray, "K count"]
    values_stderr: Float[np.ndarray, "K count"]
    residuals: Float[np.ndarray, "K count"]
    converged: np.ndarray
    outliers: Int[np.ndarray, " K"]
    gaps: Float[np.ndarray, " K"]
    num_classes: int | None
    frobenius: Float[np.ndarray, " K"]
    frobenius_stderr: Float[np.ndarray, " K"]
    stable_rank: Float[np.ndarray, " K"]
    stable_rank_stderr: Float[np.ndarray, " K"]
    trace: Float[np.ndarray, " K"]
    trace_stderr: Float[np.ndarray, " K"]
    intrinsic_dimension: Float[np.ndarray, " K"]
    intrinsic_dimension_stderr: Float[np.ndarray, " K"]
    num_sample_products: int


def spectrum_by_size(
    hv: PerSampleHessian,
    sizes: Sequence[int],
    count: int | None = None,
    num_classes: int | None = None,
    *,
    gap: float = GAP,
    num_vectors: int = 8,
    tol: float = 1e-2,
    max_steps: int = 100,
    seed: int = 0,
) -> SpectrumBySize:
    r"""Return the spectrum's top and its effective rank for the first k samples, for each k of `sizes`.

    Hessians of classifiers have about as many large eigenvalues as there are classes, apart from a bulk near zero
    (Sagun et al. 2017; Gur-Ari, Roberts, Dyer 2018; Papyan 2020, whose outliers of the outer part are C - 1 to C). Here
    outliers are the positive eigenvalues before the widest gap, in ratio of magnitudes, among the `count` that were
    computed; "cannot tell" (-1) if no ratio reaches `gap`. The stable rank is Rudelson and Vershynin's (2007), the
    intrinsic dimension Tropp's (2015, sec. 7.1). Trace and Frobenius norm are had from the same products (`trace`).

    An eigenvalue of a mean of k samples moves with each of them: to first order by what the sample's own Hessian has
    along its eigenvector. So its standard error over samples is that of a mean (the infinitesimal jackknife, Efron
    1982, ch. 6); it says nothing of the bias by which the largest eigenvalue of a mean of few lies too high, which
    shows as a fall with k:

        se(lambda_j)^2 = sum_i (v_j' H_i v_j - lambda_j)^2 / (k (k - 1))

    Args:
        hv: the operator; samples in their given order.
        sizes: values of k, each at least 1.
        count: eigenvalues to compute; twice the number of classes unless given.
        num_classes: kept beside the outliers.
        gap: least ratio.
        num_vectors: random ones for traces and Frobenius norms, at least 4.
        tol: of eigenvalues: residual relative to the largest magnitude.
        max_steps: products of each mean that its eigenvalues may take.
        seed: of all random vectors.

    Raises:
        InputError: if a size or `num_vectors` is out of range, or neither `count` nor `num_classes` is given.

    Cost: for each size at most `max_steps` + `count` + 2 x `num_vectors` products of each of its samples, and as many
        again of the outer part, whose largest eigenvalue alone takes a few steps; none if `hv` is the outer part
        itself. Memory `max_steps` + `count` + 4 x `num_vectors` vectors, and as many as the products of single samples
        with eigenvectors that fit into `SAMPLE_NUMBERS`.

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
    at_least("num_vectors", num_vectors, LEAST_VECTORS)
    k = np.unique(np.asarray(sizes, dtype=np.int64))
    if len(k) == 0 or k[0] < 1 or k[-1] > hv.num_samples:
        raise InputError(
            f"sizes is {list(sizes)}; each must lie between 1 and {hv.num_samples}, the number of samples."
        )
    how = _How(count, gap, num_vectors, tol, max_steps, seed)
    rows = [_at_size(hv.subset(range(size)), how) for size in k]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    spent = int(columns.pop("spent").sum())
    return SpectrumBySize(k=k, num_classes=num_classes, num_sample_products=spent, **columns)


@dataclass(frozen=True)
class _How:
    """What the numbers of one size are measured by."""

    count: int
    gap: float
    num_vectors: int
    tol: float
    max_steps: int
    seed: int


def _at_size(hv: PerSampleHessian, how: _How) -> dict[str, Any]:
    """Return a row of the result: what holds for the mean of the samples of `hv`."""
    with hv.linearized():
        top = top_eigenvalues(hv, how.count, how.tol, how.max_steps, how.seed)
        square, trace = _square_and_trace(hv, how)
        stderr = _over_samples(hv, top)
    values = top.values.double().cpu().numpy()
    outliers, gaps = count_outliers(values, how.gap)
    frobenius, frobenius_stderr = square.root()
    stable_rank, stable_rank_stderr = _over(square, values[0] ** 2)
    outer_top, outer_trace, outer_spent = (top, trace, 0) if hv.part == "outer" else _outer(hv, how)
    dimension, dimension_stderr = _over(outer_trace, abs(float(outer_top.values[0])))
    return {
        "values": values,
        "values_stderr": stderr,
        "residuals": top.residuals.double().cpu().numpy(),
        "converged": top.converged and outer_top.converged,
        "outliers": outliers,
        "gaps": gaps,
        "frobenius": frobenius,
        "frobenius_stderr": frobenius_stderr,
        "stable_rank": stable_rank,
        "stable_rank_stderr": stable_rank_stderr,
        "trace": trace.mean(),
        "trace_stderr": trace.stderr(),
        "intrinsic_dimension": dimension,
        "intrinsic_dimension_stderr": dimension_stderr,
        "spent": hv.num_sample_products + outer_spent,
    }


def _over_samples(hv: PerSampleHessian, top: Eigenpairs) -> Float[np.ndarray, " count"]:
    """Return standard errors of eigenvalues over samples; not numbers for a single one."""
    n = hv.num_samples
    if n < 2:
        return np.full(len(top.values), np.nan)
    at_once = max(1, min(n, SAMPLE_NUMBERS // top.vectors.numel()))
    chunks = [range(start, min(start + at_once, n)) for start in range(0, n, at_once)]
    along = [(hv.sample_matmat(rows, top.vectors) * top.vectors).sum(2, dtype=torch.float64) for rows in chunks]
    return (torch.cat(along).std(0) / n**0.5).cpu().numpy()


def _outer(hv: PerSampleHessian, how: _How) -> tuple[Eigenpairs, Draws, int]:
    """Return the outer part's leading pair, its trace, and the products spent."""
    outer = hv.with_part("outer")
    with outer.linearized():
        top = top_eigenvalues(outer, 1, how.tol, how.max_steps, how.seed)
        _, trace = _square_and_trace(outer, how)
    return top, trace, outer.num_sample_products


def _over(estimate: Draws, known: float) -> tuple[float, float]:
    """Return an estimate and its standard error over a number; not a number where that is zero, as the Hessian is."""
    return (estimate.mean() / known, estimate.stderr() / known) if known else (float("nan"), float("nan"))


def _square_and_trace(hv: PerSampleHessian, how: _How) -> tuple[Draws, Draws]:
    """Return the squared Frobenius norm and the trace by the same products."""
    found = leave_one_out(hv, how.num_vectors, torch.Generator().manual_seed(how.seed + 1))
    return found.square(), found.trace()


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
