"""The second-order forecast: exact on quadratics, of third order elsewhere, and its parts by autodiff."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillscape._errors import InputError
from stillscape.curvature import PerSampleHessian, quadratic_forecast
from tests.curvature.networks import DOUBLE, encoder


@pytest.fixture(scope="module")
def hv():
    return PerSampleHessian(encoder(6)[0], F.cross_entropy, *encoder(6)[1:])


@pytest.fixture(scope="module")
def directions(hv):
    return torch.randn(2, hv.num_parameters, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))


def test_parts_are_differences_of_means(hv, directions):
    found = quadratic_forecast(hv, directions, [0.01, 0.1])
    u = directions[1] / directions[1].norm()
    slopes, bends = hv.gradients() @ u, hv.sample_matmat(range(6), u[None])[:, 0] @ u
    for k in (1, 4):
        gap = (slopes[k] - slopes[:k].mean()) / (k + 1)
        assert found.gradient[1, 1, k - 1] == pytest.approx(0.1 * gap.item(), rel=1e-9)
        gap = (bends[k] - bends[:k].mean()) / (k + 1)
        assert found.hessian[1, 1, k - 1] == pytest.approx(0.005 * gap.item(), rel=1e-9)
        away = hv.losses(shift=0.1 * u)
        assert found.true[1, 1, k - 1] == pytest.approx((away[: k + 1].mean() - away[:k].mean()).item(), rel=1e-9)
    np.testing.assert_allclose(found.predicted, found.loss + found.gradient + found.hessian)


def test_what_is_missed_is_of_third_order(hv, directions):
    found = quadratic_forecast(hv, directions, [0.01, 0.02, 0.04])
    missed = np.abs(found.predicted - found.true).mean((0, 2))
    assert missed[1] / missed[0] == pytest.approx(8, rel=0.1)
    assert missed[2] / missed[1] == pytest.approx(8, rel=0.2)


def test_without_the_functional_part_second_order_is_missed(hv, directions):
    missed = [
        np.abs((f := quadratic_forecast(hv.with_part("outer"), directions, [r])).predicted - f.true).mean()
        for r in (0.01, 0.02)
    ]
    assert missed[1] / missed[0] == pytest.approx(4, rel=0.1)


def test_reach(hv, directions):
    near_and_far = quadratic_forecast(hv, directions, [0.01, 0.1, 30.0])
    assert near_and_far.explained_radius == 0.1
    assert near_and_far.error[2] > 0.1
    assert quadratic_forecast(hv, directions, [30.0]).explained_radius is None


@pytest.mark.parametrize(
    ("directions", "radii", "match"),
    [
        (torch.zeros(1, 1300), [1.0], "none of them zero"),
        (torch.ones(1, 3), [1.0], r"directions is \(1, 3\)"),
        (torch.ones(1, 1300), [1.0, 0.5], "increasing"),
        (torch.ones(1, 1300), [], "increasing"),
    ],
)
def test_bad_arguments(hv, directions, radii, match):
    with pytest.raises(InputError, match=match):
        quadratic_forecast(hv, directions, radii)
