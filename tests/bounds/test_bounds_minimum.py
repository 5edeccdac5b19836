"""Assumption 1 measured on logistic regression, where it fails, and on a sample made to fit; the minimizer's move."""

import math

import numpy as np
import pytest

from stillscape._errors import AssumptionError, InputError
from stillscape.bounds.minimum import check_minimum, minimum_shift, require_minimum

PENALTY = 0.01


def logistic_data(seed, count, bias=False):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 3))
    labels = (rng.random(count) < 1 / (1 + np.exp(-features @ [1.0, -0.5, 0.3]))).astype(float)
    return (np.column_stack([features, np.ones(count)]) if bias else features), labels


def sample_gradients(features, labels, w, penalty=PENALTY):
    return features * (1 / (1 + np.exp(-features @ w)) - labels)[:, None] + penalty * w


def mean_hessian(features, w, penalty=PENALTY):
    p = 1 / (1 + np.exp(-features @ w))
    return (features * (p * (1 - p))[:, None]).T @ features / len(features) + penalty * np.eye(w.size)


def trained(features, labels, start, penalty=PENALTY):
    w = start.copy()
    for _ in range(50):
        step = np.linalg.solve(
            mean_hessian(features, w, penalty), sample_gradients(features, labels, w, penalty).mean(axis=0)
        )
        w -= step
        if np.abs(step).max() < 1e-14:
            return w
    raise AssertionError("Newton did not converge")


def test_norms_by_hand():
    check = check_minimum(np.array([[1.0, 0.0], [3.0, 0.0], [-1.0, 3.0]]))
    assert check.k == 2
    assert check.mean_gradient_norm == 2.0
    assert check.next_mean_gradient_norm == pytest.approx(math.sqrt(2))
    assert check.new_gradient_norm == pytest.approx(math.sqrt(10))
    assert check.new_gradient_gap == pytest.approx(math.sqrt(18))
    assert check.gradient_spread == pytest.approx(math.sqrt(8))
    assert not check.holds


