"""The table of labels beside a flat folder: columns file, label and, where there are any, group."""

import csv
from dataclasses import dataclass
from pathlib import Path

from stillscape._errors import InputError
from stillscape.data.files import normal


@dataclass(frozen=True)
class LabelTable:
    """Rows of a table of labels by file name; every row holds all columns as text."""

    columns: tuple[str, ...]
    rows: dict[str, dict[str, str]]


def read_labels(path: Path) -> LabelTable:
    """Read a table of labels as spreadsheets write it: separated by commas, semicolons or tabs, with or without BOM.

    Backslashes in file names count as slashes, and a leading "./" is dropped.

    Raises:
        InputError: not UTF-8, no column file or label, an empty cell in them, or a file that stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not UTF-8 text. Save it as CSV UTF-8.") from None
    if not lines:
        raise InputError(f"{path.name} is empty; its first line must name the columns file,label.")
    delimiter = max(",;\t", key=lines[0].count)
    reader = csv.reader(lines, delimiter=delimiter)
    columns = tuple(name.strip().lower() for name in next(reader))
    if not {"file", "label"} <= set(columns):
        raise InputError(
            f"{path.name} has the columns {', '.join(columns)}; it needs file and label (and may have "
            "group). Rename them in its first line."
        )
    rows: dict[str, dict[str, str]] = {}
    for cells in reader:
        if any(cell.strip() for cell in cells):
            _add(rows, columns, cells, f"{path.name} line {reader.line_num}")
    return LabelTable(columns, rows)


def _add(rows: dict[str, dict[str, str]], columns: tuple[str, ...], cells: list[str], where: str) -> None:
    if len(cells) != len(columns):
        raise InputError(f"{where} has {len(cells)} cells; the first line names {len(columns)} columns.")
    row = {column: cell.strip() for column, cell in zip(columns, cells, strict=True)}
    for column in ("file", "label"):
        if not row[column]:
            raise InputError(f"{where} has no {column}. Fill it in, or remove the row and its image.")
    file = normal(row["file"].replace("\\", "/")).removeprefix("./")
    if file in rows:
        raise InputError(f"{where} names {file} again. Each image needs one row.")
    rows[file] = row | {"file": file}
