"""A folder that a process is at work in is refused to others, and free again once that process has ended, however."""

import subprocess
import sys

import pytest

from stillscape._errors import InputError
from stillscape.experiments.lock import locked

HOLD = """
import sys
from pathlib import Path
from stillscape.experiments.lock import locked
with locked(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder, share=""):
    """Start a process that holds a folder, and wait until it does."""
    command = [sys.executable, "-c", HOLD, str(folder), share]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.kill()  # as the system does for want of memory: nothing is cleaned up
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize(("held", "asked"), [("", ""), ("", "1-of-2"), ("1-of-2", ""), ("1-of-2", "1-of-2")])
def test_a_folder_held_by_another_process_is_refused_until_that_is_killed(tmp_path, held, asked):
    process = holder(tmp_path, held)
    try:
        with pytest.raises(InputError, match="another process is at work"), locked(tmp_path, asked):
            pass
    finally:
        end(process)
    with locked(tmp_path, asked):
        pass


def test_shards_share_a_folder(tmp_path):
    process = holder(tmp_path, "1-of-2")
    try:
        with locked(tmp_path, "2-of-2"):
            pass
    finally:
        end(process)
