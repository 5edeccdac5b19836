"""The surface in displays and on the page: the numbers drawn are the record's, and no markup gets out of them."""

import base64
import gzip
import hashlib
import json
import pkgutil
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from stillscape._errors import InputError, RecordError
from stillscape.report import SettlingSurfaceDisplay, SurfaceDifferenceDisplay, WeightPathDisplay, write_report
from stillscape.report.interactive import as_json, interactive
from stillscape.report.landscape import landscapes_of, unpacked
from tests.report.example import EVIL_CLASS, surface_result

ALL = [SettlingSurfaceDisplay, SurfaceDifferenceDisplay, WeightPathDisplay]
PAGE_LIMIT = 6_000_000


@pytest.fixture
def surface():
    return surface_result()


@pytest.fixture(scope="session")
def surface_folder(tmp_path_factory):
    """A run folder whose report has surfaces; not to be changed."""
    where = tmp_path_factory.mktemp("surface")
    write_report(surface_result(), where)
    return where


@pytest.fixture(scope="session")
def surface_html(surface_folder):
    return (surface_folder / "report.html").read_text(encoding="utf-8")


def plane_of(result, name="curvature", adapt=0):
    return next(p for p in result["results"][adapt]["surface"]["planes"] if p["name"] == name)


def page_data(html: str, adapt: str = "head") -> dict:
    element = re.search(rf'id="surface-{adapt}".*?<script type="application/json">(.*?)</script>', html, re.S)
    return json.loads(element[1])


@pytest.mark.parametrize("kind", ALL)
def test_displays_follow_the_convention(kind, surface):
    before = dict(mpl.rcParams)
    display = kind.from_result(surface)
    assert display.plot() is display
    assert display.ax_.figure is display.figure_
    assert dict(mpl.rcParams) == before
    assert len(display.caption()) > 100
    ax = Figure().add_subplot()
    assert kind.from_result(surface, "last-layers:1", plane="random").plot(ax, legend=False).ax_ is ax
    header, rows = display.table()
    assert all(len(row) == len(header) for row in rows)


@pytest.mark.parametrize("kind", ALL)
def test_what_was_not_measured_is_said(kind, surface):
    with pytest.raises(InputError, match="'lora:4' was not measured; ask for `surface`"):
        kind.from_result(surface, "lora:4")
    with pytest.raises(InputError, match=r"plane is 'nowhere'; .* over curvature, path, random"):
        kind.from_result(surface, plane="nowhere")


def test_the_first_plane_that_was_measured_is_the_default(surface):
    surface["results"][0]["surface"]["planes"] = surface["results"][0]["surface"]["planes"][2:]
    assert SettlingSurfaceDisplay.from_result(surface).landscape.plane == "random"


def test_panels_hold_the_surfaces_at_their_sizes(surface):
    display = SettlingSurfaceDisplay.from_result(surface).plot()
    at, plane = display.landscape, plane_of(surface)
    panels = [panel for panel in display.ax_.child_axes if panel.get_label() != "<colorbar>" and panel.collections]
    assert [panel.texts[0].get_text() for panel in panels[:5]] == ["k = 1", "k = 3", "k = 8", "k = 20", "k = 40"]
    np.testing.assert_array_equal(at.losses, unpacked(plane["losses"]))
    scales = {tuple(panel.collections[0].get_clim()) for panel in panels[:5]}
    assert len(scales) == 1
    assert scales.pop()[1] == pytest.approx(at.losses[3:].max(), rel=0.02)


def test_the_table_of_surfaces_is_the_record(surface):
    plane = plane_of(surface)
    losses, away, step = (unpacked(plane[name]) for name in ("losses", "to_whole", "next_step"))
    _, rows = SettlingSurfaceDisplay.from_result(surface).table()
    assert [row[0] for row in rows] == plane["k"]
    summaries = [summary(losses, (1, 2)) for summary in (np.min, np.mean, np.max)]
    np.testing.assert_allclose([row[1:4] for row in rows], np.transpose(summaries), rtol=1e-6)
    np.testing.assert_allclose([row[4] for row in rows], away.max((1, 2)))
    np.testing.assert_allclose([row[5] for row in rows], step.max((1, 2)))
    np.testing.assert_allclose([row[6] for row in rows], plane["share_within"]["mean"])


def test_the_tolerance_region_is_where_the_difference_is_within_it(surface):
    """The line drawn in a panel parts points within the tolerance from points above it."""
    display = SurfaceDifferenceDisplay.from_result(surface).plot()
    at = display.landscape
    _, rows = display.table()
    for n, row in enumerate(rows):
        assert row[1] == pytest.approx((unpacked(plane_of(surface)["to_whole"])[n] <= 0.05).mean())
        assert row[3] == pytest.approx((unpacked(plane_of(surface)["next_step"])[n] <= 0.05).mean())
    shown, checked = at.shown(4, last=False), 0
    panels = display.ax_.child_axes
    for values, row in ((at.to_whole, panels[:4]), (at.next_step, panels[4:])):
        for i, panel in zip(shown, row, strict=True):
            lines = [c for c in panel.collections if c.get_linewidths().size and list(c.levels) == [at.tolerance]]
            assert len(lines) == (values[i].min() < at.tolerance < values[i].max())
            for x, y in (point for line in lines for path in line.get_paths() for point in path.vertices):
                assert at.height(values[i], x, y) == pytest.approx(at.tolerance, rel=0.35)
                checked += 1
    assert checked > 20


