"""Forecasts become sizes, and never votes."""

import pytest

from stillscape._errors import InputError
from stillscape.sufficiency import estimate_criterion

GAINS = {"gain": [0.4, 0.1, 0.05], "low": [0.3, 0.05, 0.02], "high": [0.5, 0.2, 0.08]}


def criterion(**changes):
    given = {**GAINS, "epsilon": 0.1, "assumes": ("x",), **changes}
    return estimate_criterion(
        "takeuchi_gain", [10, 20, 40], given.pop("gain"), given.pop("low"), given.pop("high"), **given
    )


def test_a_forecast_has_no_vote():
    for found in (criterion(), criterion(epsilon=0.01)):
        assert found.status in {"reached", "not_reached"}
        assert not found.votes


def test_it_must_stay_within_from_there_on():
    found = criterion(gain=[0.05, 0.2, 0.05], low=[0.0, 0.0, 0.0])
    assert (found.status, found.k_star, found.low, found.high) == ("reached", 40, 10, 40)


def test_statuses():
    assert criterion(epsilon=0.06).status == "cannot_tell"  # within, but not at the upper end
    assert criterion(epsilon=0.06).k_star is None
    assert criterion(epsilon=0.01).status == "not_reached"
    doubted = criterion(doubt="k is small")
    assert (doubted.status, doubted.k_star) == ("cannot_tell", None)
    assert doubted.reason.endswith("but k is small")


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match="gain, low and high hold"):
        criterion(low=[0.1])
    with pytest.raises(InputError, match="epsilon is 0"):
        criterion(epsilon=0)
