"""The page: what it says, that nothing from the data can act in it, and that it stands alone."""

import errno
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stillscape._errors import InputError, RecordError
from stillscape.report import write_report
from stillscape.report.words import kept_together

EVIL = 'x"><script>alert(1)</script>/../$a$'


def test_verdict_comes_first_and_says_the_sentence(html, page, result):
    body = html[html.index("<main>") :]
    assert body.index('id="verdict"') < min(body.index(mark) for mark in ("<h2", "<article", "<figure", "<table"))
    assert "200 images are enough" in body[body.index("<h1") : body.index("</h1>")]
    assert kept_together(result["verdict"]["sentence"]) in page.text


def test_every_adaptation_has_a_card_with_its_own_sentence(page, result):
    cards = [attributes for tag, attributes in page.elements if tag == "article"]
    assert len(cards) == len(result["results"]) == 3
    for entry in result["results"]:
        assert page.text.count(kept_together(entry["verdict"]["sentence"])) == (2 if entry["adapt"] == "head" else 1)


@pytest.mark.parametrize(
    ("status", "k_star", "words"),
    [
        ("reached", 123, "123 images are enough"),
        ("not_reached", None, "400 images are not enough yet"),
        ("cannot_tell", None, "These runs cannot tell"),
    ],
)
def test_headline_follows_the_overall_verdict(result, tmp_path, parse, status, k_star, words):
    result["results"] = result["results"][:1]
    result["verdict"] |= {"status": status, "k_star": k_star}
    assert words in parse(write_report(result, tmp_path).read_text()).text


def test_a_target_changes_what_enough_means(result, tmp_path, parse):
    result["results"] = result["results"][:1]
    result["question"]["target"] = 0.93
    text = parse(write_report(result, tmp_path).read_text()).text
    assert "accuracy stays at or above 93.0\N{NO-BREAK SPACE}%" in text
    assert "by no more than 1 point" not in text


def test_names_from_the_data_are_text_and_never_markup(page):
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["script"] == 0
    assert "<script>alert('class')</script>" in page.text
    assert "NaN at step 12 <b>of</b> 150" in page.text


def test_hostile_names_stay_harmless_in_page_files_and_paths(result, tmp_path, parse):
    entry = result["results"][0]
    entry["adapt"] = result["verdict"]["adapt"] = EVIL
    entry["notes"], result["question"]["model"] = [EVIL], EVIL
    entry["criteria"][EVIL] = {**entry["criteria"]["accuracy"], "assumes": [EVIL], "reason": EVIL}
    result["provenance"][EVIL] = EVIL
    page = parse(write_report(result, tmp_path / "run").read_text())
    assert "script" not in {tag for tag, _ in page.elements}
    assert EVIL in page.text
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert {path.parent.name for path in tmp_path.rglob("*.svg")} == {"figures"}
    for path in tmp_path.rglob("*.svg"):
        assert "script" not in {element.tag.rpartition("}")[2] for element in ET.parse(path).iter()}


def test_page_needs_no_network_and_forbids_scripts(html, page, folder):
    assert not re.search(r"https?://|@import|src=", html)
    links = [href for href in page.attributes("href") if not href.startswith("#")]
    files = [href for href in links if href != "data:,"]
    assert len(files) == 60
    assert all((folder / href).is_file() for href in files)
    assert any("default-src 'none'" in content for content in page.attributes("content"))


def test_ids_are_unique_and_every_reference_finds_its_own(html, page):
    ids = page.attributes("id")
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    wanted = {href[1:] for href in page.attributes("href") if href.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", html)) | set(page.attributes("aria-labelledby"))
    assert len(wanted) > 20
    assert wanted <= set(ids)


def test_figures_say_what_they_show_to_those_who_do_not_see_them(page):
    drawn = [
        attributes
        for tag, attributes in page.elements
        if tag == "svg" and "swatch" not in (attributes.get("class") or "")
    ]
    assert len(drawn) == 30
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 80 for attributes in drawn)
    assert sum(tag == "figcaption" for tag, _ in page.elements) == 30


def test_headings_never_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) == 1


