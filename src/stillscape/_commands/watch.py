"""`stillscape watch`: data arrive in batches; go on, or stop."""

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from stillscape import _flags as flags
from stillscape._commands.common import NOT_REACHED, REACHED, examples, outcomes_as_exit_codes, tell_of_trust, window_of
from stillscape._errors import InputError
from stillscape._folders import as_folder
from stillscape._processes import lasting_imports, warm_up
from stillscape._terminal import TerminalProgress

EXAMPLE = examples(
    "stillscape watch photos/ --model google/vit-base-patch16-224 --epsilon 0.01 --out runs/watch",
    "stillscape watch photos/ --out runs/watch",
)


def watch(
    data: flags.Data,
    labels: flags.Labels = None,
    groups: flags.Groups = None,
    window: flags.Window = None,
    model: flags.Model = None,
    trust_remote_code: flags.TrustRemoteCode = None,
    adapt: flags.Adapt = None,
    repeats: flags.Repeats = None,
    seeds: flags.Seeds = None,
    epsilon: flags.Epsilon = None,
    alpha: flags.Alpha = None,
    skip_broken: flags.SkipBroken = None,
    workers: flags.Workers = None,
    executor: flags.Executor = None,
    cell_seconds: flags.CellSeconds = None,
    device: flags.DeviceFlag = None,
    out: flags.WatchFolder = None,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Look at data that are being collected: go on (exit code 3), or stop (exit code 0); look as often as you like."""
    with outcomes_as_exit_codes():
        if alpha is not None and not 0 < alpha < 0.5:
            raise InputError(f"alpha is {alpha!r}; it must lie strictly between 0 and 0.5.")
        if workers != 1:
            warm_up()
        with lasting_imports():
            from stillscape.experiments import watch as take_a_look
            from stillscape.experiments.plan import make_plan, resumed_plan

        folder = Path("runs") / f"watch-{Path(data).name}" if out is None else as_folder(out)
        before = folder / "plan.toml"
        known = before.is_file()
        given: dict[str, Any] = {
            "data": data, "labels": labels, "groups": groups, "window": window_of(window), "model": model,
            "adapt": adapt or (None if known else ["head"]), "repeats": repeats, "seeds": seeds, "epsilon": epsilon,
            "level": None if alpha is None else 1 - alpha, "skip_broken": skip_broken, "workers": workers,
            "executor": executor, "cell_seconds": cell_seconds, "device": device,
            "trust_remote_code": trust_remote_code,
        }  # fmt: skip
        plan = resumed_plan(before, **given) if known else make_plan(None, **given)
        tell_of_trust(plan, quiet)
        with TerminalProgress(quiet) as progress:
            answer = take_a_look(plan, folder, progress=progress)
        if as_json:
            print(json.dumps(answer, indent=1))
        else:
            _show(answer)
        raise typer.Exit(REACHED if answer["verdict"]["status"] == "stop" else NOT_REACHED)


def _show(answer: dict[str, Any]) -> None:
    from stillscape.sufficiency.wording import amount

    if answer["looks"]:
        table = Table("look", "images", "scored", "trained on", "gain", "at most, however often one looks")
        for look in answer["looks"]:
            low, high = look["sizes"]
            gain, upper = amount("accuracy", look["gain"], signed=True), amount("accuracy", look["upper"])
            counts = (str(look[name]) for name in ("look", "num_images", "num_scored"))
            table.add_row(*counts, f"{low} and {high}", gain, upper)
        Console().print(table)
    for note in answer["notes"]:
        print(note)
    print(answer["verdict"]["sentence"])
