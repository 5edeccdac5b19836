"""Run folders that are no folders: the result, the survival and the refusals are those of a disk."""

import contextlib
import hashlib
import json
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from stillscape._errors import InputError, RecordError, RunError
from stillscape._folders import RemotePath, as_folder, cache_folder
from stillscape.cli import app
from stillscape.experiments import (
    Shard,
    Store,
    compare_runs,
    lease,
    measure_evidence,
    merge,
    read_result,
    run,
    run_shard,
    watch,
)
from stillscape.experiments.lock import LOCK, locked
from stillscape.report import write_report
from tests.experiments import remote
from tests.experiments.small import Said, small_plan

remote.register()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A cache of the test's own, an empty memory, luck, and claims that grow stale soon."""
    monkeypatch.setenv("STILLSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "STALE_S", 0.6)
    for kind in (MemoryFileSystem, remote.FlakyObjects):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]
    remote.LUCK.update(moment=random.Random(0), chance=0.0, failed=0)


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return small_plan(photos, tiny_vit)


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    return run(plan, folder), folder


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path):
    """Make the address of a run folder by its name."""
    root = "memory://runs" if request.param == "memory" else f"file://{tmp_path}/runs"
    return lambda name: f"{root}/{name}"


def names_in(folder):
    return {path.shown.removeprefix(f"{folder.shown}/") for path in as_folder(folder).glob("*")}


def test_a_run_gives_the_result_and_the_files_of_a_disk(plan, whole, address):
    result = run(plan, address("a"))
    assert result == whole[0]
    folder = as_folder(address("a"))
    assert read_result(address("a")) == whole[0]
    assert names_in(folder) == {"plan.toml", "provenance.json", "cells", "probes", "evidence", "result.json"}
    assert Store(folder).all_keys() == Store(whole[1]).all_keys()
    page = write_report(result, address("a"))
    assert page.read_bytes() == write_report(result, whole[1]).read_bytes()
    assert len(folder.glob("figures/*.svg")) == len(list((whole[1] / "figures").glob("*.svg")))


def test_what_is_there_is_not_measured_again(plan, address):
    run(plan.model_copy(update={"repeats": 1}), address("a"))
    said = Said()
    run(plan, address("a"), progress=said)
    assert "4 of 8 cells are there already" in said.lines
    with pytest.raises(InputError, match="which another plan made"):
        run(plan.model_copy(update={"split_seed": 7}), address("a"))


def test_what_is_large_stays_on_this_machine(plan, whole, address, tmp_path):
    run(plan, address("a"))
    cache = cache_folder(as_folder(address("a")))
    assert cache.is_relative_to(tmp_path / "cache")
    assert {path.name for path in cache.glob("*.npy")} == {path.name for path in (whole[1] / "cache").glob("*.npy")}


def test_workers_write_into_it(plan, whole, tmp_path):
    assert run(plan.model_copy(update={"workers": 2}), f"file://{tmp_path}/runs/a") == whole[0]


@pytest.mark.parametrize(("change", "name"), [({"workers": 2}, "workers"), ({"executor": "ray"}, "executor"),
                                              ({"cell_seconds": 9.0}, "cell_seconds")])  # fmt: skip
def test_memory_is_refused_to_other_processes(plan, change, name):
    with pytest.raises(InputError, match=rf"{name} is .* seen by one process alone"):
        run(plan.model_copy(update=change), "memory://runs/a")


