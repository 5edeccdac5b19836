"""Why the oracle never calls `torch.func.hessian`: through an affine nn.LayerNorm it drops a second-order term."""

import pytest
import torch
from torch import nn

from stillscape.hessian import reference
from tests.hessian.oracles import finite_difference_hessian, relative_error

MENDED = (
    "torch.func.hessian now agrees with the truth through an affine nn.LayerNorm: PyTorch has mended it (torch "
    f"{torch.__version__}). The warnings in hessian/reference.py, in the docs and this test can go, once the oldest "
    "torch that pyproject.toml allows is a mended one."
)


@pytest.fixture
def problem():
    """Losses of two samples through Linear, affine LayerNorm, Linear and cross-entropy, and their parameters."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
    params = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in model.named_parameters()
    }
    X, labels = torch.randn(2, 3, generator=generator, dtype=torch.float64), torch.tensor([0, 2])

    def losses(p):
        logits = torch.func.functional_call(model, p, (X,))
        return torch.logsumexp(logits, -1) - logits.gather(-1, labels[:, None]).squeeze(-1)

    def by_hand(p):
        middle = X @ p["0.weight"].mT + p["0.bias"]
        logits = reference.layer_norm(middle, p["1.weight"], p["1.bias"]) @ p["2.weight"].mT + p["2.bias"]
        return torch.logsumexp(logits, -1) - logits.gather(-1, labels[:, None]).squeeze(-1)

    return losses, by_hand, params


def by_torch(losses, params):
    theta = reference.flatten(params)
    return torch.stack(
        [torch.func.hessian(lambda at, i=i: losses(reference.unflatten(at, params))[i])(theta) for i in range(2)]
    )


def test_the_truth_is_known_by_four_routes(problem):
    losses, by_hand, params = problem
    truth = reference.double_backward_hessian(losses, params)
    assert relative_error(reference.hessian(losses, params), truth) < 1e-12
    assert relative_error(reference.hessian(by_hand, params), truth) < 1e-12
    assert relative_error(finite_difference_hessian(losses, params), truth) < 1e-6


def test_torch_func_hessian_is_wrong_through_affine_layer_norm(problem):
    losses, _, params = problem
    truth = reference.double_backward_hessian(losses, params)
    theirs = by_torch(losses, params)
    assert relative_error(theirs, truth) > 1e-3, MENDED
    assert relative_error(theirs.mT, theirs) > 1e-3, MENDED  # not even symmetric


def test_torch_func_hessian_is_right_where_layer_norm_is_written_out(problem):
    """So the fault is LayerNorm's, and not the order of the derivatives."""
    _, by_hand, params = problem
    assert relative_error(by_torch(by_hand, params), reference.double_backward_hessian(by_hand, params)) < 1e-12


def test_the_wrong_rows_are_those_of_the_gain(problem):
    """What is lost is the second-order term of the weight's gradient; every other pair of parameters is right."""
    losses, _, params = problem
    error = (by_torch(losses, params) - reference.double_backward_hessian(losses, params)).abs().amax(0)
    sizes = [value.numel() for value in params.values()]
    blocks = {
        (a, b): float(block.max())
        for a, rows in zip(params, error.split(sizes, 0), strict=True)
        for b, block in zip(params, rows.split(sizes, 1), strict=True)
    }
    assert {a for (a, _), worst in blocks.items() if worst > 1e-10} == {"1.weight"}, MENDED


def test_layer_norm_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    S, gamma, beta = (torch.randn(*n, generator=generator, dtype=torch.float64) for n in ((2, 3, 5), (5,), (5,)))
    for eps in (1e-5, 0.3):
        want = nn.functional.layer_norm(S, (5,), gamma, beta, eps)
        torch.testing.assert_close(reference.layer_norm(S, gamma, beta, eps), want, rtol=0, atol=1e-13)
