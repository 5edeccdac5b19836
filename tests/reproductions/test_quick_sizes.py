"""The quick size of every reproduction against the numbers that are kept, each within its stated spread."""

import json
from pathlib import Path

import pytest
from scripts import reproductions as script

from stillscape.bounds.audit import audit
from stillscape.reproductions import CATALOGUE, reproduce
from stillscape.reproductions.run import plan_text, read_plan, settings_of

SECONDS = {"vit", "block-heterogeneity", "text"}  # these take several


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SECONDS else name for name in CATALOGUE]
)
def test_the_quick_size_gives_the_kept_numbers(name, tmp_path):
    kept = script.kept("quick")[name]
    found = reproduce(name, tmp_path, size="quick")
    assert found.violations == ()
    assert [n.name for n in found.numbers] == [n.name for n in kept.numbers]
    assert [c.statement for c in found.claims] == [c.statement for c in kept.claims]
    for ours, before in zip(found.numbers, kept.numbers, strict=True):
        if before.value is None or ours.value is None:
            assert ours.value == before.value or before.spread > 0, ours.name
        else:
            assert abs(ours.value - before.value) <= before.spread + 1e-9 * abs(before.value), ours.name


def test_each_full_size_is_kept_with_its_figure():
    kept = script.kept("full")
    assert set(kept) == set(CATALOGUE)
    for name, found in kept.items():
        assert found.size == "full"
        assert found.settings == CATALOGUE[name].settings().model_dump(mode="json"), "settings changed: run it again"
        assert found.violations == ()
        assert (script.KEPT / f"{name}.svg").stat().st_size < 400_000


def test_page_and_plans_are_what_the_findings_say():
    for path, text in script.texts().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python -m scripts.reproductions"


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_plan_reads_back_as_the_settings_of_the_full_size(name, tmp_path):
    path = Path(tmp_path / "plan.toml")
    path.write_text(plan_text(name, "a header\nof two lines"), encoding="utf-8")
    found, settings = read_plan(path)
    assert found == name
    assert settings_of(CATALOGUE[name], "full", settings) == CATALOGUE[name].settings()


@pytest.mark.slow
def test_the_kept_audit_is_what_it_says_now():
    kept = json.loads(script.AUDIT.read_text(encoding="utf-8"))
    now = {s.number: (s.verdict, s.corrected_holds) for s in audit(kept["draws"], kept["seed"])}
    assert {s["number"]: (s["verdict"], s["corrected_holds"]) for s in kept["statements"]} == now


def test_growth_rates_are_within_the_aim_of_theory_and_print():
    kept = script.kept("full")["growth-rates"]
    compared = [n for n in kept.numbers if n.published is not None and not n.name.startswith("pre-LN")]
    assert len(compared) >= 12
    assert all(abs(n.value - n.published) < 0.15 for n in compared)
