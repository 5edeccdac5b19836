"""What the README shows must work: its Python runs as a script, its commands exist, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

from stillscape.experiments import demo_plan, make_plan
from stillscape.reproductions import CATALOGUE
from stillscape.reproductions.run import read_plan, settings_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_runs_as_a_script(tmp_path):
    """Run as a user would: from a file, its calls at the top level, with workers of their own processes."""
    code = blocks("python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    (tmp_path / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert "For training the head alone" in done.stdout
    assert "400: 0." in done.stdout
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()


def test_the_curvature_is_as_shown():
    names: dict = {}
    exec(blocks("python")[1], names)
    assert names["curve"].k.tolist() == list(range(1, 60))
    assert bool((names["curve"].spectral > 0).all())
    assert names["top"].vectors.shape == (4, names["hv"].num_parameters)
    assert [row["group"] for row in names["table"].rows()] == list(names["hv"].slices)


def test_the_exact_second_derivatives_are_as_shown():
    names: dict = {}
    exec(blocks("python")[2], names)
    h, ss = names["h"], names["ss"]
    assert h.block("W_Q", "W_K", part="functional").shape == (64, 256, 256)
    assert h.mean().shape == (768, 768)
    bound = ss.bounds.self_attention(
        names["X"], names["W_Q"], names["W_K"], names["W_V"], loss=names["loss"], kind="token"
    )
    assert bool((bound >= h.spectral_norm()).all())


def test_the_estimator_is_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(blocks("python")[3], names)
    assert names["enough"].status_ in ("reached", "not_reached", "cannot_tell")
    assert (tmp_path / "data_curve.svg").is_file()


def test_the_two_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_links_and_pictures_are_there():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            made = target == "command-line.md" or target.startswith("api/")  # by scripts/docs_hooks.py, for the site
            assert made or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_shipped_plans_are_plans():
    plans = list((ROOT / "plans").glob("*.toml"))
    assert plans
    for path in plans:
        if path.name.startswith("reproduce-"):  # of a reproduction, whose settings are others
            name, settings = read_plan(path)
            assert settings_of(CATALOGUE[name], "full", settings)
        else:
            make_plan(path)
    assert demo_plan().data == "digits"
