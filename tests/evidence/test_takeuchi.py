"""Takeuchi's forecast, against known truth, against fits drawn anew, and by products against itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stillscape._errors import InputError
from stillscape.curvature import PerSampleHessian
from stillscape.evidence import (
    Takeuchi,
    self_consistent_damping,
    softmax_gradients,
    softmax_hessian,
    takeuchi,
    takeuchi_of_products,
    takeuchi_status,
)
from tests.curvature.networks import encoder
from tests.evidence.problems import drawn, fitted, losses


def test_excess_is_that_of_fits_drawn_anew():
    hx, hy = drawn(20_000, 1, width=3, scale=0.7)
    best = fitted(hx, hy, 3, 1e-3)
    least = losses(best, hx, hy).mean()
    excess, gap, found = [], [], []
    for seed in range(200):
        x, y = drawn(500, 1000 + seed, width=3, scale=0.7)
        w = fitted(x, y, 3, 1e-3)
        excess.append(losses(w, hx, hy).mean() - least)
        # L_test(w*) - L_k(w*), which is 0 in the mean and only adds noise, is left out of the gap.
        gap.append(excess[-1] + losses(best, x, y).mean() - losses(w, x, y).mean())
        few = slice(0, 2000)
        found.append(takeuchi(softmax_hessian(hx[few], w), softmax_gradients(hx[few], hy[few], w), 500, damping=2e-6))
    assert np.mean([one.excess for one in found]) == pytest.approx(np.mean(excess), rel=0.12)
    assert np.mean([one.optimism for one in found]) == pytest.approx(np.mean(gap), rel=0.1)
    assert np.mean(excess) == pytest.approx(6 / 1000, rel=0.15)  # (C - 1) p = 6, over 2k


def test_least_squares_forecast_holds_at_any_k():
    # With held-out residuals the forecast of well-specified least squares is P s^2 / (2 (k - P)), not P s^2 / (2 k).
    rng = np.random.default_rng(0)
    p, k, excess, found = 10, 30, [], []
    for _ in range(300):
        x, held = rng.normal(size=(k, p)), rng.normal(size=(200, p))
        w = np.linalg.lstsq(x, rng.normal(size=k), rcond=None)[0]
        gradients = (held @ w - rng.normal(size=200))[:, None] * held
        excess.append(0.5 * w @ w)
        found.append(takeuchi(np.eye(p), gradients, k, damping=0.0).excess)
    assert np.mean(found) == pytest.approx(np.mean(excess), rel=0.1)
    assert np.mean(found) > 1.3 * p / (2 * k)


def test_dimension_and_pull_are_their_formulas():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(6, 4))
    h, w = root.T @ root / 6, rng.normal(size=4)
    found = takeuchi(h, rng.normal(size=(5, 4)), 9, damping=0.3, weights=w)
    inverse = np.linalg.inv(h + 0.3 * np.eye(4))
    assert found.effective_dimension == pytest.approx(np.trace(h @ inverse))
    assert found.pull == pytest.approx(0.5 * 0.09 * w @ inverse @ w)


def test_status_asks_for_agreement_little_pull_and_little_noise():
    def status(excess=0.5, stderr=0.0, pull=0.0, gap=1.0, gap_stderr=0.0):
        return takeuchi_status(Takeuchi(excess, stderr, pull, 1.0, 10, 0.0, 9), gap, gap_stderr)

    assert status()[0] == status(gap=1.45)[0] == status(gap=0.7)[0] == "consistent"
    for changes in ({"gap": 1.55}, {"gap": 0.6}, {"gap": -1.0}, {"gap": 0.0}, {"stderr": 0.2}, {"gap_stderr": 0.4}):
        assert status(**changes)[0] == "cannot_tell"
    found, reason = status(pull=0.2)
    assert found == "cannot_tell"
    assert "penalty" in reason


def test_status_believes_what_proves_true():
    # 80 free parameters: at k = 1,000 the forecast is right to a fifth; at 100 the classes come apart.
    hx, hy = drawn(5000, 1, width=40, scale=0.15)
    for k, expected in ((1000, "consistent"), (100, "cannot_tell")):
        (x, y), penalty = drawn(2 * k, 10, width=40, scale=0.15), 1e-2
        w = fitted(x[:k], y[:k], 3, penalty)
        found = takeuchi(
            softmax_hessian(hx, w), softmax_gradients(hx, hy, w), k, damping=penalty / k, weights=w.ravel()
        )
        held, own = losses(w, hx, hy), losses(w, x[:k], y[:k])
        error = np.hypot(held.std() / 5000**0.5, own.std() / k**0.5)
        assert takeuchi_status(found, held.mean() - own.mean(), error)[0] == expected
        if expected == "consistent":
            gain = held.mean() - losses(fitted(x, y, 3, penalty), hx, hy).mean()
            assert 0.7 < found.gain / gain < 1.2


def operator(n=8):
    model, x, y = encoder(n)
    return PerSampleHessian(model, F.cross_entropy, x, y, part="outer", params=["head.*", "norm.*"], check=False)


def test_products_give_what_matrices_give():
    outer = operator()
    dense = outer.mean_matmat(torch.eye(outer.num_parameters, dtype=outer.dtype)).numpy()
    exact = takeuchi(dense, outer.gradients().numpy(), 40, damping=0.02)
    found = takeuchi_of_products(outer, 40, damping=0.02, groups=8, num_vectors=400, steps=60)
    assert found.excess == pytest.approx(exact.excess, rel=1e-6)  # each group is one sample: no sign matters
    assert found.stderr == pytest.approx(exact.stderr, rel=1e-6)
    assert found.effective_dimension == pytest.approx(exact.effective_dimension, rel=0.05)


def test_groups_mix_their_samples_without_bias():
    outer = operator()
    exact = takeuchi_of_products(outer, 40, damping=0.02, groups=8, steps=60).excess
    drawn_anew = [takeuchi_of_products(outer, 40, damping=0.02, groups=2, steps=60, seed=s).excess for s in range(60)]
    assert abs(np.mean(drawn_anew) - exact) < 3 * np.std(drawn_anew) / np.sqrt(60)


def test_damping_is_found_from_the_way_that_training_went():
    outer = operator()
    start = outer.point() - 0.3
    found = takeuchi_of_products(outer, 40, start=start, groups=2, num_vectors=3, steps=60)
    assert found.damping == pytest.approx(found.effective_dimension / (40 * 0.09 * outer.num_parameters), rel=1e-4)
    dense = outer.mean_matmat(torch.eye(outer.num_parameters, dtype=outer.dtype)).numpy()
    exact = takeuchi(dense, outer.gradients().numpy(), 40, damping=found.damping, weights=(0.3 + 0 * start).numpy())
    assert found.pull == pytest.approx(exact.pull, rel=1e-5)


def test_damping_is_the_truth_of_a_bayesian_linear_model():
    # Weights from N(0, t^2) and unit noise: the damping per sample is 1 / (k t^2).
    rng = np.random.default_rng(4)
    k, p, spread, found = 200, 40, 0.3, []
    for _ in range(20):
        x = rng.normal(size=(k, p))
        y = x @ (spread * rng.normal(size=p)) + rng.normal(size=k)
        values = np.linalg.eigvalsh(x.T @ x / k)
        w = np.linalg.solve(x.T @ x + np.eye(p) / spread**2, x.T @ y)
        found.append(
            self_consistent_damping(
                lambda value, values=values: float((values / (values + value)).sum()), k, float(np.linalg.norm(w))
            )
        )
    assert np.mean(found) == pytest.approx(1 / (k * spread**2), rel=0.1)


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match=r"hessian is \(3, 3\)"):
        takeuchi(np.eye(3), np.ones((4, 2)), 5, damping=1.0)
    with pytest.raises(InputError, match=r"damping is 0\.0"):
        takeuchi(np.zeros((2, 2)), np.ones((4, 2)), 5, damping=0.0)
    with pytest.raises(InputError, match="damping and start"):
        takeuchi_of_products(operator(), 5)
    with pytest.raises(InputError, match="groups is 9"):
        takeuchi_of_products(operator(), 5, damping=1.0, groups=9)
    with pytest.raises(InputError, match=r"distance is 0\.0"):
        self_consistent_damping(lambda value: 1.0, 5, 0.0)


def test_head_as_a_module_gives_the_same():
    x, y = drawn(12, 8)
    w = np.random.default_rng(3).normal(size=(3, 4))
    layer = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    layer.weight.data = torch.from_numpy(w)
    outer = PerSampleHessian(
        layer, F.cross_entropy, torch.from_numpy(x), torch.from_numpy(y), part="outer", check=False
    )
    exact = takeuchi(softmax_hessian(x, w), softmax_gradients(x, y, w), 50, damping=0.01)
    assert takeuchi_of_products(outer, 50, damping=0.01, groups=12, steps=20).excess == pytest.approx(exact.excess)
