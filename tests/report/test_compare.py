"""Several runs side by side: what is said of them, and what must not be said."""

import copy
import json
import re
from itertools import pairwise

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape.experiments import Store, compare_runs
from stillscape.experiments.store import write_json
from stillscape.report import RunsDisplay, write_comparison
from stillscape.report.side_by_side import headline, number_tables, scores_sentence, summary_lines
from stillscape.sufficiency import widening
from tests.report.conftest import Page
from tests.report.example import example_result

HOSTILE = "</pre><script>alert('name')</script>"


def folder_of(place, *, adapt="head", verdict=None, name="", **changes):
    """Write a run folder that holds a result alone, changed where a test wants it; curves stay those of the example."""
    result = copy.deepcopy(example_result((adapt,), adapt))
    result["question"] |= {"num_scored": 500, **changes.pop("question", {})}
    result["provenance"] |= changes.pop("provenance", {})
    assert not changes
    for told in (result["verdict"], result["results"][0]["verdict"]):
        told |= verdict or {}
    folder = place / (name or adapt.replace(":", "-"))
    write_json(folder / "result.json", json.loads(json.dumps(result, default=lambda number: number.item())))
    return folder


def reached(k_star, low, high):
    return {"status": "reached", "k_star": k_star, "low": low, "high": high}


def statuses(tmp_path, first, second, **changes):
    return compare_runs(
        [folder_of(tmp_path, name="a", verdict=first, **changes), folder_of(tmp_path, name="b", verdict=second)]
    )["verdict"]


def test_intervals_that_do_not_meet_tell_who_needs_fewer(tmp_path):
    verdict = statuses(tmp_path, reached(200, 200, 200), reached(50, 50, 100))
    assert verdict["status"] == "told"
    assert verdict["fewest"] == [1]
    assert verdict["sentence"].startswith("b (head) needs the fewest images")


@pytest.mark.parametrize("other", [reached(200, 100, 200), reached(100, 50, 100), reached(50, 50, 200)])
def test_intervals_that_meet_leave_it_open_whatever_their_k_star(other, tmp_path):
    verdict = statuses(tmp_path, reached(50, 50, 100), other)
    assert verdict["status"] == "cannot_tell"
    assert verdict["fewest"] == [0, 1]
    assert "can't be told" in verdict["sentence"]


def test_what_is_not_there_yet_needs_more_than_what_it_judged_and_no_more_is_claimed(tmp_path):
    nothing = {"status": "not_reached", "k_star": None, "low": None, "high": None}
    assert statuses(tmp_path, reached(100, 50, 200), nothing)["status"] == "told"  # gains were judged up to 200
    assert statuses(tmp_path, reached(400, 200, 400), nothing)["status"] == "cannot_tell"
    assert statuses(tmp_path, nothing, nothing)["status"] == "none_reached"
    unsure = {**nothing, "status": "cannot_tell"}
    assert statuses(tmp_path, reached(50, 50, 50), unsure)["status"] == "cannot_tell"


def three(tmp_path, joint, *, drop=None):
    """Return a comparison of three runs whose own intervals do not meet, and whose intervals together are as given."""
    own = [reached(50, 50, 50), reached(100, 100, 100), reached(400, 400, 400)]
    folders = []
    for place, (verdict, wide) in enumerate(zip(own, joint, strict=True)):
        folder = folder_of(tmp_path, name=f"run{place}", verdict=verdict)
        result = json.loads((folder / "result.json").read_text())
        if place != drop:
            result["results"][0]["joint"] = [
                {"intervals": 2, "status": "cannot_tell", "low": None, "high": None}, {"intervals": 3, **wide},
            ]  # fmt: skip
        write_json(folder / "result.json", result)
        folders.append(folder)
    return compare_runs(folders)


def together(low, high):
    return {"status": "reached", "low": low, "high": high}


