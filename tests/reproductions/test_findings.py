"""What a reproduction brings home survives being written and read, and its summaries are what they say."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from stillscape._errors import InputError, RecordError
from stillscape.reproductions import Claim, Findings, Number, Panel
from stillscape.reproductions.figures import draw, figure_files
from stillscape.reproductions.findings import heat, line, mean_interval, measured, measured_ratio, slope
from stillscape.reproductions.page import page

FOUND = Findings(
    "base", "full", {"seed": 0}, (Number("a", 1.5, 1.0, 2.0, "nats", 1.4, "somewhere", 0.1), Number("b", None)),
    (Claim("It holds.", "draft", "amended", "because of a."),),
    (
        Panel(
            "curves", "k", "y",
            (
                line("m", [1, 2], [1.0, np.nan], [0.5, np.nan], [2.0, np.nan]),
                line("b", [1, 2], [3, 3], kind="bound"),
            ),
        ),
        heat("colors", ["p", "q"], ["r", "s"], np.array([[1.0, 10.0], [100.0, 1000.0]])),
    ),
    ("a remark",), ("a violation",), {"seconds": 3.0, "machine": "this one"},
)  # fmt: skip


def test_findings_survive_json():
    written = json.dumps(FOUND.to_dict(), allow_nan=False)
    read = Findings.from_dict(json.loads(written))
    assert read == FOUND
    assert read["a"].published == 1.4


@pytest.mark.parametrize(
    "change", [{"schema": 99}, {"numbers": [{"nme": "a"}]}, {"claims": None}, {"panels": [{"is": "heat"}]}]
)
def test_damaged_findings_are_named(change):
    with pytest.raises(RecordError, match="findings"):
        Findings.from_dict(FOUND.to_dict() | change)


def test_a_verdict_is_one_of_four():
    with pytest.raises(InputError, match="verdict is 'maybe'"):
        Claim("x", "y", "maybe", "z")


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.floats(0.5, 0.99))
def test_an_interval_is_around_its_mean_and_grows_with_its_level(values, level):
    value, low, high = mean_interval(values, level)
    assert low <= value + 1e-12
    assert high >= value - 1e-12
    wider = mean_interval(values, (1 + level) / 2)
    assert wider[1] <= low + 1e-9


def test_an_interval_is_students():
    values = [1.0, 2.0, 4.0, 4.5]
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((2.875, low, high))


def test_repeats_of_one_have_no_interval():
    assert measured("a", 2.0) == Number("a", 2.0)
    assert measured_ratio("a", [4.0]).value == pytest.approx(4.0)
    assert measured_ratio("a", [1.0, 4.0]).value == pytest.approx(2.0)


@given(st.floats(-5, 5), st.floats(0.1, 10))
def test_slope_of_a_power_is_its_exponent(power, factor):
    x = np.array([0.5, 1.0, 2.0, 7.0])
    assert slope(x, factor * x**power) == pytest.approx(power, abs=1e-9)


def test_the_same_findings_give_the_same_figure():
    assert figure_files(FOUND) == figure_files(FOUND)
    figure = draw(FOUND)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["curves", "colors"]
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), [3, 3])


def test_the_page_says_verdict_value_and_published_value():
    statement = {
        "number": "#1", "where": "B.2", "printed": "||A|| <= 1", "verdict": "fails", "corrected": "<= sqrt L",
        "corrected_evidence": "2 draws", "corrected_holds": True,
    }  # fmt: skip
    text = page({"base": FOUND}, {"statements": [statement], "draws": 2})
    assert "1 fail as printed. Mended, 1 hold" in text
    assert "| #1 | B.2 | \\|\\|A\\|\\| <= 1 | fails | <= sqrt L | 2 draws |" in text
    assert "| It holds. | draft | [needs an amendment](#base-the-base-experiment" in text
    assert "| a | 1.5 (1 to 2) nats | 1.4 (somewhere) |" in text
    assert "Not run at full size yet." in text