@pytest.mark.parametrize("damage", ["flip", "cut", "lost"])
def test_damaged_files_are_set_aside_and_measured_again(plan, whole, address, damage, fault):
    run(plan, address("a"))
    folder, moment = as_folder(address("a")), random.Random(1)
    hurt = moment.sample([*folder.glob("cells/*/*"), *folder.glob("probes/*/*")], 4)
    for path in hurt:
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[moment.randrange(len(content))] ^= 1
        if damage == "lost" and path.name != "record.json":
            path.unlink()
        else:
            path.write_bytes(bytes(content if damage == "flip" else content[: len(content) // 2]))
    said = Said()
    assert run(plan, address("a"), progress=said) == whole[0]
    records = {path.parent.name for path in hurt}
    assert len(folder.glob("damaged/*")) == len(records)
    assert all(any(name in line and "damaged" in line for line in said.lines) for name in records)
    fault("a remote file damaged", len(hurt))


@pytest.mark.parametrize("protocol", ["flaky", "flakydisk"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_file_system_that_fails_at_random(plan, whole, tmp_path, protocol, seed, fault):
    url = "flaky://runs/a" if protocol == "flaky" else f"flakydisk://{tmp_path}/runs/a"
    remote.LUCK.update(moment=random.Random(seed), chance=0.15)
    tries, done = 0, None
    while done is None:
        tries += 1
        assert tries < 60
        with contextlib.suppress(RunError):
            done = run(plan, url)
    assert done == whole[0]
    assert remote.LUCK["failed"] > 2
    remote.LUCK["chance"] = 0.0
    store = Store(url)
    assert [store.damage(key) for key in store.all_keys()] == [""] * 8
    assert run(plan, url) == whole[0]
    fault("a remote write fails", remote.LUCK["failed"])


def test_what_a_client_says_is_told_without_its_secrets(plan, capsys):
    remote.LUCK["chance"] = 1.0
    with pytest.raises(RunError, match="everything recorded is kept") as told:
        run(plan, "flaky://runs/a")
    assert remote.SECRET not in str(told.value)
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__


def test_a_connection_that_breaks_is_no_missing_file(plan, monkeypatch):
    """Else a run would take a folder for empty, and write over what another plan left there."""
    run(plan.model_copy(update={"sizes": (6, 12)}), "memory://runs/a")

    def broken(*_args, **_kwargs):
        raise ConnectionResetError("gone")

    monkeypatch.setattr(MemoryFileSystem, "info", broken)
    with pytest.raises(RunError, match="gone"):
        run(plan, "memory://runs/a")
    with pytest.raises(RunError, match="gone"):
        read_result("memory://runs/a")


def test_a_connection_that_breaks_is_no_damage(plan, monkeypatch):
    run(plan, "memory://runs/a")

    def broken(*_args, **_kwargs):
        raise ConnectionResetError("gone")

    store = Store("memory://runs/a")
    key = store.all_keys()[0]
    monkeypatch.setattr(MemoryFileSystem, "cat_file", broken)
    with pytest.raises(RunError, match="gone"):
        store.damage(key)


@pytest.mark.slow
def test_shards_merge_from_anywhere_to_anywhere(plan, whole, address, tmp_path):
    run_shard(plan, address("1"), Shard(1, 3))
    run_shard(plan, address("2"), Shard(2, 3))
    run_shard(plan, tmp_path / "3", Shard(3, 3))
    said = Said()
    merged = merge([address("1"), address("2"), tmp_path / "3"], address("all"), progress=said)
    assert sum(int(line.split()[0]) for line in said.lines) == 8
    assert run(merged, address("all")) == whole[0]
    merged = merge([address("all")], tmp_path / "here")
    assert run(merged, tmp_path / "here") == whole[0]


def test_shards_share_a_folder(plan, whole, address):
    for number in (1, 2):
        run_shard(plan, address("a"), Shard(number, 2))
    assert run(plan, address("a")) == whole[0]


@pytest.mark.slow
def test_runs_are_compared_and_evidence_is_read(plan, whole, address, tmp_path):
    run(plan, address("a"))
    run(plan.model_copy(update={"split_seed": 3}), address("b"))
    assert len(compare_runs([address("a"), address("b")])["contenders"]) == 4
    with pytest.raises(InputError, match="the same folder"):
        compare_runs([address("a"), address("a")])
    with pytest.raises(InputError, match="no folder"):
        compare_runs([address("a"), address("none")])
    assert measure_evidence(address("a"), parts=["head"]) == measure_evidence(whole[1], parts=["head"])


@pytest.mark.slow
def test_a_watch_goes_on_in_it(photos, tiny_vit, address, tmp_path):
    data = shutil.copytree(photos, tmp_path / "data")
    late = [path for path in data.rglob("*.png") if int(path.stem.rpartition("_")[2]) >= 14]
    for path in late:
        path.rename(tmp_path / f"{path.parent.name}-{path.name}")
    plan = small_plan(data, tiny_vit, adapt=["head"], epsilon=0.05, recipes={}, sizes=5)
    answers = {}
    for out in (address("watch"), str(tmp_path / "watch")):
        for path in late:
            path.unlink(missing_ok=True)
        first = watch(plan, out)
        for path in late:
            shutil.copy(tmp_path / f"{path.parent.name}-{path.name}", path)
        answers[out] = (first, watch(plan, out))
    one, other = answers.values()
    assert one == other
    assert len(one[1]["looks"]) == 2


@pytest.mark.slow
def test_the_door_takes_addresses(plan, whole, tmp_path):
    """In one process, since that is what memory is seen by."""
    path = tmp_path / "plan.toml"
    path.write_text(plan.to_toml())
    door = CliRunner()
    url = "memory://runs/cli"
    assert door.invoke(app, ["run", str(path), "--out", url, "--quiet"]).exit_code in (0, 3)
    assert read_result(url) == whole[0]
    again = door.invoke(app, ["report", url])
    assert f"report: {url}/report.html" in again.output
    shard = door.invoke(app, ["run", str(path), "--out", "memory://runs/1", "--shard", "1/2", "--quiet"])
    assert shard.exit_code == 0
    assert "memory://runs/1 holds 4 of all 8" in shard.output
    merged = door.invoke(app, ["merge", "memory://runs/1", url, "--out", "memory://runs/all", "--quiet"])
    assert merged.exit_code in (0, 3)
    assert read_result("memory://runs/all") == whole[0]
    page = door.invoke(app, ["compare", url, str(whole[1]), "--out", "memory://runs/compare.html"])
    assert page.exit_code == 0, page.output
    assert as_folder("memory://runs/compare.html").is_file()
    as_folder("memory://runs/scores.csv").write_bytes(b"size,score\n10,0.5\n20,0.6\n40,0.7\n80,0.75\n")
    told = door.invoke(app, ["forecast", "memory://runs/scores.csv", "--at", "160", "--json"])
    assert told.exit_code in (0, 3)
    assert json.loads(told.stdout)["forecast"]
    resumed = door.invoke(app, ["run", "--out", url, "--repeats", "2", "--quiet"])
    assert resumed.exit_code in (0, 3), resumed.output


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("nowhere://runs/a", "can't be used"),
        ("memory://runs/../a", "no address of a run folder"),
        ("memory://runs/a\\b", "no address of a run folder"),
        ("simplecache::memory://runs/a", "no address of a run folder"),
        ("smb://me:pass@host/share/runs", "needs a package"),
    ],
)
def test_what_is_no_address(url, match, monkeypatch):
    # A client that no other test imports: fsspec keeps those it has, whatever is hidden afterwards.
    monkeypatch.setitem(sys.modules, "smbclient", None)
    with pytest.raises(InputError, match=match) as told:
        as_folder(url)
    assert "pass@" not in str(told.value)


def test_an_address_made_a_path_is_refused_not_made(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="an address made a path"):
        run(plan, Path("memory://runs/a"))
    assert as_folder("c:/runs") == Path("c:/runs")
    assert not list(tmp_path.glob("memory*"))


@pytest.mark.parametrize("name", ["..", "../b", "a/../b", "/b", "a//b", "", ".", "a\\b", "a\0"])
def test_no_name_leads_out_of_a_folder(name):
    with pytest.raises(InputError, match="lead out of it"):
        as_folder("memory://runs/a") / name


def test_a_listing_that_leads_out_is_not_followed(monkeypatch):
    folder = as_folder("memory://runs/a")
    (folder / "cells/k/record.json").write_bytes(b"{}")
    listed = folder.fs.find("/runs/a")
    odd = [f"/runs/a/cells/{name}/record.json" for name in ("..", "a\\b")] + ["/runs/b/cells/k/record.json"]
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_a, **_k: [*listed, *odd])
    assert Store(folder).all_keys() == ["k"]


def test_a_remote_path_is_told_and_sent_on():
    path = as_folder("memory://runs/a") / "cells" / "k"
    other = pickle.loads(pickle.dumps(path))
    assert (str(other), other.name, other.parent.name) == ("memory://runs/a/cells/k", "k", "cells")
    assert other == path
    assert path in {other}
    assert isinstance(path, RemotePath)


def test_records_are_there_when_the_last_file_is(address):
    """A reader that comes while a record is being written sees none, not a part of one."""
    store = Store(address("a"))
    key = "k"
    (store.place / key / "losses.parquet").write_bytes(b"half")
    assert not store.has(key)
    assert store.all_keys() == []
    store.sweep()
    assert not store.place.glob("*")


def test_the_deciding_file_is_written_last(monkeypatch):
    import numpy as np

    written, write = [], MemoryFileSystem.pipe_file

    def noted(self, path, *args, **kwargs):
        written.append(path)
        write(self, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", noted)
    Store("memory://runs/a").write("k", {"status": "ok"}, {"loss": np.ones(3)}, {"w": np.ones((2, 2), np.float32)})
    assert [path.rpartition("/")[2] for path in written] == ["adapter.safetensors", "losses.parquet", "record.json"]


def test_only_what_was_checked_is_used(address):
    import numpy as np

    store = Store(address("a"))
    store.write("k", {"status": "ok"}, {"loss": np.ones(3)}, {"w": np.ones((2, 2), np.float32)})
    assert store.losses("k")["loss"].tolist() == [1, 1, 1]
    assert store.weights("k")["w"].tolist() == [[1, 1], [1, 1]]
    (store.place / "k" / "losses.parquet").write_bytes(b"other")
    with pytest.raises(RecordError, match="its digest is not"):
        store.losses("k")
    (store.place / "k" / "adapter.safetensors").unlink()
    with pytest.raises(RecordError, match="is missing"):
        store.weights("k")


def test_a_folder_is_held_by_one(address, fault):
    folder = as_folder(address("a"))
    with locked(folder):
        for share in ("", "1-of-2"):
            with pytest.raises(InputError, match=r"another process is at work \(.*process"), locked(folder, share):
                pass
    with locked(folder, "1-of-2"), locked(folder, "2-of-2"):
        for share in ("", "1-of-2"):
            with pytest.raises(InputError, match="another process is at work"), locked(folder, share):
                pass
    assert not folder.glob(".lock*")
    fault("a second process in a remote folder", 4)


def test_a_claim_that_nobody_renews_is_taken_over(address, monkeypatch, fault):
    folder = as_folder(address("a"))
    (folder / LOCK).write_bytes(b'{"owner": "elsewhere, process 7", "renewed": 3}')
    started = time.monotonic()
    with locked(folder):
        assert time.monotonic() - started >= lease.STALE_S
        assert "elsewhere" not in (folder / LOCK).read_text()
    assert not (folder / LOCK).is_file()
    fault("a process dies with a claim on a remote folder", 1)


def test_a_claim_that_was_taken_over_is_not_renewed_nor_removed(address):
    folder = as_folder(address("a"))
    other = b'{"owner": "another"}'
    with locked(folder):
        (folder / LOCK).write_bytes(other)
        time.sleep(0.3)
        assert (folder / LOCK).read_bytes() == other
    assert (folder / LOCK).read_bytes() == other


def test_of_many_at_once_one_gets_in(tmp_path):
    folder, inside, refused = as_folder(f"file://{tmp_path}/runs/a"), [], []
    gate = threading.Barrier(6)

    def enter():
        gate.wait()
        try:
            with locked(folder):
                inside.append(1)
                time.sleep(1.5)
        except InputError:
            refused.append(1)

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 5)


KILLED = """
import sys
from stillscape.experiments import make_plan, run
from stillscape.experiments.plan import Plan
from pathlib import Path
run(make_plan(Path(sys.argv[1])), sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.alone
def test_a_run_that_is_killed_goes_on(plan, whole, tmp_path, fault):
    path = tmp_path / "plan.toml"
    path.write_text(plan.to_toml())
    url = f"file://{tmp_path}/runs/a"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path), url]) as process:
        limit = time.monotonic() + 120
        while time.monotonic() < limit and len(list((tmp_path / "runs/a").glob("cells/*/record.json"))) < 2:
            time.sleep(0.02)
        process.kill()
    there = len(list((tmp_path / "runs/a").glob("cells/*/record.json")))
    assert 2 <= there < 8
    assert (tmp_path / "runs/a" / LOCK).is_file()
    assert run(plan, url) == whole[0]
    fault("a run in a remote folder killed", 1)


def test_a_local_run_asks_fsspec_nothing(plan, tmp_path, monkeypatch):
    def no(*_args, **_kwargs):
        raise AssertionError("a path is no address")

    monkeypatch.setattr(fsspec.core, "url_to_fs", no)
    run(plan, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "plan.toml", "provenance.json", "cells", "probes", "evidence", "cache", "result.json", ".lock",
    }  # fmt: skip


def test_the_cache_of_an_address_has_a_place_of_its_own(monkeypatch, tmp_path):
    monkeypatch.delenv("STILLSCAPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    a, b = (cache_folder(as_folder(f"memory://runs/{name}")) for name in "ab")
    assert a != b
    assert a.parent == tmp_path / "xdg" / "stillscape"
    assert a.name == hashlib.sha256(b"memory://runs/a").hexdigest()[:20]
