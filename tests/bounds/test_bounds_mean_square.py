"""The mean-square law by summing over every sample, and its quadratic counterpart by exact Gaussian quadrature."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stillscape._errors import InputError
from stillscape.bounds.local_surface import local_gaps, quadratic_difference
from stillscape.bounds.mean_square import gaussian_mean_square, mean_square_difference, root_mean_square_size


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_law_by_every_sample_of_three_values(k):
    values, weights = np.array([0.0, 0.3, 2.0]), np.array([0.5, 0.3, 0.2])
    variance = weights @ values**2 - (weights @ values) ** 2
    total = 0.0
    for picked in itertools.product(range(3), repeat=k + 1):
        losses = values[list(picked)]
        total += math.prod(weights[list(picked)]) * (losses.mean() - losses[:-1].mean()) ** 2
    assert mean_square_difference(k, variance) == pytest.approx(total, rel=1e-12)


def test_law_over_every_order_of_given_losses():
    """Without replacement the law is exact as well, with the variance of divisor m - 1."""
    losses = np.array([0.1, 0.1, 0.4, 1.3, 0.0, 2.2])
    orders = losses[np.array(list(itertools.permutations(range(6))))]
    means = np.cumsum(orders, axis=1) / np.arange(1, 7)
    found = mean_square_difference(np.arange(1, 6), losses.var(ddof=1))
    np.testing.assert_allclose(found, np.mean(np.diff(means, axis=1) ** 2, axis=0), rtol=1e-12)


def test_law_by_monte_carlo():
    rng = np.random.default_rng(3)
    losses = rng.gamma(0.5, 2.0, size=(40_000, 31))
    squares = (losses.mean(axis=1) - losses[:, :30].mean(axis=1)) ** 2
    error = squares.std() / math.sqrt(len(squares))
    assert abs(squares.mean() - mean_square_difference(30, 2.0)) < 4 * error


@settings(deadline=None, derandomize=True)
@given(st.floats(1e-6, 10), st.floats(0, 1e6))
@example(0.5, 5.0)  # 5 / (4 * 5) is 0.25, met exactly
@example(1e-100, 1.0)
def test_size_is_the_smallest_that_passes(epsilon, variance):
    size = root_mean_square_size(epsilon, variance)
    assert math.sqrt(mean_square_difference(size, variance)) <= epsilon
    assert size == 1 or math.sqrt(mean_square_difference(size - 1, variance)) > epsilon
    closed = math.sqrt(variance / epsilon**2 + 0.25) - 0.5
    assert size == pytest.approx(max(1, math.ceil(closed)), rel=1e-9, abs=1)


@pytest.mark.parametrize(("epsilon", "variance", "size"), [(0.5, 5.0, 4), (0.01, 1.0, 100), (1.0, 0.0, 1)])
def test_sizes_by_hand(epsilon, variance, size):
    assert root_mean_square_size(epsilon, variance) == size


def random_surfaces(rng, count, parameters):
    hessians = rng.normal(size=(count, parameters, parameters))
    return (
        rng.uniform(0, 1, count),
        rng.normal(size=(count, parameters)),
        hessians + hessians.transpose(0, 2, 1),
    )


@pytest.mark.parametrize("parameters", [1, 2, 3])
def test_gaussian_mean_by_quadrature(parameters):
    """Gauss-Hermite with 5 nodes an axis is exact to degree 9; the integrand has degree 4."""
    rng = np.random.default_rng(parameters)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    spread, k = 0.7, 6
    losses, gradients, hessians = random_surfaces(rng, k + 1, parameters)
    total = 0.0
    for picked in itertools.product(range(5), repeat=parameters):
        step = spread * nodes[list(picked)]
        at = losses + gradients @ step + hessians @ step @ step / 2
        weight = math.prod(weights[list(picked)]) / (2 * math.pi) ** (parameters / 2)
        total += weight * (at.mean() - at[:-1].mean()) ** 2
    found = gaussian_mean_square(k, **norms_of(losses, gradients, hessians), spread=spread)
    assert found == pytest.approx(total, rel=1e-12)


def norms_of(losses, gradients, hessians):
    level, slope, bend = (part[-1] - part[:-1].mean(axis=0) for part in (losses, gradients, hessians))
    return {
        "loss_gap": level,
        "gradient_gap": np.linalg.norm(slope),
        "hessian_gap_trace": np.trace(bend),
        "hessian_gap_frobenius": np.linalg.norm(bend),
    }


def test_gaussian_mean_by_monte_carlo():
    rng = np.random.default_rng(11)
    losses, gradients, hessians = random_surfaces(rng, 5, 8)
    squares = []
    for step in rng.normal(scale=0.3, size=(4000, 8)):
        gaps = local_gaps(losses, gradients, hessians @ step @ step, step)
        squares.append(
            quadratic_difference(4, loss_gap=gaps.loss, gradient_gap=gaps.gradient, hessian_gap_form=gaps.hessian) ** 2
        )
    error = np.std(squares) / math.sqrt(len(squares))
    found = gaussian_mean_square(4, **norms_of(losses, gradients, hessians), spread=0.3)
    assert abs(np.mean(squares) - found) < 4 * error


def test_gaussian_mean_at_the_center_is_the_loss_gap():
    assert gaussian_mean_square(
        3, loss_gap=-2.0, gradient_gap=5.0, hessian_gap_trace=5.0, hessian_gap_frobenius=5.0, spread=0.0
    ) == pytest.approx(0.25)


def test_gaps_of_each_size():
    k = np.array([1, 3])
    gaps = {"gradient_gap": 0.0, "hessian_gap_trace": 0.0, "hessian_gap_frobenius": 0.0, "spread": 1.0}
    np.testing.assert_allclose(gaussian_mean_square(k, loss_gap=[1.0, -2.0], **gaps), [0.25, 0.25])


GAPS = {"loss_gap": 1.0, "gradient_gap": 1.0, "hessian_gap_trace": -1.0, "hessian_gap_frobenius": 1.0, "spread": 1.0}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"loss_gap": math.nan}, "loss_gap is nan"),
        ({"gradient_gap": -1.0}, "gradient_gap is -1.0"),
        ({"hessian_gap_trace": math.inf}, "hessian_gap_trace is inf"),
        ({"hessian_gap_frobenius": -2.0}, "hessian_gap_frobenius is -2.0"),
        ({"spread": -1.0}, "spread is -1.0"),
        ({"loss_gap": [1.0, 2.0]}, "loss_gap has shape"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_bad_gaps_are_named(change, match):
    with pytest.raises(InputError, match=match):
        gaussian_mean_square(**({"k": 2} | GAPS | change))


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf])
def test_bad_variances_are_named(variance):
    with pytest.raises(InputError, match="variance is"):
        mean_square_difference(3, variance)
    with pytest.raises(InputError, match="variance is"):
        root_mean_square_size(0.1, variance)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, 1e-200])
def test_bad_tolerances_are_named(epsilon):
    with pytest.raises(InputError, match="epsilon is"):
        root_mean_square_size(epsilon, 1.0)


@pytest.mark.parametrize("k", [0, 2.5, [1, 0], "many"])
def test_bad_sizes_are_named(k):
    with pytest.raises(InputError, match="k is"):
        mean_square_difference(k, 1.0)