def test_recursion_of_the_gradients():
    """g_{k+1} = (k+1) grad L_{k+1} - k grad L_k: where w* minimizes L_k, the second norm is the first over k+1."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 4))
    rows[:-1] -= rows[:-1].mean(axis=0)
    check = check_minimum(rows)
    assert check.next_mean_gradient_norm == pytest.approx(check.new_gradient_norm / 9)
    assert check.new_gradient_gap == pytest.approx(check.new_gradient_norm)


def test_size_alone_does_not_make_it_hold():
    """The mean gradient at k+1 is under the tolerance, only because k is large; the new sample still pulls."""
    rows = np.zeros((2001, 1))
    rows[-1] = 1.0
    check = check_minimum(rows, tolerance=1e-3)
    assert check.next_mean_gradient_norm < 1e-3
    assert not check.holds


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [30, 300])
def test_cross_entropy_with_an_output_bias_never_satisfies_it(seed, k):
    features, labels = logistic_data(seed, k + 1, bias=True)
    w = trained(features[:k], labels[:k], np.zeros(4), penalty=0.0)
    gradients = sample_gradients(features, labels, w, penalty=0.0)
    check = check_minimum(gradients)
    assert check.mean_gradient_norm < 1e-10
    p = 1 / (1 + math.exp(-features[k] @ w))
    assert check.new_gradient_norm >= abs(p - labels[k]) > 0.01  # the entry of the bias alone
    with pytest.raises(AssumptionError, match="the new sample moves the minimum"):
        require_minimum(gradients)


@pytest.mark.parametrize("logit", [-30.0, -3.0, 0.0, 8.0, 30.0])
def test_the_bias_gradient_vanishes_at_no_finite_logit(logit):
    for label in (0.0, 1.0):
        gradients = np.zeros((6, 1))
        gradients[-1] = 1 / (1 + math.exp(-logit)) - label
        assert not check_minimum(gradients, tolerance=0.0).holds


def test_a_sample_without_pull_satisfies_it():
    """Without a bias a sample with no features has no gradient: the check can hold."""
    features, labels = logistic_data(1, 41)
    features[-1] = 0.0
    w = trained(features[:-1], labels[:-1], np.zeros(3), penalty=0.0)
    gradients = sample_gradients(features, labels, w, penalty=0.0)
    assert require_minimum(gradients) == check_minimum(gradients)
    again = trained(features, labels, np.zeros(3), penalty=0.0)
    np.testing.assert_allclose(again, w, atol=1e-12)


def test_an_unfinished_training_is_told_apart():
    rows = np.array([[0.5], [0.5], [0.0]])
    with pytest.raises(AssumptionError, match=r"at k = 2: \|grad L_k\| = 0.5 .* does not minimize L_k"):
        require_minimum(rows)


# ---- the move of the minimizer


def test_shift_is_one_newton_step():
    features, labels = logistic_data(3, 51)
    w = trained(features[:50], labels[:50], np.zeros(3))
    gradients, hessian = sample_gradients(features, labels, w), mean_hessian(features, w)
    newton = -np.linalg.inv(hessian) @ gradients.mean(axis=0)
    np.testing.assert_allclose(minimum_shift(hessian, gradients[-1], 50), newton, rtol=1e-9)


def test_shift_is_exact_for_quadratics():
    rng = np.random.default_rng(2)
    roots = rng.normal(size=(9, 4, 4))
    hessians, centers = roots @ roots.transpose(0, 2, 1), rng.normal(size=(9, 4))
    pulls = np.einsum("nij,nj->ni", hessians, centers)
    before = np.linalg.solve(hessians[:-1].sum(axis=0), pulls[:-1].sum(axis=0))
    after = np.linalg.solve(hessians.sum(axis=0), pulls.sum(axis=0))
    found = minimum_shift(hessians.mean(axis=0), hessians[-1] @ before - pulls[-1], 8)
    np.testing.assert_allclose(found, after - before, rtol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_shift_errs_in_the_second_order_of_one_over_k(seed):
    """The same samples again and again keep w*_k where it is: then only the weight 1/(k+1) of the new one changes."""
    features, labels = logistic_data(seed, 51)
    w = trained(features[:50], labels[:50], np.zeros(3))
    new_gradient = sample_gradients(features, labels, w)[-1]
    sizes, errors, shifts = (400, 800, 1600, 3200), [], []
    for k in sizes:
        rows = [*list(range(50)) * (k // 50), 50]
        retrained = trained(features[rows], labels[rows], w) - w
        errors.append(np.linalg.norm(retrained - minimum_shift(mean_hessian(features[rows], w), new_gradient, k)))
        shifts.append(np.linalg.norm(retrained))
    assert np.polyfit(np.log(sizes), np.log(shifts), 1)[0] == pytest.approx(-1, abs=0.02)
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(-2, abs=0.05)
    assert errors[-1] < 0.01 * shifts[-1]


def relative_error(seed, k):
    features, labels = logistic_data(seed, k + 1)
    w = trained(features[:k], labels[:k], np.zeros(3))
    retrained = trained(features, labels, w) - w
    found = minimum_shift(mean_hessian(features, w), sample_gradients(features, labels, w)[-1], k)
    return np.linalg.norm(found - retrained) / np.linalg.norm(retrained)


def test_shift_on_growing_data():
    """In real sequences the forecast is within a few percent of the move, and better the larger k is."""
    few, many = (np.median([relative_error(seed, k) for seed in range(20)]) for k in (50, 400))
    assert few < 0.05
    assert many < 0.01


# ---- bad input


@pytest.mark.parametrize(
    ("gradients", "match"),
    [
        (np.ones(3), r"gradients has shape \(3,\)"),
        (np.ones((1, 3)), r"gradients has shape \(1, 3\)"),
        (np.ones((3, 0)), r"gradients has shape \(3, 0\)"),
        (np.array([[1.0], [math.nan]]), "gradients holds NaN"),
    ],
)
def test_bad_gradients_are_named(gradients, match):
    with pytest.raises(InputError, match=match):
        check_minimum(gradients)
    with pytest.raises(InputError, match=match):
        require_minimum(gradients)


def test_bad_tolerances_are_named():
    with pytest.raises(InputError, match=r"tolerance is -1\.0"):
        check_minimum(np.ones((2, 1)), tolerance=-1.0)


@pytest.mark.parametrize(
    ("hessian", "gradient", "k", "match"),
    [
        (np.eye(3), np.ones(2), 1, r"hessian_mean has shape \(3, 3\); it must be \(2, 2\)"),
        (np.array([[1.0, 1.0], [0.0, 1.0]]), np.ones(2), 1, "hessian_mean is not a finite symmetric"),
        (np.diag([1.0, math.nan]), np.ones(2), 1, "hessian_mean is not a finite symmetric"),
        (np.eye(2), np.array([1.0, math.inf]), 1, r"new_gradient\[1\] is inf"),
        (np.eye(2), np.ones(2), 0, "k is 0"),
    ],
)
def test_bad_shifts_are_named(hessian, gradient, k, match):
    with pytest.raises(InputError, match=match):
        minimum_shift(hessian, gradient, k)


@pytest.mark.parametrize("hessian", [np.diag([1.0, -0.5]), np.diag([1.0, 0.0]), np.zeros((2, 2)), np.ones((2, 2))])
def test_no_strict_minimum_no_shift(hessian):
    with pytest.raises(AssumptionError, match="no strict minimum"):
        minimum_shift(hessian, np.ones(2), 3)
