"""Halves against each other: the sampling identity over all cuts, and norms against dense matrices."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillscape._errors import InputError
from stillscape.curvature import PerSampleHessian
from stillscape.evidence import split_half
from stillscape.evidence.halves import _discrepancy, _halves, _weights
from tests.curvature.networks import encoder


def operator(n):
    model, x, y = encoder(n)
    return PerSampleHessian(model, F.cross_entropy, x, y, params=["head.*", "norm.*"], check=False)


def test_expected_is_the_mean_square_over_all_cuts():
    images = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cuts = torch.stack([_weights(first, 6) for first in combinations(range(6), 3)]).double()
    whole = [_discrepancy(iter([(list(range(6)), images)]), cuts[[i]].repeat(2, 1)) for i in range(len(cuts))]
    mean_square = np.mean([one.value**2 for one in whole])
    assert whole[0].expected ** 2 == pytest.approx(mean_square, rel=1e-6)
    in_chunks = _discrepancy(iter([([0, 1, 2, 3], images[:4]), ([4, 5], images[4:])]), cuts)
    assert in_chunks.value == pytest.approx(np.mean([one.value for one in whole]), rel=1e-6)


def test_norms_are_those_of_dense_matrices():
    hv = operator(8)
    eye = torch.eye(hv.num_parameters, dtype=hv.dtype)
    each = hv.sample_matmat(range(8), eye)
    generator = torch.Generator().manual_seed(0)
    cuts = [_halves(8, generator) for _ in range(3)]
    whole, gradients = torch.linalg.matrix_norm(each.mean(0), 2), hv.gradients()
    spectral = [float(torch.linalg.matrix_norm(each[a].mean(0) - each[b].mean(0), 2) / whole) for a, b in cuts]
    slopes = [float((gradients[a].mean(0) - gradients[b].mean(0)).norm() / gradients.mean(0).norm()) for a, b in cuts]
    found = split_half(hv, splits=3, tol=1e-6, max_steps=60)
    assert found.hessian.value == pytest.approx(np.mean(spectral), rel=1e-5)
    assert found.hessian.stderr == pytest.approx(np.std(spectral, ddof=1) / 3**0.5, rel=1e-4)
    assert found.gradient.value == pytest.approx(np.mean(slopes), rel=1e-10)
    scatter = gradients.var(0).sum() * 4 / 8 / gradients.mean(0).square().sum()
    assert found.gradient.expected == pytest.approx(float(scatter) ** 0.5, rel=1e-10)


def test_frobenius_is_about_that_of_dense_matrices():
    hv = operator(8)
    each = hv.sample_matmat(range(8), torch.eye(hv.num_parameters, dtype=hv.dtype))
    mean = each.mean(0)
    exact = (4 / (8 * 7) * (each - mean).square().sum() / mean.square().sum()) ** 0.5
    assert split_half(hv, num_vectors=200).hessian_frobenius.expected == pytest.approx(float(exact), rel=0.1)


def test_it_falls_like_the_root_of_the_samples():
    few, many = split_half(operator(20), splits=20), split_half(operator(80), splits=20)
    assert few.gradient.at(80) == pytest.approx(few.gradient.value / 2)
    ratio = few.hessian_frobenius.value / many.hessian_frobenius.value
    assert ratio == pytest.approx(2.0, rel=0.25)


def test_products_are_counted_and_odd_samples_left_out():
    hv = operator(9)
    found = split_half(hv, splits=2, num_vectors=2, max_steps=3)
    assert found.gradient.num_samples == 8
    assert found.num_sample_products <= 8 * 2 + 3 * 3 * 8


def test_three_samples_are_too_few():
    with pytest.raises(InputError, match="hv holds 3 samples"):
        split_half(operator(3))
