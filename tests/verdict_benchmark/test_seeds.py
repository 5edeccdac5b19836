"""What seeds and orders add is told apart, and shares that are covered have intervals over whole data sets."""

import numpy as np
import pandas as pd
import pytest
import run as forecasts
import seeds
from cases import read_sweeps


def test_spreads_of_known_size_are_found():
    draw = np.random.default_rng(0).normal
    values = 0.8 + 0.03 * draw(size=(60, 40, 1)) + 0.01 * draw(size=(60, 40, 2))
    assert seeds.spread(values) == pytest.approx({"sd_seed": 0.01, "sd_order": 0.03}, rel=0.05)


def test_a_forecast_is_held_against_the_other_seed_as_well():
    k = np.round(25 * 2.0 ** np.arange(7))
    curve = 0.9 - 0.5 * (k / 25) ** -0.5
    values = curve[:, None, None] + np.zeros((7, 3, 2))
    values[-2:, :, 1] -= 0.3  # what the second seed hides at horizons 2 and 4 is far from what the first expects
    rows = {(row["seed"], row["against"], row["horizon"]): row for row in seeds.crossed("task", k, values)}
    assert rows[0, "own", 2]["covered"] == 1
    assert rows[0, "other", 2]["covered"] == 0
    assert rows[1, "other", 4]["rmse"] < 0.05 < rows[1, "own", 4]["rmse"]


def test_a_share_of_few_data_sets_has_a_wide_interval():
    per_set = {"a": [1.0, 1.0], "b": [0.0, 0.0], "c": [1.0, 1.0]}
    rows = pd.DataFrame(
        [
            {"estimator": forecasts.OURS, "domain": "coarse", "few": True, "horizon": 2, "dataset": name}
            | {"covered": share, "size_covered": np.nan if name == "a" else share}
            for name, shares in per_set.items()
            for share in shares
        ]
    )
    (found,) = forecasts.coverage(rows)
    assert (found["covered"], found["datasets"], found["size_covered"]) == (pytest.approx(4 / 6), 3, 0.5)
    # Sets are drawn whole: b comes not at all in 8 of 27 draws, at least twice in 7, three times in 1.
    assert (found["covered_low"], found["covered_high"]) == pytest.approx((1 / 3, 1.0))


def test_tasks_of_both_kinds_are_pooled_beside_themselves():
    rows = pd.DataFrame({"domain": ["fine-tuning", "coarse", "IC"], "curve": ["x", "y", "z"]})
    assert forecasts.pooled(rows).domain.value_counts().to_dict() == {
        "fine-tuning": 1, "coarse": 1, "IC": 1, "fine-tuning and coarse": 2
    }  # fmt: skip
    assert forecasts.pooled(rows[:1]).domain.tolist() == ["fine-tuning"]


def test_coarse_tasks_are_told_by_their_question(tmp_path):
    table = pd.DataFrame({"split": "held_out", "data": "d", "question": ["q", "r"], "task": ["t_q", "t_r"]})
    table = table.assign(k=10, permutation=0, seed=0, accuracy=0.5)
    table.to_parquet(tmp_path / "coarse.parquet")
    table.drop(columns="question").to_parquet(tmp_path / "plain.parquet")
    coarse, plain = (read_sweeps(tmp_path / f"{name}.parquet") for name in ("coarse", "plain"))
    assert [(curve.domain, curve.dataset) for curve in coarse] == [("coarse", "d-q"), ("coarse", "d-r")]
    assert [(curve.domain, curve.dataset) for curve in plain] == [("fine-tuning", "d")] * 2