def test_nulls_are_marked_and_never_called_enough(html):
    rows = re.findall(r'<tr class="null">.*?</tr>', html, re.S)
    assert len(rows) == 6
    assert all("null: true for any model" in row and "Enough" not in row for row in rows)


def test_the_deciding_criterion_stands_first(html):
    first = re.findall(
        r"What each criterion says</h3>.*?<tbody>\s*<tr class=\"(\w+)\">\s*<th scope=\"row\">(\w+)", html, re.S
    )
    assert first == [("decides", "Accuracy")] * 3


def test_gains_are_read_against_the_tolerance(html):
    tables = re.findall(r'<table class="gains">.*?</table>', html, re.S)
    readings = [re.findall(r"<td>([^<]*)</td></tr>", table)[-1] for table in tables]
    assert readings == ["within tolerance", "can be either", "above tolerance"]


def test_failed_runs_are_told(page, result, tmp_path, parse):
    assert "1 of 24 runs failed and is left out of every mean." in page.text
    result["results"][2]["cells"][1]["status"] = "ok"
    assert "left out of every mean" not in parse(write_report(result, tmp_path).read_text()).text


def test_same_result_gives_the_same_bytes(folder, result, tmp_path):
    write_report(result, tmp_path)
    here = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    there = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(here) == 61
    assert here == there


def test_bare_result_still_makes_a_page(tmp_path, parse):
    page = write_report({"schema": 1, "results": [{"adapt": "head", "curves": None, "cells": None}]}, tmp_path)
    text = parse(page.read_text()).text
    assert "These runs cannot tell" in text
    assert "Head only" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "report.html"]


def test_nulls_everywhere_still_make_a_page(result, tmp_path, parse):
    entry = result["results"][0]
    entry["gains"][0] |= {"mean": None, "low": None, "high": None}
    entry["noise_floor"] = {"metric": None, "heldout_loss": None}
    entry["curves"]["accuracy"]["mean"][-1] = None
    entry["curves"]["train_loss"] = None
    entry["constants"]["radius"]["value"] = None
    result["question"] |= dict.fromkeys(("epsilon", "epsilon_loss", "level", "num_groups", "evaluation"))
    result["results"] = [entry]
    assert "nan" not in parse(write_report(result, tmp_path).read_text()).text.lower().replace("nan at step", "")


@pytest.mark.slow
def test_large_results_stay_small_on_the_page(result, tmp_path):
    k = np.arange(1, 30_000)
    for entry in result["results"]:
        mean = (1 / (k + 1)).tolist()
        entry["curves"]["fixed_surface"] = {
            "k": k.tolist(),
            "mean": mean,
            "low": mean,
            "high": mean,
            "kind": "identity",
        }
        entry["per_class"] = entry["per_class"] * 250
        entry["cells"] = entry["cells"] * 20
    assert write_report(result, tmp_path).stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("bad", "words"),
    [([], "list"), ({"schema": 2, "results": [1]}, "schema is 2"), ({"schema": 1, "results": []}, "no adaptation")],
)
def test_what_is_no_result_is_refused_before_anything_is_written(bad, words, tmp_path):
    with pytest.raises(RecordError, match=words):
        write_report(bad, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_new_report_replaces_the_old_one_whole(result, tmp_path):
    result["results"] = result["results"][:1]
    first = write_report(result, tmp_path).read_text()
    result["verdict"]["sentence"] = "Another sentence."
    second = write_report(result, tmp_path).read_text()
    assert "Another sentence." in second
    assert "Another sentence." not in first
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob(".*"))


def test_importing_the_report_is_cheap():
    code = "import sys, stillscape.report; print(sorted({'matplotlib', 'jinja2', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_template_files_are_beside_the_code():
    import stillscape.report

    here = Path(stillscape.report.__file__).parent
    assert {path.name for path in here.glob("*.html")} == {"template.html", "methods.html", "compare.html"}
    assert (here / "style.css").is_file()


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_old_page_stays(tmp_path, monkeypatch, result):
    page = write_report(result, tmp_path)
    before = page.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match="the disk is full"):
        write_report(result, tmp_path)
    assert page.read_bytes() == before
