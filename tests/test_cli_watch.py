"""`stillscape watch` at the door: exit codes, JSON alone on stdout, and what is killed."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import save_images
from tests.test_cli import call


@pytest.fixture
def looked_at(tiny_vit, tmp_path):
    data = save_images(tmp_path / "data", {"moss": 40, "rust": 30})
    return ["watch", data, "--model", tiny_vit, "--repeats", 2, "--seeds", 1, "--workers", 1, "--out", tmp_path / "out"]


def test_go_on_is_three_and_stop_is_zero(looked_at, tmp_path):
    code, out, _ = call(*looked_at, "--quiet")
    assert code == 3
    assert "Go on collecting: for training the head alone, 70 images" in out
    code, out, _ = call(*looked_at[:-1], tmp_path / "other", "--epsilon", 0.9, "--quiet")
    assert code == 0
    assert "Stop collecting" in out


def test_json_is_alone_on_stdout_and_the_second_look_needs_the_folder_only(looked_at, tmp_path):
    code, out, err = call(*looked_at, "--json")
    answer = json.loads(out)
    assert code == 3
    assert answer["verdict"]["status"] == "go_on"
    assert answer["question"]["null"].startswith("at every look so far")
    assert "training 4 cells" in err
    again = json.loads(call("watch", looked_at[1], "--out", tmp_path / "out", "--json")[1])
    assert again["verdict"] == answer["verdict"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--alpha", "0.7"], "alpha is 0.7"),
        (["--epsilon", "0"], "epsilon"),
        (["--adapt", "head", "--adapt", "full"], "adapt is head, full"),
        (["--repeats", "1"], "repeats is 1"),
        (["--executor", "moon"], "executor is 'moon'"),
        (["--model", "/nowhere"], "model is '/nowhere'"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_two(changes, said, looked_at, tmp_path):
    code, out, err = call(*looked_at, *changes, "--quiet")
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not out
    assert not (tmp_path / "out").exists()


def test_bad_data_is_exit_code_two(looked_at, tmp_path):
    looked_at[1] = tmp_path / "nothing"
    assert call(*looked_at, "--quiet")[0] == 2


def test_a_failed_look_is_exit_code_four(looked_at, tmp_path):
    plan = tmp_path / "out" / "plan.toml"
    plan.parent.mkdir()
    plan.write_text(
        f'data = "{looked_at[1]}"\nadapt = ["full"]\n'
        "[recipes.full]\nsteps = 3\nlearning_rate = 1e30\nclip = 0.0\nwarmup = 0.0\n"
    )
    code, _, err = call(*looked_at, "--quiet")
    assert code == 4
    assert "look 1 has 0 repeats" in err


@pytest.mark.slow
@pytest.mark.alone
def test_sigkill_at_any_moment_leaves_the_look_whole_or_not_taken(looked_at, tmp_path):
    command = [sys.executable, "-m", "stillscape.cli", *map(str, looked_at), "--quiet"]
    undisturbed = [*command[:-2], str(tmp_path / "undisturbed"), "--quiet"]
    began = time.monotonic()
    assert subprocess.run(undisturbed, stdout=subprocess.DEVNULL, check=False).returncode == 3
    duration = time.monotonic() - began
    state = tmp_path / "out" / "watch.json"
    for share in (0.5, 0.7, 0.8, 0.9):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not state.exists() or len(json.loads(state.read_text())["looks"]) == 1
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 3
    assert state.read_text() == (tmp_path / "undisturbed" / "watch.json").read_text()
    shutil.rmtree(tmp_path / "out")
