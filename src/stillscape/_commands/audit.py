"""`stillscape audit`: the paper, statement by statement, everything computed while it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillscape._commands.common import FAILED, examples, outcomes_as_exit_codes
from stillscape._errors import InputError
from stillscape._files import write_whole
from stillscape._flags import AsJson, Quiet
from stillscape._processes import lasting_imports
from stillscape._terminal import TerminalProgress

EXAMPLE = examples("stillscape audit", "stillscape audit --out audit --figures")


def audit(
    out: Annotated[Path | None, typer.Option("--out", help="Folder for audit.json, audit.csv and audit.md.")] = None,
    draws: Annotated[int, typer.Option("--draws", help="Random cases for each bound.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Of all draws.")] = 0,
    figures: Annotated[
        bool, typer.Option("--figures", help="Also draw norms, bounds and k* against the structure (a minute more).")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check the paper statement by statement, everything computed now; exit code 4 if a corrected one fails."""
    with outcomes_as_exit_codes():
        if out is not None and out.exists() and not out.is_dir():
            raise InputError(f"out is {str(out)!r}, which is a file; give a folder.")
        if figures and out is None:
            raise InputError("figures are to be drawn, but out is not given; say where with --out FOLDER.")
        with lasting_imports():
            from stillscape.bounds import audit as statements_of

        with TerminalProgress(quiet) as progress:
            progress.stage("auditing statements", len(statements_of.CLAIMS))
            found = statements_of.audit(draws, seed, lambda done, _, __: progress.advance(done))
        written = _write_audit(found, out, draws, seed) if out is not None else []
        if figures and out is not None:
            written += _write_structure(out, seed, quiet)
        if as_json:
            print(statements_of.to_json(found, draws=draws, seed=seed), end="")
        else:
            _print_statements(found)
        for path in written:
            typer.echo(f"audit: {path}", err=as_json)
        if not all(statement.corrected_holds for statement in found):
            raise typer.Exit(FAILED)


def _write_audit(found: list[Any], folder: Path, draws: int, seed: int) -> list[Path]:
    """Write the statements in three forms."""
    from stillscape.bounds.audit import to_csv, to_json, to_markdown

    texts = {
        "audit.json": to_json(found, draws=draws, seed=seed),
        "audit.csv": to_csv(found),
        "audit.md": to_markdown(found, draws=draws, seed=seed),
    }
    for name, text in texts.items():
        write_whole(folder / name, text.encode("utf-8"))
    return [folder / name for name in texts]


def _write_structure(folder: Path, seed: int, quiet: bool) -> list[Path]:
    """Write the figures on the dependence on structure, and the table behind each."""
    from stillscape.bounds.structure import AXES, structure_sweep
    from stillscape.report.structure import structure_figures

    sweeps = []
    with TerminalProgress(quiet) as progress:
        progress.stage("sweeping over structure", len(AXES))
        for done, axis in enumerate(AXES, 1):
            sweeps.append(structure_sweep(axis, seed=seed))
            progress.advance(done)
    return structure_figures(sweeps, folder)


def _print_statements(found: list[Any]) -> None:
    table = Table("statement", "as printed", "what was found", "corrected", "what it survived", show_lines=True)
    for s in found:
        mark = "" if s.corrected_holds else "FAILS: "
        cells = (
            f"{s.number}\n{s.where}",
            f"{s.printed}\n{s.verdict.upper()}",
            s.evidence,
            s.corrected,
            f"{mark}{s.corrected_evidence}\n{s.tightness}".rstrip(),
        )
        table.add_row(*(Text(cell) for cell in cells))
    holding = sum(s.corrected_holds for s in found)
    Console().print(table, f"{holding} of {len(found)} corrected statements hold.", highlight=False)
