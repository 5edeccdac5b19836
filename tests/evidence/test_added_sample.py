"""The slope in log k, against refits with one more sample, and on digits against measured doublings."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torch import nn

from stillscape._errors import InputError
from stillscape.evidence import SoftmaxHead, added_sample, softmax_gradients, softmax_hessian, takeuchi
from stillscape.evidence.added_sample import solved_residuals
from stillscape.training import Recipe, fit
from tests.evidence.problems import drawn, fitted, losses


@pytest.mark.parametrize("penalty", [2.0, 0.2])
def test_slope_is_that_of_refits(penalty):
    (x, y), (hx, hy) = drawn(40, 5), drawn(30, 6)
    w = fitted(x, y, 3, penalty)
    changes = np.empty((30, 30))
    for i in range(30):
        more = fitted(np.concatenate([x, hx[[i]]]), np.concatenate([y, hy[[i]]]), 3, penalty)
        changes[i] = losses(more, hx, hy) - losses(w, hx, hy)
    truth = -40 * (changes.sum() - np.trace(changes)) / (30 * 29)
    found = added_sample(SoftmaxHead(x, y, w, penalty), hx, hy)
    # Only K is taken to stay: an error of relative order 1/k in each change.
    assert abs(found.slope - truth) < 0.05 * 40 * np.abs(changes).mean()
    assert abs(found.slope - truth) < 0.2 * found.stderr


def test_it_is_takeuchis_gain_where_k_is_large():
    slopes, forecasts = [], []
    for seed in range(30):
        (x, y), (hx, hy) = drawn(400, 100 + seed, width=2), drawn(300, 200 + seed, width=2)
        w = fitted(x, y, 3, penalty=1e-6)
        slopes.append(added_sample(SoftmaxHead(x, y, w, 1e-6), hx, hy).low)
        forecasts.append(takeuchi(softmax_hessian(hx, w), softmax_gradients(hx, hy, w), 400, damping=1e-6 / 400).gain)
    assert np.mean(forecasts) == pytest.approx(4 / (4 * 400), rel=0.1)  # (C - 1) p parameters, well specified
    assert abs(np.mean(slopes) - np.mean(forecasts)) < 3 * np.std(slopes) / np.sqrt(len(slopes))


def test_residuals_solve_their_equation():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(20, 4, 4)) * np.geomspace(0.1, 30, 20)[:, None, None]
    z, y, a = 5 * rng.normal(size=(20, 4)), rng.integers(0, 4, 20), root @ root.transpose(0, 2, 1)
    r = solved_residuals(z, y, a)
    moved = z - np.einsum("icd,id->ic", a, r)
    p = np.exp(moved - moved.max(1, keepdims=True))
    np.testing.assert_allclose(r, p / p.sum(1, keepdims=True) - np.eye(4)[y], atol=1e-7)


def test_standard_error_is_the_scatter_over_held_out_sets():
    x, y = drawn(40, 5)
    head = SoftmaxHead(x, y, fitted(x, y, 3, 1.0), 1.0)
    found = [added_sample(head, *drawn(60, 300 + seed)) for seed in range(200)]
    scatter = np.std([one.slope for one in found])
    assert np.mean([one.stderr for one in found]) == pytest.approx(scatter, rel=0.15)


def test_three_samples_are_needed():
    x, y = drawn(10, 5)
    with pytest.raises(InputError, match="features holds 2 samples"):
        added_sample(SoftmaxHead(x, y, np.zeros((3, 4)), 1.0), x[:2], y[:2])


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.1, 1.0])
def test_digits_doublings_lie_in_the_band(penalty):
    """True gains on raw digits lie within what the slope allows, from k = 40, far below the 650 parameters, on."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    sizes, repeats = [40, 160, 640], 4
    gains, found = np.zeros((repeats, 3)), np.zeros((repeats, 3))
    for repeat in range(repeats):
        order = np.random.default_rng([repeat, 5]).permutation(len(x))
        held, pool = order[:500], order[500:]
        inputs, labels = np.concatenate([x[held], np.ones((500, 1))], axis=1), y[held]
        for place, k in enumerate(sizes):
            rows = [pool[:k], pool[: 2 * k]]
            weights = [_head(x, y, chosen, penalty) for chosen in rows]
            gains[repeat, place] = (losses(weights[0], inputs, labels) - losses(weights[1], inputs, labels)).mean()
            head = SoftmaxHead(np.concatenate([x[rows[0]], np.ones((k, 1))], axis=1), y[rows[0]], weights[0], penalty)
            found[repeat, place] = added_sample(head, inputs, labels).slope
    slope, true = found.mean(0), gains.mean(0)
    error = np.hypot(found.std(0), gains.std(0)) / np.sqrt(repeats - 1)
    assert np.all(true > 0.5 * slope - 1.5 * error)
    assert np.all(true < np.log(2) * slope + 1.5 * error)


def _head(x, y, rows, penalty):
    layer = nn.Linear(x.shape[1], 10)
    assert fit(layer, x, y, rows, Recipe(l2=penalty), seed=0).status == "ok"
    weights = np.concatenate([layer.weight.detach().numpy(), layer.bias.detach().numpy()[:, None]], axis=1)
    return weights.astype(np.float64)
