"""Spectra by size against dense ones; outliers of a made-up spectrum; the Gauss-Newton part of a classifier."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillscape._errors import InputError
from stillscape.curvature import PerSampleHessian, spectrum_by_size
from stillscape.curvature.outliers import count_outliers
from tests.curvature.networks import CLASSES, DOUBLE, encoder


@pytest.fixture(scope="module")
def hv():
    return PerSampleHessian(encoder(12)[0], F.cross_entropy, *encoder(12)[1:])


def test_against_dense(hv):
    found = spectrum_by_size(hv, [3, 12], count=6, num_vectors=12, tol=1e-6)
    for row, k in enumerate((3, 12)):
        mean = hv.subset(range(k)).mean_matmat(torch.eye(hv.num_parameters, dtype=DOUBLE))
        exact = torch.linalg.eigvalsh(mean)
        top = exact[exact.abs().argsort(descending=True)][:6]
        np.testing.assert_allclose(found.values[row], top.numpy(), rtol=1e-6)
        assert abs(found.frobenius[row] - mean.norm().item()) < 3 * found.frobenius_stderr[row]
        rank = (mean.norm() / top[0].abs()).square().item()
        assert abs(found.stable_rank[row] - rank) < 3 * found.stable_rank_stderr[row]
        assert abs(found.trace[row] - mean.trace().item()) < 3 * found.trace_stderr[row]
        outer = hv.with_part("outer").subset(range(k)).mean_matmat(torch.eye(hv.num_parameters, dtype=DOUBLE))
        dimension = (outer.trace() / torch.linalg.matrix_norm(outer, 2)).item()
        error = abs(found.intrinsic_dimension[row] - dimension)
        assert error < 3 * found.intrinsic_dimension_stderr[row] + 1e-6 * dimension
    assert found.converged.all()


def test_errors_of_eigenvalues_over_samples_against_dense(hv):
    """Leave each sample out and take the dense eigenvalues: the jackknife, which the first order approaches."""
    head, n = hv.restricted("*head*"), hv.num_samples  # convex: all eigenvalues are positive
    eye = torch.eye(head.num_parameters, dtype=DOUBLE)
    found = spectrum_by_size(head, [1, n], count=2, tol=1e-8)
    assert np.isnan(found.values_stderr[0]).all()
    each = head.sample_matmat(range(n), eye)
    _, vectors = torch.linalg.eigh(each.mean(0))
    for place in range(2):
        along = torch.einsum("a,iab,b->i", vectors[:, -1 - place], each, vectors[:, -1 - place])
        assert found.values_stderr[1, place] == pytest.approx(along.std().item() / n**0.5, rel=1e-5)
    without = torch.stack([(each.sum(0) - h) / (n - 1) for h in each])
    largest = torch.linalg.eigvalsh(without)[:, -1]
    jackknife = ((n - 1) / n * (largest - largest.mean()).square().sum()).sqrt().item()
    assert found.values_stderr[1, 0] == pytest.approx(jackknife, rel=0.25)


def test_the_error_of_a_scalar_curvature_is_that_of_a_mean():
    """The loss (w x)^2 has Hessian 2 x^2: at x = 1, 2, 3 the values 2, 8, 18, whose mean errs by their sd / 3^0.5."""
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=DOUBLE)
    model = torch.nn.Linear(1, 1, bias=False).double()
    found = spectrum_by_size(PerSampleHessian(model, lambda z, y: (z**2).sum(), x, None), [3], count=1)
    assert found.values[0, 0] == pytest.approx(28 / 3)
    assert found.values_stderr[0, 0] == pytest.approx(np.std([2, 8, 18], ddof=1) / 3**0.5)


def test_one_sample_has_fewer_outer_directions_than_classes(hv):
    """The outer part of one sample's cross-entropy has rank C - 1, and so C - 1 outliers before a gap without end."""
    outer = PerSampleHessian(encoder(12)[0], F.cross_entropy, *encoder(12)[1:], part="outer")
    found = spectrum_by_size(outer, [1], num_classes=CLASSES, tol=1e-8)
    assert found.outliers.tolist() == [CLASSES - 1]
    assert found.gaps[0] > 1e6
    assert found.num_classes == CLASSES


def test_ranks_below_the_count_are_filled_with_zeros(hv):
    outer = hv.with_part("outer")
    found = spectrum_by_size(outer, [1, 2, 12], count=9, tol=1e-8)
    assert found.values.shape == (3, 9)
    assert np.abs(found.values[0, CLASSES - 1 :]).max() < 1e-9 * found.values[0, 0]
    assert found.converged.all()
    assert 1 <= found.intrinsic_dimension[0] <= CLASSES - 1  # at most the rank


def test_products_are_counted_and_the_outer_part_is_measured_once(hv):
    """One step of Lanczos, one for its error and 2 x 4 for each; the outer part's dimension has its own products."""
    full, outer = (spectrum_by_size(h, [6], 1, num_vectors=4, max_steps=1) for h in (hv, hv.with_part("outer")))
    assert full.num_sample_products == (2 * (1 + 8) + 1) * 6
    assert outer.num_sample_products == (1 + 1 + 8) * 6
    np.testing.assert_allclose(outer.intrinsic_dimension, outer.trace / outer.values[:, 0])


def test_a_flat_surface_has_no_ranks():
    model = torch.nn.Linear(1, 1, bias=False)
    hv = PerSampleHessian(model, lambda z, y: 0 * z.sum(), torch.ones(2, 1), None, check=False)
    found = spectrum_by_size(hv, [2], count=1)
    assert np.isnan(found.stable_rank).all()
    assert np.isnan(found.intrinsic_dimension).all()
    assert found.trace.tolist() == found.frobenius.tolist() == [0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9, 8, 7, -1, -0.9], (3, 7)),  # a bulk that only its lower side is known of
        ([9, 8, 1, -0.9, 0.8], (2, 8)),
        ([9, 8, -7, 1, -1], (2, 7)),  # a negative eigenvalue outside of the bulk isn't above it
        ([-9, 1, 0.9, -0.8], (0, 9)),
        ([7, -1, 9, -0.9, 8], (3, 7)),  # in any order
        ([4, 3, 0, 0], (2, np.inf)),  # all there are
        ([4, 3.5, 3.1, 2.9], (-1, 4 / 3.5)),
        ([4, -3.5], (-1, 4 / 3.5)),
        ([0, 0], (-1, np.nan)),
        ([5], (-1, np.nan)),
    ],
)
def test_outliers_of_known_spectra(values, expected):
    found = count_outliers(np.array(values, dtype=float), 1.5)
    assert found[0] == expected[0]
    np.testing.assert_allclose(found[1], expected[1])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sizes": [0]}, "between 1 and 12"),
        ({"sizes": [13]}, "between 1 and 12"),
        ({"count": None}, "give one of them"),
        ({"num_vectors": 3}, "num_vectors is 3"),
    ],
)
def test_bad_arguments(hv, changes, match):
    with pytest.raises(InputError, match=match):
        spectrum_by_size(hv, **({"sizes": [3], "count": 2} | changes))
