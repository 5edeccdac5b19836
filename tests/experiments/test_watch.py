"""Looks at a folder that grows: what is scored was never trained on, nothing is spent twice, nothing half done."""

import json
import shutil

import numpy as np
import pytest

from stillscape._errors import InputError, RecordError, RunError
from stillscape.data import leak_free_groups, open_images, scan
from stillscape.experiments import Silent, Store, make_plan, watch
from stillscape.experiments.arrivals import arrivals
from tests.conftest import save_images

watch_module = __import__("stillscape.experiments.watch", fromlist=["watch"])
CLASSES = {"moss": 60, "rust": 44}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return save_images(tmp_path_factory.mktemp("pool"), CLASSES)


def arrive(pool, folder, first, last):
    """Copy images number first..last-1 of each class."""
    for path in sorted(pool.rglob("*.*")):
        if first <= int(path.stem.rpartition("_")[2]) < last:
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path.parent.name)
    return folder


@pytest.fixture
def make(tiny_vit, tmp_path):
    def plan(**changes):
        given = {"data": str(tmp_path / "data"), "model": str(tiny_vit), "adapt": ["head"], "repeats": 2, "seeds": 1}
        return make_plan(**(given | {"workers": 1, "epsilon": 0.05} | changes))

    return plan


def state_of(out):
    return json.loads((out / "watch.json").read_text())


