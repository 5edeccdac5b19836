"""The page in a real browser: alone, with its surfaces moving, for eyes, keyboards and screen readers."""

import io
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.interpolate import RegularGridInterpolator

from stillscape.report import write_report
from stillscape.report.landscape import landscapes_of
from tests.report.example import EVIL_CLASS, surface_result

pytestmark = pytest.mark.slow
FLOOR = 0.1 * 0.05  # differences are cut off at a tenth of the tolerance
LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (390, 1280)]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(surface_result(), tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def planes():
    return landscapes_of(surface_result()["results"][0])


def test_it_opens_from_a_file_and_asks_for_nothing_else(report, visit):
    opened = visit(report)
    assert opened.requests == [report.as_uri()]
    assert opened.errors == []
    assert opened.figure(0).is_visible()
    assert opened.figure(1).is_visible()
    assert opened.page.locator("#verdict h1").inner_text() == "200 images are enough"


def test_the_slider_moves_the_surfaces_own_numbers(report, visit, planes):
    opened, at = visit(report), planes["curvature"]
    seen = []
    for place, k in enumerate(at.k):
        opened.slide(place, f"curvature losses {k}")
        heights = np.array(opened.heights())
        np.testing.assert_allclose(heights, at.losses[place].T, rtol=1e-6)
        said = opened.figure().locator("output").inner_text()
        assert said.startswith(f"k = {k} of 40 images: ")
        assert f"{100 * (at.to_whole[place] <= 0.05).mean():.0f}\N{NO-BREAK SPACE}% of the plane" in said
        seen.append(heights)
    assert min(np.abs(one - other).max() for one, other in pairwise(seen)) > 1e-3


def test_planes_and_differences_are_the_records(report, visit, planes):
    opened = visit(report, reduced_motion="reduce")
    for plane, at in planes.items():
        opened.figure().locator(f"input[value={plane}]").check()
        for quantity in ("to_whole", "next_step", "losses"):
            opened.figure().locator(f"input[value={quantity}]").check()
            opened.slide(2, f"{plane} {quantity} 8")
            expected = getattr(at, quantity)[2].T
            floor = -np.inf if quantity == "losses" else FLOOR
            np.testing.assert_allclose(opened.heights(), np.maximum(expected, floor), rtol=1e-6)
    assert opened.errors == []


def test_scales_and_axes_stay_the_same_while_k_grows(report, visit, planes):
    opened = visit(report, reduced_motion="reduce")
    look = (
        "(() => { const plot = document.querySelector('figure.interactive .plot'), s = plot._fullLayout.scene;"
        "return [s.xaxis.range, s.yaxis.range, s.zaxis.range, plot._fullData[0].cmin, plot._fullData[0].cmax] })()"
    )
    found = []
    for place, k in enumerate(planes["curvature"].k):
        opened.slide(place, f"curvature losses {k}")
        found.append(opened.page.evaluate(look))
    assert all(each == found[0] for each in found)
    assert found[0][2][1] == pytest.approx(planes["curvature"].ceiling())


def test_after_the_last_image_there_is_no_next_one(report, visit):
    opened = visit(report)
    opened.figure().locator("input[value=next_step]").check()
    assert opened.figure().locator("input[type=range]").get_attribute("max") == "3"
    assert opened.figure().locator("output").inner_text().startswith("k = 20 of 40 images")


def test_it_plays_to_the_end_and_stops(report, visit, planes):
    opened = visit(report)
    play = opened.figure().get_by_role("button", name="Play")
    play.click()
    pause = opened.figure().get_by_role("button", name="Pause")
    assert pause.is_visible()
    assert opened.figure().locator("input[type=range]").input_value() != "4"
    play.wait_for()
    opened.slide(4, "curvature losses 40")
    np.testing.assert_allclose(opened.heights(), planes["curvature"].losses[-1].T, rtol=1e-6)


def test_who_wants_no_motion_gets_none(report, visit, planes):
    opened = visit(report, reduced_motion="reduce")
    assert not opened.figure().locator(".play").is_visible()
    opened.figure().locator("input[type=range]").press("Home")
    np.testing.assert_allclose(opened.heights(), planes["curvature"].losses[0].T, rtol=1e-6)  # at once


def test_buttons_turn_the_surface(report, visit):
    opened = visit(report)
    eye = "document.querySelector('figure.interactive .plot')._fullLayout.scene.camera.eye"
    before = opened.page.evaluate(eye)
    opened.figure().get_by_role("button", name="Turn the surface to the left").press("Enter")
    after = opened.page.evaluate(eye)
    assert after["z"] == before["z"]
    assert np.hypot(after["x"], after["y"]) == pytest.approx(np.hypot(before["x"], before["y"]))
    assert after["x"] != before["x"]


def test_pointing_at_the_surface_says_its_height(report, visit, planes):
    opened, at = visit(report), planes["curvature"]
    plot = opened.figure().locator(".plot")
    plot.scroll_into_view_if_needed()
    box, said = plot.bounding_box(), ""
    for share in (0.42, 0.45, 0.48, 0.51, 0.54):
        opened.page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.5 * box["height"])
        opened.page.wait_for_timeout(400)
        labels = opened.figure().locator(".hovertext")
        said = labels.first.text_content() if labels.count() else ""
        if said and "weights" not in said:
            break
    assert " nats" in said
    value = float(said.split(" nats")[0])
    assert np.abs(at.losses[-1] - value).min() < 1e-4


