"""`stillscape forecast`: what a data curve will do beyond the data at hand, from a table of scores alone."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stillscape import _flags as flags
from stillscape._commands.common import NOT_REACHED, REACHED, examples, outcomes_as_exit_codes, sizes_of
from stillscape._errors import InputError

EXAMPLE = examples(
    "stillscape forecast scores.csv --target 0.95",
    "stillscape forecast scores.csv --at 400,800 --level 0.8",
    "stillscape forecast losses.csv --column eval_loss --kind loss --target 0.2 --json",
)

Scores = Annotated[
    str, typer.Argument(metavar="SCORES.csv", help="Columns size and score (or k, accuracy, loss, ...); rows repeat.")
]
Goal = Annotated[float | None, typer.Option("--target", help="The score to meet: how much data would it take?")]
At = Annotated[str | None, typer.Option("--at", help="Sizes to forecast the score at: 400,800.")]
Kind = Annotated[
    str | None,
    typer.Option("--kind", help="loss (lower is better) or score (in 0..1, higher is better); default: by the column."),
]
Level = Annotated[float, typer.Option("--level", help="Of the intervals.")]
Column = Annotated[str | None, typer.Option("--column", help="Of the scores, where several could be it.")]


def forecast(
    scores: Scores,
    target: Goal = None,
    at: At = None,
    kind: Kind = None,
    level: Level = 0.9,
    column: Column = None,
    as_json: flags.AsJson = False,
) -> None:
    """Forecast from scores alone: the size that a target needs, and the score at larger sizes, with intervals."""
    with outcomes_as_exit_codes():
        if target is None and at is None:
            raise InputError("target and at are both missing; ask with --target 0.95, or --at 400,800, or both.")
        from stillscape._scores import read_scores
        from stillscape.sufficiency import forecast as forecast_at
        from stillscape.sufficiency import higher_is_better, required_size

        sizes, table, name = read_scores(scores, column)
        kind = kind or ("score" if higher_is_better(name) else "loss")
        wanted = sizes_of(at, "at")
        points = [wanted] if isinstance(wanted, int) else wanted
        curve = None if points is None else forecast_at(sizes, table, at=points, level=level, kind=kind)
        need = None if target is None else required_size(sizes, table, target=target, level=level, kind=kind)
        if as_json:
            answer = {"schema": 1, "kind": kind, "level": level, "sizes": sizes.tolist()}
            parts = {"required_size": need, "forecast": curve}
            print(json.dumps(answer | {key: part and part.to_dict() for key, part in parts.items()}, indent=1))
        else:
            _show(curve, need, level)
        found = need.status == "reached" if need is not None else curve is not None and curve.status == "ok"
        raise typer.Exit(REACHED if found else NOT_REACHED)


def _show(curve: Any, need: Any, level: float) -> None:
    if curve is not None:
        table = Table("images", "forecast", f"{100 * level:g} % interval")
        for size, mean, low, high in zip(curve.sizes, curve.mean, curve.low, curve.high, strict=True):
            table.add_row(f"{size:,.0f}", f"{mean:.4g}", f"{low:.4g} to {high:.4g}")
        Console().print(table)
        print(_sentence(curve.reason))
    if need is not None:
        size = "none can be named" if need.value is None else f"{need.value:,.0f}"
        low, high = ("?" if end is None else f"{end:,.0f}" for end in (need.low, need.high))
        interval = "" if need.low is None and need.high is None else f" ({100 * level:g} % interval: {low} to {high})"
        print(f"Target {need.target:g}: {need.status}. Images: {size}{interval}. {_sentence(need.reason)}")


def _sentence(reason: str) -> str:
    return reason and f"{reason[0].upper()}{reason[1:].rstrip('.')}."
