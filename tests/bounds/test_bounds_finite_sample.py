"""Deviations of the mean of k losses of m: closed forms, exact miss probabilities, inversion, and planted faults."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, norm

from stillscape._errors import InputError
from stillscape.bounds import finite_sample
from stillscape.bounds.finite_sample import mean_deviation, mean_sufficient_size, serfling_factor, smallest_size

CERTIFIED = ("deterministic", "hoeffding_serfling", "bernstein_serfling")
KAPPA = 7 / 3 + 3 / math.sqrt(2)
LEVELS = (0.05, 0.3, 0.5, 0.9, 0.95, 0.999)


def published_factor(k, m):
    """Rho, written out as the paper has it."""
    return 1 - (k - 1) / m if k <= m / 2 else (1 - k / m) * (1 + 1 / k)


def published(kind, k, m, delta, loss, std):
    """Return the formulas of docs/theory, section 6, one number at a time."""
    rho = 1.0 if m is None else published_factor(k, m)
    left = 1.0 if m is None else 1 - k / m
    if kind == "deterministic":
        return left * loss
    if kind == "hoeffding_serfling":
        return loss * math.sqrt(rho * math.log(2 / delta) / (2 * k))
    if kind == "bernstein_serfling":
        log = math.log(10 / delta)
        return std * math.sqrt(2 * rho * log / k) + KAPPA * loss * log / k
    return norm.ppf(1 - delta / 2) * std * math.sqrt(left / k)


@pytest.mark.parametrize("kind", finite_sample.KINDS)
@pytest.mark.parametrize("population", [None, 7, 8, 1000])
def test_closed_forms(kind, population):
    sizes = range(1, 7) if population in (7, 8) else (1, 5, 400, 500, 501, 999)
    for k, level, probes in itertools.product(sizes, (0.5, 0.95), (1, 20)):
        found = mean_deviation(k, kind=kind, level=level, population=population, loss_bound=3.0, std=0.7, probes=probes)
        expected = published(kind, k, population, (1 - level) / probes, 3.0, 0.7)
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("m", [1, 2, 9, 10])
def test_the_factor_is_the_published_one_and_falls(m):
    k = np.arange(1, m + 1)
    factor = serfling_factor(k, m)
    np.testing.assert_allclose(factor, [published_factor(size, m) for size in k], atol=1e-15)
    assert np.all(np.diff(factor) < 0)
    assert factor[-1] == 0 or m == 1
    assert serfling_factor(3, None) == 1.0


def test_second_factor_is_the_first_read_off_the_samples_left_out():
    """|L_k - L_m| = (m-k)/k |mean of the rest - L_m|, so Hoeffding's bound on the rest gives one on the first k."""
    m = 30
    for k in range(16, 30):
        rest = (m - k) / k * math.sqrt((1 - (m - k - 1) / m) * math.log(40) / (2 * (m - k)))
        assert mean_deviation(k, kind="hoeffding_serfling", population=m, loss_bound=1.0) == pytest.approx(rest)


@pytest.mark.parametrize("kind", finite_sample.KINDS)
def test_nothing_is_left_at_the_whole_population(kind):
    assert mean_deviation(50, kind=kind, population=50, loss_bound=1.0, std=0.5) == 0.0


@pytest.mark.parametrize("kind", finite_sample.KINDS)
def test_a_huge_population_has_no_end(kind):
    constants = {"kind": kind, "loss_bound": 2.0, "std": 0.3}
    assert mean_deviation(40, population=10**12, **constants) == pytest.approx(mean_deviation(40, **constants))


# ---- exact miss probabilities

POPULATIONS = {
    "rare": np.eye(1, 9)[0],
    "two_point": np.array([0.0] * 4 + [1.0] * 5),
    "uniform": np.linspace(0, 1, 9),
    "heavy_tail": np.minimum(1.0, np.array([0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.4, 3.0])),
}


def exact_misses(losses, kind, level):
    """Return for each k the share of all subsets of k losses in which the bound is missed."""
    m = losses.size
    missed = []
    for k in range(1, m + 1):
        chosen = losses[np.array(list(itertools.combinations(range(m), k)))]
        # Rounding in the mean must not count where a bound is attained, as the deterministic one is.
        deviation = np.abs(chosen.mean(axis=1) - losses.mean()) - 1e-12
        sizes = np.full(len(chosen), k)
        std = chosen.std(axis=1)
        bound = mean_deviation(sizes, kind=kind, level=level, population=m, loss_bound=1.0, std=std)
        missed.append(np.mean(deviation > bound))
    return np.array(missed)