def test_looks_score_each_image_once_by_models_that_never_saw_it(pool, make, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    seen = set()
    for looks, last in enumerate((16, 20, 30), 1):
        arrive(pool, data, 0, last)
        answer = watch(make(), out)
        assert [look["look"] for look in answer["looks"]] == list(range(1, looks + 1))
        images = open_images(str(data))
        digests = np.array(scan(images).digests)
        cells = list((out / "looks" / f"{looks:03d}" / "cells").iterdir())
        assert len(cells) == 4
        scored = set()
        for path in cells:
            table = Store(path.parents[1]).losses(path.name)
            held_out = table["role"] == "heldout"
            trained, scored = (set(digests[np.unique(table["sample"][rows])]) for rows in (~held_out, held_out))
            assert not trained & scored
        assert len(scored) == answer["looks"][-1]["num_scored"]
        assert not scored & seen
        seen |= set(digests)
        assert set(state_of(out)["known"]) == seen
    sizes = [look["sizes"] for look in answer["looks"]]
    assert all(low == high // 2 for low, high in sizes)
    assert sizes[0][1] == 32 - int(0.2 * 32)
    assert "differences" not in answer["looks"][0]


def test_no_new_images_spend_nothing_and_repeat_the_answer(pool, make, tmp_path):
    data, out = arrive(pool, tmp_path / "data", 0, 20), tmp_path / "out"
    first = watch(make(), out)
    before = (out / "watch.json").read_bytes()
    again = watch(make(workers=2, skip_broken=True), out)
    assert again["verdict"] == first["verdict"]
    assert again["looks"] == first["looks"]
    assert "No new images" in again["notes"][-1]
    shutil.copy(next(data.rglob("*.png")), data / "moss" / "copy_99.png")  # nothing that can be scored, either
    assert watch(make(), out)["verdict"] == first["verdict"]
    assert (out / "watch.json").read_bytes() == before
    assert not (out / "looks" / "002").exists()


def test_stop_is_said_and_lasts(pool, make, tmp_path):
    data, out = arrive(pool, tmp_path / "data", 0, 30), tmp_path / "out"
    stopped = watch(make(epsilon=0.9), out)
    assert stopped["verdict"]["status"] == "stop"
    assert "Stop collecting: for training the head alone, 60 images are enough" in stopped["verdict"]["sentence"]
    assert stopped["looks"][0]["upper"] <= 0.9
    arrive(pool, data, 30, 40)
    later = watch(make(epsilon=0.9), out)
    assert later["verdict"] == stopped["verdict"]
    assert later["looks"] == stopped["looks"]


def test_a_model_no_better_than_the_most_frequent_class_never_has_enough(pool, make, tmp_path):
    """Images whose labels are noise gain nothing from a doubling, and yet nobody has enough of them."""
    data, rng = tmp_path / "data", np.random.default_rng(0)
    for path in sorted(pool.rglob("*.*")):
        label = "common" if rng.random() < 0.8 else "rare"
        (data / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, data / label / f"{path.parent.name}_{path.name}")
    answer = watch(make(epsilon=0.5), tmp_path / "out")
    assert answer["verdict"]["status"] == "go_on"
    assert "no better than always naming the most frequent class" in answer["verdict"]["sentence"]


def test_a_look_that_was_killed_is_taken_again_as_if_nothing_had_been(pool, make, tmp_path, monkeypatch):
    data, out = arrive(pool, tmp_path / "data", 0, 16), tmp_path / "out"
    watch(make(), out)
    shutil.copytree(out, tmp_path / "undisturbed")
    arrive(pool, data, 16, 24)
    expected = watch(make(), tmp_path / "undisturbed")
    before = (out / "watch.json").read_bytes()
    whole = watch_module.run_cells

    def killed(bench, place, pending, cells, progress):
        whole(bench, place, pending[:2], cells, progress)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(watch_module, "run_cells", killed)
        with pytest.raises(KeyboardInterrupt):
            watch(make(), out)
    assert (out / "watch.json").read_bytes() == before
    kept = {p: p.stat().st_mtime_ns for p in (out / "looks" / "002").glob("cells/*/record.json")}
    assert len(kept) == 2
    assert watch(make(), out) == expected
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert state_of(out) == state_of(tmp_path / "undisturbed")


def test_data_that_grow_between_a_kill_and_the_next_call_leave_no_stale_cells(pool, make, tmp_path, monkeypatch):
    data, out = arrive(pool, tmp_path / "data", 0, 16), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(watch_module, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            watch(make(), out)
    assert not (out / "watch.json").exists()
    arrive(pool, data, 16, 22)
    answer = watch(make(), out)
    assert len(answer["looks"]) == 1
    assert answer["looks"][0]["num_images"] == 44
    assert len(list((out / "looks" / "001" / "cells").iterdir())) == 4


def test_activations_are_computed_for_new_images_only_and_are_those_of_a_fresh_cache(pool, make, tmp_path, monkeypatch):
    from stillscape.experiments import activations

    read, encoded = [], activations.encoded
    monkeypatch.setattr(activations, "encoded", lambda s, batch, at: read.append(len(batch)) or encoded(s, batch, at))
    data, out = arrive(pool, tmp_path / "data", 0, 16), tmp_path / "out"
    watch(make(), out)
    arrive(pool, data, 16, 22)
    watch(make(), out)
    assert read == [1, 32, 1, 12]  # one image of each batch tells beforehand how large the array will be
    (grown,) = (out / "cache").glob("*.npy")
    watch(make(), tmp_path / "fresh")
    (fresh,) = (tmp_path / "fresh" / "cache").glob("*.npy")
    assert grown.name == fresh.name
    np.testing.assert_allclose(np.load(grown), np.load(fresh), rtol=1e-5, atol=1e-6)


def test_too_few_images_are_no_look(pool, make, tmp_path):
    arrive(pool, tmp_path / "data", 0, 2)
    answer = watch(make(), tmp_path / "out")
    assert answer["verdict"]["status"] == "go_on"
    assert "too few" in answer["verdict"]["sentence"]
    assert answer["looks"] == []
    assert not (tmp_path / "out" / "watch.json").exists()


def test_another_question_is_refused(pool, make, tmp_path):
    arrive(pool, tmp_path / "data", 0, 16)
    watch(make(), tmp_path / "out")
    with pytest.raises(InputError, match=r"epsilon was 0\.05, is 0\.01"):
        watch(make(epsilon=0.01), tmp_path / "out")
    with pytest.raises(InputError, match=r"level was 0\.9, is 0\.8"):
        watch(make(level=0.8), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapt": ["head", "full"]}, "adapt is head, full"),
        ({"metric": "auroc"}, "metric is 'auroc'"),
        ({"target": 0.9, "epsilon": None}, r"target is 0\.9"),
        ({"cost_per_image": 1.0, "value_per_point": 2.0, "epsilon": None}, r"cost_per_image is 1\.0"),
        ({"repeats": 1}, "repeats is 1"),
        ({"epsilon": 2.0}, "epsilon is 2.0"),
    ],
)
def test_plans_that_cannot_be_watched(changes, said, make, tmp_path):
    with pytest.raises(InputError, match=said):
        watch(make(**changes), tmp_path / "out", progress=Silent())


def test_folders_that_hold_something_else(make, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for text in ("{", "[]", '{"plan": {}, "schema": 99}', "{}"):
        (out / "watch.json").write_text(text)
        with pytest.raises(RecordError, match=r"watch\.json"):
            watch(make(), out)
    (out / "result.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run"):
        watch(make(), out)


def test_failed_trainings_do_not_spend_the_look(pool, make, tmp_path):
    arrive(pool, tmp_path / "data", 0, 16)
    wild = {"full": {"steps": 3, "learning_rate": 1e30, "clip": 0.0, "warmup": 0.0}}
    with pytest.raises(RunError, match="look 1 has 0 repeats"):
        watch(make(adapt=["full"], recipes=wild), tmp_path / "out")
    assert not (tmp_path / "out" / "watch.json").exists()


def test_groups_and_copies_of_known_images_are_never_scored():
    digests = ["a", "b", "c", "d", "e", "c"]
    groups = leak_free_groups([0, 1, 0, 2, 3, 4], digests)
    found = arrivals(groups, digests, {"a"}, 0.9, [0])
    assert found.num_new == 5
    assert found.scored.tolist() == [1, 3, 4]  # c belongs to a's group, and its copy with it
    assert len(arrivals(groups, digests, {"a"}, 0.4, [0]).scored) == 2


def test_classes_that_shift_are_told(pool, make, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    arrive(pool, data, 0, 20)
    watch(make(), out)
    for path in sorted((pool / "moss").glob("*.*")):
        shutil.copy(path, data / "moss")
    assert "classes differ" in watch(make(), out)["notes"][-1]
