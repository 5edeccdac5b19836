"""Whatever stands in a file, it is read right or refused in one line: no traceback, and no wrong answer in silence."""

import contextlib
import io
import json
import string

import numpy as np
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from stillscape._errors import InputError, RecordError
from stillscape.cli import app
from stillscape.data.images import BrokenImage, decode_bytes
from stillscape.experiments import Store, make_plan, parse_shard
from stillscape.experiments.plan import Plan

QUIET = settings(
    deadline=None, max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NUMBERS = st.integers(-5, 10**18) | st.floats() | st.booleans()
WORDS = st.text(string.ascii_lowercase + "_-", min_size=1, max_size=8)
VALUES = st.recursive(
    NUMBERS | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=3),
)


@QUIET
@given(st.dictionaries(st.sampled_from(sorted(Plan.model_fields)) | WORDS, VALUES, max_size=5))
def test_plans(tmp_path, fields):
    path = tmp_path / "plan.toml"
    path.write_text(tomli_w.dumps({"data": "digits", **fields}), encoding="utf-8")
    try:
        plan = make_plan(path)
    except InputError as error:
        in_one_line(error)
        return
    path.write_text(plan.to_toml(), encoding="utf-8")
    assert make_plan(path) == plan


@QUIET
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_files_that_are_no_plan(tmp_path, content):
    path = tmp_path / "plan.toml"
    path.write_bytes(content)
    with pytest.raises(InputError):
        make_plan(path)


@QUIET
@given(st.text(max_size=12))
def test_shares(text):
    with contextlib.suppress(InputError):
        shard = parse_shard(text)
        assert 1 <= shard.number <= shard.count


def in_one_line(error, *words):
    assert "\n" not in str(error)
    assert all(word in str(error) for word in words)


def changed(data, content):
    """Return content with bits flipped, a part cut out, or a part put in."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        way = data.draw(st.sampled_from(["flip", "cut", "insert", "end"]))
        if way == "flip" and content:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif way == "cut":
            del content[at : at + data.draw(st.integers(1, 50))]
        elif way == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            del content[at:]
    return bytes(content)


@pytest.mark.parametrize("name", ["record.json", "losses.parquet", "adapter.safetensors"])
@QUIET
@given(data=st.data())
def test_records(tmp_path, name, data):
    store = Store(tmp_path)
    losses, weights = {"loss": np.array([0.5, 0.25])}, {"w": np.ones((2, 2), dtype=np.float32)}
    store.write("a", {"status": "ok", "text": "straße", "n": [1, 2.5, None]}, losses, weights)
    path = store.place / "a" / name
    sound = path.read_bytes()
    whole = (store.record("a"), store.losses("a")["loss"].tolist(), store.weights("a")["w"].tolist())
    try:
        path.write_bytes(changed(data, sound))
        try:
            assert (store.record("a"), store.losses("a")["loss"].tolist(), store.weights("a")["w"].tolist()) == whole
        except RecordError as error:
            in_one_line(error)
    finally:
        path.write_bytes(sound)


@QUIET
@given(value=VALUES)
def test_records_that_are_json_but_no_records(tmp_path, value):
    place = tmp_path / "cells" / "a"
    place.mkdir(parents=True, exist_ok=True)
    (place / "record.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(RecordError):
        Store(tmp_path).record("a")


def _picture(kind):
    pixels = (np.arange(12 * 10 * 3).reshape(12, 10, 3) % 251).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@QUIET
@given(data=st.data())
def test_images(kind, data):
    try:
        image = decode_bytes(changed(data, _picture(kind)), window=None, name="picture")
    except (BrokenImage, InputError) as error:
        in_one_line(error, "picture")
    else:
        assert image.mode == "RGB"
        assert np.asarray(image).dtype == np.uint8


@settings(QUIET, max_examples=40)
@given(data=st.data())
def test_score_tables(tmp_path, data):
    cell = st.sampled_from(["", "0.5", "nan", "inf", "-1", "1e400", "x", '"', "50", "100", "-0", "0x1", "1_0", "ä"])
    rows = data.draw(st.lists(st.lists(cell, min_size=1, max_size=4), max_size=7))
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(["size,score", *(",".join(row) for row in rows)]), encoding="utf-8")
    answer = CliRunner().invoke(app, ["forecast", str(path), "--target", "0.9", "--kind", "score"])
    assert answer.exit_code in (0, 2, 3), answer.output
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