def test_ways_of_trainings_lie_on_the_surface_and_can_be_hidden(report, visit, planes):
    opened = visit(report)
    traces = "document.querySelector('figure.interactive .plot').data"
    at = planes["curvature"]
    drawn = opened.page.evaluate(f"{traces}.slice(2).map((trace) => [trace.x, trace.y, trace.z])")
    assert len(drawn) == len(at.trails) == 3
    surface = RegularGridInterpolator((at.first, at.second), np.array(opened.heights()).T)
    edges = np.array([at.first[-1], at.second[-1]])
    for (x, y, z), trail in zip(drawn, at.trails, strict=True):
        within = trail.places[(np.abs(trail.places) <= edges).all(1)]
        assert 1 < len(within) < len(trail.places)  # they begin beyond the edge
        assert len(x) == 4 * (len(within) - 1) + 1
        np.testing.assert_allclose(np.stack([x, y], 1)[::4], within, atol=1e-6)
        above = np.array(z) - surface(np.stack([x, y], 1))
        assert (above > -1e-6).all()  # on the surface, lifted by a hair
        assert above.max() < 0.05 * (surface.values.max() - surface.values.min())
    assert "is across the plane and does not show" in opened.figure().locator(".hidden-share").inner_text()
    opened.figure().locator("fieldset.trails input").uncheck()
    opened.until(f"{traces}.length === 2")
    opened.slide(0, f"curvature losses {at.k[0]}")
    opened.figure().locator("fieldset.trails input").check()
    opened.until(f"{traces}.length === 5")
    assert opened.errors == []


def test_numbers_can_be_copied(report, visit, planes):
    opened = visit(report, permissions=["clipboard-read", "clipboard-write"])
    opened.figure().locator("summary").click()
    wanted = "Copy: Numbers behind the surface: Two directions of largest curvature, Head only"
    opened.figure().get_by_role("button", name=wanted).click()
    opened.until("!!document.querySelector('figure.interactive .copy').textContent.match('Copied')")
    header, *rows = opened.page.evaluate("navigator.clipboard.readText()").splitlines()
    assert header.startswith("Images\t")
    assert [row.split("\t")[0] for row in rows] == [str(k) for k in planes["curvature"].k]


def test_a_class_that_would_be_markup_is_text(report, visit):
    opened = visit(report)
    assert opened.page.locator("img").count() == 0
    opened.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    assert opened.page.get_by_role("rowheader", name=EVIL_CLASS, exact=True).count() == 1
    assert opened.errors == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_no_rule_of_accessibility_is_broken(report, visit, scheme, width):
    spec = find_spec("axe_playwright_python")
    if spec is None:
        pytest.skip("axe-playwright-python, which carries axe-core, is not installed")
    axe = Path(spec.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    page = visit(report, width=width, color_scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    page.evaluate(axe)
    broken = page.evaluate("axe.run()")["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in broken] == []


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_it_fits_and_draws_at_every_width(report, visit, scheme, width, tmp_path):
    opened = visit(report, width=width, color_scheme=scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    picture = Image.open(io.BytesIO(opened.figure().locator(".plot").screenshot(path=tmp_path / "plot.png")))
    colors = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) > 200  # a surface, and not an empty box
    light = np.median(colors.mean(1)) > 128
    assert light == (scheme == "light")


def test_colors_follow_the_scheme(report, visit):
    opened = visit(report, color_scheme="light")
    ink = "document.querySelector('figure.interactive .plot').layout.font.color"
    assert opened.page.evaluate(ink) == "#1f2933"
    opened.page.emulate_media(color_scheme="dark")
    opened.until(f"{ink} === '#e8e6e1'")


def test_paper_has_the_pictures_that_stand_still(report, visit):
    opened = visit(report)
    opened.page.emulate_media(media="print")
    assert not opened.figure().is_visible()
    assert opened.page.locator("#figure-head-surface svg").first.is_visible()
    assert opened.page.pdf()[:4] == b"%PDF"


def test_without_script_the_rest_is_there(report, visit):
    opened = visit(report, wait=False, java_script_enabled=False)
    assert not opened.figure().is_visible()
    assert opened.page.locator("#figure-head-surface svg").first.is_visible()
    assert opened.page.locator("#verdict h1").is_visible()
