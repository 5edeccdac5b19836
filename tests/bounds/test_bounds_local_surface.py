"""The second-order forecast against true surfaces, its worst-case remainder, and matrix Bernstein by sampling."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from stillscape import bounds
from stillscape._errors import InputError
from stillscape.bounds.finite_sample import mean_deviation
from stillscape.bounds.local_surface import (
    local_gaps,
    loss_difference_at_minimum,
    matrix_bernstein,
    matrix_bernstein_size,
    quadratic_difference,
    uniform_deviation,
)


class Cubics:
    """Losses a + g'd + d'Hd/2 + c (u'd)^3 / 6 with |u| = 1, so that |c| is the Lipschitz constant of the Hessian."""

    def __init__(self, rng, count, parameters, bend=1.0):
        hessians = rng.normal(size=(count, parameters, parameters))
        self.losses = rng.uniform(0, 1, count)
        self.gradients = rng.normal(size=(count, parameters))
        self.hessians = hessians + hessians.transpose(0, 2, 1)
        self.cubic = bend * rng.uniform(-1, 1, count)
        direction = rng.normal(size=parameters)
        self.direction = direction / np.linalg.norm(direction)

    def remainder(self, step):
        return self.cubic * (self.direction @ step) ** 3 / 6

    def at(self, step):
        return self.losses + self.gradients @ step + self.hessians @ step @ step / 2 + self.remainder(step)


def last_gap(values):
    return values[-1] - values[:-1].mean(axis=0)


def forecast(surfaces, step, **more):
    gaps = local_gaps(surfaces.losses, surfaces.gradients, surfaces.hessians, step)
    pieces = {"loss_gap": gaps.loss, "gradient_gap": gaps.gradient, "hessian_gap_form": gaps.hessian}
    return quadratic_difference(gaps.k, **(pieces | more))


def measured(surfaces, step):
    at = surfaces.at(step)
    return at.mean() - at[:-1].mean()


@pytest.mark.parametrize("seed", range(10))
def test_forecast_is_exact_for_quadratics(seed):
    rng = np.random.default_rng(seed)
    surfaces, step = Cubics(rng, count=8, parameters=4, bend=0.0), rng.normal(size=4)
    assert forecast(surfaces, step) == pytest.approx(measured(surfaces, step), rel=1e-10)


def test_identity_with_its_remainder():
    rng = np.random.default_rng(0)
    surfaces, step = Cubics(rng, count=5, parameters=3, bend=4.0), rng.normal(size=3)
    found = forecast(surfaces, step, remainder_gap=last_gap(surfaces.remainder(step)))
    assert found == pytest.approx(measured(surfaces, step), rel=1e-10)


def test_orders_of_the_errors():
    """On cubics the forecast errs in |d|^3, without the gradient in |d|; the printed one by its lost factor."""
    rng = np.random.default_rng(5)
    surfaces, step = Cubics(rng, count=8, parameters=4, bend=3.0), rng.normal(size=4)

    def error(scale, **more):
        return abs(forecast(surfaces, scale * step, **more) - measured(surfaces, scale * step))

    assert error(1e-2) / error(1e-3) == pytest.approx(1e3, rel=1e-3)
    assert error(1e-3, kind="without_gradient") / error(1e-4, kind="without_gradient") == pytest.approx(10, rel=0.05)
    surfaces.gradients[:] = 0.0
    form = step @ last_gap(surfaces.hessians) @ step
    assert error(1e-3, kind="printed") == pytest.approx(abs(form) / 2e6 * 7 / 8, rel=1e-2)


def test_the_printed_equality_is_right_with_the_mean_hessian_of_k_plus_1():
    """Read by the draft's Definition 2 its last term is half the form of mean_{k+1} H - mean_k H."""
    rng = np.random.default_rng(6)
    surfaces, step = Cubics(rng, count=6, parameters=3, bend=0.0), rng.normal(size=3)
    surfaces.gradients[:] = 0.0
    form = step @ (surfaces.hessians.mean(axis=0) - surfaces.hessians[:-1].mean(axis=0)) @ step
    assert forecast(surfaces, step, hessian_gap_form=form, kind="printed") == pytest.approx(measured(surfaces, step))
    assert forecast(surfaces, step, kind="printed") != pytest.approx(measured(surfaces, step), rel=0.1)


def test_forms_do_instead_of_matrices():
    rng = np.random.default_rng(2)
    surfaces, step = Cubics(rng, count=4, parameters=3), rng.normal(size=3)
    whole = local_gaps(surfaces.losses, surfaces.gradients, surfaces.hessians, step)
    forms = local_gaps(surfaces.losses, surfaces.gradients, surfaces.hessians @ step @ step, step)
    assert (forms.k, forms.loss, forms.gradient) == (3, whole.loss, whole.gradient)
    assert forms.hessian == pytest.approx(whole.hessian)


# ---- the bound around w*


@pytest.mark.parametrize("seed", range(20))
def test_bound_holds_in_the_ball(seed):
    rng = np.random.default_rng(seed)
    surfaces, radius = Cubics(rng, count=7, parameters=3, bend=2.0), rng.uniform(0.05, 2)
    bound = loss_difference_at_minimum(
        6,
        loss_bound=1.0,
        gradient_bound=np.linalg.norm(last_gap(surfaces.gradients)),
        hessian_gap=last_gap(surfaces.hessians),
        radius=radius,
        lipschitz=2.0,
    )
    for step in rng.normal(size=(200, 3)):
        inside = step * radius * rng.uniform() ** (1 / 3) / np.linalg.norm(step)
        assert abs(measured(surfaces, inside)) <= bound


def worst_case(k, sign=1.0):
    """One parameter, everything at its limit: the new sample all up, the others all down (losses at zero)."""
    surfaces = Cubics(np.random.default_rng(0), count=k + 1, parameters=1)
    ends = np.where(np.arange(k + 1) == k, 1.0, -1.0)
    surfaces.losses = (ends + 1) / 2
    surfaces.gradients = sign * ends[:, None] * 0.75
    surfaces.hessians = ends[:, None, None] * 1.5
    surfaces.cubic = sign * ends * 2.0
    surfaces.direction = np.ones(1)
    return surfaces


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_bound_is_attained(sign):
    surfaces = worst_case(4, sign)
    constants = {"loss_bound": 1.0, "gradient_bound": 1.5, "hessian_gap": 3.0, "radius": 0.8, "lipschitz": 2.0}
    found = loss_difference_at_minimum(4, **constants)
    assert measured(surfaces, np.array([sign * 0.8])) == pytest.approx(found, rel=1e-12)
    # Any smaller constant is violated there.
    for name in ("loss_bound", "gradient_bound", "hessian_gap", "lipschitz"):
        smaller = constants | {name: 0.99 * constants[name]}
        assert measured(surfaces, np.array([sign * 0.8])) > loss_difference_at_minimum(4, **smaller)


def test_distance_from_the_mean_of_all_is_no_gradient_bound():
    """The half of the samples seen may have the opposite gradient: up to twice the spread around the overall mean."""
    gradients = np.array([[-1.0]] * 3 + [[1.0]] * 3)
    spread = np.abs(gradients - gradients.mean(axis=0)).max()
    difference = abs((gradients[:4].mean() - gradients[:3].mean()) * 0.5)
    constants = {"loss_bound": 0.0, "hessian_gap": 0.0, "radius": 0.5}
    assert difference > loss_difference_at_minimum(3, gradient_bound=spread, **constants)
    assert difference == pytest.approx(loss_difference_at_minimum(3, gradient_bound=2 * spread, **constants))


def test_bound_by_hand_for_several_sizes():
    found = loss_difference_at_minimum(
        [1, 4], loss_bound=1.0, gradient_bound=[2.0, 0.0], hessian_gap=4.0, radius=1.0, lipschitz=3.0
    )
    np.testing.assert_allclose(found, [6.0 / 2, 4.0 / 5])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_matrix_stands_for_its_spectral_norm(sign):
    constants = {"loss_bound": 0.0, "gradient_bound": 0.0, "radius": 1.0}
    found = loss_difference_at_minimum([1, 3], hessian_gap=sign * np.diag([-4.0, 3.0]), **constants)
    np.testing.assert_allclose(found, [1.0, 0.5])


def test_bound_is_that_of_theorem_3_where_hessians_are_constant():
    """With quadratics ||H_{k+1} - mean H|| <= 2M, and 2M r^2 / 2 is the rigorous theorem's term."""
    here = loss_difference_at_minimum(5, loss_bound=1.0, gradient_bound=0.5, hessian_gap=2 * 3.0, radius=0.7)
    there = bounds.loss_difference(
        5, loss_bound=1.0, gradient_bound=0.5, hessian_bound=3.0, radius=0.7, kind="rigorous"
    )
    assert here == pytest.approx(there)


# ---- deviations over the whole ball


@pytest.mark.parametrize("seed", range(10))
def test_uniform_deviation_holds_and_is_attained(seed):
    rng = np.random.default_rng(seed)
    surfaces, radius, k = Cubics(rng, count=12, parameters=3, bend=2.0), rng.uniform(0.1, 2), 5

    def gap(values):
        return values[:k].mean(axis=0) - values.mean(axis=0)

    bound = uniform_deviation(
        radius,
        loss_deviation=abs(gap(surfaces.losses)),
        gradient_deviation=np.linalg.norm(gap(surfaces.gradients)),
        hessian_deviation=np.linalg.norm(gap(surfaces.hessians), 2),
        lipschitz=2.0,
    )
    for step in rng.normal(size=(200, 3)):
        inside = step * radius / np.linalg.norm(step)
        assert abs(gap(surfaces.at(inside))) <= bound


def test_uniform_deviation_at_its_limit():
    """One sample of a great many: it stands alone against the opposite rest, and each term is attained."""
    surfaces, m = worst_case(10**5), 10**5 + 1
    gap = surfaces.at(np.array([0.8]))[-1] - surfaces.at(np.array([0.8])).mean()
    deviations = {"loss_deviation": 1.0, "gradient_deviation": 1.5, "hessian_deviation": 3.0}
    bound = uniform_deviation(np.array([0.8, 0.0]), **deviations, lipschitz=2.0)
    np.testing.assert_allclose([gap / (1 - 1 / m), 1.0], bound, rtol=1e-9)


def test_uniform_statement_by_sampling():
    """Levels 1 - 0.05/3 for the three means give 0.95 for the ball: not missed once in 200 orders."""
    rng = np.random.default_rng(1)
    m, k, parameters, radius, level = 300, 100, 3, 0.5, 1 - 0.05 / 3
    surfaces = Cubics(rng, m, parameters, bend=1.0)
    slopes = surfaces.gradients - surfaces.gradients.mean(axis=0)
    bends = surfaces.hessians - surfaces.hessians.mean(axis=0)
    deviations = {
        "loss_deviation": mean_deviation(k, kind="hoeffding_serfling", level=level, population=m, loss_bound=1.0),
        "gradient_deviation": matrix_bernstein(
            k,
            variance_norm=np.mean(np.sum(slopes**2, axis=1)),
            largest=np.linalg.norm(slopes, axis=1).max(),
            dimension=parameters,
            level=level,
        ),
        "hessian_deviation": matrix_bernstein(k, **spread_of(bends), dimension=parameters, level=level),
    }
    bound = uniform_deviation(radius, **deviations, lipschitz=1.0)
    steps = rng.normal(size=(40, parameters))
    steps *= radius / np.linalg.norm(steps, axis=1, keepdims=True)
    at = np.array([surfaces.at(step) for step in steps])
    for _ in range(200):
        chosen = rng.permutation(m)[:k]
        assert np.abs(at[:, chosen].mean(axis=1) - at.mean(axis=1)).max() <= bound


# ---- matrix Bernstein


def spread_of(centered):
    return {
        "variance_norm": np.linalg.norm(np.mean(centered @ centered, axis=0), 2),
        "largest": np.linalg.norm(centered, 2, axis=(1, 2)).max(),
    }


def tail(k, t, variance_norm, largest, dimension):
    return 2 * dimension * math.exp(-(k * t**2 / 2) / (variance_norm + largest * t / 3))


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 10**6), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(1, 10**6), st.floats(0.01, 0.999))
def test_deviation_solves_the_tail(k, variance_norm, largest, dimension, level):
    constants = {"variance_norm": variance_norm, "largest": largest, "dimension": dimension}
    t = matrix_bernstein(k, **constants, level=level)
    assert tail(k, t, **constants) == pytest.approx(1 - level, rel=1e-6)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("heavy", [False, True])
