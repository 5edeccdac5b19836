"""`stillscape reproduce`: names, plans, assets, files and exit codes."""

import json

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape.reproductions import CATALOGUE, read_findings, reproduce, run
from stillscape.reproductions.controls import three_classes
from tests.test_cli import call


def test_list_names_all_with_what_they_need():
    code, out, _ = call("reproduce", "--list")
    assert code == 0
    assert all(name in out for name in CATALOGUE)
    code, out, _ = call("reproduce", "--list", "--json")
    assert [row["name"] for row in json.loads(out)] == list(CATALOGUE)


def test_a_quick_run_writes_findings_and_figure(tmp_path):
    code, out, err = call("reproduce", "growth-rates", "--quick", "--out", tmp_path / "g", "--seed", 3)
    assert code == 0, err
    assert "STANDS" in out
    found = read_findings(tmp_path / "g/findings.json")
    assert (found.name, found.size, found.settings["seed"]) == ("growth-rates", "quick", 3)
    assert (tmp_path / "g/growth-rates.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "g/growth-rates.pdf").read_bytes().startswith(b"%PDF")


def test_json_alone_on_stdout(tmp_path):
    code, out, _ = call("reproduce", "tightness", "--quick", "--json", "--quiet", "--data", "digits", "--out", tmp_path)
    assert code == 0
    assert json.loads(out)["name"] == "tightness"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name is missing; give one of base, vit"),
        (("nonsense",), "name is 'nonsense'; it must be one of"),
        (("no.toml",), "plan 'no.toml' can't be read"),
        (("base", "--model", "m"), "model is no setting of base"),
        (("losses", "--data", "a", "--data", "b"), "data is given 2 times; losses takes one"),
        (("text", "--data", "stand-in", "--model", "."), "model is '.', which can't be loaded"),
        (("tightness", "--assets", "nowhere"), "data is 'assets:mnist-5k', but 'nowhere' holds no 'mnist-5k'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("reproduce", *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reproduce = 'base'\n[settings]\nhiden = 3\n", "hiden is no setting of base"),
        ("reproduce = 'base'\n[settings]\nhidden = 'many'\n", "hidden is 'many'"),
        ("reproduce = 'nothing'\n", "reproduce is 'nothing'"),
        ("reproduce = \n", "is not valid TOML"),
    ],
)
def test_a_bad_plan_names_the_field(text, said, tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    code, _, err = call("reproduce", path)
    assert code == 2
    assert said in err


def test_a_broken_bound_is_exit_code_four(tmp_path, monkeypatch):
    broken = CATALOGUE["tightness"]
    measure = broken.measure

    def wrong(settings, place):
        found = measure(settings, place)
        return type(found)(**{**found.__dict__, "violations": ("a bound is not kept",)})

    monkeypatch.setitem(run.CATALOGUE, "tightness", type(broken)(**{**broken.__dict__, "measure": wrong}))
    code, _, err = call("reproduce", "tightness", "--quick", "--out", tmp_path)
    assert code == 4
    assert "a bound is not kept" in err


def test_findings_hang_on_the_seed_alone(tmp_path):
    once, again = (reproduce("tightness", tmp_path / str(turn), size="quick") for turn in range(2))
    other = reproduce("tightness", tmp_path, size="quick", settings={"seed": 1})
    assert once.numbers == again.numbers
    assert once.numbers != other.numbers


def test_three_classes_keep_two_and_as_many_of_the_rest(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [str(number % 5) for number in range(50)]
    pq.write_table(pa.table({"image": list(range(50)), "label": labels}), tmp_path / "a.parquet")
    path = three_classes(tmp_path / "a.parquet", tmp_path / "b.parquet", {"2": "cat", "4": "dog"}, seed=0)
    table = pq.read_table(path).to_pydict()
    assert {name: table["label"].count(name) for name in ("cat", "dog", "other")} == {"cat": 10, "dog": 10, "other": 10}
    kept = {"2": "cat", "4": "dog"}
    assert [kept.get(labels[image], "other") for image in table["image"]] == table["label"]
    assert np.all(np.diff(table["image"]) > 0)
    with pytest.raises(InputError, match="kept names \\['9'\\]"):
        three_classes(tmp_path / "a.parquet", tmp_path / "c.parquet", {"9": "horse"}, seed=0)
