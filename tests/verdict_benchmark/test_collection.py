"""Collecting in rounds: laws whose fit is exact, so that what every round asks for is known by hand."""

import numpy as np
import pytest
from cases import DataCurve
from collection import (
    COLLECTORS,
    ENOUGH,
    Problem,
    by_curve,
    by_fit,
    by_forecast,
    collect,
    learnt,
    outcomes,
    problems_of,
    size_meeting,
)
from rivals import mahmood_fitters

SIZES = np.array([25.0, 50, 100, 200, 400, 800, 1600])
POWER = mahmood_fitters()["power law"]


def power_curve(floor=0.1, name="power"):
    scores = 1 - floor - 2 / SIZES[:, None]
    return DataCurve("fine-tuning", "d", name, "score", SIZES, scores)


def test_a_fit_asks_for_the_size_at_which_its_law_meets_the_target():
    # error = .1 + 2 / n: a score of .89 needs n = 200, and with tau = .005 on top n = 400.
    curve = power_curve()
    seen = SIZES[:4], curve.scores[:4]
    assert by_fit(POWER, 0.0)(*seen, 0.89) == pytest.approx(200, rel=0.03)
    assert by_fit(POWER, 0.005)(*seen, 0.89) == pytest.approx(400, rel=0.03)
    assert by_fit(POWER, 0.02)(*seen, 0.89) == np.inf  # .91 lies above what the law ever reaches


@pytest.mark.parametrize("name", list(mahmood_fitters()))
def test_every_function_recovers_its_own_law(name):
    k = np.geomspace(25, 1600, 9)
    laws = {
        "power law": 0.1 + 0.5 * (k / 1600) ** -0.5,
        "arctan": 0.1 + 0.2 * (np.pi / 2 - np.arctan(k / 400)),
        "logarithm": 0.9 - 0.1 * np.log(k),
        "algebraic root": 0.1 + 0.4 * (1 - (k / 300) / (1 + k / 300)),
    }
    found = mahmood_fitters()[name](k, laws[name][:, None]).at(k)[:, 0]
    np.testing.assert_allclose(found, laws[name], atol=0.006)


def test_rounds_end_when_the_target_is_met_and_the_sizes_are_those_asked_for():
    problem = Problem(power_curve(), 4, 0.895, 400.0)
    asked = []

    def doubling(sizes, scores, target):
        asked.append((sizes.tolist(), scores[-1, 0]))
        return sizes[-1] * 1.5

    assert collect(problem, doubling, 1) == (300.0, False, False)
    asked.clear()
    size, met, too_much = collect(problem, doubling, 5)
    assert (size, met, too_much) == (450.0, True, False)
    assert [sizes[-1] for sizes, _ in asked] == [200, 300]
    between = np.interp(np.log(300), np.log(SIZES), problem.curve.scores[:, 0])
    assert asked[1][1] == pytest.approx(between)


def test_more_than_there_is_can_not_be_collected_and_is_counted():
    problem = Problem(power_curve(), 4, 0.895, 400.0)
    assert collect(problem, lambda *_: np.inf, 3) == (1600.0, True, True)
    found = outcomes([problem], lambda *_: np.inf, 1)
    assert found["ratio"].tolist() == [4.0]


def test_a_round_that_asks_for_what_is_there_still_goes_on():
    problem = Problem(power_curve(), 4, 0.895, 400.0)
    size, met, _ = collect(problem, lambda *_: 0.0, 2)
    assert size == 221  # 210, and 5 % more of it, in whole images
    assert not met


def test_the_learnt_correction_is_the_smallest_with_which_enough_targets_are_met(monkeypatch):
    problems = [Problem(power_curve(name=f"{at}"), 4, 0.895, 400.0) for at in range(10)]

    def asks(factor):
        return lambda sizes, scores, target: factor * sizes[-1]

    monkeypatch.setitem(COLLECTORS, "factor", (asks, [1.0, 1.5, 2.0, 3.0]))
    assert learnt(problems, "factor", 1) == 2.0
    assert learnt(problems, "factor", 2) == 1.5
    monkeypatch.setitem(COLLECTORS, "factor", (asks, [1.0, 1.1]))
    assert learnt(problems, "factor", 1) == 1.1  # none is enough: the largest


def test_problems_have_known_needs():
    (problem, *others) = problems_of([power_curve()])
    assert len(others) == 2  # one start with at least four sizes, three depths
    assert problem.start == 4
    start, end = 0.9 - 2 / 200, 0.9 - 2 / 1600
    assert problem.target == pytest.approx(start + 0.25 * (end - start))
    truth = 0.9 - 2 / SIZES
    share = (problem.target - truth[3]) / (truth[4] - truth[3])
    assert problem.needed == pytest.approx(200 * 2**share)
    assert size_meeting(SIZES, truth, 0.95) == np.inf


def test_flat_curves_are_no_problem():
    flat = DataCurve("fine-tuning", "d", "flat", "score", SIZES, np.full((SIZES.size, 2), 0.9))
    assert problems_of([flat]) == []


def test_higher_quantiles_ask_for_more():
    curve = power_curve()
    asked = [by_forecast(q)(SIZES[:5], curve.scores[:5], 0.896) for q in (0.5, 0.75, 0.9)]
    assert asked == sorted(asked)
    assert asked[0] == pytest.approx(500, rel=0.25)


def test_every_curve_counts_the_same():
    problems = [Problem(power_curve(name=name), 4, 0.9, 400.0) for name in "aab"]
    assert by_curve(problems, np.array([1.0, 0.0, 1.0])).tolist() == [0.5, 1.0]
    assert 0.5 < ENOUGH < 1