def test_more_than_two_are_ranked_by_intervals_that_hold_together(tmp_path):
    apart = [together(50, 50), together(100, 200), together(400, 400)]
    found = three(tmp_path / "apart", apart)
    assert found["verdict"]["status"] == "told"
    assert found["verdict"]["fewest"] == [0]
    assert "joint 90 % interval" in found["verdict"]["sentence"]
    assert found["joint"] == {"contenders": 3, "pairs": 3, "level": 0.9, "method": "Bonferroni"}
    meeting = [together(50, 100), together(50, 200), together(400, 400)]
    found = three(tmp_path / "meeting", meeting)
    assert found["verdict"]["status"] == "cannot_tell"
    assert found["verdict"]["fewest"] == [0, 1]
    page = write_comparison(found, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "holds together at 90\u00a0% (simultaneous intervals after Bonferroni)" in page
    assert "Interval, all together" in page
    assert "all 3 pairs" in page
    table = number_tables(found)[0]
    column = table["headers"].index("Interval, all together")
    assert [row[column] for row in table["rows"]] == ["50 to 100", "50 to 200", "400"]
    unsure = [together(50, 50), {"status": "cannot_tell", "low": None, "high": None}, together(400, 400)]
    assert three(tmp_path / "unsure", unsure)["verdict"]["fewest"] == [0, 1]


def test_a_result_of_an_earlier_version_is_not_ranked_among_many(tmp_path):
    found = three(tmp_path, [together(50, 50), together(100, 100), together(400, 400)], drop=1)
    assert found["verdict"]["status"] == "cannot_tell"
    assert "run1 (head) is of an earlier version" in found["verdict"]["sentence"]
    assert "trains nothing" in found["verdict"]["sentence"]


def test_differences_among_many_have_wider_intervals(tmp_path):
    """Three pairs instead of one: z(1 - 0.1 / 6) / z(1 - 0.1 / 2) times as wide, in the same place."""
    pair = compare_runs([folder_of(tmp_path, adapt="head"), folder_of(tmp_path, adapt="last-layers:1")])
    third = compare_runs([tmp_path / "head", tmp_path / "last-layers-1", folder_of(tmp_path, adapt="head", name="c")])
    assert pair["scores"]["best"] == third["scores"]["best"] == 1
    one, many = pair["scores"]["rows"][0]["behind"], third["scores"]["rows"][0]["behind"]
    assert many["mean"] == one["mean"]
    for end in ("low", "high"):
        assert (many[end] - many["mean"]) / (one[end] - one["mean"]) == pytest.approx(2.12804523 / 1.64485363)


def test_the_ends_of_intervals_together_err_as_seldom_as_is_claimed():
    """Six answers alike: at their own level some two seem apart too often, together in at most a tenth of the cases."""
    rng = np.random.default_rng(0)
    falsely = {1.0: 0, widening(0.9, 15): 0}
    for _ in range(400):
        means, half = rng.normal(size=6), 1.6448536 * 2**0.5
        for wider in falsely:
            falsely[wider] += bool(means.max() - means.min() > wider * half)
    alone, joint = (count / 400 for count in falsely.values())
    assert joint <= 0.1 < 0.3 < alone


@pytest.mark.parametrize(
    ("changes", "what", "bars"),
    [
        ({"question": {"metric": "auroc"}}, "metric", {"k_star", "scores"}),
        ({"question": {"epsilon": 0.02}}, "meaning of “enough”", {"k_star"}),
        ({"question": {"target": 0.9}}, "meaning of “enough”", {"k_star"}),
        ({"question": {"level": 0.8}}, "level of the intervals", {"k_star", "scores"}),
        ({"question": {"evaluation": "held-out set of 90"}}, "images scored", {"scores"}),
        ({"provenance": {"data_fingerprint": "other"}}, "data", {"k_star", "scores"}),
        ({"provenance": {"data_fingerprint": None}}, "data", {"k_star", "scores"}),
        ({"question": {"model": "another/vit"}}, "model", set()),
        ({"question": {"sizes": [50, 100, 200, 300]}}, "sizes", set()),
        ({"provenance": {"torch": "1.0"}}, "torch", set()),
        ({"provenance": {"precision": "bf16"}}, "precision of training", set()),
    ],
)
def test_what_differs_is_named_and_bars_what_it_must(changes, what, bars, tmp_path):
    folders = [folder_of(tmp_path, name="a", verdict=reached(50, 50, 50), **changes)]
    folders.append(folder_of(tmp_path, name="b", verdict=reached(200, 200, 200)))
    found = compare_runs(folders)
    assert {each["what"]: set(each["bars"]) for each in found["differences"]} == {what: bars}
    assert found["comparable"] == {"k_star": "k_star" not in bars, "scores": "scores" not in bars}
    assert (found["verdict"]["status"] == "not_comparable") == ("k_star" in bars)
    if "k_star" in bars:
        assert what in found["verdict"]["sentence"]
        assert found["verdict"]["fewest"] == []
    if "scores" in bars:
        assert found["scores"]["best"] is None
        assert all(row["behind"] is None for row in found["scores"]["rows"])
    page = write_comparison(found, tmp_path / "page.html").read_text(encoding="utf-8")
    assert ("Not comparable." in page) == bool(bars)


def test_the_same_run_twice_over_differs_in_nothing(tmp_path):
    found = compare_runs([folder_of(tmp_path, name="a"), folder_of(tmp_path, name="b")])
    assert found["differences"] == []
    assert found["scores"]["k"] == 400
    assert "In nothing that was recorded" in write_comparison(found, tmp_path / "p.html").read_text(encoding="utf-8")


def test_scores_measured_apart_have_the_interval_of_independent_errors(tmp_path):
    found = compare_runs([folder_of(tmp_path, adapt="head"), folder_of(tmp_path, adapt="last-layers:1")])
    scores = found["scores"]
    assert scores["best"] == 1
    half = 0.18 / np.sqrt(400) + 0.006  # the band that the example gives each curve
    behind = scores["rows"][0]["behind"]
    assert behind["kind"] == "apart"
    np.testing.assert_allclose([behind["low"], behind["high"]], 0.013 + np.sqrt(2) * half * np.array([-1, 1]))
    assert behind["told"] is False
    assert "can't be told from it" in scores_sentence(found)


def with_records(folder, hits, fingerprint="one"):
    """Write a folder whose records say which of the held-out images were right: hits (orders, images) at k = 400."""
    orders, n = hits.shape
    result = json.loads((folder / "result.json").read_text())
    rows, store = [], Store(folder)
    for order in range(orders):
        right = np.clip(hits[order], 0.02, 0.98)
        numbers = {"heldout_loss": float(-np.log(right).mean()), "train_loss": 0.1}
        cell = {"adapt": "head", "k": 400, "permutation": order, "seed": 0}
        row = {"k": 400, "permutation": order, "seed": 0, "status": "ok", "accuracy": float(hits[order].mean())}
        rows.append({**row, **numbers})
        record = {"cell": cell, "status": "ok", "seconds": 1.5, **numbers}
        shuffled = np.random.default_rng(order).permutation(n)
        columns = {
            "role": ["heldout"] * n, "sample": shuffled, "label": np.zeros(n, dtype=int),
            "probabilities": [[float(p), float(1 - p)] for p in right[shuffled]],
        }  # fmt: skip
        store.write(f"key{order}", record, _table(columns), {"fold0/w": np.ones((3, 2)), "fold1/w": np.ones((3, 2))})
        stale = {**record, "heldout_loss": 9.0, "seconds": 1000.0}  # of an earlier plan in the same folder
        store.write(f"stale{order}", stale, _table({**columns, "probabilities": [[0.0, 1.0]] * n}))
    mean = float(hits.mean())
    result["results"][0]["cells"] = rows
    result["results"][0]["curves"]["accuracy"] = {
        "k": [200, 400], "mean": [mean, mean], "low": [mean - 0.05] * 2, "high": [mean + 0.05] * 2,
    }  # fmt: skip
    write_json(folder / "result.json", result)
    return folder


def _table(columns):
    import pyarrow as pa

    return {**columns, "probabilities": pa.array(columns["probabilities"], pa.list_(pa.float32(), 2))}


@pytest.fixture
def recorded(tmp_path):
    """Two runs on the same 400 images; the second is right on all that the first is, and on 12 more."""
    first = (np.random.default_rng(1).random((3, 400)) < 0.8).astype(float)
    first[:] = first[0]
    first[1, :4] = 1 - first[1, :4]
    better = first.copy()
    better[:, np.flatnonzero(first[0] == 0)[:12]] = 1.0
    return [with_records(folder_of(tmp_path, name=name), hits) for name, hits in (("worse", first), ("better", better))]


def test_the_same_images_are_compared_one_by_one(recorded):
    """Apart, 3 points drown in bands of 5; image by image they are told: 12 of 400 changed, all to the better."""
    found = compare_runs(recorded)
    behind = found["scores"]["rows"][0]["behind"]
    assert behind["kind"] == "paired"
    assert behind["mean"] == pytest.approx(0.03, abs=0.005)
    assert behind["told"] is True
    share = behind["mean"]
    spread = np.sqrt(share * (1 - share) / 400)
    assert 1.2 * spread < behind["high"] - behind["mean"] < 3.5 * spread  # 1.64 of a normal, more for three orders


@pytest.mark.parametrize("change", ["groups", "orders", "images", "records"])
def test_what_can_not_be_paired_is_compared_apart(change, recorded):
    result = json.loads((recorded[1] / "result.json").read_text())
    if change == "groups":
        for folder in recorded:
            told = json.loads((folder / "result.json").read_text())
            told["question"]["num_groups"] = 40
            write_json(folder / "result.json", told)
    elif change == "orders":
        result["results"][0]["cells"] = result["results"][0]["cells"][:2]
        write_json(recorded[1] / "result.json", result)
    elif change == "images":
        import pyarrow.parquet as pq

        for path in recorded[1].glob("cells/key*/losses.parquet"):
            pq.write_table(pq.read_table(path).slice(0, 399), path)
    else:
        (recorded[1] / "cells" / "key0" / "losses.parquet").unlink()
    behind = compare_runs(recorded)["scores"]["rows"][0]["behind"]
    assert behind["kind"] == "apart"
    assert behind["told"] is False


def test_costs_are_those_of_the_result_not_of_older_records(recorded, tmp_path):
    found = compare_runs([*recorded, folder_of(tmp_path, name="bare")])
    assert [each["seconds"] for each in found["contenders"]] == [4.5, 4.5, None]
    assert [each["trained_parameters"] for each in found["contenders"]] == [6, 6, None]


def test_names_are_the_shortest_that_differ(tmp_path):
    found = compare_runs([folder_of(tmp_path / "x", name="run"), folder_of(tmp_path / "y", name="run")])
    assert [run["name"] for run in found["runs"]] == ["x/run", "y/run"]


def test_bad_folders_are_refused(tmp_path):
    good = folder_of(tmp_path, name="a")
    (tmp_path / "empty").mkdir()
    for folders, said in [
        ([good], "two or more"),
        ([], "two or more"),
        ([good, tmp_path / "b" / ".." / "a"], "is no folder"),
        ([good, tmp_path / "empty" / ".." / "a"], "the same folder"),
        ([good, tmp_path / "nowhere"], "is no folder"),
        ([good, tmp_path / "empty"], "holds no result.json"),
    ]:
        with pytest.raises(InputError, match=said):
            compare_runs(folders)
    with pytest.raises(InputError, match="name a file"):
        write_comparison(compare_runs([good, folder_of(tmp_path, name="b")]), tmp_path)


@pytest.fixture
def hostile(tmp_path):
    names = {"data": HOSTILE, "model": "a\tb & 'c'\n\"d\" $x$"}
    return compare_runs(
        [folder_of(tmp_path, name="<b>run & 'x'", question=names), folder_of(tmp_path, adapt="lora:4", question=names)]
    )


def test_the_page_is_one_file_safe_and_readable_by_all(hostile, tmp_path):
    html = write_comparison(hostile, tmp_path / "sub" / "page.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "<script" not in html
    assert "<b>run" not in html
    assert "alert('name')" in page.text  # shown as the name that it is
    assert not [
        value for value in page.attributes("href") + page.attributes("src") if not value.startswith(("#", "data:"))
    ]
    assert not re.search(r"url\((?!#|data:)|@import|https?://(?!www\.w3\.org)", html)
    assert page.attributes("lang") == ["en"]
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    for target in [
        *page.attributes("aria-labelledby"),
        *(href[1:] for href in page.attributes("href") if href[0] == "#"),
    ]:
        assert target in ids
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == headings.count(1) == 1
    assert all(later - before <= 1 for before, later in pairwise(headings))
    svg = next(attributes for tag, attributes in page.elements if tag == "svg" and "aria-label" in attributes)
    assert svg["role"] == "img"


def test_the_same_comparison_gives_the_same_bytes(hostile, tmp_path):
    first, second = (write_comparison(hostile, tmp_path / name).read_bytes() for name in ("1.html", "2.html"))
    assert first == second
    json.dumps(hostile, allow_nan=False)


def test_the_table_to_copy_is_a_table(hostile, tmp_path):
    html = write_comparison(hostile, tmp_path / "page.html").read_text(encoding="utf-8")
    text = re.search(r'<pre class="copy"[^>]*>(.*?)</pre>', html, re.DOTALL)[1]
    rows = [line.split("\t") for line in text.split("\n")]
    assert len(rows) == 3
    assert {len(row) for row in rows} == {len(rows[0])}
    printed = number_tables(hostile)
    assert len(rows[0]) == len(printed[0]["headers"]) + len(printed[1]["headers"]) - 2


def test_the_figure_draws_every_run_and_runs_without_a_common_metric_have_none(hostile, tmp_path):
    display = RunsDisplay.from_comparison(hostile).plot()
    labels = [line.get_label() for line in display.ax_.lines if not line.get_label().startswith("_")]
    assert labels == [each["label"] for each in hostile["contenders"]]
    folder = folder_of(tmp_path, name="c")
    result = json.loads((folder / "result.json").read_text())
    result["results"][0]["curves"] = {}
    write_json(folder / "result.json", result)
    found = compare_runs([folder, folder_of(tmp_path, name="d", question={"metric": "auroc"})])
    assert found["metric"] is None or found["scores"]["rows"][0]["mean"] is None
    write_comparison(found, tmp_path / "page.html")


def test_words_for_terminal_and_headline(hostile):
    assert summary_lines(hostile)[0] == hostile["verdict"]["sentence"]
    assert headline(hostile) in (
        "Which needs fewer images can't be told",
        "<b>run & 'x' (head) needs the fewest images",
    )
