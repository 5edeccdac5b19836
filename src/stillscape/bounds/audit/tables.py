"""Statements as text: JSON for programs, CSV for a sheet, Markdown for a reader."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence

from stillscape.bounds.audit.statement import Statement

COLUMNS = tuple(field.name for field in dataclasses.fields(Statement) if field.name != "numbers")


def to_json(statements: Sequence[Statement], *, draws: int, seed: int) -> str:
    """Return draws, seed, whether all corrected statements hold, and every field of every statement.

    A number that is not finite becomes null, for JSON knows none.

    >>> to_json([], draws=1, seed=0).split()
    ['{', '"draws":', '1,', '"seed":', '0,', '"all_corrected_hold":', 'true,', '"statements":', '[]', '}']
    """
    rows = []
    for statement in statements:
        numbers = {name: value if math.isfinite(value) else None for name, value in statement.numbers.items()}
        rows.append(dataclasses.asdict(statement) | {"numbers": numbers})
    holds = all(statement.corrected_holds for statement in statements)
    whole = {"draws": draws, "seed": seed, "all_corrected_hold": holds, "statements": rows}
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def to_csv(statements: Sequence[Statement]) -> str:
    """Return one line for each statement, with a header; the measured numbers stand in the texts.

    >>> to_csv([]).strip().split(",")[:3]
    ['number', 'where', 'printed']
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(statement, name) for name in COLUMNS] for statement in statements)
    return out.getvalue()


def to_markdown(statements: Sequence[Statement], *, draws: int, seed: int) -> str:
    """Return an overview as a table, then one section for each statement.

    >>> to_markdown([], draws=1, seed=0).splitlines()[0]
    '# The paper, statement by statement'
    """
    counts = {
        verdict: sum(s.verdict == verdict for s in statements) for verdict in sorted({s.verdict for s in statements})
    }
    lines = [
        "# The paper, statement by statement",
        "",
        f"Computed with {draws} draws and seed {seed}. Of {len(statements)} statements as printed: "
        + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        + f". Corrected statements that hold: {sum(s.corrected_holds for s in statements)}.",
        "",
        "| Statement | Section | As printed | Corrected |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {_cell(s.number)} | {_cell(s.where)} | {s.verdict} | {'holds' if s.corrected_holds else '**FAILS**'} |"
        for s in statements
    ]
    for s in statements:
        lines += ["", f"## {s.number} (section {s.where})" if s.where != "-" else f"## {s.number}", ""]
        lines += [f"- Printed: {_code(s.printed)}", f"- Verdict: **{s.verdict}**. {_plain(s.evidence)}"]
        lines += [f"- Corrected: {_code(s.corrected)}", f"- Measured: {_plain(s.corrected_evidence)}"]
        lines += [f"- Tightness: {_plain(s.tightness)}"] if s.tightness else []
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`" if "`" not in text else text


def _plain(text: str) -> str:
    """Return text in which Markdown sees no markup."""
    for mark in "\\`*_|<>":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
