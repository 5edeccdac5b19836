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


@pytest.mark.slow
@pytest.mark.alone
def test_a_held_folder_is_refused_until_its_process_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path), "1-of-2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            for share in ("", "1-of-2"):
                with pytest.raises(InputError, match="another process is at work"), locked(tmp_path, share):
                    pass
            with locked(tmp_path, "2-of-2"):  # shards share a folder
                pass
        finally:
            process.kill()  # as the system does for want of memory: nothing is cleaned up
    with locked(tmp_path):
        pass


def test_one_process_does_not_hold_a_folder_twice(tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="another process is at work"), locked(tmp_path):
        pass
