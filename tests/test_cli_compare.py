"""`stillscape compare` at the door: the page, JSON alone on stdout, exit codes, names that are not markup."""

import json
import subprocess
import sys

import pytest

from tests.report.test_compare import folder_of, reached
from tests.test_cli import call


@pytest.fixture
def two(tmp_path):
    return [
        folder_of(tmp_path, name="[bold]a", verdict=reached(50, 50, 50)),
        folder_of(tmp_path, name="b", verdict=reached(200, 100, 200)),
    ]


def test_the_page_is_written_and_the_answer_is_said(two, tmp_path):
    code, out, err = call("compare", *two, "--out", tmp_path / "pages" / "both.html")
    assert code == 0
    assert "[bold]a (head) needs the fewest images" in out
    assert "100 to 200" in out
    assert f"page: {tmp_path / 'pages' / 'both.html'}" in out
    assert not err
    assert "needs the fewest images" in (tmp_path / "pages" / "both.html").read_text(encoding="utf-8")


def test_the_page_is_compare_html_where_nothing_else_is_said(two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("compare", *two)[0] == 0
    assert (tmp_path / "compare.html").is_file()


def test_json_is_alone_on_stdout(two, tmp_path):
    code, out, err = call("compare", *two, "--out", tmp_path / "both.html", "--json")
    assert code == 0
    assert json.loads(out)["verdict"]["status"] == "told"
    assert "both.html" in err


def test_runs_that_can_not_be_ranked_are_still_compared(two, tmp_path):
    other = folder_of(tmp_path, name="c", provenance={"data_fingerprint": "another"})
    code, out, _ = call("compare", *two, other, "--out", tmp_path / "x.html")
    assert code == 0
    assert "can't be ranked" in out
    assert "Different data" in out


@pytest.mark.parametrize("case", ["one", "none", "twice", "no run", "not there", "out is a folder", "damaged"])
def test_bad_input_is_one_line_and_its_exit_code(case, two, tmp_path):
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "result.json").write_text("{")
    arguments, expected = {
        "one": (two[:1], 2),
        "none": ([], 2),
        "twice": ([two[0], two[0]], 2),
        "no run": ([two[0], tmp_path / "empty"], 2),
        "not there": ([two[0], tmp_path / "nowhere"], 2),
        "out is a folder": ([*two, "--out", tmp_path], 2),
        "damaged": ([two[0], broken], 4),  # as `stillscape report` says of such a file
    }[case]
    code, out, err = call("compare", *arguments)
    assert code == expected
    assert not out
    if case != "none":  # typer's own usage error has more lines
        assert len(err.strip().splitlines()) == 1


def test_the_door_does_not_wait_for_anything_to_show_its_help():
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from typer.testing import CliRunner; from stillscape.cli import app; "
         "assert CliRunner().invoke(app, ['compare', '--help']).exit_code == 0; "
         "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"],
        check=False,
    )  # fmt: skip
    assert done.returncode == 0
