"""Run folders over SFTP, by the client that users have: paramiko, against its own server at 127.0.0.1."""

import pytest

from stillscape._errors import InputError
from stillscape._folders import as_folder
from stillscape.experiments import lease, read_result, run
from stillscape.experiments.lease import leased
from stillscape.report import write_report
from tests.experiments import sftp
from tests.experiments.small import small_plan


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLSCAPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    with sftp.serving(tmp_path / "served") as found:
        yield found


def test_a_run_is_the_run_on_a_disk_and_is_mended_there(photos, tiny_vit, address, tmp_path):
    plan, served = small_plan(photos, tiny_vit), tmp_path / "served" / "runs" / "a"
    whole = run(plan, tmp_path / "local")
    assert run(plan, f"{address}/runs/a") == whole == read_result(f"{address}/runs/a")
    hurt = min(served.glob("cells/*/losses.parquet"))
    hurt.write_bytes(hurt.read_bytes()[:100])
    assert run(plan, f"{address}/runs/a") == whole
    assert len(list(served.glob("damaged/*"))) == 1
    assert not list(served.glob(".lock*"))
    assert not [path for path in served.rglob(".*") if path.is_file()]  # drafts
    write_report(whole, f"{address}/runs/a")
    assert (served / "report.html").is_file()


def test_one_process_at_a_time(address, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "STALE_S", 0.6)
    folder = as_folder(f"{address}/runs/a")
    with leased(folder, ".lock"):
        assert b"process" in (folder / ".lock").read_bytes()
        with pytest.raises(InputError, match="another process is at work"), leased(folder, ".lock"):
            pass
    assert not (folder / ".lock").exists()


def test_of_two_that_create_a_file_at_once_one_does(address, monkeypatch):
    file = as_folder(f"{address}/runs/a/.lock")
    file.create(b"first")
    exists, looked = file.fs.exists, []

    def too_early(path, **_):
        looked.append(path)
        return exists(path) and looked.count(file.path) != 1  # the first look was before the other had written

    monkeypatch.setattr(file.fs, "exists", too_early)
    with pytest.raises(FileExistsError):
        file.create(b"second")
    assert file.read_bytes() == b"first"


def test_a_wrong_password_is_said_without_it(address):
    with pytest.raises(InputError, match="can't be reached") as said:
        as_folder(address.replace(sftp.PASSWORD, "abracadabra") + "/runs/a")
    assert "abracadabra" not in str(said.value)