@pytest.mark.parametrize("kind", CERTIFIED)
@pytest.mark.parametrize("name", POPULATIONS)
def test_every_subset_of_a_small_population(kind, name):
    for level in LEVELS:
        misses = exact_misses(POPULATIONS[name], kind, level)
        assert misses.max() <= (0.0 if kind == "deterministic" else 1 - level)


def two_point_misses(m, ones, k, bound_of):
    """Return the exact probability that `bound_of(k, std)` is missed by k of m losses, `ones` of them 1, others 0."""
    seen = np.arange(k + 1)
    mean = seen / k
    missed = np.abs(mean - ones / m) > bound_of(np.full(k + 1, k), np.sqrt(mean * (1 - mean))) + 1e-12
    return hypergeom.pmf(seen, m, ones, k)[missed].sum()


CASES = [
    (m, ones, k)
    for m in (20, 200, 2000)
    for ones in (1, m // 100 or 2, m // 20, m // 2)
    for k in sorted({2, m // 10, m // 3, m // 2, m // 2 + 1, m * 9 // 10, m - 1})
]


@pytest.mark.parametrize("kind", ["hoeffding_serfling", "bernstein_serfling"])
def test_losses_of_two_values_follow_the_hypergeometric_law(kind):
    for (m, ones, k), level in itertools.product(CASES, LEVELS):

        def bound_of(sizes, std, m=m, level=level):
            return mean_deviation(sizes, kind=kind, level=level, population=m, loss_bound=1.0, std=std)

        assert two_point_misses(m, ones, k, bound_of) <= 1 - level


FAULTS = {
    "half of Hoeffding's variance": lambda k, std, m, delta: np.sqrt(serfling_factor(k, m) * np.log(2 / delta) / 4 / k),
    "the factor of the other side": lambda k, std, m, delta: np.sqrt((1 - k / m) ** 2 * np.log(2 / delta) / 2 / k),
    "no range term": lambda k, std, m, delta: std * np.sqrt(2 * serfling_factor(k, m) * np.log(10 / delta) / k),
    "a range term of 1/2": lambda k, std, m, delta: (
        std * np.sqrt(2 * serfling_factor(k, m) * np.log(10 / delta) / k) + 0.5 * np.log(10 / delta) / k
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_constant_would_be_seen(fault):
    worst = 0.0
    for (m, ones, k), level in itertools.product([*CASES, (2000, 100, 103)], LEVELS):

        def bound_of(sizes, std, m=m, delta=1 - level):
            return FAULTS[fault](sizes, std, m, delta)

        worst = max(worst, two_point_misses(m, ones, k, bound_of) / (1 - level))
    assert worst > 1.5


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("uniform", lambda rng: rng.uniform(0, 1, 400)),
        ("clipped heavy tail", lambda rng: np.minimum(1.0, 0.01 * rng.pareto(1.0, 400))),
        ("rare", lambda rng: (np.arange(400) < 8).astype(float)),
    ],
)
def test_certified_kinds_cover_and_the_normal_one_covers_where_it_may(name, draw):
    rng = np.random.default_rng(7)
    losses = draw(rng)
    orders = np.argsort(rng.random((1500, losses.size)), axis=1)
    for k in (40, 200, 360):
        seen = losses[orders[:, :k]]
        deviation = np.abs(seen.mean(axis=1) - losses.mean())
        for kind, ddof in (("hoeffding_serfling", 0), ("bernstein_serfling", 0), ("normal", 1)):
            bound = mean_deviation(
                np.full(len(seen), k), kind=kind, population=400, loss_bound=1.0, std=seen.std(axis=1, ddof=ddof)
            )
            covered = np.mean(deviation <= bound)
            if kind != "normal":
                assert covered >= 0.99
            elif name == "uniform":
                assert covered == pytest.approx(0.95, abs=0.02)
            elif name == "rare" and k == 40:
                assert covered < 0.75  # no rare loss seen, no spread seen: no certificate


def test_normal_variance_is_unbiased_with_divisor_k_minus_1():
    """Over all subsets the mean square of the bound is z^2 times that of the deviation, exactly."""
    losses = POPULATIONS["heavy_tail"]
    z = norm.ppf(0.975)
    for k in range(2, 9):
        chosen = losses[np.array(list(itertools.combinations(range(9), k)))]
        bound = mean_deviation(np.full(len(chosen), k), kind="normal", population=9, std=chosen.std(axis=1, ddof=1))
        assert np.mean(bound**2) == pytest.approx(z**2 * np.mean((chosen.mean(axis=1) - losses.mean()) ** 2))


def test_probes_hold_together():
    one = mean_deviation(9, kind="hoeffding_serfling", level=1 - 0.05 / 8, loss_bound=1.0)
    assert mean_deviation(9, kind="hoeffding_serfling", level=0.95, probes=8, loss_bound=1.0) == pytest.approx(one)


# ---- inversion


@pytest.mark.parametrize("kind", finite_sample.KINDS)
@pytest.mark.parametrize("m", [1, 2, 3, 40, 41, 300])
@pytest.mark.parametrize("std", [0.0, 0.3])
def test_size_is_that_of_a_search_from_the_end(kind, m, std):
    constants = {"kind": kind, "population": m, "loss_bound": 1.0, "std": std}
    bound = mean_deviation(np.arange(1, m + 1), **constants)
    assert np.all(np.diff(bound) <= 0)
    for epsilon in (1e-3, 0.01, 0.1, 0.3, 1.0, 10.0):
        above = np.flatnonzero(bound[: m - 1] > epsilon)
        last = int(above[-1]) + 1 if above.size else 0
        assert mean_sufficient_size(epsilon, **constants) == (None if last == m - 1 else last + 1)


@settings(deadline=None, derandomize=True)
@given(
    st.sampled_from(["hoeffding_serfling", "bernstein_serfling", "normal"]),
    st.floats(1e-6, 10),
    st.floats(0.01, 0.999),
    st.sampled_from([None, 10**3, 10**7]),
)
def test_size_is_the_smallest_that_passes(kind, epsilon, level, population):
    constants = {"kind": kind, "level": level, "population": population, "loss_bound": 2.0, "std": 0.5}
    size = mean_sufficient_size(epsilon, **constants)
    if size is None:
        assert mean_deviation(population - 1, **constants) > epsilon
        return
    assert mean_deviation(size, **constants) <= epsilon
    assert size == 1 or mean_deviation(size - 1, **constants) > epsilon


def test_sizes_by_hand():
    # ln(2/0.05) / (2 * 0.1^2) = 184.4;  with m = 1000: k / (1 - (k-1)/m) >= 184.4 from 156 on
    assert mean_sufficient_size(0.1, kind="hoeffding_serfling", loss_bound=1.0) == 185
    assert mean_sufficient_size(0.1, kind="hoeffding_serfling", loss_bound=1.0, population=1000) == 156
    # n_0 = (1.96 * 2 / 0.1)^2 = 1536.6, and n_0 / (1 + n_0 / 1000) = 605.8
    assert mean_sufficient_size(0.1, kind="normal", std=2.0) == 1537
    assert mean_sufficient_size(0.1, kind="normal", std=2.0, population=1000) == 606
    assert mean_sufficient_size(0.25, kind="deterministic", loss_bound=1.0, population=8) == 6


def test_deterministic_without_an_end_never_falls():
    assert mean_sufficient_size(0.5, kind="deterministic", loss_bound=1.0) is None
    assert mean_sufficient_size(1.0, kind="deterministic", loss_bound=1.0) == 1


def test_smallest_size_at_the_ends():
    assert smallest_size(lambda k: True, 5) == 1
    assert smallest_size(lambda k: k >= 5, 5) == 5
    assert smallest_size(lambda k: k >= 6, 5) is None
    assert smallest_size(lambda k: True, 0) is None


# ---- bad input

GOOD = {"kind": "bernstein_serfling", "loss_bound": 1.0, "std": 0.5, "population": 100}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "bernstein"}, "kind is 'bernstein'"),
        ({"level": 1.0}, "level is 1.0"),
        ({"population": 0}, "population is 0"),
        ({"population": 2.5}, "population is 2.5"),
        ({"probes": 0}, "probes is 0"),
        ({"loss_bound": -1.0}, "loss_bound is -1.0"),
        ({"loss_bound": math.inf}, "loss_bound is inf"),
        ({"loss_bound": None}, "loss_bound is None; kind 'bernstein_serfling' needs it"),
        ({"std": None}, "std is None"),
        ({"std": -0.1}, "std is -0.1"),
        ({"std": math.nan}, "std is nan"),
        ({"std": [0.1, 0.2]}, "std has shape"),
    ],
)
def test_bad_constants_are_named(change, match):
    with pytest.raises(InputError, match=match):
        mean_deviation(3, **(GOOD | change))
    with pytest.raises(InputError, match=match):
        mean_sufficient_size(0.1, **(GOOD | change))


@pytest.mark.parametrize("k", [0, -3, 2.5, [1, 0], "many", 101, [], True, math.nan])
def test_bad_sizes_are_named(k):
    with pytest.raises(InputError, match="k is"):
        mean_deviation(k, **GOOD)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan])
def test_bad_tolerances_are_named(epsilon):
    with pytest.raises(InputError, match="epsilon is"):
        mean_sufficient_size(epsilon, **GOOD)


def test_a_tolerance_out_of_reach_is_named():
    with pytest.raises(InputError, match="epsilon is 1e-160"):
        mean_sufficient_size(1e-160, kind="hoeffding_serfling", loss_bound=1.0)
