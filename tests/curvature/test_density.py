"""Quadrature: weights that sum to 1, moments of the spectrum, exact at full dimension, spaces that are used up."""

import pytest
import torch
import torch.nn.functional as F

from stillscape._errors import InputError
from stillscape._lanczos import tridiagonal
from stillscape.curvature import PerSampleHessian, spectral_density
from stillscape.curvature.density import cell_averages, quadrature
from tests.curvature.networks import DOUBLE, encoder


@pytest.fixture(scope="module")
def hv():
    return PerSampleHessian(encoder(12)[0], F.cross_entropy, *encoder(12)[1:], params="*.norm1.*")


@pytest.fixture(scope="module")
def exact(hv):
    return torch.linalg.eigvalsh(hv.mean_matmat(torch.eye(hv.num_parameters, dtype=DOUBLE)))


def test_weights_and_density_are_probabilities(hv):
    found = spectral_density(hv, num_vectors=4, steps=10)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(4, dtype=DOUBLE))
    assert found.nodes.shape == (4, 10)
    area = torch.trapezoid(found.density, found.grid)
    assert area.item() == pytest.approx(1, abs=1e-3)
    assert found.num_sample_products == 4 * 10 * 12


@pytest.mark.parametrize("sigma", [1e-12, 1e-4, 0.03, 2.0])
def test_sums_to_one_whatever_the_kernel(hv, sigma):
    found = spectral_density(hv, num_vectors=3, steps=10, points=100, sigma=sigma)
    width = found.grid[1] - found.grid[0]
    assert (found.density.sum() * width).item() == pytest.approx(1, abs=1e-6)  # 5 sigma beyond the ends is 6e-7
    mean = (found.weights * found.nodes).sum(1).mean()
    assert abs((found.density * found.grid).sum() * width - mean) <= width / 2 + 1e-6


def test_cells_hold_what_a_fine_grid_sums_to():
    grid = torch.linspace(-3.0, 3.0, 13, dtype=DOUBLE)
    nodes = torch.tensor([[-0.2, 1.1]], dtype=DOUBLE)
    fine = grid[:, None] + torch.linspace(-0.25, 0.25, 2001, dtype=DOUBLE)
    kernel = torch.exp(-((fine - nodes[..., None, None]) ** 2) / (2 * 0.4**2)) / (0.4 * (2 * torch.pi) ** 0.5)
    expected = torch.trapezoid(kernel, fine, dim=-1) / 0.5
    torch.testing.assert_close(cell_averages(grid, nodes, 0.4), expected, rtol=1e-5, atol=0)  # far tails as well


def test_a_single_eigenvalue_and_a_single_vector():
    """Hessian 18 alone, a kernel below rounding: all mass in one cell; one vector tells no error."""
    hv = PerSampleHessian(
        torch.nn.Linear(1, 1, bias=False), lambda z, y: (z**2).sum(), torch.tensor([[3.0]]), None, check=False
    )
    found = spectral_density(hv, num_vectors=1, points=11, sigma=1e-18)
    width = found.grid[1] - found.grid[0]
    assert (found.density * width).tolist() == pytest.approx([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0])
    assert found.stderr.isnan().all()


def test_moments_are_those_of_the_start_vectors(hv, exact):
    """A quadrature of s steps integrates polynomials up to degree 2 s - 1 as v' H^p v does, to the last digit."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(3, hv.num_parameters, generator=generator, dtype=DOUBLE)
    dense = hv.mean_matmat(torch.eye(hv.num_parameters, dtype=DOUBLE))
    nodes, weights = quadrature(tridiagonal(hv.mean_matmat, v, 4))
    for power in range(8):
        form = torch.einsum("vp,pq,vq->v", v, torch.linalg.matrix_power(dense, power), v) / v.square().sum(1)
        torch.testing.assert_close((weights * nodes**power).sum(1), form, rtol=1e-9, atol=1e-12)


def test_full_dimension_finds_every_eigenvalue(hv, exact):
    found = spectral_density(hv, num_vectors=1, steps=hv.num_parameters)
    torch.testing.assert_close(found.nodes[0], exact, rtol=1e-8, atol=1e-8 * exact.abs().max().item())


@pytest.mark.slow
def test_stderr_covers_the_mean(hv, exact):
    """The mean of the spectrum, of which each vector gives an independent estimate."""
    inside = []
    for seed in range(60):
        found = spectral_density(hv, num_vectors=8, steps=3, seed=seed)
        each = (found.weights * found.nodes).sum(1)
        inside.append(abs(each.mean() - exact.mean()) < 2.36 * each.std() / 8**0.5)
    assert 0.85 < torch.tensor(inside).double().mean() <= 1


def test_low_rank_uses_its_space_up():
    """Rank 2 in three dimensions: three steps find all, and one vector in the kernel finds zero alone."""
    a = torch.diag(torch.tensor([3.0, 1.0, 0.0], dtype=DOUBLE))
    start = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]], dtype=DOUBLE)
    nodes, weights = quadrature(tridiagonal(lambda v: v @ a, start, 8))
    torch.testing.assert_close(nodes[0], torch.tensor([0.0, 1.0, 3.0], dtype=DOUBLE), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights[0], torch.full((3,), 1 / 3, dtype=DOUBLE))
    assert not nodes[1].any()
    assert weights[1].sum().item() == pytest.approx(1)


def test_bad_arguments(hv):
    for changes, match in (({"steps": 0}, "steps is 0"), ({"num_vectors": 0}, "num_vectors"), ({"sigma": -1}, "sigma")):
        with pytest.raises(InputError, match=match):
            spectral_density(hv, **changes)
