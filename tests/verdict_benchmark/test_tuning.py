"""Numbers fitted without a data set are written by the search itself, as `run.py` reads them."""

import json
import sys

import numpy as np
import pytest
import tune

from stillscape.sufficiency.curve_prior import load_prior


@pytest.fixture
def benchmark(tmp_path):
    """Return a table in the form of the public benchmark: two data sets, a curve each."""
    k = np.round(100 * 2.0 ** np.arange(8))
    rows = ["Domain,Task,Model,Seen Examples,Loss"]
    for task, floor in (("bird_5", 0.1), ("c_10", 0.2)):
        rows += [f"IC,{task},M,{size:.0f},{floor + size**-0.4:.6f}" for size in k]
    path = tmp_path / "development.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def search(monkeypatch, benchmark, *options):
    monkeypatch.setattr(tune, "synthetic_curves", list)
    monkeypatch.setattr(sys, "argv", ["tune.py", "--curves", str(benchmark), "--tries", "1", *options])
    tune.main()


def test_the_search_writes_what_was_left_out_beside_what_is_there(monkeypatch, tmp_path, benchmark, capsys):
    place = tmp_path / "left_out.json"
    monkeypatch.setattr(tune, "LEFT_OUT", place)
    monkeypatch.setattr(tune, "PRIOR", tmp_path / "never.json")
    search(monkeypatch, benchmark, "--leave", "bird", "--write")
    first = json.loads(place.read_text())
    assert set(first) == {"bird"}
    assert set(first["bird"]) == set(load_prior())
    assert all(float(f"{number:.4g}") == number for number in first["bird"].values())
    search(monkeypatch, benchmark, "--leave", "c", "--write")
    both = json.loads(place.read_text())
    assert set(both) == {"bird", "c"}
    assert both["bird"] == first["bird"]
    assert not (tmp_path / "never.json").exists()
    # The scores that are printed are those of the data set left out: three horizons at most, seen densely and sparsely.
    assert "few   horizon" in capsys.readouterr().out


def test_a_search_can_go_on_from_what_it_wrote(monkeypatch, tmp_path, benchmark):
    place = tmp_path / "left_out.json"
    place.write_text(json.dumps({"bird": dict(load_prior())}))
    monkeypatch.setattr(tune, "LEFT_OUT", place)
    seen = []
    monkeypatch.setattr(
        tune, "search", lambda cases, tries, seed, start: (seen.append((cases, start)), (start, 0.0))[1]
    )
    search(monkeypatch, benchmark, "--leave", "bird", "--resume")
    ((cases, start),) = seen
    assert {case.curve.dataset for case in cases} == {"c"}
    assert start == dict(load_prior())
