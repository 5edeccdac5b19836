"""The door: exit codes, one clear line for bad input, JSON alone on stdout."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from transformers import BertConfig
from typer.testing import CliRunner

from stillscape.cli import app
from tests.conftest import save_images


def call(*arguments):
    """Return exit code, stdout and stderr of one call; a traceback fails the test."""
    outcome = CliRunner().invoke(app, [str(a) for a in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr


@pytest.fixture
def small(tiny_vit, photos, tmp_path):
    """Arguments of a run that takes a second."""
    return [
        "run", "--data", photos, "--model", tiny_vit, "--adapt", "head", "--sizes", "6,12,24", "--repeats", 2,
        "--seeds", 1, "--workers", 1, "--out", tmp_path / "out",
    ]  # fmt: skip


def test_run_by_flags_alone(small, tmp_path):
    code, out, _ = call(*small, "--epsilon", 0.9, "--quiet")
    assert code == 0
    assert "Verdict: " in out
    assert str(tmp_path / "out" / "report.html") in out
    assert 'id="verdict"' in (tmp_path / "out" / "report.html").read_text()
    assert {path.suffix for path in (tmp_path / "out" / "figures").iterdir()} == {".pdf", ".svg"}


def test_not_reached_is_another_exit_code_and_json_is_alone_on_stdout(small):
    code, out, err = call(*small, "--repeats", 1, "--json")  # of one repeat the noise is unknown
    result = json.loads(out)
    assert result["verdict"]["status"] != "reached"
    assert code == 3
    assert "report" in err


def test_a_folder_is_taken_up_again_and_reported_again(small, tmp_path):
    call(*small)
    first = (tmp_path / "out" / "result.json").read_text()
    code, _, err = call("run", "--out", tmp_path / "out")
    assert code in (0, 3)
    assert "are there already" in err
    assert (tmp_path / "out" / "result.json").read_text() == first
    (tmp_path / "out" / "report.html").unlink()
    assert call("report", tmp_path / "out")[0] == code
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_price_is_asked_about(small, tmp_path):
    code, out, _ = call(*small, "--cost-per-image", 1000, "--value-per-point", 1, "--json")
    result = json.loads(out)
    part = result["results"][0]
    assert part["criteria"]["accuracy_worth"]["status"] == result["verdict"]["status"]
    assert code == (0 if result["verdict"]["status"] == "reached" else 3)
    assert [row["price"] for row in part["worth"]] == [6000, 12000]
    assert {row["status"] for row in part["per_class"]} <= {"short", "enough", "cannot_tell"}
    assert part["said"][0].startswith("By class, at 90 %")
    assert "twice as many repeats" in part["said"][1]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "costs more, at 1,000 an image" in page
    assert part["said"][0].split(":")[0].replace(" %", "\N{NO-BREAK SPACE}%") in page


def test_plan_says_the_cost_and_runs_nothing(small, tmp_path):
    arguments = ["plan", *small[1:-2]]
    code, out, _ = call(*arguments)
    assert code == 0
    assert "About" in out
    costs = json.loads(call(*arguments, "--json")[1])
    assert costs["costs"][0]["cells"] == 6
    assert not (tmp_path / "out").exists()


def test_doctor_is_content_with_sound_data_and_names_what_is_not(photos, tmp_path):
    assert call("doctor", photos, "--quiet")[0] == 0
    sick = tmp_path / "sick"
    shutil.copytree(photos, sick)
    (sick / "moss" / "torn.png").write_bytes(next((sick / "moss").glob("*.png")).read_bytes()[:60])
    code, out, _ = call("doctor", sick, "--quiet")
    assert code == 2
    assert "torn.png" in out


def bad_data(tmp_path, kind, photos):
    place = tmp_path / kind
    if kind == "nothing":
        return place
    if kind == "empty":
        place.mkdir()
    elif kind == "one-class":
        save_images(place, {"moss": 9})
    elif kind == "single-image":
        save_images(place, {"moss": 9, "rust": 1})
    elif kind == "broken":
        shutil.copytree(photos, place)
        (place / "moss" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    elif kind == "text":
        shutil.copytree(photos, place)
        (place / "moss" / "notes.txt").write_text("remember")
    elif kind == "dicom":
        save_images(place, {"moss": 9, "rust": 9})
        (place / "moss" / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM")
    elif kind == "sixteen-bit":
        save_images(place, {"moss": 9, "rust": 9})
        Image.fromarray(np.full((9, 9), 4000, dtype=np.uint16)).save(place / "moss" / "deep.png")
    return place


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nothing", "nothing"),
        ("empty", "empty"),
        ("one-class", "one class"),
        ("single-image", "rust"),
        ("broken", "torn.png"),
        ("text", "notes.txt"),
        ("dicom", "DICOM"),
        ("sixteen-bit", "--window"),
    ],
)
def test_bad_data_is_one_line_and_exit_code_two(kind, said, small, photos, tmp_path):
    small[2] = bad_data(tmp_path, kind, photos)
    code, out, err = call(*small, "--quiet")
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--sizes", "24,12"], "sizes"),
        (["--sizes", "6,12,900"], "only 41 images"),
        (["--sizes", "some"], "sizes is 'some'"),
        (["--epsilon", "0"], "epsilon"),
        (["--epsilon", "-0.1"], "epsilon"),
        (["--adapt", "lora"], "adapt is 'lora'"),
        (["--adapt", "last-layers:9"], "2 transformer blocks"),
        (["--metric", "beauty"], "metric is 'beauty'"),
        (["--model", "/nowhere/at/all"], "model is '/nowhere/at/all'"),
        (["--budget", "soon"], "budget is 'soon'"),
        (["--budget", "1s"], "budget is"),
        (["--window", "9:1"], "window"),
        (["--executor", "moon"], "executor is 'moon'"),
        (["--epsilon", "0.02", "--target", "0.9"], "epsilon and target are given together"),
        (["--cost-per-image", "2"], "cost_per_image is given without value_per_point"),
        (["--groups", "(nobody)"], "groups"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_two(changes, said, small):
    code, _, err = call(*small, *changes, "--quiet")
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_unknown_flags_are_a_usage_error(small):
    assert call(*small, "--nonsense")[0] == 2


def test_models_that_are_refused(small, tmp_path, tiny_vit):
    text = tmp_path / "bert"
    BertConfig().save_pretrained(text)
    (text / "model.safetensors").write_bytes(b"")
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_vit, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    for folder, said in ((text, "image classifier"), (pickled, "safetensors")):
        code, _, err = call(*small, "--model", folder, "--quiet")
        assert code == 2
        assert said in err
        assert len(err.strip().splitlines()) == 1


def test_broken_images_can_be_left_out_and_are_counted(small, photos, tmp_path):
    small[2] = bad_data(tmp_path, "broken", photos)
    code, out, err = call(*small, "--skip-broken", "--json")
    assert code in (0, 3)
    assert "1 of 53 images" in err
    assert any("1 of 53 images" in note for note in json.loads(out)["results"][0]["notes"])


def test_all_trainings_failed_is_a_failed_run(small, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('data = "unused"\n[recipes.full]\nsteps = 4\nlearning_rate = 1e30\nclip = 0.0\nwarmup = 0.0\n')
    arguments = [small[0], plan, *small[1:]]
    arguments[arguments.index("head")] = "full"
    code, out, _ = call(*arguments, "--quiet")
    assert code == 4
    assert "failed" in out


def test_labels_that_do_not_match_are_named(small, photos, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = ["file,label"]
    for path in photos.rglob("*.*"):
        shutil.copy(path, flat / f"{path.parent.name}_{path.name}")
        rows.append(f"{path.parent.name}_{path.name},{path.parent.name}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows))
    small[2] = flat
    assert call(*small, "--labels", table, "--quiet")[0] in (0, 3)
    table.write_text("\n".join([*rows, "ghost.png,moss"]))
    code, _, err = call(*small, "--labels", table, "--out", tmp_path / "other", "--quiet")
    assert code == 2
    assert "ghost.png" in err


def test_every_command_teaches_by_example():
    for command in ("demo", "run", "plan", "doctor", "report", "watch", "forecast"):
        code, out, _ = call(command, "--help")
        assert code == 0
        assert command in out
    assert "Example" in call("run", "--help")[1]


def test_importing_the_package_does_not_wait_for_torch():
    script = "import sys, stillscape.cli; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
