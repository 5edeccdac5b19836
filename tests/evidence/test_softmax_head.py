"""The head's exact derivatives, against automatic differentiation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillscape._errors import InputError
from stillscape.evidence import SoftmaxHead, softmax_gradients, softmax_hessian
from tests.evidence.problems import drawn, fitted


def test_derivatives_are_those_of_autodiff():
    x, y = drawn(7, 0)
    w = np.random.default_rng(1).normal(size=(3, 4))

    def each(flat):
        return F.cross_entropy(torch.from_numpy(x) @ flat.reshape(3, 4).T, torch.from_numpy(y), reduction="none")

    flat = torch.from_numpy(w).reshape(-1)
    gradients = torch.func.jacrev(each)(flat).numpy()
    hessian = torch.func.hessian(lambda v: each(v).mean())(flat).numpy()
    np.testing.assert_allclose(softmax_gradients(x, y, w), gradients, rtol=0, atol=1e-13)
    np.testing.assert_allclose(softmax_hessian(x, w), hessian, rtol=0, atol=1e-13)


def test_inverse_is_that_of_the_whole_objective():
    x, y = drawn(30, 2)
    w = fitted(x, y, 3, penalty=0.7)
    total = 30 * softmax_hessian(x, w) + 0.7 * np.eye(12)
    inverse = SoftmaxHead(x, y, w, 0.7).inverse.reshape(12, 12)
    np.testing.assert_allclose(inverse @ total, np.eye(12), atol=1e-10)


def test_a_singular_objective_is_refused():
    x, y = drawn(30, 2)
    with pytest.raises(InputError, match=r"penalty is 0\.0"):
        _ = SoftmaxHead(x, y, np.zeros((3, 4)), 0.0).inverse


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": [0, 3]}, "labels run from 0 to 3"),
        ({"labels": [0.0, 1.0]}, "labels is float64"),
        ({"features": [[1.0], [2.0]]}, "features has 1 columns"),
        ({"weights": [[1.0, np.nan]] * 3}, "weights has shape"),
        ({"penalty": -1.0}, r"penalty is -1\.0"),
    ],
)
def test_what_does_not_fit_is_named(changes, named):
    given = {"features": np.ones((2, 2)), "labels": [0, 1], "weights": np.ones((3, 2)), "penalty": 1.0}
    with pytest.raises(InputError, match=named):
        SoftmaxHead(**{**given, **changes})
