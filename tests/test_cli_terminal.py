"""How the command line behaves at a terminal, in a pipe and in a script: colors, progress, quiet, JSON, help."""

import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import typer
from rich.console import Console

from stillscape import _terminal
from stillscape.cli import app
from stillscape.experiments.progress import counted
from tests.test_cli import call

GROUP = typer.main.get_command(app)
ESCAPE = "\x1b"


def run_in_a_pipe(*arguments, **environment):
    """Run as a script would: stdout and stderr are pipes, and the environment says what it says."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-m", "stillscape.cli", *map(str, arguments)],
        capture_output=True, text=True, env={**kept, **environment}, check=False,
    )  # fmt: skip


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("size,score\n" + "".join(f"{k},{0.95 - 2 / k**0.5:.4f}\n" for k in (50, 100, 200, 400)))
    return path


def test_no_colors_in_a_pipe(scores):
    done = run_in_a_pipe("forecast", scores, "--at", 800, TERM="xterm-256color")
    assert done.returncode == 0
    assert ESCAPE not in done.stdout + done.stderr


@pytest.mark.parametrize(("no_color", "colored"), [("1", False), (None, True)])
def test_no_color_is_heeded_at_a_terminal(no_color, colored, monkeypatch):
    """Bars move with escapes at a terminal; colors are another matter, and NO_COLOR turns those off."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    screen = io.StringIO()
    _draw_a_bar(screen, monkeypatch)
    assert bool(re.search(r"\x1b\[[0-9;]*(3[0-9]|38;)[0-9;]*m", screen.getvalue())) == colored


def _draw_a_bar(screen, monkeypatch, *, seconds_left=None):
    def console(**options):
        options.pop("stderr")
        return Console(file=screen, force_terminal=True, width=100, **options)

    monkeypatch.setattr(_terminal, "Console", console)
    with _terminal.TerminalProgress() as progress:
        progress.stage("training 4 cells", 4.0)
        progress.advance(1.0, seconds_left=seconds_left)


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.2, "about 12 s left"), (600.0, "about 10 min left"), (9000.0, "about 2.5 h left")]
)
def test_the_bar_shows_the_time_left(seconds, said, monkeypatch):
    screen = io.StringIO()
    _draw_a_bar(screen, monkeypatch, seconds_left=seconds)
    assert said in screen.getvalue()
    assert "25 %" in screen.getvalue()


def test_without_a_terminal_stages_are_lines_and_quiet_is_silent(capsys):
    for quiet, said in ((False, "training 2 cells\n"), (True, "")):
        with _terminal.TerminalProgress(quiet) as progress:
            assert list(counted(iter("ab"), 2, "training 2 cells", progress)) == ["a", "b"]
        captured = capsys.readouterr()
        assert captured.err == said
        assert not captured.out


def test_a_name_in_a_line_is_no_markup(capsys):
    with _terminal.TerminalProgress() as progress:
        progress.stage("reading [red]folder", 1)
        progress.say("[bold]cell failed")
    err = capsys.readouterr().err
    assert "[bold]cell failed" in err
    assert "reading [red]folder" in err


def test_quiet_and_json_run(tiny_vit, photos, tmp_path):
    arguments = [
        "run", "--data", photos, "--model", tiny_vit, "--adapt", "head", "--sizes", "6,12,24", "--repeats", 2,
        "--seeds", 1, "--workers", 1, "--out", tmp_path / "out",
    ]  # fmt: skip
    _, out, err = call(*arguments, "--json")
    assert json.loads(out)["schema"] == 1
    assert "training 6 cells" in err
    _, out, err = call(*arguments, "--json", "--quiet")
    assert json.loads(out)["schema"] == 1
    assert "training" not in err


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_every_example_in_the_help_is_a_call_that_the_command_line_takes(name):
    epilog = GROUP.commands[name].epilog
    examples = examples_of(epilog)
    assert examples, name
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])
        assert words[:2] == ["stillscape", name]
        GROUP.commands[name].make_context(name, words[2:])


def examples_of(epilog):
    """Return the calls that a help text shows: what stands after its heading, a paragraph each."""
    if epilog.startswith("Example: "):
        return [epilog.removeprefix("Example: ")]
    heading, *calls = epilog.split("\n\n")
    assert heading == ("Examples:" if len(calls) > 1 else "Example:")
    return calls


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_the_help_shows_its_examples_a_line_each(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    code, out, _ = call(name, "--help")
    assert code == 0
    lines = [line.strip() for line in out.splitlines()]
    for example in examples_of(GROUP.commands[name].epilog):
        assert any(line.endswith(example) for line in lines)


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_the_help_tells_what_every_flag_is_for(name):
    for parameter in GROUP.commands[name].params:
        if parameter.name != "help":
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"