def test_deviation_is_never_missed_by_sampling(replace, heavy):
    rng = np.random.default_rng(4)
    m, k, dimension = 200, 60, 5
    raw = rng.normal(size=(m, dimension, dimension))
    raw *= rng.pareto(1.5, size=(m, 1, 1)) if heavy else 1.0
    centered = raw + raw.transpose(0, 2, 1)
    centered -= centered.mean(axis=0)
    t = matrix_bernstein(k, **spread_of(centered), dimension=dimension, level=0.5)
    found = [np.linalg.norm(centered[rng.choice(m, k, replace=replace)].mean(axis=0), 2) for _ in range(400)]
    assert max(found) < t
    assert np.median(found) > t / 8  # and it is no empty statement


@pytest.mark.parametrize("p", [0.5, 0.05, 0.002])
def test_one_dimension_exactly(p):
    """Bernoulli matrices of one entry have binomial sums: the exact miss probability is below 1 - level."""
    for k in (5, 50, 2000):
        for level in (0.1, 0.5, 0.95, 0.999):
            t = matrix_bernstein(k, variance_norm=p * (1 - p), largest=max(p, 1 - p), dimension=1, level=level)
            missed = np.abs(np.arange(k + 1) / k - p) >= t
            assert binom.pmf(np.arange(k + 1), k, p)[missed].sum() <= 1 - level


