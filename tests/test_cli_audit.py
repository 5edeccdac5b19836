"""`stillscape audit`: a table or JSON on stdout, three files, exit code 4 where a corrected statement fails."""

import csv
import io
import json

import pytest

from stillscape.bounds import audit as audit_room
from stillscape.bounds import constants
from tests.test_cli import call

NUMBERS = ("#2", "#17", "Lemma 1", "Lemma 4")


@pytest.fixture(autouse=True)
def _few_statements(monkeypatch):
    kept = tuple(claim for claim in audit_room.CLAIMS if claim.number in NUMBERS)
    monkeypatch.setattr(audit_room, "CLAIMS", kept)


def test_table_on_stdout():
    code, out, err = call("audit", "--draws", 20)
    assert code == 0
    assert "#17" in out
    assert "FAILS" in out
    assert "4 of 4 corrected statements hold." in out
    assert "auditing statements" in err


def test_json_alone_on_stdout_and_files_that_parse(tmp_path):
    code, out, err = call("audit", "--draws", 20, "--seed", 3, "--json", "--out", tmp_path / "new" / "audit")
    folder = tmp_path / "new" / "audit"
    assert code == 0
    whole = json.loads(out)
    assert (whole["draws"], whole["seed"], whole["all_corrected_hold"]) == (20, 3, True)
    assert tuple(row["number"] for row in whole["statements"]) == NUMBERS
    assert json.loads((folder / "audit.json").read_text()) == whole
    rows = list(csv.DictReader(io.StringIO((folder / "audit.csv").read_text())))
    assert [row["number"] for row in rows] == list(NUMBERS)
    assert rows[1]["evidence"] == whole["statements"][1]["evidence"]
    assert (folder / "audit.md").read_text().startswith("# The paper, statement by statement")
    assert sorted(path.name for path in folder.iterdir()) == ["audit.csv", "audit.json", "audit.md"]
    assert str(folder / "audit.md") in err


def test_the_same_call_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        assert call("audit", "--draws", 20, "--quiet", "--out", tmp_path / name)[0] == 0
    for name in ("audit.json", "audit.csv", "audit.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_planted_fault_is_exit_code_4_and_still_written(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "SOFTMAX_JACOBIAN", 0.4)
    code, out, _ = call("audit", "--draws", 20, "--json", "--out", tmp_path)
    assert code == 4
    assert json.loads(out)["all_corrected_hold"] is False
    assert "**FAILS**" in (tmp_path / "audit.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--draws", 0), "draws is 0"), (("--draws", -5), "draws is -5"), (("--seed", -1), "seed is -1")],
)
def test_bad_input_is_one_clear_line(arguments, message):
    code, out, err = call("audit", "--quiet", *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith(f"stillscape: {message}")
    assert err.count("\n") == 1


def test_a_file_in_the_folders_place_is_said_before_anything_is_computed(tmp_path):
    (tmp_path / "taken").write_text("")
    code, _, err = call("audit", "--out", tmp_path / "taken")
    assert code == 2
    assert "which is a file; give a folder" in err
    assert "auditing" not in err


def test_figures_on_structure_are_written_beside_the_statements(tmp_path, monkeypatch):
    from stillscape.bounds import structure

    whole = structure.structure_sweep
    monkeypatch.setattr(structure, "AXES", ("d_K", "depth"))
    monkeypatch.setattr(structure, "structure_sweep", lambda axis, seed: whole(axis, seed=seed, quick=True))
    code, out, _ = call("audit", "--draws", 20, "--quiet", "--figures", "--out", tmp_path)
    assert code == 0
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == [f"structure-{axis}.{kind}" for axis in ("d_K", "depth") for kind in ("csv", "pdf", "svg")]
    assert "structure-depth.svg" in out


def test_figures_want_a_folder():
    code, _, err = call("audit", "--figures")
    assert code == 2
    assert "--out FOLDER" in err
