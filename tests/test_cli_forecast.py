"""`stillscape forecast`: tables of scores as people have them, clear errors for those that are none, exit codes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape._scores import append_score, read_scores
from stillscape.sufficiency import forecast, required_size
from tests.test_cli import call

SIZES = (50, 100, 200, 400)


def table(path, header="size,score", rows=None, shift=0.0):
    rows = rows or [f"{k},{0.95 - 2.0 / k**0.5 + shift:.4f}" for k in SIZES]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def scores(tmp_path):
    return table(tmp_path / "scores.csv")


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("size,score", ["50,0.5", "100,0.6", "50,0.7"]),
        ("k;accuracy", ["50;0,5", "100;0,6", "50;0,7"]),
        ("n\tseed\tAUROC", ["50\t1\t0.5", "100\t1\t0.6", "50\t2\t0.7"]),
        ("\ufeffsize, score ", ["50,0.5", "", "100,0.6", "100,", "50,0.7"]),
    ],
)
def test_tables_as_people_have_them(header, rows, tmp_path):
    sizes, found, _ = read_scores(table(tmp_path / "s.csv", header, rows))
    assert sizes.tolist() == [50, 100]
    np.testing.assert_array_equal(found, [[0.5, 0.7], [0.6, np.nan]])


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("size,points", ["50,0.5"], "one must hold the scores"),
        ("images_seen,score", ["50,0.5"], "one must hold the sizes"),
        ("size,accuracy,loss", ["50,0.5,0.2"], "accuracy, loss could all hold the scores: name one with --column"),
        ("size,score", ["50,good"], "line 2 has score 'good'"),
        ("size,score", ["50,nan"], "Leave failed runs out"),
        ("size,score", ["50.5,0.5"], "whole number"),
        ("size,score", ["0,0.5"], "whole number above 0"),
        ("size,score", ["50,0.5,0.7"], "3 cells"),
        ("size,score", ["50,"], "no row with a score"),
    ],
)
def test_tables_that_are_none_are_one_line_and_exit_code_two(header, rows, said, tmp_path):
    code, out, err = call("forecast", table(tmp_path / "s.csv", header, rows), "--target", 0.9)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not out


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        read_scores(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="is empty"):
        read_scores(tmp_path / "empty.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_scores(tmp_path / "binary.csv")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "target and at are both missing"),
        (["--target", "1.5"], "target is 1.5"),
        (["--target", "0.9", "--level", "2"], "level is 2.0"),
        (["--target", "0.9", "--kind", "points"], "kind is 'points'"),
        (["--target", "0.9", "--column", "beauty"], "column is 'beauty'"),
        (["--at", "many"], "at is 'many'"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_two(arguments, said, scores):
    code, _, err = call("forecast", scores, *arguments)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_exit_code_is_zero_only_where_the_target_is_reached(scores):
    reached, beyond, out_of_reach = (call("forecast", scores, "--target", goal) for goal in (0.75, 0.9, 1.0))
    assert (reached[0], beyond[0], out_of_reach[0]) == (0, 3, 3)
    assert "reached" in reached[1]
    assert "beyond" in beyond[1]


def test_json_is_what_the_library_says(scores):
    code, out, _ = call("forecast", scores, "--target", 0.9, "--at", "800,1600", "--level", 0.8, "--json")
    answer = json.loads(out)
    sizes, values, _ = read_scores(scores)
    assert answer["required_size"] == required_size(sizes, values, target=0.9, level=0.8, kind="score").to_dict()
    assert answer["forecast"] == forecast(sizes, values, at=[800, 1600], level=0.8, kind="score").to_dict()
    assert code == 3


def test_the_kind_is_read_off_the_column_and_at_alone_is_enough(tmp_path):
    losses = table(tmp_path / "loss.csv", "k,eval_loss", [f"{k},{2.0 / k**0.5:.5f}" for k in SIZES])
    code, out, _ = call("forecast", losses, "--at", 800, "--json")
    answer = json.loads(out)
    assert answer["kind"] == "loss"
    assert answer["required_size"] is None
    assert answer["forecast"]["mean"][0] < 0.1
    assert code == 0
    assert "800" in call("forecast", losses, "--at", 800)[1]


def test_rows_are_appended_with_their_repeat_and_read_again(tmp_path):
    path = tmp_path / "runs" / "scores.csv"
    for size, score in ((50, 0.5), (100, 0.75), (50, 0.625)):
        append_score(path, size, score)
    assert path.read_text() == "size,score,repeat\n50,0.5,0\n100,0.75,0\n50,0.625,1\n"
    np.testing.assert_array_equal(read_scores(path)[1], [[0.5, 0.625], [0.75, np.nan]])
    other = table(tmp_path / "other.csv", "file,label", ["a,b"])
    with pytest.raises(InputError, match="begins with file,label"):
        append_score(other, 5, 0.5)


def test_the_door_to_the_forecast_does_not_wait_for_torch(scores):
    script = (
        "import sys; from typer.testing import CliRunner; from stillscape.cli import app; "
        f"assert CliRunner().invoke(app, ['forecast', {str(scores)!r}, '--target', '0.75']).exit_code == 0; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
