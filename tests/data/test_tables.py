"""Parquet files and Hugging Face datasets open like folders do."""

import io
import logging
import pickle

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillscape._errors import InputError
from stillscape.data import BrokenImage, open_images


@pytest.fixture(autouse=True)
def _quiet_and_offline(monkeypatch):
    """Keep datasets from drawing progress bars, and any test from reaching the network."""
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def encoded(picture):
    """Return a maker of PNG bytes."""

    def make(seed: int) -> bytes:
        stream = io.BytesIO()
        picture(seed).save(stream, "PNG")
        return stream.getvalue()

    return make


def write(path, columns, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def same(image, other) -> bool:
    return np.array_equal(np.asarray(image), np.asarray(other))


@pytest.mark.parametrize("cell", ["bytes", "struct"])
def test_parquet_by_hand(tmp_path, encoded, picture, cell):
    cells = [encoded(i) if cell == "bytes" else {"bytes": encoded(i), "path": None} for i in range(7)]
    table = {"img": cells, "label": list("abababa"), "patient": [1, 1, 2, 2, 3, 3, 3]}
    images = open_images(write(tmp_path / "t.parquet", table, row_group_size=2), groups="patient")
    assert images.name == "t"
    assert images.files[6] == "row 6"
    assert images.classes == ("a", "b")
    assert images.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert images.groups.tolist() == [0, 0, 1, 1, 2, 2, 2]
    reader = pickle.loads(pickle.dumps(images.read))
    for row in (6, 0, 3, 2, 5, 1, 4):
        assert same(images.read(row), picture(row))
        assert same(reader(row), picture(row))


def test_a_folder_of_parquet_files_reads_its_training_split(tmp_path, encoded, picture, caplog):
    for part in range(2):
        cells = [encoded(10 * part + i) for i in range(4)]
        write(tmp_path / "birds" / "data" / f"train-0000{part}.parquet", {"image": cells, "label": [0, 1, 0, 1]})
    write(tmp_path / "birds" / "data" / "test-00000.parquet", {"image": [encoded(99)], "label": [0]})
    with caplog.at_level(logging.WARNING):
        images = open_images(str(tmp_path / "birds"))
    assert "training split, 2 of 3 files" in caplog.text
    assert len(images) == 8
    assert same(images.read(5), picture(11))
    assert same(images.read(0), picture(0))


def test_images_beside_the_table_are_found_by_their_path(tmp_path, picture):
    for row in range(4):
        picture(row).save(tmp_path / f"{row}.png")
    cells = [{"bytes": None, "path": f"{row}.png"} for row in range(4)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = write(tmp_path / "t.parquet", {"image": pa.array(cells, kind), "label": list("aabb")})
    assert same(open_images(path).read(3), picture(3))


def test_broken_cells_are_broken_images(tmp_path, encoded):
    cells = [encoded(0)[:60], b"", None, encoded(3)]
    images = open_images(write(tmp_path / "t.parquet", {"image": pa.array(cells, pa.binary()), "label": list("aabb")}))
    for row, reason in enumerate(["row 0 is damaged", "row 1 is an empty file", "row 2 holds no image"]):
        with pytest.raises(BrokenImage, match=reason):
            images.read(row)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"image": [b"x"] * 4, "class": list("aabb")}, {}, "no column label; its columns are image, class"),
        ({"image": ["a.png"] * 4, "label": list("aabb")}, {}, "no image column; its columns are image, label"),
        ({"left": [b"x"] * 4, "right": [b"x"] * 4, "label": list("aabb")}, {}, "several image columns, left, right"),
        ({"image": [b"x"] * 4, "label": ["a", None, "b", "b"]}, {}, "row 1 has no label"),
        ({"image": [b"x"] * 4, "label": [0.5, 1.5, 0.5, 1.5]}, {}, "row 0 has label 0.5; it must be one text"),
        ({"image": [b"x"] * 4, "label": [[0], [1], [0], [1]]}, {}, r"row 0 has label \[0\]"),
        ({"image": [b"x"] * 4, "label": list("aabb")}, {"groups": "patient"}, "groups is 'patient'; t has the columns"),
        ({"image": [b"x"] * 4, "label": list("aabb")}, {"labels": "kind"}, "labels is 'kind'; t has the columns"),
        ({"image": [b"x"] * 3, "label": list("aab")}, {}, "fewer than two images: b"),
    ],
)
def test_tables_with_mistakes(tmp_path, columns, options, message):
    with pytest.raises(InputError, match=message):
        open_images(write(tmp_path / "t.parquet", columns), **options)


