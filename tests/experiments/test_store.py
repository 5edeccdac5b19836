"""Records are there whole or not at all, and a disk that can't take more is said in one line."""

import errno
import json

import numpy as np
import pytest

from stillscape._errors import InputError, RecordError
from stillscape._files import no_room_is_said
from stillscape.experiments.store import SCHEMA, Store, content_key, write_json


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_a_record_comes_back_with_its_tables(store):
    import pyarrow as pa

    matrix = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float32)), 3)
    losses = {"loss": np.array([0.5, 0.25]), "probabilities": matrix}
    store.write("a", {"status": "ok"}, losses, {"fold0/w": np.ones((2, 2), dtype=np.float32).T})
    assert store.has("a")
    assert store.record("a") == {"schema": SCHEMA, "status": "ok"}
    np.testing.assert_array_equal(store.losses("a")["loss"], [0.5, 0.25])
    np.testing.assert_array_equal(store.losses("a")["probabilities"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(store.weights("a")["fold0/w"], np.ones((2, 2)))


def test_a_record_without_weights_says_none(store):
    store.write("a", {"status": "failed"})
    assert store.weights("a") is None


def test_nothing_is_left_of_a_write_that_breaks(store):
    with pytest.raises(ValueError, match="JSON"):
        store.write("a", {"bad": float("nan")}, {"loss": np.ones(1)})
    assert not store.has("a")
    assert list(store.place.iterdir()) == []


def test_a_second_write_leaves_the_first(store):
    store.write("a", {"status": "ok"})
    store.write("a", {"status": "failed"})
    assert store.record("a")["status"] == "ok"
    assert [path.name for path in store.place.iterdir()] == ["a"]


def test_drafts_of_a_killed_process_are_no_records_and_are_swept(store):
    draft = store.place / ".a-1234"
    draft.mkdir(parents=True)
    (draft / "record.json").write_text("{")
    assert not store.has("a")
    store.sweep()
    assert not draft.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": "1"}', f'{{"schema": {SCHEMA + 1}}}'])
def test_damaged_and_newer_records_are_refused_with_their_path(store, text):
    (store.place / "a").mkdir(parents=True)
    (store.place / "a" / "record.json").write_text(text)
    with pytest.raises(RecordError, match=r"record\.json"):
        store.record("a")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_no_more_is_said(tmp_path, code):
    with pytest.raises(InputError, match=r"can't be written: .* kept"), no_room_is_said(tmp_path):
        raise OSError(code, "no")


def test_other_errors_of_the_system_pass(tmp_path):
    with pytest.raises(OSError, match="odd"), no_room_is_said(tmp_path):
        raise OSError(errno.EIO, "odd")


def test_a_full_disk_loses_no_record(store, monkeypatch):
    store.write("kept", {"status": "ok"})

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(InputError, match="the disk is full"):
        store.write("new", {"status": "ok"})
    monkeypatch.undo()
    assert store.has("kept")
    assert not store.has("new")


def test_json_is_written_whole_and_without_nan(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": [1.5, None]})
    assert json.loads(path.read_text()) == {"a": [1.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("inf")})
    assert json.loads(path.read_text()) == {"a": [1.5, None]}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_keys_see_every_value_and_no_order():
    assert content_key({"a": [1, 2], "b": 0.1}) == content_key({"b": 0.1, "a": [1, 2]})
    assert len({content_key(c) for c in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": [1]}, {"a": "1"})}) == 5
