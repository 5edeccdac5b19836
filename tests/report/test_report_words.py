"""Words, numbers, tables, the ruler and the colors of the page."""

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stillscape.report
from stillscape.report import tables, words
from stillscape.report.scale import ruler

CSS = (Path(stillscape.report.__file__).parent / "style.css").read_text()


def parsed(text: str) -> float:
    """Read a printed number back."""
    mantissa, _, exponent = text.replace(",", "").replace(words.MINUS, "-").partition(f"{words.TIMES}10")
    return float(mantissa) * 10.0 ** int(exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)


@given(st.floats(1e-12, 1e12), st.sampled_from([-1, 1]))
def test_printed_numbers_read_back_to_three_digits(size, sign):
    assert parsed(words.number(sign * size)) == pytest.approx(sign * size, rel=0.0051)


@given(st.floats(-1, 1))
def test_changes_of_percentages_are_points_of_the_right_sign(value):
    text = words.change(value, "accuracy")
    assert parsed(text.split()[0].lstrip("+")) == pytest.approx(100 * value, abs=0.051)
    assert text[0] == (words.MINUS if value < 0 else "+")


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_what_is_missing_is_a_dash(missing):
    assert {f(missing) for f in (words.number, words.count)} == {words.DASH}
    assert words.quantity(missing, "accuracy") == words.change(missing, "accuracy") == words.DASH


def test_unknown_names_keep_their_spelling():
    assert words.adaptation_name("prefix:3") == "prefix:3"
    assert words.status_name("odd_status") == "odd status"
    assert words.curve_name("my_metric") == "my metric"


def test_one_image_is_singular():
    assert [words.images(n) for n in (1, 2, 1500)] == ["1 image", "2 images", "1,500 images"]


def test_every_status_has_a_sign_of_its_own():
    statuses = ["reached", "not_reached", "cannot_tell", "vacuous_bound", "null", "failed"]
    assert len({words.status_mark(status) for status in statuses}) == len(statuses)


def test_ruler_by_hand():
    drawn = ruler([50, 100, 200, 400], {"k_star": 100, "low": 50, "high": 200})
    assert drawn == {
        "ticks": [(0.0, "50"), (33.33, "100"), (66.67, "200"), (100.0, "400")],
        "at": 33.33, "left": 0.0, "width": 66.67, "open": False,
    }  # fmt: skip


def test_ruler_with_open_end_and_without_an_answer():
    drawn = ruler([50, 400], {"k_star": 400, "low": 100, "high": None})
    assert (drawn["open"], drawn["left"] + drawn["width"]) == (True, 100.0)
    assert ruler([50, 400], {"k_star": None})["at"] is None
    assert ruler([50], {"k_star": 50}) is None


@given(st.lists(st.integers(1, 10**6), min_size=2, unique=True))
def test_ruler_ticks_never_crowd(sizes):
    places = [place for place, _ in ruler(sizes, {"k_star": None})["ticks"]]
    assert places[-1] == 100
    assert all(b - a >= 11.9 for a, b in pairwise(places))


def test_classes_found_worst_come_first_and_nulls_are_dashes(result):
    table = tables.class_table(result["results"][0])
    assert table["rows"][0]["name"] == "melanoma in situ"
    assert table["rows"][0]["cells"][0] == (words.DASH, 0.0)
    assert table["sizes"] == ["50", "100", "200", "400"]


def test_tolerances_have_the_unit_of_what_they_judge(result):
    rows = {row["name"]: row for row in tables.criteria_rows(result["results"][0], result["question"])}
    assert rows["accuracy"]["epsilon"] == "1 point"
    assert rows["heldout_loss"]["epsilon"] == rows["theorem3_printed"]["epsilon"] == "0.02 nats"


def test_a_target_decides_where_there_is_one(result):
    criteria = result["results"][0]["criteria"]
    criteria["accuracy_target"] = {**criteria["accuracy"], "epsilon": 0.95}
    assert tables.criteria_rows(result["results"][0], result["question"])[0]["name"] == "accuracy"
    result["question"]["target"] = 0.95
    row = tables.criteria_rows(result["results"][0], result["question"])[0]
    assert (row["label"], row["epsilon"], row["decides"]) == (
        "Target for accuracy",
        "target 95.0\N{NO-BREAK SPACE}%",
        True,
    )


@pytest.mark.parametrize(
    ("low", "high", "reading"),
    [
        (-0.02, 0.01, "within tolerance"),
        (0.011, 0.02, "above tolerance"),
        (0.0, 0.02, "can be either"),
        (None, 1, "not known"),
    ],
)
def test_gain_against_tolerance(low, high, reading):
    entry = {"gains": [{"from": 50, "to": 100, "mean": 0.0, "low": low, "high": high}]}
    assert tables.gain_rows(entry, {"epsilon": 0.01})[0]["reading"] == reading


def test_runs_show_only_columns_that_hold_something(result):
    entry = result["results"][2]
    assert "Distance between optima" in tables.runs_table(entry, "accuracy")["headers"]
    for cell in entry["cells"]:
        cell["distance"] = None
    table = tables.runs_table(entry, "accuracy")
    assert "Distance between optima" not in table["headers"]
    assert [row["place"] for row in table["failed"]] == [["50", "0", "1"]]
    assert all(len(row["values"]) == len(table["headers"]) for row in table["rows"])


def luminance(code: str) -> float:
    """Return the relative luminance of a color (WCAG 2.2)."""
    shares = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    """Return the contrast ratio of two colors (WCAG 2.2)."""
    bright, dim = sorted((luminance(one), luminance(two)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_contrast_oracle():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_letters_can_be_read_in_both_themes(theme):
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", CSS.split(":root {")[theme + 1].split("}")[0]))
    letters = ["ink", "muted", "link", "good", "more", "unsure", "void", "fig-ink", "fig-muted"]
    for ground in ("ground", "card"):
        assert {name for name in letters if contrast(colors[name], colors[ground]) < 4.4} == set()


def test_every_variable_is_defined_in_both_themes(html):
    light, dark = (set(re.findall(r"--([\w-]+):", block.split("}")[0])) for block in CSS.split(":root {")[1:])
    assert light - dark == {"serif", "sans"}
    used = set(re.findall(r"var\(--([\w-]+)", html))
    assert used - light - {"tone", "v"} == set()
