"""No name, link or archive leads out of the run folder, nor reads a file that doesn't lie with its data."""

import ast
import io
import json
import shutil
import tarfile
import zipfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from stillscape._errors import InputError, StillscapeError
from stillscape.cli import app
from stillscape.data import BrokenImage, open_images
from stillscape.experiments import DataSufficiency, Shard, Store, make_plan, merge, run, run_shard, watch
from stillscape.experiments.store import RECORD
from stillscape.report import write_report
from tests.conftest import save_images
from tests.experiments.small import Said, copied, small_plan
from tests.test_architecture import FILES, calls, imports

NAMES = [
    "..", "../x", "../../x", "/x", "/etc/x", "a/../../x", "..\\x", "C:\\x", "C:/x", "\\\\host\\x", "a\0b", "", ".",
    ".x", "a/./b", "~/x", "a\nb", "\u2025/x", "con:x",
]  # fmt: skip


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A working directory beside which nothing may change."""
    outside = tmp_path / "outside"
    (outside / ".hidden").mkdir(parents=True)
    (outside / ".hidden" / "kept.txt").write_text("kept")
    (outside / "kept.txt").write_text("kept")
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = told(tmp_path, folder)
    yield folder
    assert told(tmp_path, folder) == before


def told(root, but):
    return {path: path.is_file() and path.read_bytes() for path in root.rglob("*") if but not in (path, *path.parents)}


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return small_plan(photos, tiny_vit, adapt=["head"])


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    return run(plan, folder), folder


@pytest.mark.parametrize("name", NAMES)
def test_names_of_records(inside, name):
    store = Store(inside / "out")
    for act in (
        lambda: store.write(name, {"status": "ok"}),
        lambda: store.has(name),
        lambda: store.record(name),
        lambda: store.losses(name),
        lambda: store.set_aside(name),
        lambda: Store(inside / "out", name),
        lambda: store.adopt(Store(inside / "other"), name),
    ):
        with pytest.raises(InputError, match="no name of a record"):
            act()
    assert not list(inside.iterdir())


@pytest.mark.parametrize("field", ["data", "model", "labels", "adapt", "groups", "metric"])
@pytest.mark.parametrize("name", NAMES)
def test_names_in_plans(inside, photos, tiny_vit, field, name):
    fields = {"data": str(photos), "model": str(tiny_vit), "sizes": [6, 12]} | {field: name}
    with pytest.raises(InputError):
        run(make_plan(**fields), "out")
    assert not list(inside.rglob("*"))


@pytest.mark.parametrize("command", [["run", "--data"], ["watch"]])
def test_folders_that_are_named_after_data(inside, command, photos):
    """The default folder is below runs/, whatever the data are called."""
    for data in ("..", "../..", str(photos / "..")):
        CliRunner().invoke(app, [*command, data, "--quiet", "--workers", "1"])
    assert {path.name for path in inside.iterdir()} <= {"runs"}


@pytest.mark.parametrize("name", ["../x", "/x", "..", "x\0"])
def test_names_of_reproductions(inside, name):
    assert CliRunner().invoke(app, ["reproduce", name, "--quick"]).exit_code == 2
    assert not list(inside.iterdir())


def png(seed):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 9, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_names_of_classes_and_groups(inside, tiny_vit):
    classes = ["../../outside/x", "/tmp/\0x", "..\\x<script>"]
    rows = 36
    table = {
        "image": [png(n) for n in range(rows)],
        "label": [classes[n % 3] for n in range(rows)],
        "who": [f"../{n // 2}" for n in range(rows)],
    }
    pq.write_table(pa.table(table), inside / "t.parquet")
    plan = small_plan(inside / "t.parquet", tiny_vit, adapt=["head"], groups="who")
    result = run(plan, "out")
    write_report(result, "out")
    assert {path.name for path in inside.iterdir()} == {"t.parquet", "out"}


def test_names_in_a_result(inside, whole):
    result = json.loads(json.dumps(whole[0]))
    result["results"][0]["adapt"] = "../../outside/x"
    write_report(result, "out")
    assert {path.name for path in inside.iterdir()} == {"out"}
    assert all(path.resolve().is_relative_to(inside / "out") for path in inside.rglob("*"))


def test_names_in_a_saved_answer(inside):
    answer = DataSufficiency.__new__(DataSufficiency)
    answer.result_ = {"schema": 1}
    with pytest.raises(InputError, match="no name of a folder"):
        answer.save("a\0b")


@pytest.mark.parametrize("path", ["../secret.png", "{outside}/secret.png", "a/../../secret.png", "a\0.png"])
def test_paths_in_tables(tmp_path, path):
    (tmp_path / "secret.png").write_bytes(png(0))
    data = tmp_path / "data"
    data.mkdir()
    (data / "own.png").write_bytes(png(1))
    named = path.replace("{outside}", str(tmp_path))
    paths = ["own.png", named, str(data / "own.png"), "own.png"]
    cells = [{"bytes": png(1) if n == 3 else None, "path": path} for n, path in enumerate(paths)]
    pq.write_table(pa.table({"image": cells, "label": list("abab")}), data / "t.parquet")
    images = open_images(str(data / "t.parquet"))
    assert images.read(0).size == images.read(2).size == (9, 9)
    with pytest.raises(BrokenImage, match="doesn't lie with its table"):
        images.read(1)


def test_paths_in_saved_datasets(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(0))
    cells = [{"bytes": png(1), "path": "a.png"}, {"bytes": None, "path": str(tmp_path / "secret.png")}] * 2
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
                                  "label": datasets.Value("string")})  # fmt: skip
    table = datasets.Dataset.from_dict({"image": cells, "label": list("aabb")}, features=features)
    datasets.disable_progress_bars()
    table.save_to_disk(tmp_path / "saved")
    images = open_images(str(tmp_path / "saved"))
    assert images.read(0).size == (9, 9)
    with pytest.raises(BrokenImage, match="doesn't lie with its table"):
        images.read(1)


@pytest.mark.parametrize("name", ["../secret.png", "..\\secret.png", "/etc/passwd", "a/../../secret.png"])
def test_names_in_tables_of_labels(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(png(0))
    data = tmp_path / "data"
    data.mkdir()
    for n in range(4):
        (data / f"{n}.png").write_bytes(png(n))
    rows = "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(4))
    (data / "labels.csv").write_text(f"file,label\n{rows}{name},a\n")
    with pytest.raises(InputError, match="rows without a file: 1"):
        open_images(str(data), labels="labels.csv")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_are_not_unpacked(inside, kind, tiny_vit):
    path = inside / f"data.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../../outside/x.png", png(0))
    else:
        with tarfile.open(path, "w:gz") as archive:
            entry = tarfile.TarInfo("../../outside/x.png")
            entry.size = len(png(0))
            archive.addfile(entry, io.BytesIO(png(0)))
    with pytest.raises(InputError, match="is an archive"):
        run(small_plan(path, tiny_vit), "out")
    assert [p.name for p in inside.iterdir()] == [path.name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_unpacks_archives(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not imports(tree) & {"zipfile", "tarfile", "py7zr", "rarfile"}
    assert not calls(tree) & {"shutil.unpack_archive"}


@pytest.mark.parametrize("kind", ["cells", "probes", "evidence"])
def test_a_folder_of_records_that_is_a_link(inside, plan, whole, kind, fault):
    """What a run sweeps up are hidden folders: those of whatever the link leads to."""
    folder = copied(whole[1], inside / "out")
    shutil.rmtree(folder / kind)
    (folder / kind).symlink_to(inside.parent / "outside", target_is_directory=True)
    with pytest.raises(InputError, match="a link that leads out of the run folder"):
        run(plan, folder)
    fault("a link in a run folder", 1)


def test_figures_that_are_a_link(inside, whole):
    folder = copied(whole[1], inside / "out")
    (folder / "figures").symlink_to(inside.parent / "outside", target_is_directory=True)
    with pytest.raises(InputError, match="a link that leads out of the run folder"):
        write_report(whole[0], folder)


def test_files_that_are_links_are_replaced_not_followed(inside, plan, whole):
    folder = copied(whole[1], inside / "out")
    for name in ("result.json", "plan.toml", "provenance.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(inside.parent / "outside" / "kept.txt")
    (folder / "plan.toml").unlink()  # what is read of it would be no plan
    write_report(run(plan, folder), folder)
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_a_place_for_damaged_records_that_is_a_link(inside, plan, whole):
    folder = copied(whole[1], inside / "out")
    (folder / "damaged").symlink_to(inside.parent / "outside", target_is_directory=True)
    (folder / "cells" / Store(folder).all_keys()[0] / RECORD).write_text("{")
    with pytest.raises(InputError, match="a link that leads out of the run folder"):
        run(plan, folder)


def test_looks_that_are_a_link(inside, tiny_vit):
    save_images(inside / "data", {"moss": 16, "rust": 16})
    plan = small_plan(inside / "data", tiny_vit, adapt=["head"], recipes={}, sizes=5)
    (inside / "out" / "looks").mkdir(parents=True)
    (inside / "out" / "looks" / "001").symlink_to(inside.parent / "outside", target_is_directory=True)
    with pytest.raises(InputError, match="a link that leads out of the run folder"):
        watch(plan, "out")


def test_a_run_folder_may_itself_be_a_link(inside, plan, whole):
    (inside / "disk").mkdir()
    (inside / "out").symlink_to(inside / "disk", target_is_directory=True)
    assert run(plan, "out") == whole[0]


def test_shards_with_links_are_left_behind(inside, plan, whole, fault):
    """A record of an early version has no digests: what it links to would be copied unseen."""
    shard = inside / "1"
    run_shard(plan, shard, Shard(1, 1))
    one, other, third = Store(shard).all_keys()[:3]
    secret = inside.parent / "outside" / "kept.txt"
    for name in ("losses.parquet", RECORD):
        (shard / "cells" / one / name).unlink()
    (shard / "cells" / one / "losses.parquet").symlink_to(secret)
    (shard / "cells" / one / RECORD).write_text('{"schema": 1, "status": "ok"}')
    moved = shutil.move(shard / "cells" / other, inside / "elsewhere")
    (shard / "cells" / other).symlink_to(moved, target_is_directory=True)
    (shard / "cells" / third / "more.txt").symlink_to(secret)
    said = Said()
    merge([shard], inside / "all", progress=said)
    assert sum("is or holds a link" in line for line in said.lines) == 2
    assert not any(path.is_symlink() or path.read_bytes() == b"kept" for path in (inside / "all").rglob("*.*"))
    assert not (inside / "all" / "cells" / third / "more.txt").exists()
    assert run(plan, inside / "all") == whole[0]
    fault("a link in a shard", 2)


@pytest.mark.parametrize("kind", [".git", "a b", "c:x", "damaged"])
def test_kinds_of_records_that_are_none(inside, plan, whole, kind):
    shard = copied(whole[1], inside / "1")
    shutil.copytree(shard / "cells", shard / kind)
    merge([shard], inside / "all")
    assert {path.name for path in (inside / "all").iterdir()} <= {"cells", "probes", "evidence", ".lock"}


def test_records_with_names_that_are_none(inside, whole):
    shard = copied(whole[1], inside / "1")
    store = Store(shard)
    keys = store.all_keys()
    for name in ("a b", "a\\..\\b", ".hidden", "a:b"):
        shutil.copytree(store.place / keys[0], store.place / name)
    assert store.all_keys() == keys


def test_what_a_model_names_outside_of_its_folder(inside, photos, tiny_vit):
    """An index of weights may name files; none outside may be used."""
    model = shutil.copytree(tiny_vit, inside / "model")
    weights = shutil.move(model / "model.safetensors", inside / "weights.safetensors")
    from safetensors.numpy import load_file

    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), "../weights.safetensors")}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StillscapeError):
        run(small_plan(photos, model, adapt=["head"]), "out")
    assert not (inside / "out").exists()
