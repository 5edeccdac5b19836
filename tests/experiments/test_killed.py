"""Killed at random moments and taken up again, a run ends in the result of an undisturbed one."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from stillscape._processes import context
from stillscape.experiments import make_plan, run
from stillscape.experiments.plan import Plan
from stillscape.experiments.store import DAMAGED
from tests.experiments.small import small_plan

KILLS = 5


def start(plan_path, folder):
    """Start a run; what it says on stderr goes to a file beside its folder."""
    command = [sys.executable, "-m", "stillscape.cli", "run", str(plan_path), "--quiet", "--out", str(folder)]
    with said_by(folder).open("w") as said:
        # Whoever runs the tests in the background may ignore Ctrl-C, and what they start would inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        finally:
            signal.signal(signal.SIGINT, before)


def said_by(folder):
    return folder.with_suffix(".err")


def plan_of(photos, tiny_vit) -> Plan:
    fast = {"steps": 40, "batch": 8}
    return make_plan(
        data=str(photos), model=str(tiny_vit), adapt=["head", "last-layers:1", "lora:2"], sizes=[6, 12, 24],
        repeats=3, seeds=2, folds=2, recipes={"last-layers": fast, "lora": fast}, workers=2,
        probe_images=12, curvature_images=2,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.alone
def test_sigkill_at_random_moments_loses_nothing(photos, tiny_vit, tmp_path, fault):
    path = tmp_path / "plan.toml"
    path.write_text(plan_of(photos, tiny_vit).to_toml())
    began = time.monotonic()
    undisturbed = start(path, tmp_path / "undisturbed")
    assert undisturbed.wait(timeout=300) in (0, 3), said_by(tmp_path / "undisturbed").read_text()
    duration = time.monotonic() - began
    moments = random.Random(7)
    folder = tmp_path / "disturbed"
    cells_at_kill = []
    for _ in range(KILLS):
        process = start(path, folder)
        time.sleep(moments.uniform(0.3, 0.95) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        cells_at_kill.append(len(list(folder.glob("cells/*/record.json"))))
    final = start(path, folder)
    assert final.wait(timeout=300) in (0, 3), said_by(folder).read_text()
    assert cells_at_kill == sorted(cells_at_kill)
    first, second = ((tmp_path / n / "result.json").read_text() for n in ("undisturbed", "disturbed"))
    assert first == second
    assert json.loads(first)["schema"] == 1
    fault("SIGKILL of a run with workers", KILLS)


def _run(plan, folder):
    run(plan, folder)


@pytest.mark.slow
@pytest.mark.alone
def test_a_hundred_sigkills_lose_nothing(photos, tiny_vit, tmp_path, fault):
    """Processes are forked from a server that has its imports, so that kills fall on the work and not on them."""
    plan, moments, server = small_plan(photos, tiny_vit), random.Random(3), context()
    whole = run(plan, tmp_path / "whole")
    kills, series, mid_run = 0, 0, 0
    durations = [1.0]
    while kills < 100:
        folder, series = tmp_path / f"series{series}", series + 1
        kept = 0
        while kills < 100:
            process = server.Process(target=_run, args=(plan, folder))
            began = time.monotonic()
            process.start()
            process.join(moments.uniform(0, 1.2) * max(durations))
            if process.exitcode is None:
                process.kill()
                process.join()
                kills += 1
                mid_run += bool(list(folder.glob("cells/*"))) and not (folder / "result.json").is_file()
                there = len(list(folder.glob("cells/*/record.json")))
                assert there >= kept
                kept = there
            else:
                durations = [time.monotonic() - began]
                assert process.exitcode == 0
                break
        assert run(plan, folder) == whole
        assert not (folder / DAMAGED).exists()
    assert mid_run > 10
    fault("SIGKILL at a random moment", kills)


@pytest.mark.slow
@pytest.mark.alone
def test_ctrl_c_says_what_it_means_and_loses_nothing(photos, tiny_vit, tmp_path, fault):
    path, folder = tmp_path / "plan.toml", tmp_path / "out"
    path.write_text(plan_of(photos, tiny_vit).to_toml())
    process = start(path, folder)
    waited = time.monotonic() + 120
    while not list(folder.glob("cells/*/record.json")) and time.monotonic() < waited:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 4
    said = said_by(folder).read_text()
    assert "interrupted; everything recorded is kept" in said
    assert "Traceback" not in said
    kept = len(list(folder.glob("cells/*/record.json")))
    assert 0 < kept < 54
    final = start(path, folder)
    assert final.wait(timeout=300) in (0, 3)
    fault("Ctrl-C", 1)
