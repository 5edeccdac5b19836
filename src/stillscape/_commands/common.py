"""What the commands share: outcomes as exit codes, and flags as the values that they stand for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from stillscape._errors import InputError, StillscapeError
from stillscape._folders import as_folder
from stillscape._processes import lasting_imports

REACHED, BAD_INPUT, NOT_REACHED, FAILED = 0, 2, 3, 4


def examples(*calls: str) -> str:
    """Return calls as the end of a help text, a line each."""
    return "\n\n".join([f"Example{'s' * (len(calls) > 1)}:", *calls])


@contextmanager
def outcomes_as_exit_codes() -> Iterator[None]:
    """Turn what is raised on purpose into one line on stderr and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; everything recorded is kept, and the same command goes on from there.", err=True)
        raise typer.Exit(FAILED) from None
    except InputError as error:
        typer.echo(f"stillscape: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except StillscapeError as error:
        typer.echo(f"stillscape: {error}", err=True)
        raise typer.Exit(FAILED) from None


def sizes_of(text: str | None, name: str = "sizes") -> int | list[int] | None:
    """Return the sizes that a flag lists, or how many it asks for."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        how_many = ", or how many sizes" if name == "sizes" else ""
        raise InputError(f"{name} is {text!r}; give whole numbers such as 50,100,200,400{how_many}.") from None
    return numbers[0] if len(numbers) == 1 else numbers


def window_of(text: str | None) -> tuple[float, float] | None:
    """Return the grey values that a flag names."""
    from stillscape.data import parse_window

    return None if text is None else parse_window(text)


def seconds_of(text: str | None) -> float | None:
    """Return the time that a flag such as 30m stands for."""
    if text is None:
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        seconds = float(text[:-1]) * units[text[-1]]
    except (KeyError, ValueError, IndexError):
        raise InputError(f"budget is {text!r}; give a time such as 90s, 30m or 2h.") from None
    if not 0 < seconds < float("inf"):
        raise InputError(f"budget is {text!r}; it must be above zero.")
    return seconds


def plan_of(path: Path | None, out: str | None, **flags: Any) -> Any:
    """Return the plan of a file changed by flags; with neither a plan nor data, the one that the run folder holds."""
    with lasting_imports():
        from stillscape.experiments.plan import make_plan, resumed_plan

    if path is None and flags["data"] is None and out is not None and (as_folder(out) / "plan.toml").is_file():
        return resumed_plan(as_folder(out) / "plan.toml", **flags)
    return make_plan(path, **flags)


def tell_of_trust(plan: Any, quiet: bool = True) -> None:
    """Say that code of others is about to be run, where the run itself would not."""
    from stillscape.experiments.bench import TRUSTED

    if plan.trust_remote_code and quiet:
        typer.echo(TRUSTED.format(model=plan.model), err=True)
