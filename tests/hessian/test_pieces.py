"""LayerNorm and feed-forward by themselves, against automatic differentiation and finite differences."""

import pytest
import torch
from torch.func import grad, jacfwd, vmap

from stillscape import hessian
from stillscape.hessian import reference
from tests.hessian.oracles import finite_difference_hessian, relative_error

ACTIVATIONS = ("relu", "gelu", "linear")


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows_of(row_function, rows, adjoint):
    """Return the Jacobian of each row, and the Hessian of the weighted outputs of each."""
    flat, weights = rows.flatten(0, 1), adjoint.flatten(0, 1)
    jacobian = vmap(jacfwd(row_function))(flat).unflatten(0, rows.shape[:2])
    bend = vmap(jacfwd(grad(lambda s, w: (w * row_function(s)).sum())))(flat, weights)
    return jacobian, bend.unflatten(0, rows.shape[:2])


@pytest.mark.parametrize("eps", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("m", [2, 3, 6])
def test_layer_norm_derivatives(m, eps):
    S, gamma, beta, adjoint = normal(m, 2, 3, m), normal(1, m), normal(2, m), normal(3, 2, 3, m)
    at = hessian.layer_norm_derivatives(S, gamma, beta, adjoint=adjoint, eps=eps)
    jacobian, bend = rows_of(lambda s: reference.layer_norm(s, gamma, beta, eps), S, adjoint)
    torch.testing.assert_close(at.value, reference.layer_norm(S, gamma, beta, eps))
    # Two features are +-1 but for eps: what is left of the derivative is a difference of nearly equal numbers.
    tolerance = 1e-12 if m > 2 else 1e-16 / eps + 1e-12
    assert float((at.jacobian - jacobian).norm() / (gamma.norm() * S.std() ** -1)) < tolerance
    assert float((at.hessian - bend).norm() / (adjoint.norm() * S.std() ** -2)) < 10 * tolerance


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward_derivatives(activation):
    Y, adjoint = normal(0, 2, 3, 4), normal(1, 2, 3, 2)
    W_1, b_1, W_2, b_2 = normal(2, 4, 5), normal(3, 5), normal(4, 5, 2), normal(5, 2)
    at = hessian.feed_forward_derivatives(Y, W_1, b_1, W_2, b_2, adjoint=adjoint, activation=activation)
    jacobian, bend = rows_of(lambda y: reference.feed_forward(y, W_1, b_1, W_2, b_2, activation), Y, adjoint)
    torch.testing.assert_close(at.value, reference.feed_forward(Y, W_1, b_1, W_2, b_2, activation))
    torch.testing.assert_close(at.jacobian, jacobian, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(at.hessian, bend, rtol=1e-12, atol=1e-13)
    assert (activation == "gelu") == bool(at.hessian.abs().max() > 0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["mse", "mean", "token"])
def test_parameters_of_the_feed_forward_layer(activation, kind):
    Y = normal(0, 2, 3, 4)
    params = {"W_1": normal(2, 4, 5), "b_1": normal(3, 5), "W_2": normal(4, 5, 2), "b_2": normal(5, 2)}
    loss, at_output = loss_and_reference(kind, features=2)

    def losses(p):
        return at_output(reference.feed_forward(Y, **p, activation=activation))

    h = hessian.feed_forward(Y, **params, loss=loss, activation=activation)
    want = reference.hessian(losses, params)
    assert relative_error(h.dense(), want) < 1e-12
    assert relative_error(h.dense(), finite_difference_hessian(losses, params)) < 1e-6
    torch.testing.assert_close(h.mean(), want.mean(0))


@pytest.mark.parametrize("kind", ["mse", "mean", "token"])
def test_parameters_of_layer_norm_curve_only_through_the_loss(kind):
    S, params = normal(0, 2, 3, 4), {"gamma": normal(1, 4), "beta": normal(2, 4)}
    loss, at_output = loss_and_reference(kind, features=4)
    h = hessian.layer_norm(S, **params, loss=loss, eps=1e-3)
    want = reference.hessian(lambda p: at_output(reference.layer_norm(S, p["gamma"], p["beta"], 1e-3)), params)
    assert relative_error(h.dense(), want) < 1e-12
    assert float(h.dense("functional").abs().max()) == 0.0


def loss_and_reference(kind, features):
    """Return a loss as the closed form takes it, and the reference's of an output."""
    if kind == "mse":
        target = normal(9, 2, 3, features)
        return hessian.MSE(target), lambda F: reference.mse(F, target)
    labels = torch.tensor([[0, 1, 2], [2, 1, 0]]) if kind == "token" else torch.tensor([0, 2])
    head = {"labels": labels, "W_h": normal(7, features, 3), "b_h": normal(8, 3)}
    return hessian.CrossEntropy(**head, pool=kind), lambda F: reference.cross_entropy(F, **head, pool=kind)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("S", torch.ones(3)), ("gamma", torch.ones(2)), ("adjoint", torch.ones(1, 1, 2)), ("eps", 0.0), ("eps", -1.0)],
)
def test_bad_input_of_layer_norm_is_named(argument, value):
    given = {"S": torch.ones(1, 1, 3), "gamma": torch.ones(3), "beta": torch.ones(3), "adjoint": torch.ones(1, 1, 3)}
    with pytest.raises(ValueError, match=argument):
        hessian.layer_norm_derivatives(**given | {argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [("W_1", torch.ones(2, 4)), ("W_2", torch.ones(3, 2)), ("b_2", torch.ones(3)), ("activation", "tanh")],
)
def test_bad_input_of_feed_forward_is_named(argument, value):
    given = {"Y": torch.ones(1, 1, 3), "W_1": torch.ones(3, 4), "b_1": torch.ones(4)}
    given |= {"W_2": torch.ones(4, 2), "b_2": torch.ones(2), "adjoint": torch.ones(1, 1, 2)}
    with pytest.raises(ValueError, match=argument):
        hessian.feed_forward_derivatives(**given | {argument: value})
