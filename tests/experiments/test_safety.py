"""No code comes in by data, nothing goes out by itself, and no secret is written down."""

import ast
import pickle
import shutil
import socket

import numpy as np
import pytest
import torch

from stillscape._errors import InputError
from stillscape.experiments import run
from tests.experiments.small import small_plan
from tests.test_architecture import FILES, calls, imports

UNPICKLING = {"torch.load", "pickle.load", "pickle.loads", "joblib.load", "pd.read_pickle", "dill.load", "eval", "exec"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_unpickles(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not calls(tree) & UNPICKLING
    assert not imports(tree) & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
    allowing = [
        k for k in ast.walk(tree) if isinstance(k, ast.keyword) and k.arg in ("allow_pickle", "trust_remote_code")
    ]
    assert not any(ast.unparse(keyword.value) == "True" for keyword in allowing)


def test_a_run_unpickles_nothing_and_needs_no_network(photos, tiny_vit, tmp_path, monkeypatch):
    def no(*_args, **_kwargs):
        raise AssertionError("not in a run")

    monkeypatch.setattr(socket.socket, "connect", no)
    monkeypatch.setattr(socket, "getaddrinfo", no)
    monkeypatch.setattr(torch, "load", no)
    monkeypatch.setattr(pickle, "load", no)
    monkeypatch.setattr(pickle, "Unpickler", no)
    assert run(small_plan(photos, tiny_vit), tmp_path / "out")["schema"] == 1


def test_built_in_data_and_the_bundled_model_need_no_network(tmp_path, monkeypatch):
    def no(*_args, **_kwargs):
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", no)
    monkeypatch.setattr(socket, "getaddrinfo", no)
    plan = small_plan("digits", "bundled-vit", adapt=["head"], sizes=[20, 40], repeats=1)
    assert run(plan, tmp_path / "out")["schema"] == 1


def test_weights_in_pickles_are_refused(photos, tiny_vit, tmp_path):
    model = shutil.copytree(tiny_vit, tmp_path / "model")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(InputError, match="such files can run code"):
        run(small_plan(photos, model), tmp_path / "out")


def test_arrays_of_objects_in_a_cache_are_not_unpickled(photos, tiny_vit, tmp_path):
    """A cache that was put there by someone else has no digest of ours; opening it must not run what it holds."""
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        np.load(tmp_path / "a.npy", mmap_mode="r")


def test_no_secret_of_the_environment_is_written(photos, tiny_vit, tmp_path, monkeypatch):
    secret = "hf_thisIsASecretOfTheEnvironment"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, secret)
    run(small_plan(photos, tiny_vit, adapt=["head"]), tmp_path / "out")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