@pytest.mark.parametrize("kind", [SettlingSurfaceDisplay, WeightPathDisplay])
def test_ways_of_trainings_are_the_record(kind, surface):
    display = kind.from_result(surface, plane="path").plot()
    held = plane_of(surface, "path")["trails"]
    panels = display.ax_.child_axes[:-1] if kind is SettlingSurfaceDisplay else [display.ax_]
    for panel in panels:
        drawn = [line.get_xydata() for line in panel.lines if len(line.get_xdata()) == len(held[0]["points"])]
        assert len(drawn) == len(held)
        for found, trail in zip(drawn, held, strict=True):
            np.testing.assert_allclose(found, [point["at"] for point in trail["points"]])
    _, rows = display.ways()
    assert len(rows) == sum(len(trail["points"]) for trail in held)
    assert rows[1][:2] == (50, "1")
    assert rows[1][2:] == pytest.approx(
        [*held[0]["points"][1]["at"], *(held[0]["points"][1][n] for n in ("off", "moved"))]
    )
    shares = sorted(round(100 * trail["hidden"], 1) for trail in held)
    assert f"k = 50, 100, 400), {shares[0]:g} to {shares[-1]:g}\u00a0% is across the plane" in display.caption()
    assert "beyond the edge is cut off" in display.caption()  # they begin there


def test_a_surface_of_an_earlier_version_has_no_ways_and_is_drawn(surface, surface_html):
    for entry in surface["results"][:2]:
        for plane in entry["surface"]["planes"]:
            del plane["trails"]
    display = SettlingSurfaceDisplay.from_result(surface).plot()
    assert "training" not in display.caption()
    assert display.ax_.get_legend_handles_labels()[1] == []
    assert interactive(surface["results"][0], "head").trails is False
    assert surface_html.count("Show how training moved the weights") == 2


def test_ways_on_the_page_are_the_record(surface, surface_html):
    for plane in page_data(surface_html)["planes"]:
        held = plane_of(surface, plane["name"])["trails"]
        assert [trail["k"] for trail in plane["trails"]] == [50, 100, 400]
        for trail, own in zip(plane["trails"], held, strict=True):
            expected = [[point["step"], *point["at"], point["off"]] for point in own["points"]]
            np.testing.assert_allclose(trail["points"], expected)
        assert "is across the plane and does not show" in plane["hidden"]


def test_nearly_all_is_not_said_to_be_all(surface):
    for trail in plane_of(surface)["trails"]:
        trail["hidden"] = 0.99997
    hidden = SettlingSurfaceDisplay.from_result(surface).landscape.hidden()
    assert hidden.endswith("99.9\u00a0% or more is across the plane and does not show")


@pytest.mark.parametrize("change", [{"points": [{"step": 0}]}, {"points": None}, {"hidden": "much"}])
def test_a_damaged_way_is_said(surface, change):
    plane_of(surface)["trails"][0] |= change
    with pytest.raises(RecordError, match="can't be read"):
        SettlingSurfaceDisplay.from_result(surface)


def test_the_way_is_the_record(surface):
    display = WeightPathDisplay.from_result(surface).plot()
    way = plane_of(surface, "path")["way"]
    drawn = next(line for line in display.ax_.lines if line.get_label().startswith("weights"))
    np.testing.assert_array_equal(drawn.get_xydata(), [place["at"] for place in way])
    _, rows = display.table()
    assert [(row[0], row[3]) for row in rows] == [(place["k"], place["off"]) for place in way]
    assert rows[-1][4] == pytest.approx(display.landscape.losses[-1, 4, 4])  # w* is the middle of the plane


def test_frames_are_the_record(surface):
    plane = plane_of(surface)
    figure = SettlingSurfaceDisplay.from_result(surface).animate()
    assert [frame.name for frame in figure.frames] == [str(k) for k in plane["k"]]
    for frame, losses in zip(figure.frames, unpacked(plane["losses"]), strict=True):
        np.testing.assert_array_equal(np.asarray(frame.data[0].z), losses.T)
        np.testing.assert_array_equal(np.asarray(frame.data[0].x), plane["axes"][0]["at"])
    assert len({(frame.data[0].cmin, frame.data[0].cmax) for frame in figure.frames}) == 1
    np.testing.assert_array_equal(np.asarray(figure.data[0].z), unpacked(plane["losses"])[-1].T)


