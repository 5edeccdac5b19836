"""Products and eigenvalues against dense Hessians by double backward, through an affine LayerNorm and attention."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stillscape._errors import InputError
from stillscape.curvature import PerSampleHessian, spectral_norms, spectrum_by_size, top_eigenvalues


class TinyBlock(nn.Module):
    """Attention written out, an affine LayerNorm, GELU, mean pool: every layer that libraries get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 3, bias=False) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(-1, -2) / 3**0.5, -1)
        return self.head(F.gelu(self.norm(weights @ self.v(x))).mean(1))


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(3)
    model = TinyBlock().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(5, 4, 4, generator=generator, dtype=torch.float64)
    return model, x, torch.tensor([0, 1, 2, 0, 1])


def dense(model, x, y):
    """Row by row, by double backward: the slow and obvious way."""
    params = list(model.parameters())
    first = torch.autograd.grad(F.cross_entropy(model(x), y), params, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in first])
    rows = [
        torch.cat([r.reshape(-1) for r in torch.autograd.grad(e, params, retain_graph=True, materialize_grads=True)])
        for e in flat
    ]
    return torch.stack(rows)


def columns(hv, i):
    return torch.stack([hv.matvec(i, e) for e in torch.eye(hv.num_parameters, dtype=torch.float64)], 1)


def test_products_equal_double_backward(case):
    model, x, y = case
    hv = PerSampleHessian(model, F.cross_entropy, x, y)
    truth = dense(model, x[1:2], y[1:2])
    torch.testing.assert_close(columns(hv, 1), truth, rtol=0, atol=1e-12 * truth.norm().item())


def test_torch_func_hessian_is_still_wrong_through_layer_norm(case):
    """When this fails PyTorch has mended it, and the warning in the docs can go."""
    model, x, y = case
    params = {name: p.detach() for name, p in model.named_parameters()}
    blocks = torch.func.hessian(lambda p: F.cross_entropy(torch.func.functional_call(model, p, (x,)), y))(params)
    names = list(params)
    theirs = torch.cat([torch.cat([blocks[a][b].reshape(params[a].numel(), -1) for b in names], 1) for a in names])
    truth = dense(model, x, y)
    assert (theirs - truth).norm() > 1e-3 * truth.norm()


def test_parts_add_up_and_the_outer_part_is_positive(case):
    model, x, y = case
    full, outer, functional = (
        columns(PerSampleHessian(model, F.cross_entropy, x, y, part=part), 2)
        for part in ("full", "outer", "functional")
    )
    torch.testing.assert_close(full, outer + functional, rtol=0, atol=1e-13 * full.norm().item())
    torch.testing.assert_close(outer, outer.T, rtol=0, atol=1e-13 * full.norm().item())
    assert torch.linalg.eigvalsh(outer)[0] > -1e-12 * outer.norm()
    assert functional.norm() > 1e-2 * full.norm()  # the split is not empty here


def test_mean_gradients_and_scipy(case):
    model, x, y = case
    hv = PerSampleHessian(model, F.cross_entropy, x, y)
    truth = dense(model, x, y)
    v = torch.randn(hv.num_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hv.mean_matvec(v), truth @ v)
    torch.testing.assert_close(torch.as_tensor(hv.as_scipy() @ v.numpy()), truth @ v)
    first = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    torch.testing.assert_close(hv.gradients(range(5)).mean(0), torch.cat([g.reshape(-1) for g in first]))


def test_eigenvalues_and_norms(case):
    model, x, y = case
    hv = PerSampleHessian(model, F.cross_entropy, x, y)
    spectrum = torch.linalg.eigvalsh(dense(model, x, y))
    expected = spectrum[spectrum.abs().argsort(descending=True)][:2]
    found = top_eigenvalues(hv, count=2, tol=1e-8)
    assert found.converged
    assert found.num_sample_products % hv.num_samples == 0
    torch.testing.assert_close(found.values, expected, rtol=1e-10, atol=0)
    residual = torch.stack([hv.mean_matvec(v) for v in found.vectors]) - found.values[:, None] * found.vectors
    assert residual.norm() < 1e-6 * expected[0].abs()
    norms = torch.stack([torch.linalg.matrix_norm(dense(model, x[i : i + 1], y[i : i + 1]), 2) for i in range(5)])
    torch.testing.assert_close(spectral_norms(hv, list(range(5)), tol=1e-8, max_steps=40), norms, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("w", [-2.0, 0.0, 3.0])
def test_one_parameter(seed, w):
    """Random start and gradient lie on one line, perhaps against each other, or the gradient is zero."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, w)
    hv = PerSampleHessian(model, lambda z, y: (z**2).sum(), torch.ones(2, 1, dtype=torch.float64), None)
    found = top_eigenvalues(hv, seed=seed)
    assert found.converged
    torch.testing.assert_close(found.values, torch.tensor([2.0], dtype=torch.float64))


def test_a_repeated_eigenvalue_is_found_each_time():
    """Loss 3 |w|^2: the Hessian is six times the identity, and one step uses the Krylov space up."""
    model = nn.Linear(1, 3, bias=False).double()
    hv = PerSampleHessian(model, lambda z, y: 3 * (z**2).sum(), torch.ones(2, 1, dtype=torch.float64), None)
    found = top_eigenvalues(hv, count=3)
    assert found.converged
    torch.testing.assert_close(found.values, torch.full((3,), 6.0, dtype=torch.float64))
    torch.testing.assert_close(found.vectors @ found.vectors.mT, torch.eye(3, dtype=torch.float64))
    assert spectrum_by_size(hv, [1, 2], count=3, num_vectors=4).values.round(9).tolist() == [[6, 6, 6], [6, 6, 6]]


def test_too_few_steps_are_said(case):
    model, x, y = case
    found = top_eigenvalues(PerSampleHessian(model, F.cross_entropy, x, y), tol=1e-12, max_steps=2)
    assert not found.converged
    assert found.residuals[0] > 0


def test_bad_arguments_are_named(case):
    model, x, y = case
    with pytest.raises(InputError, match="inputs hold 5 samples and targets 4"):
        PerSampleHessian(model, F.cross_entropy, x, y[:4])
    with pytest.raises(InputError, match="'nothing'"):
        PerSampleHessian(model, F.cross_entropy, x, y, params=["nothing"])
    with pytest.raises(InputError, match="part is 'half'"):
        PerSampleHessian(model, F.cross_entropy, x, y, part="half")
    model.requires_grad_(False)
    with pytest.raises(InputError, match="requires_grad"):
        PerSampleHessian(model, F.cross_entropy, x, y)
