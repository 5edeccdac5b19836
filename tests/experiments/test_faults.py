"""Whatever happens to a run or its folder, the run taken up again ends in the result of an undisturbed one."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import sys
import time

import numpy as np
import pytest
from PIL import Image

from stillscape._errors import InputError, RecordError, RunError
from stillscape.experiments import Silent, Store, cell, run, set_up, tasks
from stillscape.experiments.local import run_tasks
from stillscape.experiments.lock import locked
from stillscape.experiments.store import DAMAGED, RECORD
from tests.conftest import save_images
from tests.experiments.small import Said, copied, small_plan


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return small_plan(photos, tiny_vit)


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    return run(plan, folder), folder


def files_of(folder):
    """Return every file that decides a result: those of records, and the cache."""
    kinds = ("cells", "probes", "evidence", "cache")
    return sorted(
        path for kind in kinds for path in (folder / kind).rglob("*") if path.is_file() and path.stat().st_size
    )


def flip(path, moment):
    content = bytearray(path.read_bytes())
    content[moment.randrange(len(content))] ^= 1 << moment.randrange(8)
    path.write_bytes(content)


def cut(path, moment):
    path.write_bytes(path.read_bytes()[: moment.randrange(path.stat().st_size)])


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_named_set_aside_and_measured_again(plan, whole, tmp_path, damage, seed, fault):
    folder, moment = copied(whole[1], tmp_path / "out"), random.Random(seed)
    shutil.rmtree(folder / "cells" / Store(folder).all_keys()[seed])  # so that the cache is needed, too
    hurt = moment.sample(files_of(folder), 6)
    for path in hurt:
        damage(path, moment)
    (folder / "result.json").unlink()
    said = Said()
    assert run(plan, folder, progress=said) == whole[0]
    for path in hurt:
        if path.suffix in (".json", ".parquet", ".safetensors"):
            assert any("damaged" in line and path.parent.name in line for line in said.lines), path
    assert len(list((folder / DAMAGED).iterdir())) == len({p.parent for p in hurt if p.parent.parent.name != "out"})
    fault("a bit of a file flipped" if damage is flip else "a file cut short", len(hurt))


def test_a_damaged_record_is_never_read(whole, tmp_path):
    folder = copied(whole[1], tmp_path / "out")
    store, moment = Store(folder), random.Random(0)
    key = store.all_keys()[0]
    path = folder / "cells" / key / RECORD
    sound, before = path.read_bytes(), store.record(key)
    caught = 0
    for _ in range(300):
        flip(path, moment)
        try:
            assert store.record(key) == before  # a flip in white space changes nothing
        except RecordError:
            caught += 1
        path.write_bytes(sound)
    assert caught > 290


def test_a_record_of_an_early_version_is_read(tmp_path):
    store = Store(tmp_path)
    store.write("a", {"status": "ok"}, {"loss": np.ones(2)})
    (store.place / "a" / RECORD).write_text('{"schema": 1, "status": "ok"}')
    assert store.damage("a") == ""
    assert store.losses("a")["loss"].tolist() == [1, 1]


def test_a_record_of_a_later_version_is_not_set_aside(plan, whole, tmp_path):
    folder = copied(whole[1], tmp_path / "out")
    (folder / "cells" / Store(folder).all_keys()[0] / RECORD).write_text('{"schema": 99}')
    with pytest.raises(RecordError, match="has schema 99"):
        run(plan, folder)
    assert not (folder / DAMAGED).exists()


def test_two_processes_in_one_folder(plan, whole, tmp_path, fault):
    folder = copied(whole[1], tmp_path / "out")
    with locked(folder):
        with pytest.raises(InputError, match="another process is at work"):
            run(plan, folder)
        with pytest.raises(InputError, match="another process is at work"), locked(folder, "1-of-2"):
            pass
    with locked(folder, "1-of-2"), locked(folder, "2-of-2"):
        with pytest.raises(InputError, match="another process is at work"), locked(folder, "1-of-2"):
            pass
        with pytest.raises(InputError, match="another process is at work"), locked(folder):
            pass
    assert run(plan, folder) == whole[0]
    fault("a second process in the folder", 5)


def _dies_once(bench, folder, number):
    mark = folder / f"tried-{number}"
    if not mark.exists():
        mark.touch()
        os._exit(1)
    (folder / f"done-{number}").touch()


def _dies(bench, folder):
    os._exit(1)


def _is_done(bench, folder):
    (folder / "done").touch()


def test_workers_that_die_are_replaced(plan, tmp_path, fault):
    bench, _ = set_up(plan.model_copy(update={"workers": 2}), tmp_path, Silent())
    assert sorted(run_tasks(bench, tmp_path, [(_dies_once, (n,)) for n in range(2)])) == [0, 1]
    assert len(list(tmp_path.glob("done-*"))) == 2
    fault("a worker process dies", 2)


def _is_done_late(bench, folder):
    time.sleep(3)  # beside a task that kills its worker at once, and with it all others
    (folder / "done").touch()


@pytest.mark.parametrize("other", [_is_done, _is_done_late])
def test_a_task_that_kills_every_worker_is_given_up_after_all_others_are_done(plan, tmp_path, other):
    bench, _ = set_up(plan.model_copy(update={"workers": 2}), tmp_path, Silent())
    told = "3 times in a row a worker process was killed, and then by 1 of the tasks that were left, each run by itself"
    with pytest.raises(RunError, match=told):
        list(run_tasks(bench, tmp_path, [(_dies, ()), (other, ())]))
    assert (tmp_path / "done").exists()


def test_tasks_that_all_kill_their_workers_are_given_up_soon(plan, tmp_path):
    bench, _ = set_up(plan.model_copy(update={"workers": 2}), tmp_path, Silent())
    with pytest.raises(RunError, match="and then by 3 of the tasks that were left"):
        list(run_tasks(bench, tmp_path, [(_dies, ()) for _ in range(20)]))


def _hangs(bench, folder, which):
    """As `measure_cell`, but for one cell that never ends."""
    original = tasks.run_cell
    if which.adapt == "head" and which.k == 6:
        tasks.run_cell = lambda *_: time.sleep(1000)
    try:
        tasks.measure_cell(bench, folder, which)
    finally:
        tasks.run_cell = original


def test_a_cell_that_hangs_is_ended_recorded_and_measured_when_given_more_time(
    plan, whole, tmp_path, monkeypatch, fault
):
    folder = tmp_path / "out"
    monkeypatch.setattr(sys.modules[run.__module__], "measure_cell", _hangs)
    limited, said = plan.model_copy(update={"cell_seconds": 4.0}), Said()
    result = run(limited, folder, progress=said)
    monkeypatch.undo()
    assert sum("took longer than cell_seconds = 4" in line for line in said.lines) == 2
    failed = [c for part in result["results"] for c in part["cells"] if c["status"] == "failed"]
    assert [c["k"] for c in failed] == [6, 6]
    assert run(plan, folder) == whole[0]
    fault("a cell hangs", 2)


def test_a_loss_that_is_no_number_is_recorded_and_can_be_measured_again(plan, whole, tmp_path, monkeypatch, fault):
    folder, moment = tmp_path / "out", random.Random(5)
    fit, calls, at = cell.fit, [], moment.randrange(8, 12)

    def poisoned(suffix, inputs, *args, **kwargs):
        calls.append(None)
        return fit(suffix, np.full_like(inputs, np.nan) if len(calls) == at else inputs, *args, **kwargs)

    monkeypatch.setattr(cell, "fit", poisoned)
    said = Said()
    run(plan, folder, progress=said)
    monkeypatch.undo()
    failed = [key for key in Store(folder).all_keys() if Store(folder).record(key)["status"] == "failed"]
    assert len(failed) == 1
    assert sum("failed" in line for line in said.lines) == 1
    shutil.rmtree(folder / "cells" / failed[0])
    assert run(plan, folder) == whole[0]
    fault("NaN in a training", 1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("after", [0, 3, 9])
def test_a_disk_that_takes_no_more(plan, whole, tmp_path, monkeypatch, code, after, fault):
    folder, writes, replace = tmp_path / "out", [], os.replace

    def full(*args, **kwargs):
        writes.append(None)
        if len(writes) > after:
            raise OSError(code, os.strerror(code))
        return replace(*args, **kwargs)

    monkeypatch.setattr("stillscape.experiments.store.os.replace", full)
    with pytest.raises(InputError, match=r"can't be written: .* kept"):
        run(plan, folder)
    monkeypatch.undo()
    assert len(list(folder.glob("*/*/record.json"))) <= after
    assert run(plan, folder) == whole[0]
    fault(f"{os.strerror(code)}".lower(), 1)


def test_a_clock_that_goes_back(plan, whole, tmp_path, monkeypatch, fault):
    now = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert run(plan, tmp_path / "out") == whole[0]
    fault("the clock goes back", 1)


def test_a_corrupted_image_in_the_middle(tiny_vit, tmp_path, fault):
    photos = save_images(tmp_path / "photos", {"moss": 16, "rust": 16})
    plan = small_plan(photos, tiny_vit, adapt=["head"])
    whole = run(plan, tmp_path / "whole")
    hurt = photos / "moss" / "patient3_6.png"
    sound = hurt.read_bytes()
    hurt.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(InputError, match=r"1 of 32 images can't be read .*patient3_6\.png"):
        run(plan, tmp_path / "out")
    without = run(plan.model_copy(update={"skip_broken": True}), tmp_path / "without")
    assert "patient3_6.png" in json.dumps(without)
    hurt.write_bytes(sound)
    assert run(plan, tmp_path / "out") == whole
    fault("an image is damaged", 1)


def test_images_that_unfold_without_end_are_named(tiny_vit, tmp_path, monkeypatch):
    photos = save_images(tmp_path / "photos", {"moss": 8, "rust": 8})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    Image.new("RGB", (80, 80)).save(photos / "moss" / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png.* unfolds to more than 2000 pixels"):
        run(small_plan(photos, tiny_vit, adapt=["head"]), tmp_path / "out")


def test_the_workers_are_gone(plan, tmp_path):
    before = set(multiprocessing.active_children())  # scikit-learn's and joblib's stay on for a while
    run(plan.model_copy(update={"workers": 2}), tmp_path / "out")
    assert set(multiprocessing.active_children()) <= before
