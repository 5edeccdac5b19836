"""The sharp constants: never exceeded in draws, and attained, by hand and by gradient ascent."""

import math

import pytest
import torch
from torch.func import hessian, jacfwd, vmap

from stillscape._errors import InputError
from stillscape.bounds import constants

SLACK = 1 + 1e-9


def generator(seed):
    return torch.Generator().manual_seed(seed)


def probabilities(n, tokens, gen):
    """Rows at all degrees of concentration."""
    scale = 10 ** (3 * torch.rand(n, 1, generator=gen, dtype=torch.float64) - 2)
    return (scale * torch.randn(n, tokens, generator=gen, dtype=torch.float64)).softmax(-1)


def units(n, size, gen):
    return torch.nn.functional.normalize(torch.randn(n, size, generator=gen, dtype=torch.float64), dim=-1)


def third_cumulant(a, u, v, w):
    """D[u, v, w] as the second derivative of softmax by automatic differentiation, not by its formula."""
    scores = a.clamp_min(1e-300).log()

    def along(t, u, v, w):
        second = jacfwd(jacfwd(lambda x: (x.softmax(-1) * u).sum()))(t)
        return v @ second @ w

    return vmap(along)(scores, u, v, w)


@pytest.mark.parametrize("tokens", [2, 3, 7])
def test_softmax_jacobian_is_never_exceeded(tokens):
    a = probabilities(1000, tokens, generator(tokens))
    jacobian = torch.diag_embed(a) - a[..., None] * a[..., None, :]
    norms = torch.linalg.matrix_norm(jacobian, ord=2)
    bound = constants.softmax_jacobian_norm(a)
    assert torch.all(norms <= bound * SLACK + 1e-15)
    assert torch.all(bound <= constants.SOFTMAX_JACOBIAN)


def test_softmax_jacobian_is_attained():
    a = torch.zeros(5, dtype=torch.float64)
    a[1] = a[3] = 0.5
    norm = torch.linalg.matrix_norm(torch.diag(a) - a[:, None] * a, ord=2)
    assert float(norm) == pytest.approx(constants.SOFTMAX_JACOBIAN, rel=1e-15)
    assert float(constants.softmax_jacobian_norm(a)) == constants.SOFTMAX_JACOBIAN
    # For two tokens the bound of the row is the norm itself, also where 1 - a has lost all its digits.
    for tail in (0.3, 1e-9, 1e-20):
        row = torch.tensor([1.0 - tail, tail], dtype=torch.float64)
        assert float(constants.softmax_jacobian_norm(row)) == pytest.approx(2 * tail * (1 - tail), rel=1e-14)


@pytest.mark.parametrize("tokens", [2, 3, 6])
def test_second_derivative_of_softmax_is_never_exceeded(tokens):
    gen = generator(tokens)
    a = probabilities(1000, tokens, gen)
    u, v, w = (units(1000, tokens, gen) for _ in range(3))
    values = third_cumulant(a, u, v, w).abs()
    assert float(values.max()) <= constants.SOFTMAX_SECOND
    diagonal = third_cumulant(a, u, u, u).abs()  # where a symmetric tensor has its norm
    assert constants.SOFTMAX_SECOND / 2 < float(diagonal.max()) <= constants.SOFTMAX_SECOND


