"""`stillscape reproduce`: a published figure or table, beside the published numbers."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillscape import _flags as flags
from stillscape._commands.common import FAILED, examples, outcomes_as_exit_codes
from stillscape._errors import InputError
from stillscape._terminal import TerminalProgress

EXAMPLE = examples(
    "stillscape reproduce --list",
    "stillscape reproduce growth-rates --quick",
    "stillscape reproduce plans/reproduce-base.toml --out runs/base",
)

Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="As --list shows, or a plan: plans/reproduce-base.toml.")
]
Quick = Annotated[bool, typer.Option("--quick", help="The same code on less data, in seconds; its numbers say little.")]
List = Annotated[bool, typer.Option("--list", help="Show what can be reproduced.")]
Folder = Annotated[
    Path | None, typer.Option("--out", help="Folder of findings and figure; default runs/reproduce/NAME.")
]
Assets = Annotated[Path, typer.Option("--assets", help="Folder of weights and data that don't ship with the library.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of everything that is drawn.")]
Sources = Annotated[list[str] | None, typer.Option("--data", help="Other data; may be given several times.")]


def reproduce(
    name: Name = None,
    quick: Quick = False,
    listing: List = False,
    out: Folder = None,
    assets: Assets = Path("assets"),
    model: flags.Model = None,
    data: Sources = None,
    seed: Seed = None,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Build a published figure or table again, with the published numbers beside ours and a verdict on each claim."""
    with outcomes_as_exit_codes():
        from stillscape import reproductions
        from stillscape.reproductions.run import read_plan

        if listing:
            _show_list(as_json)
            return
        if name is None:
            raise InputError(f"name is missing; give one of {', '.join(reproductions.CATALOGUE)}, or --list.")
        settings: dict[str, Any] = {}
        if name.endswith(".toml"):
            name, settings = read_plan(Path(name))
        given = {"model": model, "data": _sources(name, data), "seed": seed}
        settings |= {key: value for key, value in given.items() if value is not None}
        size = "quick" if quick else "full"
        folder = out or Path("runs/reproduce") / (f"{name}-quick" if quick else name)
        with TerminalProgress(quiet) as progress:
            found = reproductions.reproduce(
                name, folder, size=size, assets=assets, settings=settings, progress=progress
            )
        paths = reproductions.write_findings(found, folder)
        if as_json:
            print(json.dumps(found.to_dict(), indent=1))
        else:
            _show(found)
        for path in paths:
            typer.echo(f"{path.suffix[1:]}: {path}", err=as_json)
        for violation in found.violations:
            typer.echo(f"stillscape: {violation}", err=True)
        if found.violations:
            raise typer.Exit(FAILED)


def _sources(name: str, data: list[str] | None) -> Any:
    """Return what --data names in the form that the reproduction's setting has: one name, or several."""
    from stillscape.reproductions import CATALOGUE

    if not data or name not in CATALOGUE or "data" not in CATALOGUE[name].settings.model_fields:
        return data
    if isinstance(CATALOGUE[name].settings().data, tuple):
        return tuple(data)
    if len(data) > 1:
        raise InputError(f"data is given {len(data)} times; {name} takes one.")
    return data[0]


def _show_list(as_json: bool) -> None:
    from stillscape.reproductions import CATALOGUE

    if as_json:
        print(
            json.dumps(
                [{"name": r.name, "title": r.title, "source": r.source, "needs": r.needs} for r in CATALOGUE.values()],
                indent=1,
            )
        )
        return
    for each in CATALOGUE.values():
        print(f"{each.name:20} {each.title} ({each.source})")
        if each.needs:
            print(f"{'':20} full size needs {each.needs}")


def _show(found: Any) -> None:
    from stillscape.report.words import number
    from stillscape.reproductions.page import WORDS, value_in_words

    table = Table("what", "here", "published")
    for n in found.numbers:
        published = "" if n.published is None else number(n.published)
        table.add_row(Text(n.name), Text(value_in_words(n)), published)
    Console().print(table)
    for claim in found.claims:
        print(f"{WORDS[claim.verdict].upper()}: {claim.statement} ({claim.source})\n  {claim.reason}")
    for remark in found.remarks:
        print(f"Note: {remark}")
