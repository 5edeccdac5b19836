"""Planted faults are found, and sound data are left in peace."""

import json
import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from stillscape._errors import InputError
from stillscape.data import effective_images, examine, keep, open_images, resolvable_difference, scan
from stillscape.data.duplicates import exact_clusters, near_clusters
from stillscape.data.scan import Scan, difference_hash


def saying(sentences, start):
    return [sentence for sentence in sentences if sentence.startswith(start)]


def test_sound_data_have_neither_problems_nor_warnings(class_folder):
    found = examine(open_images(str(class_folder(a=12, b=12))), sizes=[4, 8, 16])
    assert found.problems == ()
    assert found.warnings == ()
    assert "Nothing stands in the way of a run." in found.to_text()
    assert "photos: 24 images, 2 classes (a 12, b 12)" in found.to_text()


def test_the_digits_are_sound():
    images = open_images("digits")
    found = examine(images, sizes=[50, 100])
    assert found.problems == ()
    assert sum(map(len, found.facts["near_copies"])) < 10
    assert found.facts["exact_copies"] == []


def test_the_scan_reads_each_image_once_in_order(class_folder):
    images = open_images(str(class_folder(a=2, b=3)))
    calls = []
    found = scan(images, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 5) for i in range(1, 6)]
    assert found.sizes.tolist() == [[32, 24]] * 5
    assert len(set(found.digests)) == 5
    assert found.usable.tolist() == [0, 1, 2, 3, 4]


def test_equal_pixels_of_another_shape_are_another_picture(tmp_path):
    for name, shape in {"a/0": (2, 8), "a/1": (8, 2), "b/0": (4, 4), "b/1": (4, 4)}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / f"{name}.png")
    digests = scan(open_images(str(tmp_path))).digests
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


