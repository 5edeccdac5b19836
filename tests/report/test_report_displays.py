"""Displays: the numbers drawn are the numbers of the result, and nothing of matplotlib's state is left changed."""

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from stillscape._errors import InputError
from stillscape.report import (
    ClassGainDisplay,
    ComparisonDisplay,
    DataCurveDisplay,
    HessianDisplay,
    LossCurveDisplay,
    LossDifferenceDisplay,
    RetrainedAgainstFixedDisplay,
    SurfaceEvidenceDisplay,
)
from stillscape.report.series import Series, entry_of, series_of
from stillscape.report.style import COLORS

ALL = [
    ComparisonDisplay,
    DataCurveDisplay,
    HessianDisplay,
    LossCurveDisplay,
    LossDifferenceDisplay,
    RetrainedAgainstFixedDisplay,
    SurfaceEvidenceDisplay,
]


def line(display, label):
    """Return the x and y drawn under a label."""
    found = [each for each in display.ax_.lines if each.get_label().startswith(label)]
    assert len(found) == 1
    return np.asarray(found[0].get_xdata(), float), np.asarray(found[0].get_ydata(), float)


@pytest.mark.parametrize("kind", ALL)
def test_plot_leaves_settings_alone_and_returns_itself(kind, result):
    before = dict(mpl.rcParams)
    display = kind.from_result(result)
    assert display.plot() is display
    assert display.ax_.figure is display.figure_
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("kind", ALL)
def test_plot_draws_on_given_axes(kind, result):
    ax = Figure().add_subplot()
    display = kind.from_result(result).plot(ax)
    assert display.ax_ is ax
    assert ax.get_legend() is not None
    assert len(ax.lines) > 0


@pytest.mark.parametrize("kind", ALL)
def test_house_settings_win_over_the_users_own(kind, result):
    with mpl.rc_context({"text.usetex": True, "axes.grid": False, "font.size": 40}):
        figure = kind.from_result(result).plot().figure_
        assert mpl.rcParams["font.size"] == 40
    assert max(text.get_fontsize() for text in figure.findobj(mpl.text.Text)) < 12


def test_data_curve_draws_and_tables_the_metric(result):
    curve = result["results"][1]["curves"]["accuracy"]
    display = DataCurveDisplay.from_result(result, "last-layers:1").plot()
    k, drawn = line(display, "mean of all runs")
    assert k.tolist() == curve["k"]
    assert drawn.tolist() == curve["mean"]
    header, rows = display.table()
    assert header == ("images", "accuracy", "low", "high", "kind")
    measured = zip(curve["k"], curve["mean"], curve["low"], curve["high"], strict=True)
    assert rows == [(*row, "measured") for row in measured]


def test_data_curve_tells_forecast_from_measurement(result):
    entry = result["results"][1]
    ahead = {"k": [400, 800], "mean": [0.9, 0.92], "low": [0.88, 0.85], "high": [0.92, 0.95], "kind": "forecast"}
    changed = {**entry, "curves": {**entry["curves"], "accuracy_forecast": ahead}}
    results = [changed if each is entry else each for each in result["results"]]
    display = DataCurveDisplay.from_result({**result, "results": results}, "last-layers:1").plot()
    assert line(display, "forecast")[1].tolist() == ahead["mean"]
    assert display.table()[1][-1] == (800, 0.92, 0.85, 0.95, "forecast")
    assert "nothing there was measured" in display.caption()


def test_data_curve_takes_the_leading_adaptation_and_its_k_star(result):
    display = DataCurveDisplay.from_result(result).plot()
    assert display.adapt == "head"
    assert line(display, "sufficient size")[0].tolist() == [200]
    assert "k* = 200" in [text.get_text() for text in display.ax_.texts]


def test_another_metric_borrows_neither_verdict_nor_target_nor_noise(result):
    result["question"]["target"] = 0.9
    asked, other = (DataCurveDisplay.from_result(result, metric=name) for name in ("accuracy", "heldout_loss"))
    assert (asked.target, asked.noise_floor, asked.verdict["k_star"]) == (0.9, 0.0125, 200)
    assert (other.target, other.noise_floor, dict(other.verdict)) == (None, None, {})
    assert "nats" in other.caption()


def test_failed_runs_are_not_drawn(result):
    assert len(DataCurveDisplay.from_result(result, "head").runs) == 24
    assert len(DataCurveDisplay.from_result(result, "lora:4").runs) == 23


def test_an_open_interval_reaches_the_end_of_the_axes(result):
    result["results"][0]["verdict"]["high"] = None
    display = DataCurveDisplay.from_result(result, "head").plot()
    reach = [each for each in display.ax_.lines if each.get_linewidth() == 3.5]
    np.testing.assert_allclose(reach[0].get_xdata(), [100, display.ax_.get_xlim()[1]])
    assert "100 images or more" in display.caption()


