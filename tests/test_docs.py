"""What the pages show works: their Python runs, their commands are calls, and the site builds without a warning."""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from stillscape.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
GROUP = typer.main.get_command(app)


def blocks(text, *languages):
    """Return the fenced blocks of a page in the given languages, in order."""
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def calls(text):
    """Return the calls of stillscape that a page shows, as words."""
    lines = "\n".join(blocks(text, "console", "sh", "bash")).replace("\\\n", " ").splitlines()
    found = [re.sub(r"^\$ ", "", line.strip()).partition("  #")[0].partition(" > ")[0] for line in lines]
    return [shlex.split(line) for line in found if line.startswith("stillscape ")]


def run_page(text):
    """Run a page's Python in order, as one script; compare what is printed with the lines that begin with #>."""
    names: dict = {"__name__": "page"}
    for block in blocks(text, "python"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(block, "page", "exec"), names)
        if expected := re.findall(r"^#> ?(.*)$", block, re.MULTILINE):
            assert said.getvalue().splitlines() == expected


WITH_PYTHON = [page for page in PAGES if blocks(page.read_text(encoding="utf-8"), "python")]
WITH_CALLS = [page for page in PAGES if calls(page.read_text(encoding="utf-8"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(encoding="utf-8"))


def test_the_pages_for_everyone_have_examples():
    assert {"start.md", "choose-a-tolerance.md"} <= {page.name for page in WITH_PYTHON} & {p.name for p in WITH_CALLS}


def test_an_output_that_is_not_so_is_found():
    run_page("```python\nprint(1)\n#> 1\n```\n")
    with pytest.raises(AssertionError):
        run_page("```python\nprint(1)\n#> 2\n```\n")
    with pytest.raises(NameError):
        run_page("```python\nprint(unknown)\n```\n")


@pytest.mark.parametrize("page", [*WITH_CALLS, ROOT / "README.md"], ids=lambda page: page.name)
def test_every_call_on_a_page_is_one_that_the_command_line_takes(page):
    for words in calls(page.read_text(encoding="utf-8")):
        GROUP.commands[words[1]].make_context(words[1], words[2:])


def test_a_call_with_a_flag_that_is_not_there_is_found():
    (words,) = calls("```console\n$ stillscape run --data photos/ --epsilom 0.01\n```\n")
    with pytest.raises(Exception, match="No such option"):
        GROUP.commands["run"].make_context("run", words[2:])


def test_the_forecast_of_a_page_runs(tmp_path, monkeypatch):
    from tests.test_cli import call

    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{k},{0.97 - 2.0 / k**0.5:.4f}\n" for k in (50, 100, 200, 400, 800))
    (tmp_path / "scores.csv").write_text("size,score\n" + rows)
    shown = calls((ROOT / "docs" / "choose-a-tolerance.md").read_text(encoding="utf-8"))
    (words,) = [words for words in shown if words[1] == "forecast"]
    code, out, _ = call(*words[1:])
    assert code in (0, 3)
    assert "1,600" in out


# ---- the site

needs_mkdocs = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("latex2mathml")
    specification = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts" / "docs_hooks.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_formulas_become_mathml_and_code_keeps_its_dollars(hooks):
    text = "Let $x_1 * y_2$ be `$HOME`.\n\n```math\n\\frac{a}{b}\n```\n\n```sh\necho $PATH $x\n```\n"
    marked, formulas = hooks.with_formulas_set_aside(text)
    assert len(formulas) == 2
    assert "`$HOME`" in marked
    assert "echo $PATH $x" in marked
    html = hooks.with_formulas_back(marked, formulas)
    assert html.count("<math") == 2
    assert "<mfrac>" in html
    assert 'display="block"' in formulas[1]


def test_links_out_of_the_site_become_names(hooks):
    text = "[a](../benchmarks/x.md) [b](limits.md) [c](https://example.org/../x)"
    assert hooks.without_links_out_of_the_site(text) == (
        "a (`benchmarks/x.md` of the repository) [b](limits.md) [c](https://example.org/../x)"
    )


def test_the_page_of_the_command_line_holds_every_command_and_flag(hooks):
    page = hooks.command_line_page()
    assert "\x1b" not in page
    for name, command in GROUP.commands.items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section
        for parameter in command.params:
            for flag in getattr(parameter, "opts", []):
                assert not flag.startswith("--") or flag in section, f"{name} {flag}"


def test_every_room_has_a_page_with_all_its_names(hooks):
    import importlib

    import stillscape

    pages = hooks.room_pages()
    for room in stillscape.__all__:
        for name in importlib.import_module(f"stillscape.{room}").__all__:
            assert f"- {name}\n" in pages[f"api/{room}.md"]
        assert f"({room}.md)" in pages["api/index.md"]
        assert f"api/{room}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; not to be changed."""
    site = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return site


@pytest.mark.slow
@needs_mkdocs
@pytest.mark.parametrize("name", ["index.html", "api/data.html"])
def test_the_search_works_from_a_disk(site, visit, name):
    opened = visit(site / name, wait=False)
    opened.page.locator("input.md-search__input").click()
    opened.page.keyboard.type("tolerance")
    opened.until("document.querySelectorAll('.md-search-result__link').length > 3")
    found = opened.page.locator(".md-search-result__link").evaluate_all("links => links.map((link) => link.href)")
    assert any("choose-a-tolerance.html" in link for link in found)
    assert all(link.startswith(site.as_uri()) for link in found)
    assert all(request.startswith(site.as_uri()) for request in opened.requests)
    assert opened.errors == []


@pytest.mark.slow
@needs_mkdocs
def test_the_site_builds_without_a_warning_and_needs_no_network(site):
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {"index.html", "start.html", "command-line.html", "api/sufficiency.html"} <= set(pages)
    for name, html in pages.items():
        assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?https?:", html), name
        assert not re.search("[\ue000-\ue101]", html), name
    assert pages["theory.html"].count("<math") > 1000
    assert "needs_fewer" in pages["api/sufficiency.html"]
    assert "--skip-broken" in pages["command-line.html"]
