"""No code comes in by data, nothing goes out by itself, and no secret is written down."""

import ast
import json
import pickle
import shutil
import socket

import fsspec
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from stillscape._errors import InputError, RunError
from stillscape._folders import as_folder
from stillscape._secrets import redacted
from stillscape.cli import app
from stillscape.experiments import make_plan, run
from stillscape.experiments.lock import locked
from stillscape.report import write_report
from tests.experiments.remote import Passworded
from tests.experiments.small import Said, small_plan
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


SECRET = "Xq7ZtokenOfThisTest42"
ADDRESSES = [
    f"https://me:{SECRET}@store.example/photos",
    f"https://{SECRET}@store.example/photos",
    f"s3://AKIAABCDEFGHIJKLMNOP:{SECRET}@bucket/photos",
    f"s3://key:a/{SECRET}+b@bucket/photos",
    f"https://store.example/photos?X-Amz-Signature={SECRET}&a=1",
    f"sftp://me:{SECRET}@host/photos",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("field", ["data", "model", "labels", "groups"])
def test_a_secret_in_a_plan_is_refused_and_not_told(photos, tiny_vit, tmp_path, address, field):
    fields = {"data": str(photos), "model": str(tiny_vit)} | {field: address}
    with pytest.raises(InputError, match="holds a password, signature or token") as told:
        make_plan(**fields)
    assert SECRET not in str(told.value) + repr(told.value)
    path = tmp_path / "plan.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items()))
    done = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert SECRET not in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_an_address_holds_is_in_no_message(address):
    assert SECRET not in redacted(f"out is {address!r}, which is odd: {address}.")
    assert "odd" in redacted(f"out is {address!r}, which is odd")
    assert SECRET not in str(RunError(f"{address} broke"))


@pytest.mark.parametrize(
    "text",
    [
        "runs/photos", "google/vit-base-patch16-224", "s3://bucket/runs/photos", "me@example.org", "C:/photos/a@b",
        "sk-learn-digits-of-another-kind", "photos?", "(patient[0-9]+)_", "memory://a/b@2",
        "hf_vit_tiny_patch_16_in21k",
    ],
)  # fmt: skip
def test_what_holds_no_secret_stays_as_it_is(text):
    assert redacted(text) == text


@pytest.mark.parametrize("workers", [1, 2])
def test_no_secret_of_environment_or_address_is_in_any_file(photos, tiny_vit, tmp_path, monkeypatch, workers):
    """Of a run in a remote folder whose address holds a password: files, report, screen, claim and messages."""
    secret = f"hf_{SECRET}"
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "RAY_ADDRESS",
                 "GOOGLE_APPLICATION_CREDENTIALS", "HTTPS_PROXY", "FSSPEC_S3_SECRET"):  # fmt: skip
        monkeypatch.setenv(name, f"https://me:{secret}@proxy.example" if name == "HTTPS_PROXY" else secret)
    monkeypatch.setenv("STILLSCAPE_CACHE", str(tmp_path / "cache"))
    fsspec.register_implementation("passworded", Passworded, clobber=True)
    url, said = f"passworded://me:{SECRET}@{tmp_path}/runs/a", Said()
    plan = small_plan(photos, tiny_vit, adapt=["head"], workers=workers)
    result = run(plan, url, progress=said)
    page = write_report(result, url)
    assert (tmp_path / "runs/a/report.html").is_file()
    with pytest.raises(InputError) as told:
        run(plan.model_copy(update={"split_seed": 5}), url)
    with locked(as_folder(url)):
        written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    door = CliRunner().invoke(app, ["report", url])
    screen = [*said.lines, str(told.value), str(page), repr(page), door.output, json.dumps(result)]
    assert len(written) > 20
    assert not any(SECRET.encode() in content for content in written)
    assert not any(SECRET in text for text in screen)
    assert not any(SECRET in str(path) for path in tmp_path.rglob("*"))
