"""What the cache would need is held against the plan's limit and the disk before the first byte is written."""

import shutil
from types import SimpleNamespace

import pytest

from stillscape._errors import InputError
from stillscape.experiments import activations, run
from tests.experiments.small import small_plan


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return small_plan(photos, tiny_vit)


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    return run(plan, folder), sum(path.stat().st_size for path in folder.glob("cache/*.npy"))


def limited(plan, size):
    return plan.model_copy(update={"cache_gib": size / 2**30})


def test_a_cache_above_the_limit_is_refused_before_it_is_written(plan, whole, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"for 52 images, but cache_gib allows .*; raise cache_gib, or choose"):
        run(limited(plan, 0.9 * whole[1]), out)
    assert not [path for path in (out / "cache").iterdir() if path.stat().st_size]
    assert run(limited(plan, whole[1]), out) == whole[0]  # the same folder goes on; the limit moves no number


def test_older_arrays_count_and_may_be_deleted(plan, whole, tmp_path):
    out, head = tmp_path / "out", plan.model_copy(update={"adapt": ("head",)})
    run(limited(head, whole[1]), out)
    with pytest.raises(InputError, match=r"raise cache_gib, delete the .* of older arrays there"):
        run(limited(plan, 0.99 * whole[1]), out)


def test_a_disk_with_too_little_room_is_said_with_both_sizes(plan, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(activations.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"takes .* GiB in .*cache.* 9\.31e-07 GiB are free there; make room"):
        run(plan, tmp_path / "out")
    monkeypatch.undo()
    assert shutil.disk_usage(tmp_path).free > 1000
    assert run(plan, tmp_path / "out") == whole[0]