def test_dimension_factor_is_needed():
    """Random diagonals: the largest of P independent means grows with P, beyond what dimension 1 allows."""
    rng = np.random.default_rng(8)
    k, dimension = 400, 2000
    worst = np.abs(rng.choice([-1.0, 1.0], size=(k, dimension)).mean(axis=0)).max()
    constants = {"variance_norm": 1.0, "largest": 1.0, "level": 0.95}
    assert matrix_bernstein(k, dimension=1, **constants) < worst < matrix_bernstein(k, dimension=dimension, **constants)


@settings(deadline=None, derandomize=True)
@given(st.floats(1e-4, 10), st.floats(0, 100), st.floats(0, 100))
def test_matrix_size_is_the_smallest_that_passes(epsilon, variance_norm, largest):
    constants = {"variance_norm": variance_norm, "largest": largest, "dimension": 30}
    size = matrix_bernstein_size(epsilon, **constants)
    assert matrix_bernstein(size, **constants) <= epsilon
    assert size == 1 or matrix_bernstein(size - 1, **constants) > epsilon
    closed = 2 * math.log(60 / 0.05) * (variance_norm + largest * epsilon / 3) / epsilon**2
    assert size == pytest.approx(max(1, math.ceil(closed)), rel=1e-6, abs=1)


