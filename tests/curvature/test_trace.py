"""Trace, Frobenius norm and diagonal: exact where they must be, unbiased, with standard errors that cover."""

import pytest
import torch
import torch.nn.functional as F

from stillscape._errors import InputError
from stillscape.curvature import PerSampleHessian, diagonal, frobenius_norm, trace
from tests.curvature.fakes import SPECTRA, MatrixOperator
from tests.curvature.networks import DOUBLE, encoder

TRUTHS = {trace: lambda matrix: matrix.trace().item(), frobenius_norm: lambda matrix: matrix.norm().item()}
BOTH = pytest.mark.parametrize("estimate", list(TRUTHS), ids=["trace", "frobenius"])


@BOTH
def test_exact_where_the_rank_is_low(estimate):
    hv = MatrixOperator(SPECTRA["low rank"])
    found = estimate(hv, num_vectors=6)
    assert found.value == pytest.approx(TRUTHS[estimate](hv.matrix), rel=1e-10)
    assert found.stderr < 1e-8
    assert found.num_sample_products == hv.num_sample_products == 12


@BOTH
@pytest.mark.parametrize("spectrum", ["flat", "decaying", "heavy", "indefinite"])
def test_unbiased_and_covered(estimate, spectrum):
    """Over 300 seeds: the mean within four of its standard errors, and 95 % intervals that hold the truth as often."""
    hv = MatrixOperator(SPECTRA[spectrum])
    truth = TRUTHS[estimate](hv.matrix)
    found = [estimate(hv, num_vectors=10, seed=seed) for seed in range(300)]
    values, errors = (torch.tensor([getattr(f, name) for f in found], dtype=DOUBLE) for name in ("value", "stderr"))
    power = 2 if estimate is frobenius_norm else 1  # the square is what is unbiased
    draws = values**power
    assert abs(draws.mean() - truth**power) < 4 * draws.std() / len(draws) ** 0.5 + 1e-12 * truth**power
    inside = ((values - truth).abs() <= 2.26 * errors).double().mean()  # Student's t of 9 degrees of freedom
    assert inside > 0.88


def test_better_than_hutchinson_where_eigenvalues_decay():
    hv = MatrixOperator(SPECTRA["decaying"])
    ours = torch.tensor([trace(hv, num_vectors=10, seed=seed).value for seed in range(50)]) - hv.matrix.trace()
    z = torch.randn(50, 20, hv.num_parameters, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    plain = ((z @ hv.matrix) * z).sum(2).mean(1) - hv.matrix.trace()
    assert ours.square().mean() < 0.25 * plain.square().mean()


def test_against_dense():
    model, x, y = encoder(6)
    hv = PerSampleHessian(model, F.cross_entropy, x, y)
    dense = hv.mean_matmat(torch.eye(hv.num_parameters, dtype=DOUBLE))
    for estimate, truth in TRUTHS.items():
        found = estimate(hv, num_vectors=40)
        assert abs(found.value - truth(dense)) < 3 * found.stderr
        assert found.stderr < 0.1 * dense.norm()
    found = diagonal(hv, num_vectors=200)
    gap = (found.value - dense.diagonal()).abs() / found.stderr.clamp_min(1e-300)
    assert (gap < 1.96).double().mean() > 0.9
    assert found.num_sample_products == 200 * 6


def test_few_parameters_are_done_exactly():
    model, x, y = encoder(6)
    hv = PerSampleHessian(model, F.cross_entropy, x, y, params="head.*")
    dense = hv.mean_matmat(torch.eye(hv.num_parameters, dtype=DOUBLE))
    assert trace(hv, num_vectors=30).value == pytest.approx(dense.trace().item())
    assert trace(hv, num_vectors=30).stderr == 0


@BOTH
def test_bad_arguments(estimate):
    with pytest.raises(InputError, match="num_vectors is 3"):
        estimate(MatrixOperator(SPECTRA["flat"]), num_vectors=3)
    with pytest.raises(InputError, match="num_vectors is 1"):
        diagonal(MatrixOperator(SPECTRA["flat"]), num_vectors=1)