def test_broken_images_are_listed_and_the_rest_is_examined(class_folder):
    root = class_folder(a=6, b=6)
    whole = (root / "a" / "3.png").read_bytes()
    (root / "a" / "3.png").write_bytes(whole[: len(whole) // 2])
    (root / "b" / "5.png").write_bytes(b"")
    images = open_images(str(root))
    found = examine(images)
    assert [row for row, _ in found.scan.broken] == [3, 11]
    (problem,) = found.problems
    assert problem.startswith("Images that can't be read: 2 (a/3.png, b/5.png). The first: a/3.png is damaged")
    assert "--skip-broken" in problem
    assert found.facts["exact_copies"] == []
    rest = keep(images, found.scan.usable)
    assert found.scan.take(found.scan.usable).broken == []
    assert found.scan.take([3, 0]).broken == [(0, found.scan.broken[0][1])]
    assert examine(rest).problems == ()
    assert found.facts["fingerprint"] == examine(rest).facts["fingerprint"]


def test_images_that_need_a_window_are_told_once_with_their_overall_range(class_folder):
    root = class_folder(a=2, b=2)
    for number, peak in enumerate([900, 4000]):
        Image.fromarray(np.array([[50 * (number + 1), peak]], np.uint16)).save(root / "a" / f"deep{number}.png")
    images = open_images(str(root))
    with pytest.raises(InputError, match=r"^2 images are deeper.*a/deep0.png the first.*50 to 4000.*--window 50:4000"):
        scan(images)


def test_exact_copies_in_another_format_and_name(class_folder):
    root = class_folder(a=6, b=6)
    with Image.open(root / "a" / "2.png") as image:
        image.save(root / "a" / "copy.bmp")
    found = examine(open_images(str(root)))
    assert found.problems == ()
    (warning,) = found.warnings
    assert warning.startswith("Exact copies of other images: 1 (a/2.png = a/copy.bmp)")
    assert found.facts["exact_copies"] == [["a/2.png", "a/copy.bmp"]]


def test_copies_under_different_labels_are_a_problem(class_folder):
    root = class_folder(a=6, b=6)
    (root / "b" / "again.png").write_bytes((root / "a" / "0.png").read_bytes())
    found = examine(open_images(str(root)))
    (problem,) = found.problems
    assert problem.startswith("Equal pictures under different labels: 1 (a/0.png = b/again.png)")
    assert saying(found.warnings, "Exact copies")


def test_copies_across_groups_are_told(class_folder):
    root = class_folder(a=6, b=6)
    (root / "a" / "9.png").write_bytes((root / "a" / "0.png").read_bytes())
    found = examine(open_images(str(root), groups=r"(\d)\.png"))
    (warning,) = saying(found.warnings, "Pictures that stand in several groups: 1 (a/0.png = a/9.png)")
    assert "joined" in warning
    together = examine(open_images(str(root), groups=r"(a|b)/"))
    assert not saying(together.warnings, "Pictures that stand in several groups")


@pytest.mark.parametrize("change", ["jpeg", "half", "bright", "twice"])
def test_near_copies_are_found(class_folder, picture, change):
    root = class_folder(a=8, b=8)
    image = picture(3, (160, 120))
    image.save(root / "a" / "original.png")
    if change == "jpeg":
        image.save(root / "a" / "near.jpg", quality=60)
    elif change == "half":
        image.resize((80, 60)).save(root / "a" / "near.png")
    elif change == "twice":
        image.resize((320, 240)).save(root / "a" / "near.png")
    else:
        ImageEnhance.Brightness(image).enhance(0.8).save(root / "a" / "near.png")
    found = examine(open_images(str(root)))
    (together,) = found.facts["near_copies"]
    # a/3.png is the same picture at 32 x 24 pixels.
    assert {"a/original.png"} < set(together) <= {"a/3.png", "a/original.png", "a/near.jpg", "a/near.png"}
    assert any("near" in name for name in together)
    assert saying(found.warnings, "Images that look nearly alike")
    assert found.facts["exact_copies"] == []


def test_flat_images_do_not_all_match_each_other(tmp_path):
    rng = np.random.default_rng(0)
    for owner in "ab":
        (tmp_path / owner).mkdir()
        for number in range(8):
            noise = rng.normal(60 + 10 * number, 1.5, (40, 40)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(tmp_path / owner / f"{number}.png")
    Image.new("L", (40, 40), 9).save(tmp_path / "a" / "even.png")
    found = examine(open_images(str(tmp_path)))
    assert found.facts["near_copies"] == []
    assert saying(found.warnings, "Images of one even tone")[0].count("a/even.png") == 1


def scan_of(hashes: np.ndarray, thumbnails: np.ndarray) -> Scan:
    n = hashes.size
    return Scan([], [str(i) for i in range(n)], hashes, np.ones((n, 2), np.int64), thumbnails)


@pytest.mark.parametrize("near", [0, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_near_clusters_against_all_pairs(near, seed):
    rng = np.random.default_rng(seed)
    n = 400
    hashes = rng.integers(0, 2**64, 40, dtype=np.uint64)[rng.integers(0, 40, n)]
    for _ in range(3):
        hashes ^= np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64)
    looks = rng.integers(0, 256, (2, 16, 16), dtype=np.uint8)
    look = rng.integers(0, 2, n)
    found = near_clusters(scan_of(hashes, looks[look]), near=near)
    # The oracle: every pair, joined by spreading the smallest number.
    match = (np.bitwise_count(hashes[:, None] ^ hashes[None]) <= near) & (look[:, None] == look[None])
    root = np.arange(n)
    for _ in range(n):
        spread = np.where(match, root[None], n).min(axis=1)
        if np.array_equal(spread, root):
            break
        root = spread
    expected = [np.flatnonzero(root == first).tolist() for first in np.unique(root) if (root == first).sum() > 1]
    assert [rows.tolist() for rows in found] == expected


def test_many_like_images_cost_little(monkeypatch):
    monkeypatch.setattr("stillscape.data.duplicates._MOST_EDGES", 10_000)
    n = 3000
    looks = np.random.default_rng(0).integers(0, 256, (1, 16, 16), dtype=np.uint8)
    start = time.perf_counter()
    (cluster,) = near_clusters(scan_of(np.full(n, 5, np.uint64), np.repeat(looks, n, axis=0)))
    assert cluster.tolist() == list(range(n))
    assert time.perf_counter() - start < 20


def test_the_difference_hash_by_hand():
    step = np.zeros((8, 9), np.uint8)
    step[:, :3] = 200  # falls once in each row, between columns 2 and 3
    assert difference_hash(Image.fromarray(step)) == int("00100000" * 8, 2)
    # Two grey levels are within what JPEG makes of a flat area, three are not.
    assert difference_hash(Image.fromarray(step // 100)) == 0
    assert difference_hash(Image.fromarray(step // 66)) == int("00100000" * 8, 2)


def test_broken_images_are_no_copies_of_each_other():
    assert [rows.tolist() for rows in exact_clusters(["", "x", "", "x"])] == [[1, 3]]


def test_classes_too_small(class_folder):
    found = examine(open_images(str(class_folder(a=30, b=3))), folds=5)
    assert found.problems == ()
    assert saying(found.warnings, "Classes too small for 5 folds: b (3)")
    assert saying(found.warnings, "Classes differ much in size: a has 30 images, b 3")
    lone = examine(open_images(str(class_folder("lone", a=8, b=4)), groups=r"(b|a/\d)"))
    (problem,) = lone.problems
    assert problem.startswith("Classes that can't be both trained and tested, with fewer than two groups")
    assert "b (1)" in problem


def test_sizes_that_do_not_fit(class_folder):
    images = open_images(str(class_folder(a=12, b=12, c=4)))
    scanned = scan(images)
    found = examine(images, sizes=[2, 23], scanned=scanned, folds=5)
    assert saying(found.problems, "The smallest size, 2, is below the number of classes, 3")
    assert saying(found.problems, "The largest size, 23, is above the 22 images")
    found = examine(images, sizes=[4, 22], scanned=scanned, folds=5)
    assert found.problems == ()
    assert saying(found.warnings, "At size 4, the share of c is less than one image")
    for sizes in ([], [0], [1.5]):
        with pytest.raises(InputError, match="sizes"):
            examine(images, sizes=sizes, scanned=scanned)
    with pytest.raises(InputError, match="scanned has 28 rows; there are 27"):
        examine(keep(images, np.arange(27)), scanned=scanned)


def test_the_resolvable_difference_is_the_half_width_of_simulated_differences():
    assert resolvable_difference(300) == pytest.approx(1.6449 * np.sqrt(2 * 0.9 * 0.1 / 300), rel=1e-4)
    draws = np.random.default_rng(0).binomial(500, 0.9, (200_000, 2)) / 500
    inside = np.mean(np.abs(draws[:, 0] - draws[:, 1]) <= resolvable_difference(500))
    assert inside == pytest.approx(0.9, abs=0.015)
    for arguments in ({"n": 0}, {"n": 10, "accuracy": 1.0}, {"n": 10, "level": 0.0}):
        with pytest.raises(InputError):
            resolvable_difference(**arguments)


def test_groups_count_for_less(class_folder):
    assert effective_images(np.arange(7)) == 7
    assert effective_images([0] * 9 + [1]) == pytest.approx(100 / 82)
    root = str(class_folder(a=8, b=8))
    alone, grouped = examine(open_images(root)), examine(open_images(root, groups=r"(.)\.png"))
    assert grouped.facts["effective_images"] == 8
    assert grouped.facts["resolvable_difference"] == pytest.approx(alone.facts["resolvable_difference"] * 2**0.5)
    assert "16 images in 8 groups" in grouped.to_text()


def test_the_facts_are_ready_for_json(class_folder):
    root = class_folder(a=3, b=3)
    (root / "a" / "2.png").write_bytes(b"")
    facts = examine(open_images(str(root))).facts
    assert json.loads(json.dumps(facts)) == facts
    assert facts["class_counts"] == {"a": 3, "b": 3}
    assert facts["width"] == [32, 32]


def test_everything_broken_is_told_without_a_crash(class_folder):
    root = class_folder(a=2, b=2)
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    found = examine(open_images(str(root)), sizes=[2])
    assert saying(found.problems, "Images that can't be read: 4")
    assert "photos: 4 images" in found.to_text()
