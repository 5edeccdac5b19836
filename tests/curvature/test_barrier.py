"""The barrier by hand on a double well, its standard error by the paired formula, and bad ends."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stillscape._errors import InputError
from stillscape.curvature import PerSampleHessian, loss_barrier
from tests.curvature.networks import DOUBLE, encoder


class Well(nn.Module):
    """The loss of sample i is x_i (w^2 - 1)^2: minima at -1 and 1, a hill of height x_i between them."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w], dtype=DOUBLE))

    def forward(self, x):
        return x * (self.w**2 - 1) ** 2


def test_double_well():
    x = torch.tensor([[1.0], [2.0], [6.0]], dtype=DOUBLE)
    hv = PerSampleHessian(Well(-1.0), lambda z, _: z.sum(), x, None)
    found = loss_barrier(hv, torch.tensor([1.0], dtype=DOUBLE), points=41)
    assert found.at == 0.5
    assert found.height == pytest.approx(3.0)
    assert found.height_stderr == pytest.approx(x.std().item() / 3**0.5)
    w = 2 * found.t - 1
    torch.testing.assert_close(found.losses, 3 * (w**2 - 1) ** 2)


def test_no_barrier_along_a_convex_line():
    model, x, y = encoder(6)
    hv = PerSampleHessian(model, F.cross_entropy, x, y, params="head.*")
    found = loss_barrier(hv, torch.randn(hv.num_parameters, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)))
    assert found.height == 0
    torch.testing.assert_close(found.losses[0], hv.losses().mean())


def test_bad_arguments():
    model, x, y = encoder(6)
    hv = PerSampleHessian(model, F.cross_entropy, x, y, params="head.*")
    with pytest.raises(InputError, match=r"end is \(3,\)"):
        loss_barrier(hv, torch.zeros(3))
    with pytest.raises(InputError, match="points is 2"):
        loss_barrier(hv, torch.zeros(hv.num_parameters), points=2)
