"""SVG: what is put into the page takes on its colors and letters; files for papers look the same everywhere."""

import re
import xml.etree.ElementTree as ET

import pytest

from stillscape.report.displays import DataCurveDisplay, LossDifferenceDisplay, RetrainedAgainstFixedDisplay
from stillscape.report.figures import draw, file_names
from stillscape.report.style import COLORS, power_of_ten
from stillscape.report.svg import file_bytes, inline_svg, swatch


@pytest.fixture
def display(result):
    return DataCurveDisplay.from_result(result, "head").plot(legend=False)


def test_inline_letters_stay_letters_and_colors_become_variables(display):
    text = inline_svg(display.figure_, "one", "what it shows")
    root = ET.fromstring(text)
    words = {element.text for element in root.iter("text")}
    assert {"Accuracy", "50", "100", "200", "400", "k* = 200"} <= words
    bare = re.sub(r"var\(--fig-\w+, #[0-9a-f]{6}\)", "", text)
    assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r"(href=\"|url\()#", "", bare)) == []
    assert "font-family" not in text


def test_inline_ids_of_two_figures_never_meet(display):
    one, two = (
        {element.get("id") for element in ET.fromstring(inline_svg(display.figure_, name, "")).iter()} - {None}
        for name in ("one", "two")
    )
    assert len(one) == len(two) > 2
    assert not one & two


def test_inline_label_is_escaped(display):
    label = 'a "quoted" <b> & more'
    root = ET.fromstring(inline_svg(display.figure_, "one", label))
    assert root.attrib["aria-label"] == label
    assert root.attrib["role"] == "img"


def test_files_hold_outlines_and_no_dates(display):
    svg, pdf = (file_bytes(display.figure_, kind) for kind in ("svg", "pdf"))
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(svg).iter()}
    assert "text" not in tags
    assert "date" not in tags
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf


def test_legend_strip_leaves_the_axes_their_size(result):
    heights = []
    for legend in (False, True):
        display = LossDifferenceDisplay.from_result(result, "head").plot(legend=legend)
        heights.append(display.ax_.get_position().height * display.figure_.get_size_inches()[1])
    assert heights[0] == pytest.approx(heights[1])


def test_legend_entries_match_what_is_drawn(result):
    drawing = draw(LossDifferenceDisplay.from_result(result, "head"), "x")
    labels = [label for _, label in drawing.legend]
    assert len(labels) == len(set(labels)) == 10
    for mark, _ in drawing.legend:
        assert ET.fromstring(mark).attrib["aria-hidden"] == "true"


def test_swatch_shows_color_marker_and_fill(result):
    result["results"][0]["curves"]["heldout_loss"]["mean"][1] = 0.9
    ax = RetrainedAgainstFixedDisplay.from_result(result, "head").plot(legend=False).ax_
    marks = {label: swatch(handle) for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    assert COLORS["blue"] in marks["retrained: the loss fell"]
    assert "fill:none" in marks["retrained: the loss rose"]
    assert "fill:none" not in marks["retrained: the loss fell"]
    assert "M0 6H28" in marks["weights fixed: an identity"]


def test_letters_the_font_lacks_lose_no_report(result):
    curves = result["results"][0]["curves"]
    curves["精度$a$"] = curves["accuracy"]
    drawing = draw(DataCurveDisplay.from_result(result, "head", metric="精度$a$"), "x")
    assert "精度$a$" in "".join(ET.fromstring(drawing.inline).itertext())


def test_each_color_has_its_own_code():
    assert len(set(COLORS.values())) == len(COLORS)


def test_file_names_are_safe_and_never_meet():
    names = file_names(["lora:4", "LoRA 4", "../../etc", "", "日本"])
    assert len(set(names.values())) == 5
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names.values())


@pytest.mark.parametrize(("power", "text"), [(-8, "10⁻⁸"), (-3, "0.001"), (0, "1"), (4, "10,000"), (5, "10⁵")])
def test_powers_of_ten(power, text):
    assert power_of_ten(power) == text