def test_retrained_change_by_hand(result):
    entry = result["results"][0]
    entry["curves"]["heldout_loss"] |= {"k": [50, 100, 400], "mean": [0.9, 0.4, 0.55], "low": None, "high": None}
    entry["curves"]["fixed_surface"] = {"k": [1, 100, 200, 1000], "mean": [1.0, 0.02, 0.01, 0.002], "kind": "identity"}
    display = RetrainedAgainstFixedDisplay.from_result(result, "head").plot()
    np.testing.assert_allclose(display.change, [0.01, -0.0005], rtol=1e-12)
    np.testing.assert_allclose(display.middle, [np.sqrt(5000), 200.0], rtol=1e-12)
    assert display.table()[1][1] == (100, 400, pytest.approx(-0.0005), pytest.approx(0.01))
    assert line(display, "retrained: the loss fell")[1].tolist() == [pytest.approx(0.01)]
    assert line(display, "retrained: the loss rose")[1].tolist() == [pytest.approx(0.0005)]
    assert "the loss rose (1 of 2 steps)" in display.caption()


def test_retrained_needs_two_sizes(result):
    result["results"][0]["curves"]["heldout_loss"]["mean"][1:] = [None] * 3
    with pytest.raises(InputError, match="1 size; it takes two"):
        RetrainedAgainstFixedDisplay.from_result(result, "head")


def test_identity_is_gray_and_named_so(result):
    display = LossDifferenceDisplay.from_result(result, "head").plot()
    identity = next(each for each in display.ax_.lines if each.get_label() == "weights fixed (identity)")
    assert to_hex(identity.get_color()) == COLORS["muted"]
    bounds = [each.get_label() for each in display.ax_.lines if each.get_label().startswith("Theorem")]
    assert len(bounds) == 2
    assert all("plug-in" in label for label in bounds)


def test_loss_difference_draws_only_what_is_there(result):
    curves = result["results"][0]["curves"]
    result["results"][0]["curves"] = {
        "fixed_surface": curves["fixed_surface"],
        "neighbourhood": None,
        "accuracy": curves["accuracy"],
    }
    display = LossDifferenceDisplay.from_result(result, "head")
    assert list(display.series) == ["fixed_surface"]
    assert "blue" not in display.caption()
    assert {row[0] for row in display.table()[1]} == {"weights fixed (identity)"}


def test_a_long_closed_form_does_not_crowd_out_the_rest(result):
    closed = {"k": [1, 100_000], "mean": [0.2, 4e-6], "low": None, "high": None, "kind": "closed form"}
    result["results"][0]["curves"]["fixed_surface_closed_form"] = closed
    ax = LossDifferenceDisplay.from_result(result, "head").plot().ax_
    assert 2400 < ax.get_xlim()[1] < 4000
    assert ax.get_ylim()[0] > 1e-5


def test_noise_and_tolerance_stand_where_they_are(result):
    ax = LossDifferenceDisplay.from_result(result, "head").plot().ax_
    noise = next(patch for patch in ax.patches if patch.get_label() == "held-out noise")
    assert noise.get_y() + noise.get_height() == pytest.approx(0.021)
    tolerance = next(each for each in ax.lines if each.get_label() == "tolerance 0.02 nats")
    assert set(tolerance.get_ydata()) == {0.02}


def test_loss_curve_pairs_sizes(result):
    entry = result["results"][0]
    entry["curves"]["train_loss"] |= {"k": [100, 400], "mean": [0.1, 0.2], "low": None, "high": None}
    rows = LossCurveDisplay.from_result(result, "head").plot().table()[1]
    assert [row[0] for row in rows] == [50, 100, 200, 400]
    np.testing.assert_equal([row[4] for row in rows], [np.nan, 0.1, np.nan, 0.2])


def test_comparison_holds_every_adaptation_in_its_own_look(result):
    display = ComparisonDisplay.from_result(result).plot()
    looks = {(each.get_color(), each.get_marker()) for each in display.ax_.lines}
    assert len(looks) == 3
    assert len(display.table()[1]) == 12


def test_comparison_without_the_metric_is_refused(result):
    result["question"]["metric"] = "auroc"
    with pytest.raises(InputError, match="'auroc' is in none"):
        ComparisonDisplay.from_result(result)


def test_unknown_adaptation_and_curve_are_refused_by_name(result):
    with pytest.raises(InputError, match="'lora:8'; this result holds head, last-layers:1, lora:4"):
        LossCurveDisplay.from_result(result, "lora:8")
    with pytest.raises(InputError, match="'macro_f1' is not in the result of 'head'"):
        DataCurveDisplay.from_result(result, "head", metric="macro_f1")