def test_more_mistakes_with_parquet(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"this is no parquet")
    with pytest.raises(InputError, match=r"bad\.parquet can't be read as parquet"):
        open_images(str(tmp_path / "bad.parquet"))
    write(tmp_path / "two" / "0.parquet", {"image": [b"x"] * 4, "label": list("aabb")})
    write(tmp_path / "two" / "1.parquet", {"image": [b"x"] * 4})
    with pytest.raises(InputError, match=r"1\.parquet has no column label, which 0\.parquet has"):
        open_images(str(tmp_path / "two"))
    for split in ("test", "validation"):
        write(tmp_path / "three" / f"{split}.parquet", {"image": [b"x"] * 4, "label": list("aabb")})
    with pytest.raises(InputError, match="the splits test, validation and none called train"):
        open_images(str(tmp_path / "three"))


@pytest.fixture
def beans(picture):
    """Return a dataset of six images of two of its three declared classes."""
    features = datasets.Features(
        img=datasets.Image(),
        leaf=datasets.ClassLabel(names=["rust", "spot", "healthy"]),
        field=datasets.Value("string"),
    )
    columns = {"img": [picture(i) for i in range(6)], "leaf": [2, 0, 2, 0, 2, 0], "field": list("xxyyzz")}
    return datasets.Dataset.from_dict(columns, features=features)


def check_beans(images, picture):
    assert images.classes == ("rust", "healthy")  # the source's order; the empty class is left out
    assert images.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert images.groups.tolist() == [0, 0, 1, 1, 2, 2]
    reader = pickle.loads(pickle.dumps(images.read))
    for row in (5, 0):
        assert same(images.read(row), picture(row))
        assert same(reader(row), picture(row))


def test_a_saved_dataset(tmp_path, beans, picture):
    beans.save_to_disk(str(tmp_path / "beans"))
    images = open_images(str(tmp_path / "beans"), groups="field")
    assert images.name == "beans"
    check_beans(images, picture)


def test_a_saved_dataset_with_a_view_and_a_format(tmp_path, beans, picture):
    beans.select([5, 4, 3, 2, 1, 0]).with_format("numpy").save_to_disk(str(tmp_path / "beans"))
    images = open_images(str(tmp_path / "beans"))
    assert images.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert same(images.read(0), picture(5))


def test_a_saved_dataset_with_splits_reads_train_and_says_so(tmp_path, beans, picture, caplog):
    splits = datasets.DatasetDict(train=beans, test=beans.select([0]))
    splits.save_to_disk(str(tmp_path / "beans"))
    with caplog.at_level(logging.WARNING):
        images = open_images(str(tmp_path / "beans"), groups="field")
    assert images.name == "beans (train split)"
    assert "using its split train; left unused: test" in caplog.text
    check_beans(images, picture)


def test_parquet_written_by_datasets_keeps_its_class_names(tmp_path, beans, picture):
    beans.to_parquet(str(tmp_path / "beans.parquet"))
    check_beans(open_images(str(tmp_path / "beans.parquet"), groups="field"), picture)


def test_a_hub_id_goes_to_load_dataset(beans, picture, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or datasets.DatasetDict(train=beans))
    images = open_images("owner/beans", groups="field")
    assert asked == ["owner/beans"]
    assert images.name == "owner/beans (train split)"
    check_beans(images, picture)


def test_a_hub_that_does_not_deliver_is_told_with_what_was_looked_for(monkeypatch):
    def fail(name):
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"data is 'phots'; there is no such file or folder here.*no route$"):
        open_images("phots")


def test_datasets_with_mistakes(tmp_path, beans):
    two = beans.add_column("label", beans["leaf"]).remove_columns("leaf")
    two.save_to_disk(str(tmp_path / "plain"))
    assert open_images(str(tmp_path / "plain")).classes == ("0", "2")
    datasets.DatasetDict(dev=beans, test=beans).save_to_disk(str(tmp_path / "split"))
    with pytest.raises(InputError, match="the splits dev, test and none called train"):
        open_images(str(tmp_path / "split"))
    unlabeled = beans.cast_column("leaf", datasets.Value("int64")).remove_columns("leaf").add_column("leaf", [-1] * 6)
    unlabeled = unlabeled.cast_column("leaf", datasets.ClassLabel(names=["rust", "spot"]))
    unlabeled.save_to_disk(str(tmp_path / "unlabeled"))
    with pytest.raises(InputError, match=r"row 0 has leaf -1, but classes are numbered 0 to 1"):
        open_images(str(tmp_path / "unlabeled"))
    (tmp_path / "damaged").mkdir()
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / "damaged" / name).write_text("{")
    with pytest.raises(InputError, match="damaged can't be read as a saved dataset"):
        open_images(str(tmp_path / "damaged"))


def test_two_label_columns_need_a_choice(tmp_path, beans):
    features = datasets.ClassLabel(names=["low", "high"])
    both = beans.add_column("grade", [0, 1, 0, 1, 0, 1]).cast_column("grade", features)
    both.save_to_disk(str(tmp_path / "both"))
    with pytest.raises(InputError, match="several label columns: leaf, grade"):
        open_images(str(tmp_path / "both"))
    assert open_images(str(tmp_path / "both"), labels="grade").classes == ("low", "high")