def test_second_derivative_of_softmax_is_attained():
    p = (1 - 1 / math.sqrt(3)) / 2
    a = torch.tensor([[p, 1 - p]], dtype=torch.float64)
    v = torch.tensor([[1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    assert float(third_cumulant(a, v, v, v)) == pytest.approx(math.sqrt(6) / 9, rel=1e-14)
    assert pytest.approx(math.sqrt(6) / 9, rel=1e-15) == constants.SOFTMAX_SECOND


@pytest.mark.parametrize(("tokens", "precision"), [(2, 1e-6), (4, 1e-3)])  # the other tokens leave slowly
def test_ascent_on_the_second_derivative_ends_at_the_constant(tokens, precision):
    gen = generator(3)
    scores = torch.randn(24, tokens, generator=gen, dtype=torch.float64, requires_grad=True)
    directions = torch.randn(3, 24, tokens, generator=gen, dtype=torch.float64, requires_grad=True)
    climber = torch.optim.Adam([scores, directions], lr=0.3)
    slower = torch.optim.lr_scheduler.ExponentialLR(climber, 0.99)
    for _ in range(900):
        a = scores.softmax(-1)
        u, v, w = (d - (a * d).sum(-1, keepdim=True) for d in torch.nn.functional.normalize(directions, dim=-1))
        value = (a * u * v * w).sum(-1)
        assert float(value.detach().max()) <= constants.SOFTMAX_SECOND * SLACK
        climber.zero_grad()
        (-value.sum()).backward()
        climber.step()
        slower.step()
    assert float(value.detach().max()) == pytest.approx(constants.SOFTMAX_SECOND, rel=precision)


def normalized(s, eps):
    centered = s - s.mean()
    return centered / (centered.square().mean() + eps).sqrt()


@pytest.mark.parametrize("features", [2, 3, 6])
def test_layer_norm_is_never_exceeded(features):
    gen = generator(features)
    s = torch.randn(400, features, generator=gen, dtype=torch.float64)
    s = s * 10 ** (4 * torch.rand(400, 1, generator=gen, dtype=torch.float64) - 3)
    eps = 0.1
    tau = (s.var(-1, correction=0) + eps).sqrt()
    first, second = constants.layer_norm_norms(tau, features)
    slope = vmap(jacfwd(lambda x: normalized(x, eps)))(s)
    assert torch.all(torch.linalg.matrix_norm(slope, ord=2) <= first * SLACK)
    curvature = vmap(jacfwd(jacfwd(lambda x: normalized(x, eps))))(s)
    u, v, w = (units(400, features, gen) for _ in range(3))
    for directions in ((u, v, w), (u, u, u)):
        values = torch.einsum("nabc,na,nb,nc->n", curvature, *directions).abs()
        assert torch.all(values <= second * SLACK)


@pytest.mark.parametrize("features", [2, 3, 8])
def test_second_derivative_of_layer_norm_is_attained(features):
    """At eps = 2 var, along s itself."""
    s = torch.randn(features, generator=generator(0), dtype=torch.float64)
    eps = 2 * float(s.var(correction=0))
    v = torch.nn.functional.normalize(s - s.mean(), dim=0)
    value = hessian(lambda x: (normalized(x, eps) * v).sum())(s)
    _, bound = constants.layer_norm_norms((s.var(correction=0) + eps).sqrt(), features)
    assert abs(float(v @ value @ v)) == pytest.approx(float(bound), rel=1e-12)


def test_first_derivative_of_layer_norm_is_attained():
    s = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    slope = jacfwd(lambda x: normalized(x, 1e-3))(s)
    first, _ = constants.layer_norm_norms((s.var(correction=0) + 1e-3).sqrt(), 3)
    assert float(torch.linalg.matrix_norm(slope, ord=2)) == pytest.approx(float(first), rel=1e-12)


def test_gelu_on_a_grid():
    u = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    slope = vmap(torch.func.grad(torch.nn.functional.gelu))(u).abs()
    curvature = vmap(torch.func.grad(torch.func.grad(torch.nn.functional.gelu)))(u).abs()
    largest, bend = constants.activation_norms("gelu")
    assert largest * (1 - 1e-8) <= float(slope.max()) <= largest
    assert bend * (1 - 1e-8) <= float(curvature.max()) <= bend * (1 + 1e-15)
    assert torch.all(torch.nn.functional.gelu(u).abs() <= u.abs())  # what the a-priori bound takes for the value


def test_activations_without_curvature():
    assert constants.activation_norms("relu") == constants.activation_norms("linear") == (1.0, 0.0)


def test_norm_of_attention():
    gen = generator(1)
    for tokens in (1, 2, 5, 9):
        A = probabilities(200 * tokens, tokens, gen).unflatten(0, (200, tokens))
        norms = torch.linalg.matrix_norm(A, ord=2)
        bound = constants.attention_norm(A)
        assert torch.all(norms <= bound * SLACK)
        assert torch.all(bound <= math.sqrt(tokens) * SLACK)
    assert float(norms.max()) > 1  # the printed bound
    one = torch.zeros(6, 6, dtype=torch.float64)
    one[:, 2] = 1.0
    assert float(constants.attention_norm(one)) == pytest.approx(math.sqrt(6), rel=1e-15)


def test_residual_of_probabilities():
    assert math.dist((1.0, 0.0), (0.0, 1.0)) == pytest.approx(constants.PROBABILITY_RESIDUAL, rel=1e-15)


@pytest.mark.parametrize(
    ("name", "wrong", "test"),
    [
        ("SOFTMAX_JACOBIAN", 0.4, test_softmax_jacobian_is_attained),
        ("SOFTMAX_SECOND", 0.2, test_second_derivative_of_softmax_is_attained),
        ("LAYER_NORM_SECOND", 1.1, lambda: test_second_derivative_of_layer_norm_is_attained(3)),
        ("LAYER_NORM_SECOND", 1.2, lambda: test_second_derivative_of_layer_norm_is_attained(3)),
        ("GELU_SLOPE", 1.12, test_gelu_on_a_grid),
        ("GELU_CURVATURE", 0.79, test_gelu_on_a_grid),
    ],
)
def test_a_wrong_constant_is_found(name, wrong, test, monkeypatch):
    monkeypatch.setattr(constants, name, wrong)
    with pytest.raises(AssertionError):
        test()


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="features is 0"):
        constants.layer_norm_norms(torch.ones(()), 0)
    with pytest.raises(InputError, match="activation is 'tanh'"):
        constants.activation_norms("tanh")
