import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from stillscape.training import Recipe, fit, optimum, score
from tests.training.problems import problem


def objective_gradient(weight, bias, x, y, penalty):
    """By autograd, in float64."""
    w = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
    logits = torch.from_numpy(x).double() @ w.T + b
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(y))
    loss = loss + penalty / (2 * len(x)) * (w.square().sum() + b.square().sum())
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, (w, b))]).numpy()


@pytest.mark.parametrize(("n", "d", "classes", "l2"), [(200, 8, 3, 1.0), (30, 60, 4, 1.0), (50, 5, 2, 1e-3)])
def test_gradient_vanishes(n, d, classes, l2):
    x, y = problem(n, d, classes)
    head = nn.Linear(d, classes).double()
    outcome = fit(head, x, y, np.arange(n), Recipe(l2=l2), seed=0)
    assert (outcome.status, outcome.stop) == ("ok", "gradient tolerance")
    gradient = objective_gradient(head.weight.detach().numpy(), head.bias.detach().numpy(), x, y, l2)
    assert np.linalg.norm(gradient) < 1e-7
    assert outcome.penalized_gradient_norm == pytest.approx(np.linalg.norm(gradient), abs=1e-12)
    # Without the penalty's pull, what remains of the gradient is that pull.
    pull = l2 / n * math.hypot(head.weight.norm().item(), head.bias.norm().item())
    assert outcome.gradient_norm == pytest.approx(pull, rel=1e-6)


def test_against_scikit_learn():
    x, y = problem(150, 6, 4)
    head = nn.Linear(6, 4)
    fit(head, x, y, np.arange(150), Recipe(l2=2.0), seed=0)
    # scikit-learn minimizes sum CE + ||W||^2 / (2 C) and leaves the intercept free; a column of ones penalizes it.
    ones = np.concatenate([x, np.ones((150, 1), np.float32)], axis=1).astype(np.float64)
    peer = LogisticRegression(C=1 / 2.0, fit_intercept=False, tol=1e-10, max_iter=5000).fit(ones, y)
    np.testing.assert_allclose(head.weight.detach(), peer.coef_[:, :6], atol=1e-5)
    np.testing.assert_allclose(head.bias.detach(), peer.coef_[:, 6], atol=1e-5)


def test_no_start_and_no_seed_has_a_part():
    x, y = problem(60, 6, 3)
    heads = [nn.Linear(6, 3) for _ in range(2)]
    for seed, head in enumerate(heads):
        fit(head, x, y, np.arange(60), Recipe(), seed=seed)
    assert torch.equal(heads[0].weight, heads[1].weight)


def test_separable_data_and_a_missing_class_stay_finite():
    x = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], dtype=np.float32)
    y = np.array([0, 1, 0])
    head = nn.Linear(2, 4)
    outcome = fit(head, x, y, np.arange(3), Recipe(l2=1.0), seed=0)
    assert outcome.status == "ok"
    assert torch.isfinite(head.weight).all()
    scores = score(head, x, y, np.arange(3))
    assert (scores.probabilities[:, 2:] > 0).all()
    assert (scores.probabilities.argmax(1) == y).all()


def test_one_image_by_hand():
    # One image x = 1, two classes, no bias: by symmetry w = (t, -t), and the gradient for w_0 is
    # sigma(2 t) - 1 + l2 t = 0.
    head = nn.Linear(1, 2, bias=False).double()
    fit(head, np.ones((1, 1), np.float32), np.array([0]), np.array([0]), Recipe(l2=0.5), seed=0)
    t = head.weight[0].item()
    assert head.weight[1].item() == pytest.approx(-t, abs=1e-9)
    assert 1 / (1 + math.exp(-2 * t)) - 1 + 0.5 * t == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e5])
def test_badly_scaled_features(scale):
    x, y = problem(100, 20, 5)
    x = x * np.geomspace(1e-3, 1e2, 20).astype(np.float32) * np.float32(scale)
    outcome = fit(nn.Linear(20, 5), x, y, np.arange(100), Recipe(l2=1.0), seed=0)
    assert outcome.status == "ok"
    assert outcome.seconds < 10


def test_the_polish_is_needed_and_works(monkeypatch):
    x, y = problem(100, 10, 3)
    monkeypatch.setattr(optimum, "_ITERATIONS", 4)
    assert fit(nn.Linear(10, 3), x, y, np.arange(100), Recipe(), seed=0).status == "ok"
    monkeypatch.setattr(optimum, "_POLISHING_STEPS", 0)
    outcome = fit(nn.Linear(10, 3), x, y, np.arange(100), Recipe(), seed=0)
    assert outcome.status == "failed"
    assert "above the tolerance" in outcome.reason


def test_nan_is_a_status():
    x, y = problem(30, 4, 2)
    x[3, 1] = np.nan
    outcome = fit(nn.Linear(4, 2), x, y, np.arange(30), Recipe(), seed=0)
    assert outcome.status == "failed"
    assert "not finite" in outcome.reason


def test_trace_falls():
    x, y = problem(100, 10, 3)
    trace = fit(nn.Linear(10, 3), x, y, np.arange(100), Recipe(), seed=0).trace
    losses = [point["loss"] for point in trace]
    assert losses == sorted(losses, reverse=True)
    assert len(trace) > 3


def test_scores_are_those_of_the_stored_weights():
    x, y = problem(40, 5, 3)
    head = nn.Linear(5, 3)
    rows = np.arange(3, 33)
    outcome = fit(head, x, y, rows, Recipe(), seed=0)
    again = score(head, x, y, rows)
    np.testing.assert_allclose(outcome.scores.losses, again.losses, rtol=1e-6)
    np.testing.assert_allclose(outcome.scores.probabilities, again.probabilities, rtol=1e-5)


def test_who_watches_sees_the_way_to_the_optimum_and_changes_nothing():
    """It begins at zero, the objective falls from step to step, and the optimum is the one that is found unwatched."""
    x, y = problem(80, 6, 3)
    heads, seen = [nn.Linear(6, 3) for _ in range(2)], []

    def watch(step):
        weight, bias = (p.detach().numpy().copy() for p in heads[0].parameters())
        value = nn.functional.cross_entropy(torch.from_numpy(x @ weight.T + bias), torch.from_numpy(y))
        seen.append((step, weight, float(value) + 1 / (2 * 80) * ((weight**2).sum() + (bias**2).sum())))

    outcome = fit(heads[0], x, y, np.arange(80), Recipe(l2=1.0), seed=0, watch=watch)
    fit(heads[1], x, y, np.arange(80), Recipe(l2=1.0), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(heads[0].parameters(), heads[1].parameters(), strict=True))
    assert [step for step, *_ in seen] == list(range(outcome.steps + 1))
    assert not seen[0][1].any()
    values = [value for *_, value in seen]
    assert values[0] == pytest.approx(np.log(3))
    assert (np.diff(values) < 1e-6).all()
    np.testing.assert_allclose(seen[-1][1], heads[1].weight.detach(), atol=1e-3)
