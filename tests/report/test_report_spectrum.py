"""Spectra, ranks and shares as they are drawn: the record's numbers with their errors; old results; damaged ones."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from stillscape._errors import InputError, RecordError
from stillscape.report import BlockShareDisplay, EffectiveRankDisplay, SpectrumDisplay, words
from stillscape.report.series import entry_of

ALL = [SpectrumDisplay, EffectiveRankDisplay, BlockShareDisplay]


def rows_of(result, adapt="lora:4"):
    return entry_of(result, adapt)["spectrum"]["sizes"]


def named(display):
    return {line.get_label(): line for line in display.ax_.lines if not line.get_label().startswith("_")}


def bars(display):
    """Return the ends of upright lines of two points."""
    found = [line.get_xydata() for line in display.ax_.lines if len(line.get_xdata()) == 2]
    return [(ends[0, 0], *ends[:, 1]) for ends in found if ends[0, 0] == ends[1, 0]]


@pytest.mark.parametrize("kind", ALL)
def test_displays_follow_the_convention(kind, result):
    before = dict(mpl.rcParams)
    display = kind.from_result(result, "lora:4")
    assert display.plot() is display
    assert dict(mpl.rcParams) == before
    assert len(display.caption()) > 100
    ax = Figure().add_subplot()
    assert kind.from_result(result, "lora:4").plot(ax, legend=False).ax_ is ax
    header, rows = display.table()
    assert all(len(row) == len(header) for row in rows)


@pytest.mark.parametrize("kind", ALL)
def test_a_result_of_an_earlier_version_has_no_such_figure(kind, result):
    del entry_of(result, "lora:4")["spectrum"]
    with pytest.raises(InputError, match="'lora:4' was not measured; ask for `curvature`"):
        kind.from_result(result, "lora:4")


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("change", [{"values": None}, {"values": [1.0]}, {"blocks": [{}]}, {"k": "many"}])
def test_a_damaged_spectrum_is_said(kind, change, result):
    rows_of(result)[1] |= change
    with pytest.raises(RecordError, match="can't be read"):
        kind.from_result(result, "lora:4")


def test_each_comb_holds_the_eigenvalues_of_its_size(result):
    display = SpectrumDisplay.from_result(result, "lora:4").plot()
    dots = [line for line in display.ax_.lines if len(line.get_xdata()) == 1]
    for column, row in enumerate(rows_of(result)):
        own = sorted((line for line in dots if abs(line.get_xdata()[0] - column) < 0.5), key=lambda d: d.get_xdata()[0])
        np.testing.assert_allclose([line.get_ydata()[0] for line in own], np.abs(row["values"]))
        above = [line for line in own if line.get_color() == "#0072b2"]
        assert len(above) == (row["outliers"] or 0)
        assert [line.get_marker() for line in own].count("v") == 1  # the negative one
        reach = [(low, high) for x, low, high in bars(display) if abs(x - column) < 0.5 and x != column]
        for value, error in zip(np.abs(row["values"]), row["values_stderr"], strict=True):
            assert any(high == pytest.approx(value + error) for _, high in reach)
    assert "not to be told at k = 16, 3 at k = 32" in display.caption()


def test_ranks_are_the_record(result):
    display = EffectiveRankDisplay.from_result(result, "lora:4").plot()
    for label, name in (("stable rank", "stable_rank"), ("intrinsic dimension", "intrinsic_dimension")):
        line = named(display)[label]
        np.testing.assert_allclose(line.get_xdata(), [row["k"] for row in rows_of(result)])
        np.testing.assert_allclose(line.get_ydata(), [row[name] for row in rows_of(result)])
        for row in rows_of(result):
            ends = (row["k"], row[name] - row[f"{name}_stderr"], row[name] + row[f"{name}_stderr"])
            assert any(bar == pytest.approx(ends) for bar in bars(display))
    header, rows = display.table()
    assert rows[0][header.index("eigenvalues above the bulk")] == words.DASH
    assert rows[1][header.index("eigenvalues above the bulk")] == "3"


def test_shares_are_the_record(result):
    display = BlockShareDisplay.from_result(result, "lora:4").plot()
    lines = named(display)
    rows = rows_of(result)
    assert list(lines) == [*[each["group"] for each in rows[0]["blocks"]], "between groups"]
    for place, each in enumerate(rows[0]["blocks"]):
        held = [row["blocks"][place]["norm_share"] for row in rows]
        np.testing.assert_allclose(lines[each["group"]].get_ydata(), held)
    np.testing.assert_allclose(lines["between groups"].get_ydata(), [row["between_blocks"] for row in rows])
    assert "give or take 2\u00a0%" in display.caption()


def test_one_group_has_no_blocks_to_compare(result):
    with pytest.raises(InputError, match="one group of parameters alone"):
        BlockShareDisplay.from_result(result, "head")


def test_a_single_image_has_no_error(result):
    row = rows_of(result)[0]
    row |= {"k": 1, "values_stderr": [None] * len(row["values"])}
    _, table = SpectrumDisplay.from_result(result, "lora:4").plot().table()
    assert np.isnan(table[0][3])


def test_the_page_has_them_with_numbers_to_copy(html):
    for name in ("head-spectrum", "head-effective-rank", "lora-4-block-share"):
        assert f'id="figure-{name}"' in html
    assert 'id="figure-head-block-share"' not in html
    assert "Numbers behind: In how many directions the surface bends, LoRA, rank 4" in html


def test_names_of_groups_are_text(page, html):
    assert "u" not in {name for name, _ in page.elements}
    assert "&lt;u&gt;LayerNorm" in html
