"""Stopping: regret, compute and time by hand; numbers that were frozen are those of the curves they were tuned on."""

import hashlib
import json

import numpy as np
import pytest
from coarse import COARSE_TASKS, HELD_OUT, IMAGES, LARGEST, QUESTIONS
from rounds import CORRECTIONS, tables_of
from stop_rules import RULES_TO_THE_END, Sweep
from stops import (
    LEAST_SEEN,
    STUDIES,
    foreseen,
    mean_interval,
    outcome,
    seconds_a_look,
    stop_at,
    summary,
    table_of,
    time_share,
    where_flat,
)
from sweeps import SPLIT

SIZES = np.array([25, 50, 100, 200, 400, 800, 1600])
ACCURACY = np.array([0.5, 0.6, 0.7, 0.8, 0.893, 0.898, 0.9])


def sweep(accuracy=ACCURACY, cluster="a"):
    seven = np.ones(SIZES.size)
    return Sweep("task", cluster, SIZES, np.stack([accuracy, accuracy], axis=1), 0.1 * seven, 0.9 * seven, SIZES / 25)


def test_a_stop_costs_what_is_lost_and_saves_what_is_not_trained():
    regret, compute = outcome(sweep(), 5)
    assert regret == pytest.approx(0.002)
    assert compute == pytest.approx((25 + 50 + 100 + 200 + 400 + 800) / 3175)


def test_foresight_stops_at_the_first_size_from_which_on_little_is_lost():
    assert foreseen(sweep()) == 5
    assert foreseen(sweep(np.r_[ACCURACY[:4], 0.896, 0.88, 0.9])) == 6  # the dip comes after the first good size
    assert foreseen(sweep(np.full(7, 0.9))) == LEAST_SEEN - 1


def test_the_rules_own_time_is_counted_at_every_look():
    # 1 + 2 + 4 + 8 + 16 = 31 seconds of training up to the fifth size, of 127 in all.
    assert time_share(sweep(), 4, 10.0) == pytest.approx((31 + 10) / 127)
    assert time_share(sweep(), 5, 10.0) == pytest.approx((63 + 20) / 127)
    assert time_share(sweep(), 6, 10.0) == pytest.approx((127 + 20) / 127)  # nothing to decide at the last size


def test_a_rule_stops_where_it_is_at_most_its_threshold_also_below_zero():
    def falling(s, at):
        return 0.01 - 0.005 * at

    assert stop_at(falling, -0.01, sweep()) == 4
    assert stop_at(falling, -0.015, sweep()) == 5
    assert stop_at(falling, -1.0, sweep()) == 6


def test_rules_that_know_the_end_expect_little_of_a_flat_curve_and_much_of_a_steep_one():
    flat, steep = sweep(np.r_[0.5, 0.8, np.full(5, 0.9)]), sweep(np.linspace(0.3, 0.9, 7))
    for name, (rule, thresholds) in RULES_TO_THE_END.items():
        assert rule(flat, 4) < rule(steep, 4), name
        assert np.all(np.diff(thresholds) > 0), name
    power = RULES_TO_THE_END["power law's gain of all the rest, corrected (Mahmood 2022)"][0]
    law = sweep(0.9 - 2 / SIZES)
    assert power(law, 4) == pytest.approx(2 / 400 - 2 / 1600, abs=5e-4)  # of error .1 + 2 / n


def test_looks_are_timed():
    def slow(s, at):
        return float(sum(range(200_000)))

    assert seconds_a_look(slow, [sweep()]) > 0.0005


def test_intervals_are_over_questions_not_over_tasks():
    values, clusters = np.r_[np.zeros(50), np.ones(50)], np.repeat(["a", "b"], 50)
    assert mean_interval(values, clusters) == [0.0, 1.0]
    assert mean_interval(np.full(4, 0.25), np.array(list("aabb"))) == [0.25, 0.25]


def test_the_summary_is_paired():
    sweeps = [sweep(), sweep(cluster="b")]
    base, other = table_of(sweeps, [6, 6], 0.0), table_of(sweeps, [5, 4], 0.0)
    found = summary(other, {"null": base})
    assert found["share_losing_at_most_half_a_point"] == 0.5
    assert found["worst_regret"] == pytest.approx(0.007)
    assert found["compute_less_that_of_null"] == pytest.approx((1575 + 775) / 3175 / 2 - 1)
    assert found["regret_less_that_of_null"] == pytest.approx(0.0045)


def test_flat_tasks_are_those_of_which_foresight_needs_at_most_half():
    sweeps = [sweep(np.full(7, 0.9)), sweep(np.linspace(0.3, 0.9, 7))]
    foresight = table_of(sweeps, [foreseen(one) for one in sweeps], 0.0)
    found = where_flat(table_of(sweeps, [5, 5], 0.0), foresight)
    assert found == {"tasks": 1, "losing_at_most_half_a_point": 1, "compute": pytest.approx(1575 / 3175)}


def _hash(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _assert_hashes(record, files):
    for path in files:
        assert record["inputs_sha256"][path.name] == _hash(path), path.name


def test_frozen_thresholds_are_those_of_the_curves_beside_them():
    study = STUDIES["coarse"]
    frozen, results = json.loads(study.thresholds.read_text()), json.loads(study.results.read_text())
    _assert_hashes(frozen, study.files("development"))
    _assert_hashes(results, [study.thresholds, *study.files("development"), *study.files("held_out")])
    development = {task.name for task in COARSE_TASKS if SPLIT[task.data] == "development"}
    assert set(frozen["tasks"]) == development
    assert set(frozen["rules"]) == set(study.rules)
    for name, numbers in frozen["rules"].items():
        assert results["rules"][f"held_out: {name}"]["threshold"] == numbers["threshold"]
        assert not development & set(results["rules"][f"held_out: {name}"]["stopped_at"])


def test_frozen_corrections_are_those_of_the_curves_beside_them():
    known, scored = tables_of("development"), tables_of("held_out")
    _assert_hashes(json.loads(CORRECTIONS.read_text()), known)
    _assert_hashes(json.loads((CORRECTIONS.parent / "rounds.json").read_text()), [CORRECTIONS, *known, *scored])


def test_the_rule_for_tasks_is_whole():
    assert len({task.name for task in COARSE_TASKS}) == len(COARSE_TASKS) == 40
    assert sum(SPLIT[task.data] == "held_out" for task in COARSE_TASKS) == 20
    for task in COARSE_TASKS:
        assert task.question in QUESTIONS[task.data]
        assert task.sizes[-1] <= LARGEST[task.data] < IMAGES[task.data] - HELD_OUT[task.data]
