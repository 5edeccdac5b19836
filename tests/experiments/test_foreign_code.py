"""Code that comes with a model: refused unless it is asked for by name, said before it runs, and written down."""

import json
import shutil
import sys

import pytest
from typer.testing import CliRunner

from stillscape._errors import InputError
from stillscape.cli import app
from stillscape.experiments import Store, measure_evidence, merge, read_result, run, watch
from stillscape.models import load_pretrained
from tests.experiments.small import Said, small_plan

CONFIG = """
from pathlib import Path
from transformers import ViTConfig
Path({mark!r}).touch()
class OwnConfig(ViTConfig):
    model_type = "own_vit"
"""
MODEL = """
from transformers import ViTForImageClassification
from .configuration_own import OwnConfig
class OwnModel(ViTForImageClassification):
    config_class = OwnConfig
"""


@pytest.fixture
def model(tiny_vit, tmp_path, monkeypatch):
    """A model with code of its own, which leaves a mark when it is run."""
    import transformers.dynamic_module_utils as dynamic

    place = tmp_path / "modules"
    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(place))
    monkeypatch.setenv("HF_MODULES_CACHE", str(place))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = shutil.copytree(tiny_vit, tmp_path / "own")
    path = folder / "config.json"
    names = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForImageClassification": "modeling_own.OwnModel"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "own_vit", "auto_map": names}))
    (folder / "configuration_own.py").write_text(CONFIG.format(mark=str(tmp_path / "mark")))
    (folder / "modeling_own.py").write_text(MODEL)
    yield folder
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


@pytest.fixture
def plan(photos, model):
    return small_plan(photos, model, adapt=["head"], repeats=1)


def test_it_is_refused_and_the_flag_is_named(plan, model, tmp_path):
    with pytest.raises(InputError, match=r"needs code from outside .* is not run.* --trust-remote-code"):
        run(plan, tmp_path / "out")
    with pytest.raises(InputError, match="--trust-remote-code"):
        load_pretrained(str(model))
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out").exists()


def test_it_runs_where_it_is_asked_for_and_that_is_said_and_written_down(plan, tiny_vit, photos, tmp_path):
    said = Said()
    trusted = plan.model_copy(update={"trust_remote_code": True})
    result = run(trusted, tmp_path / "out", progress=said)
    assert (tmp_path / "mark").exists()
    assert (
        sum("Python code that comes with model" in line and "all that you may do" in line for line in said.lines) == 1
    )
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["trust_remote_code"] is True
    assert len(provenance["remote_code"]) == 64
    assert result["provenance"]["remote_code"] == provenance["remote_code"]
    assert "trust_remote_code = true" in (tmp_path / "out" / "plan.toml").read_text()
    plain = run(small_plan(photos, tiny_vit, adapt=["head"], repeats=1), tmp_path / "plain")
    assert "remote_code" not in plain["provenance"]
    assert result["results"][0]["curves"]["accuracy"] == plain["results"][0]["curves"]["accuracy"]


def test_other_code_is_another_model(model):
    first = load_pretrained(str(model), trust_remote_code=True)
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]
    with (model / "modeling_own.py").open("a") as file:
        file.write("# changed\n")
    other = load_pretrained(str(model), trust_remote_code=True)
    assert first.remote_code
    assert other.remote_code != first.remote_code
    assert other.fingerprint != first.fingerprint


def test_trust_does_not_change_a_model_that_brings_no_code(tiny_vit):
    trusted = load_pretrained(str(tiny_vit), trust_remote_code=True)
    assert trusted.remote_code == ""
    assert trusted.fingerprint == load_pretrained(str(tiny_vit)).fingerprint


def test_a_run_folder_is_not_trusted_by_itself(plan, tmp_path):
    """It may come from somebody else; what is asked for by name is asked for by whoever runs it."""
    trusted = plan.model_copy(update={"trust_remote_code": True})
    run(trusted, tmp_path / "out")
    (tmp_path / "mark").unlink()
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]
    for act in (
        lambda: merge([tmp_path / "out"], tmp_path / "all"),
        lambda: measure_evidence(tmp_path / "out", parts=["head"]),
    ):
        with pytest.raises(InputError, match="give --trust-remote-code again"):
            act()
    door = CliRunner()
    out = str(tmp_path / "out")
    for command in (["run", "--out", out], ["merge", out, "--out", str(tmp_path / "all")]):
        refused = door.invoke(app, [*command, "--quiet"])
        assert refused.exit_code == 2
        assert "give --trust-remote-code again" in refused.output
    assert not (tmp_path / "mark").exists()
    again = door.invoke(app, ["run", "--out", out, "--quiet", "--trust-remote-code"])
    assert again.exit_code in (0, 3)
    assert "Python code that comes with model" in again.stderr
    assert (tmp_path / "mark").exists()
    assert merge([tmp_path / "out"], tmp_path / "all", trust_remote_code=True).trust_remote_code
    assert Store(tmp_path / "all").all_keys() == Store(tmp_path / "out").all_keys()
    assert read_result(out)["schema"] == 1


def test_workers_and_a_watch_run_it_too(plan, photos, tmp_path):
    trusted = plan.model_copy(update={"trust_remote_code": True})
    assert run(trusted.model_copy(update={"workers": 2}), tmp_path / "two") == run(trusted, tmp_path / "one")
    said = Said()
    watch(trusted.model_copy(update={"repeats": 2, "sizes": 5, "epsilon": 0.05}), tmp_path / "watch", progress=said)
    assert any("Python code that comes with model" in line for line in said.lines)


def test_the_command_that_only_estimates_says_it_too(model, photos):
    command = ["plan", "--data", str(photos), "--model", str(model), "--adapt", "head", "--sizes", "6,12"]
    door = CliRunner()
    assert door.invoke(app, command).exit_code == 2
    told = door.invoke(app, [*command, "--trust-remote-code"])
    assert told.exit_code == 0, told.output
    assert "Python code that comes with model" in told.stderr
