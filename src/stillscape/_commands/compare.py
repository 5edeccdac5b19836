"""`stillscape compare`: several runs on one page."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillscape import _flags as flags
from stillscape._commands.common import examples, outcomes_as_exit_codes
from stillscape._processes import lasting_imports

EXAMPLE = examples(
    "stillscape compare runs/vit runs/dino",
    "stillscape compare runs/before runs/after --out before-and-after.html",
    "stillscape compare runs/vit runs/dino --json > comparison.json",
)

Folders = Annotated[list[str], typer.Argument(metavar="DIR DIR...", help="Two run folders or more.")]
Page = Annotated[str, typer.Option("--out", help="The page to write.")]


def compare(folders: Folders, out: Page = "compare.html", as_json: flags.AsJson = False) -> None:
    """Put several runs on one page: which needs the fewest images, which scores best, what each cost; exit code 0."""
    with outcomes_as_exit_codes():
        with lasting_imports():
            from stillscape.experiments import compare_runs
            from stillscape.report import summary_lines, write_comparison

        found = compare_runs(folders)
        path = write_comparison(found, out)
        if as_json:
            print(json.dumps(found, indent=1))
        else:
            _show(found)
            print("\n".join(summary_lines(found)))
        typer.echo(f"page: {path}", err=as_json)


def _show(found: dict[str, Any]) -> None:
    from stillscape.report.side_by_side import interval_of
    from stillscape.report.words import DASH, adaptation_name, count, status_name

    table = Table("run", "trained part", "answer", "k*", "interval", "seconds")
    for each in found["contenders"]:
        verdict, seconds = each["verdict"], each["seconds"]
        cells = (
            each["name"],
            adaptation_name(each["adapt"]),
            status_name(verdict["status"]),
            count(verdict["k_star"]),
            interval_of(verdict),
            DASH if seconds is None else f"{seconds:,.0f}",
        )
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)