# ---- bad input

SURFACE = {"loss_bound": 1.0, "gradient_bound": 1.0, "hessian_gap": 1.0, "radius": 1.0, "lipschitz": 1.0}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"loss_bound": -1.0}, "loss_bound is -1.0"),
        ({"gradient_bound": -1.0}, "gradient_bound is -1.0"),
        ({"gradient_bound": [1.0, 2.0]}, "gradient_bound has shape"),
        ({"hessian_gap": math.nan}, "hessian_gap is nan"),
        ({"hessian_gap": [[0.0, 1.0], [0.0, 0.0]]}, "hessian_gap is no symmetric matrix"),
        ({"hessian_gap": np.ones((2, 3))}, "hessian_gap has shape"),
        ({"radius": -1.0}, "radius is -1.0"),
        ({"lipschitz": math.inf}, "lipschitz is inf"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_bad_constants_are_named(change, match):
    with pytest.raises(InputError, match=match):
        loss_difference_at_minimum(**({"k": 3} | SURFACE | change))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"variance_norm": -1.0}, "variance_norm is -1.0"),
        ({"largest": math.nan}, "largest is nan"),
        ({"dimension": 0}, "dimension is 0"),
        ({"level": 0.0}, "level is 0.0"),
    ],
)
def test_bad_spreads_are_named(change, match):
    constants = {"variance_norm": 1.0, "largest": 1.0, "dimension": 2, "level": 0.9} | change
    with pytest.raises(InputError, match=match):
        matrix_bernstein(3, **constants)
    with pytest.raises(InputError, match=match):
        matrix_bernstein_size(0.1, **constants)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, 1e-160])
def test_bad_tolerances_are_named(epsilon):
    with pytest.raises(InputError, match="epsilon is"):
        matrix_bernstein_size(epsilon, variance_norm=1.0, largest=1.0, dimension=1)


@pytest.mark.parametrize("radius", [-1.0, math.nan, [0.5, -0.1]])
def test_bad_radii_are_named(radius):
    with pytest.raises(InputError, match="radius is"):
        uniform_deviation(radius, loss_deviation=0.0, gradient_deviation=0.0, hessian_deviation=0.0)


def test_bad_pieces_are_named():
    with pytest.raises(InputError, match="kind is 'mended'"):
        quadratic_difference(2, loss_gap=1.0, kind="mended")
    with pytest.raises(InputError, match="remainder_gap is inf"):
        quadratic_difference(2, loss_gap=1.0, remainder_gap=math.inf)
    with pytest.raises(InputError, match=r"gradients has shape \(2, 3\); it must be \(2, 2\)"):
        local_gaps(np.ones(2), np.ones((2, 3)), np.ones((2, 2, 2)), np.ones(2))
    with pytest.raises(InputError, match="hessians has shape"):
        local_gaps(np.ones(2), np.ones((2, 2)), np.ones((2, 2)), np.ones(2))
    with pytest.raises(InputError, match="losses has shape"):
        local_gaps(np.ones(1), np.ones((1, 2)), np.ones(1), np.ones(2))