def test_single_size_can_be_drawn(result):
    for curve in result["results"][0]["curves"].values():
        for key in ("k", "mean", "low", "high"):
            curve[key] = curve[key][:1]
    for kind in (DataCurveDisplay, LossCurveDisplay, LossDifferenceDisplay):
        display = kind.from_result(result, "head").plot()
        assert np.isfinite(display.ax_.get_xlim()).all()


def test_null_becomes_nan_and_an_empty_curve_is_absent(result):
    entry = entry_of(result, "head")
    assert np.isnan(series_of(entry, "distance").mean).tolist() == [True, False, False, False]
    entry["curves"]["distance"]["mean"] = [None] * 4
    assert series_of(entry, "distance") is None
    assert series_of(entry, "no such curve") is None


@given(st.integers(1, 5000), st.integers(2, 200))
def test_thinning_keeps_ends_order_and_limit(length, limit):
    k = np.arange(1.0, length + 1)
    thin = Series(k, 1 / k, k * np.nan, k * np.nan).thinned(limit)
    assert len(thin.k) <= max(limit, 1)
    assert (thin.k[0], thin.k[-1]) == (1, length)
    assert (np.diff(thin.k) > 0).all()
    np.testing.assert_array_equal(thin.mean, 1 / thin.k)


def test_hessians_are_drawn_where_they_were_measured(result):
    curves = result["results"][0]["curves"]
    display = HessianDisplay.from_result(result, "head").plot()
    k, drawn = line(display, "the mean itself")
    held = dict(zip(curves["hessian_norm"]["k"], curves["hessian_norm"]["mean"], strict=True))
    assert drawn.tolist() == [held[size] for size in k]
    assert "exact Hessian of a linear head" in display.caption()
    del curves["hessian_bound"]
    assert "linear head" not in HessianDisplay.from_result(result, "head").caption()
    del curves["hessian_difference"]
    with pytest.raises(InputError, match="ask for `curvature`"):
        HessianDisplay.from_result(result, "head")


def test_forecasts_are_drawn_beside_what_was_measured(result):
    curves = result["results"][0]["curves"]
    display = SurfaceEvidenceDisplay.from_result(result, "head").plot()
    for name, label in (("heldout_loss_gain", "measured"), ("takeuchi_gain", "Takeuchi")):
        x, y = line(display, label)
        np.testing.assert_allclose(x, curves[name]["k"])
        np.testing.assert_allclose(y, curves[name]["mean"])
    assert "no vote" in display.caption()
    assert "Takeuchi" in display.caption()
    del curves["takeuchi_gain"]
    assert "Takeuchi" not in SurfaceEvidenceDisplay.from_result(result, "head").caption()
    del curves["optimism_gain"], curves["next_doubling_gain"]
    with pytest.raises(InputError, match="no forecast"):
        SurfaceEvidenceDisplay.from_result(result, "head")


def test_class_gains_are_drawn_by_status_the_largest_first(result):
    rows = result["results"][0]["per_class"]
    display = ClassGainDisplay.from_result(result).plot()
    inner = display.ax_.child_axes[0]
    named = {line.get_label(): line for line in inner.lines if not line.get_label().startswith("_")}
    assert list(named) == [rows[i]["class"] for i in (2, 1, 0)]
    for place, (name, line) in enumerate(named.items()):
        row = next(row for row in rows if row["class"] == name)
        np.testing.assert_allclose(line.get_xydata(), [[100 * row["gain"]["mean"], place]])
        ends = next(other for other in inner.lines if list(other.get_ydata()) == [place, place])
        np.testing.assert_allclose(ends.get_xdata(), [100 * row["gain"]["low"], 100 * row["gain"]["high"]])
    markers = {rows[i]["status"]: named[rows[i]["class"]].get_marker() for i in (0, 1, 2)}
    assert len(set(markers.values())) == 3
    header, table = display.table()
    assert table[0][:2] == (rows[2]["class"], rows[2]["count"])
    assert header[2] == "gain, points"
    assert "1 short of data, 1 enough, 1 can't be told" in display.caption()


def test_many_classes_are_cut_and_said(result):
    entry = result["results"][0]
    entry["per_class"] = [{**entry["per_class"][0], "class": f"class number {n}"} for n in range(40)]
    display = ClassGainDisplay.from_result(result).plot()
    assert len(display.ax_.child_axes[0].get_yticklabels()) == 16
    assert "24 more with smaller gains stand in the table" in display.caption()
    assert len(display.table()[1]) == 40


def test_without_a_doubling_there_are_no_class_gains(result):
    for row in result["results"][0]["per_class"]:
        row["gain"] = None
    with pytest.raises(InputError, match="holds no gain of a class"):
        ClassGainDisplay.from_result(result)
