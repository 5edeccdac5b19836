"""Shards of a plan, merged, give the result of the whole; whatever is not of one plan is refused."""

import json

import pytest
from typer.testing import CliRunner

from stillscape._errors import InputError
from stillscape.cli import app
from stillscape.experiments import Shard, Store, merge, parse_shard, run, run_shard
from tests.experiments.small import Said, copied, small_plan


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return small_plan(photos, tiny_vit)


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    return run(plan, folder), folder


@pytest.fixture(scope="module")
def shards(plan, tmp_path_factory):
    """Folders of three shards, each with what it answered."""
    place = tmp_path_factory.mktemp("shards")
    return [(run_shard(plan, place / str(n), Shard(n, 3)), place / str(n)) for n in (1, 2, 3)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_every_item_is_in_one_share_and_shares_cost_alike(count):
    costs = [float(1 + (7 * i) % 13) for i in range(31)]
    shares = [Shard(n, count).of(costs) for n in range(1, count + 1)]
    assert sorted(i for share in shares for i in share) == list(range(31))
    loads = [sum(costs[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs)


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/2", "1/2/3", "a/b", "1 /2", "1.0/2", "\u0661/2"])
def test_what_is_no_share(text):
    with pytest.raises(InputError, match="write i/N"):
        parse_shard(text)


def test_shards_in_their_own_folders_merge_to_the_whole(plan, whole, shards, tmp_path):
    assert sum(done["cells"] for done, _ in shards) == 8
    assert all(done["there_of_all"] == done["cells"] for done, _ in shards)
    out, said = tmp_path / "all", Said()
    assert merge([folder for _, folder in shards], out, progress=said) == plan
    assert sum("records taken" in line for line in said.lines) == 3
    measured = Said()
    assert run(plan, out, progress=measured) == whole[0]
    assert "8 of 8 cells are there already" in measured.lines


def test_shards_in_one_folder_give_the_whole(plan, whole, tmp_path):
    counts = [run_shard(plan, tmp_path / "one", Shard(n, 2))["there_of_all"] for n in (1, 2)]
    assert counts[-1] == 8
    assert run(plan, tmp_path / "one") == whole[0]


def test_merging_into_one_of_them_or_twice_changes_nothing(whole, shards, tmp_path):
    folders = [copied(folder, tmp_path / folder.name) for _, folder in shards]
    for _ in range(2):
        merge(folders, folders[0])
    assert len(Store(folders[0]).all_keys()) == 8
    assert run(merge(folders, folders[0]), folders[0]) == whole[0]


def test_a_damaged_record_is_left_behind_said_and_measured(plan, whole, shards, tmp_path):
    folders = [copied(folder, tmp_path / folder.name) for _, folder in shards]
    broken = Store(folders[1]).all_keys()[0]
    (folders[1] / "cells" / broken / "losses.parquet").write_bytes(b"no parquet")
    said = Said()
    merge(folders, tmp_path / "all", progress=said)
    assert any(broken in line and line.startswith("left behind") for line in said.lines)
    assert run(plan, tmp_path / "all") == whole[0]


def test_folders_of_other_plans_and_no_run_folders_are_refused(plan, shards, tmp_path):
    other = copied(shards[0][1], tmp_path / "other")
    (other / "plan.toml").write_text(plan.model_copy(update={"repeats": 5}).to_toml())
    with pytest.raises(InputError, match="repeats is 5 instead of 2"):
        merge([shards[1][1], other], tmp_path / "out")
    with pytest.raises(InputError, match=r"no plan\.toml"):
        merge([tmp_path], tmp_path / "out")


def test_links_and_strangers_in_a_folder_are_not_taken_along(shards, tmp_path):
    folder = copied(shards[0][1], tmp_path / "a")
    key = Store(folder).all_keys()[0]
    (folder / "cells" / key / "run.sh").write_text("no")
    merge([folder], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "cells" / key).iterdir()} == {
        "record.json", "losses.parquet", "adapter.safetensors"
    }  # fmt: skip


def test_the_command_line(plan, whole, tmp_path):
    path, door = tmp_path / "plan.toml", CliRunner()
    path.write_text(plan.to_toml())
    for n in (1, 2):
        args = ["run", str(path), "--shard", f"{n}/2", "--quiet", "--out", str(tmp_path / str(n))]
        answer = door.invoke(app, args)
        assert answer.exit_code == 0, answer.output
        assert f"Shard {n}/2: 4 cells measured" in answer.output
    args = ["merge", str(tmp_path / "1"), str(tmp_path / "2"), "--quiet", "--out", str(tmp_path / "all")]
    answer = door.invoke(app, args)
    assert answer.exit_code in (0, 3), answer.output
    assert json.loads((tmp_path / "all" / "result.json").read_text()) == whole[0]
    refused = door.invoke(app, ["run", str(path), "--shard", "1/2", "--budget", "1h", "--out", str(tmp_path / "b")])
    assert refused.exit_code == 2
    assert "all shards" in refused.output
