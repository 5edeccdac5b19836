"""What a notebook shows: verdict and figure, safe whatever the names; and a result stays the dictionary that it was."""

import copy
import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

from stillscape._notebook import Result
from stillscape.experiments import DataSufficiency, read_result
from stillscape.experiments.store import write_json
from stillscape.sufficiency import forecast, required_size
from tests.report.conftest import Page
from tests.report.example import example_result

SIZES = np.array([50, 100, 200, 400])


@pytest.fixture
def plain():
    return json.loads(json.dumps(example_result(), default=lambda number: number.item()))


def test_a_result_is_a_plain_dictionary_in_every_other_way(plain, tmp_path):
    result = Result(plain)
    assert result == plain
    assert isinstance(result, dict)
    assert json.dumps(result) == json.dumps(plain)
    assert pickle.loads(pickle.dumps(result)) == plain
    assert copy.deepcopy(result) == plain
    write_json(tmp_path / "result.json", result)
    again = read_result(tmp_path)
    assert again == plain
    assert "<svg" in again._repr_html_()


@pytest.mark.parametrize("adapts", [("head",), ("head", "lora:4")])
def test_a_result_shows_its_verdict_and_its_figure(adapts):
    result = Result(example_result(adapts))
    page = Page(result._repr_html_())
    assert result["verdict"]["sentence"] in page.text
    assert "Enough" in page.text
    drawings = [a for tag, a in page.elements if tag == "svg" and "aria-label" in a]
    assert len(drawings) == 1
    assert len([tag for tag, _ in page.elements if tag == "tr"]) == 1 + len(adapts)


def test_names_are_no_markup(plain):
    attack = "<img src=x onerror=alert(1)>"
    plain["results"][0]["adapt"] = plain["verdict"]["adapt"] = attack
    plain["verdict"]["sentence"] = f"{attack} is enough."
    html = Result(plain)._repr_html_()
    page = Page(html)
    assert not [tag for tag, _ in page.elements if tag in ("img", "script")]
    assert attack in page.text


def test_two_outputs_share_no_id(plain):
    other = copy.deepcopy(plain)
    other["question"]["data"] = "another"
    ids = [Page(Result(each)._repr_html_()).attributes("id") for each in (plain, other)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])


def test_nothing_is_fetched(plain):
    html = Result(plain)._repr_html_()
    assert not re.search(r"https?://(?!www\.w3\.org)|url\((?!#)|<script", html)


def test_without_curves_the_verdict_is_there_still(plain):
    for entry in plain["results"]:
        entry["curves"] = {}
    html = Result(plain)._repr_html_()
    assert plain["verdict"]["sentence"] in Page(html).text
    assert "<svg" not in html


def test_an_estimator_shows_parameters_before_and_the_verdict_after():
    X, y = load_digits(return_X_y=True)
    found = DataSufficiency(GaussianNB(), sizes=[50, 100, 200], repeats=2, epsilon=0.05)
    assert "sk-" in found._repr_mimebundle_()["text/html"]  # scikit-learn's own
    found.fit(X[:400], y[:400])
    bundle = found._repr_mimebundle_(include=None, exclude=None)
    assert bundle["text/plain"] == repr(found)
    assert found.report_ in Page(bundle["text/html"]).text
    assert "<svg" in bundle["text/html"]
    assert found._repr_html_() == bundle["text/html"]


def test_forecast_and_required_size_show_their_numbers():
    scores = 0.95 - 2.0 / SIZES**0.5
    seen = forecast(SIZES, scores, at=[800, 9000], kind="score")
    page = Page(seen._repr_html_())
    assert "800" in page.text
    assert f"{seen.mean[0]:.4g}" in page.text
    assert "too far" in page.text
    for target in (0.75, 0.9, 1.0):
        need = required_size(SIZES, scores, target=target, kind="score")
        text = Page(need._repr_html_()).text
        assert need.reason in text
        assert need.status.replace("_", " ") in text
        assert (f"{need.value:,.0f}" if need.value is not None else "No size can be named") in text


def test_sufficiency_opens_no_drawing_library():
    code = "import sys, stillscape.sufficiency; assert not {'matplotlib', 'jinja2', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
