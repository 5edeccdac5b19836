"""Figures of structure sweeps: what is drawn and written is what the sweep holds."""

import csv
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from stillscape._errors import InputError
from stillscape.bounds.structure import structure_sweep
from stillscape.report.structure import StructureDisplay, structure_figures

SMALL = {"L": 4, "d": 4, "d_K": 3, "d_f": 6, "classes": 3}
VALUES = {"L": [2, 3, 4], "heads": [1, 2, 4], "d_f": [2, 4], "depth": [1, 2]}


@pytest.fixture(scope="module", params=list(VALUES))
def sweep(request):
    return structure_sweep(request.param, VALUES[request.param], base=SMALL, draws=2, samples=2)


def drawn(ax):
    """Return the y values of every line."""
    return [np.asarray(line.get_ydata(), float).tolist() for line in ax.lines]


def test_every_curve_is_drawn_from_the_sweep(sweep):
    before = dict(mpl.rcParams)
    display = StructureDisplay.from_sweep(sweep)
    assert display.plot() is display
    assert dict(mpl.rcParams) == before
    assert set(display.axes_) == {(loss, what) for loss in ("cross_entropy", "mse") for what in ("norm", "k*")}
    for panel in sweep.panels:
        norms, sizes = drawn(display.axes_[panel.loss, "norm"]), drawn(display.axes_[panel.loss, "k*"])
        for spread in panel.norms.values():
            assert spread.median in norms
        for formula in panel.formulas.values():
            assert formula.values in norms
        for curves in panel.k_star_samples.values():
            assert all(curve in sizes for curve in curves.values())


def test_all_axes_are_logarithmic_and_labels_stay_inside(sweep):
    display = StructureDisplay.from_sweep(sweep).plot()
    display.figure_.canvas.draw()
    page = display.figure_.bbox
    for ax in display.axes_.values():
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        for text in [*ax.texts, ax.xaxis.label, *ax.get_yticklabels()]:
            box = text.get_window_extent()
            assert box.x0 >= page.x0 - 1, text
            assert box.x1 <= page.x1 + 1, text


def test_table_holds_the_numbers_of_the_sweep(sweep):
    header, rows = StructureDisplay.from_sweep(sweep).table()
    assert {len(row) for row in rows} == {len(header)}
    found = {
        (r["loss"], r["place"], r["curve"], r["kind"], r["value"]): r
        for r in (dict(zip(header, row, strict=True)) for row in rows)
    }
    for panel in sweep.panels:
        for i, value in enumerate(sweep.values):
            row = found[panel.loss, panel.place, "exact", "measured", value]
            spread = panel.norms["exact"]
            assert [row[k] for k in ("median", "low", "high", "largest")] == [
                spread.median[i], spread.low[i], spread.high[i], spread.largest[i]
            ]  # fmt: skip
            assert row["k* rigorous"] == panel.k_star_samples["rigorous"]["exact"][i]
            assert row["k* printed"] == panel.k_star_samples["printed"]["exact"][i]
            assert row["slope"] == panel.slopes["exact"].value
            for name, formula in panel.formulas.items():
                expected = found[panel.loss, panel.place, name, "formula", value]
                assert expected["median"] == formula.values[i]
                assert expected["leading power"] == formula.exponent or formula.exponent is None
    assert len(found) == len(rows)


def test_draws_on_given_axes(sweep):
    ax = Figure().add_subplot()
    display = StructureDisplay.from_sweep(sweep).plot(ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert ax.get_legend() is not None
    assert sweep.panels[0].norms["exact"].median in drawn(ax)


def test_words_say_the_slope_and_the_expected_power(sweep):
    display = StructureDisplay.from_sweep(sweep)
    assert "exact norm goes as the power" in display.caption()
    assert display.title().startswith("Hessian")
    legend = [text.get_text() for text in display.plot().figure_.legends[0].get_texts()]
    assert len(legend) == len(set(legend))


def test_figures_are_written_whole_and_the_same_each_time(sweep, tmp_path):
    paths = structure_figures([sweep], tmp_path)
    assert [path.name for path in paths] == [f"structure-{sweep.axis}.{kind}" for kind in ("svg", "pdf", "csv")]
    assert {path.parent for path in paths} == {tmp_path / "figures"}
    first = [path.read_bytes() for path in paths]
    structure_figures([sweep], tmp_path)
    assert [path.read_bytes() for path in paths] == first
    header, *rows = csv.reader(paths[2].read_text(encoding="utf-8").splitlines())
    table = StructureDisplay.from_sweep(sweep).table()
    assert tuple(header) == table[0]
    assert len(rows) == len(table[1])
    assert float(rows[0][header.index("median")]) == table[1][0][header.index("median")]


@pytest.mark.parametrize("bad", [None, "L", [1, 2]])
def test_what_is_no_sweep_is_refused(bad):
    with pytest.raises(InputError, match="sweep"):
        StructureDisplay.from_sweep(bad)


def test_two_sweeps_of_one_axis_would_overwrite_each_other(sweep, tmp_path):
    with pytest.raises(InputError, match="sweeps"):
        structure_figures([sweep, sweep], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_report_waits_for_no_torch():
    code = "import sys, stillscape.report.structure; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