def test_height_between_points_is_bilinear(surface):
    at = SettlingSurfaceDisplay.from_result(surface).landscape
    plane = 2 * at.first[:, None] - 3 * at.second[None, :] + 0.5
    for a, b in [(0.13, -0.7), (-1.0, 1.5), (0.99, 0.0)]:
        assert at.height(plane, a, b) == pytest.approx(2 * a - 3 * b + 0.5)


def test_the_pages_numbers_are_the_record(surface, surface_html):
    data = page_data(surface_html)
    assert data["tolerance"] == 0.05
    for plane in data["planes"]:
        record = plane_of(surface, plane["name"])
        assert plane["k"] == record["k"]
        for name in ("losses", "to_whole", "next_step"):
            shape = (len(plane["k"]), len(plane["second"]), len(plane["first"]))
            rows = np.frombuffer(base64.b64decode(plane[name]), "<f4").reshape(shape)
            np.testing.assert_array_equal(np.moveaxis(rows, 1, 2), unpacked(record[name]))


def test_a_fine_grid_is_thinned_on_the_page_alone():
    entry = surface_result(points=41)["results"][0]
    data = json.loads(interactive(entry, "head").data)
    assert len(data["planes"][0]["first"]) == 21
    assert SettlingSurfaceDisplay("head", landscapes_of(entry)["random"]).landscape.losses.shape[1:] == (41, 41)


def test_the_only_scripts_are_the_pages_own(surface_html, parse):
    page = parse(surface_html)
    kinds = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert sorted(map(str, kinds)) == ["None", "application/gzip;base64", "application/json", "application/json"]
    policy = next(content for content in page.attributes("content") if "script-src" in content)
    own = re.search(r"<script>(.*?)</script>", surface_html, re.S)[1]
    packed = re.search(r'id="plotly-gz">(.*?)</script>', surface_html, re.S)[1]
    plotly = gzip.decompress(base64.b64decode(packed))
    assert plotly == pkgutil.get_data("plotly", "package_data/plotly.min.js")
    digests = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (own.encode(), plotly)]
    assert policy.split("script-src ")[1] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert "unsafe" not in policy.split("script-src")[1]


def test_a_page_with_surfaces_needs_no_network_and_stays_small(surface_html, surface_folder):
    without_plotly = re.sub(r'id="plotly-gz">.*?</script>', "", surface_html, flags=re.S)
    assert not re.search(r"https?://|@import|src=(?!x)", without_plotly)
    assert (surface_folder / "report.html").stat().st_size < PAGE_LIMIT


@pytest.mark.slow
def test_the_finest_surfaces_of_five_adaptations_stay_under_the_limit(tmp_path):
    result = surface_result(points=31, images=200)
    part = result["results"][0]
    result["results"] = [{**part, "adapt": f"lora:{rank}"} for rank in (1, 2, 4, 8, 16)]
    assert write_report(result, tmp_path).stat().st_size < PAGE_LIMIT


def test_a_page_without_surfaces_has_no_script(html, page):
    assert "plotly" not in html
    assert not any(tag == "script" for tag, _ in page.elements)
    assert "interactive" not in page.attributes("class")


def test_ids_and_labels_of_the_controls(surface_html, parse):
    page = parse(surface_html)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    ranges = [a for tag, a in page.elements if tag == "input" and a["type"] == "range"]
    assert len(ranges) == 2
    assert {a["id"] for a in ranges} == set(page.attributes("for"))
    assert sum(tag == "figcaption" for tag, _ in page.elements) == sum(tag == "figure" for tag, _ in page.elements)


def test_class_names_are_text(surface_html, parse):
    page = parse(surface_html)
    assert not any(tag == "img" for tag, _ in page.elements)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert EVIL_CLASS in page.text


@pytest.mark.parametrize("evil", ["</script><img src=x>", "<!--<script>", "a & b", "]]>"])
def test_json_in_the_page_cannot_end_its_element(evil):
    text = as_json({"name": evil})
    assert not set(text) & set("<>&")
    assert json.loads(text) == {"name": evil}


def test_a_damaged_surface_is_said(surface, tmp_path):
    plane_of(surface)["losses"]["base64"] = "AAAA"
    with pytest.raises(RecordError, match="the loss surface of 'head' can't be read"):
        write_report(surface, tmp_path)


@pytest.mark.slow
def test_same_surface_same_bytes(surface, surface_folder, tmp_path):
    assert write_report(surface, tmp_path).read_bytes() == (surface_folder / "report.html").read_bytes()


def test_figures_for_papers_are_there(surface_folder):
    for name in ("head-surface", "head-surface-difference", "head-surface-way"):
        pdf = (surface_folder / "figures" / f"{name}.pdf").read_bytes()
        assert b"/FontFile2" in pdf
        assert (surface_folder / "figures" / f"{name}.svg").is_file()
