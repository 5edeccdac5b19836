"""Certificates: coverage summed exactly over all outcomes, the constants against values worked by hand."""

import numpy as np
import pytest
from scipy.stats import binom, hypergeom

from stillscape._errors import InputError
from stillscape.evidence import mean_certificate


def shares(n, **how):
    """Return the interval for each number of hits out of n."""
    return [mean_certificate([1.0] * hits + [0.0] * (n - hits), **how) for hits in range(n + 1)]


@pytest.mark.parametrize("kind", ["clopper_pearson", "empirical_bernstein"])
@pytest.mark.parametrize("n", [5, 40])
def test_coverage_over_all_outcomes(kind, n):
    found = shares(n, level=0.9, kind=kind)
    for truth in np.linspace(0.01, 0.99, 99):
        held = [one.low <= truth <= one.high for one in found]
        assert binom.pmf(np.arange(n + 1), n, truth) @ held >= 0.9


def test_clopper_and_pearsons_is_not_wider_than_it_must_be():
    found = shares(40, level=0.9, kind="clopper_pearson")
    covered = [
        binom.pmf(np.arange(41), 40, truth) @ [one.low <= truth <= one.high for one in found]
        for truth in np.linspace(0.05, 0.95, 91)
    ]
    assert min(covered) < 0.93


@pytest.mark.parametrize("kind", ["hoeffding_serfling", "bernstein_serfling"])
def test_coverage_without_replacement(kind):
    population, n = 60, 40
    found = shares(n, level=0.9, kind=kind, population=population)
    for good in range(population + 1):
        held = [one.low - 1e-12 <= good / population <= one.high + 1e-12 for one in found]
        assert hypergeom.pmf(np.arange(n + 1), population, good, n) @ held >= 0.9


def test_maurer_and_pontils_by_hand():
    # Ten hits of twenty: s^2 = 5/19; at level 1 - 4/e the logarithm is 1... so 1 - level = 4 e^-3 gives 3.
    level = 1 - 4 * np.exp(-3)
    found = mean_certificate([0.0, 1.0] * 10, level=level)
    assert found.high - found.mean == pytest.approx(min((5 / 19 * 6 / 20) ** 0.5 + 7 * 3 / (3 * 19), 0.5))
    wide = mean_certificate([0.0, 10.0] * 2000, level=level, upper=10.0)
    assert wide.high - 5.0 == pytest.approx((25 * 4000 / 3999 * 6 / 4000) ** 0.5 + 70 * 3 / (3 * 3999))


def test_few_scattered_values_gain_from_their_variance():
    rng = np.random.default_rng(0)
    calm = np.clip(0.5 + 0.01 * rng.normal(size=2000), 0, 1)
    assert np.ptp([mean_certificate(calm).low, mean_certificate(calm).high]) < 0.02
    hoeffding = mean_certificate(calm, kind="hoeffding_serfling")
    assert hoeffding.high - hoeffding.low > 0.05


def test_differences_have_their_own_range():
    found = mean_certificate([-1.0, 0.0, 0.0, 1.0] * 50, lower=-1.0, upper=1.0)
    assert found.low < 0 < found.high
    assert mean_certificate([1.0, 1.0], lower=-1.0).high == 1.0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"values": [0.0, 2.0]}, "values run from 0 to 2"),
        ({"values": [0.5]}, "values has shape"),
        ({"values": [0.5, 1.0], "kind": "clopper_pearson"}, "values hold others"),
        ({"kind": "normal"}, "kind is 'normal'"),
        ({"population": 9}, "population is 9"),
        ({"level": 1.0}, r"level is 1\.0"),
        ({"kind": "hoeffding_serfling", "population": 1}, "k is 2"),
    ],
)
def test_what_does_not_fit_is_named(changes, named):
    with pytest.raises(InputError, match=named):
        mean_certificate(**{"values": [0.0, 1.0], **changes})
