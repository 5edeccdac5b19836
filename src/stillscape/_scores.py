"""Scores by size in a CSV file: read from anywhere, written by the callback."""

import csv
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from stillscape._errors import InputError
from stillscape._files import write_whole
from stillscape._folders import Folder, as_folder

SIZE_NAMES = ("size", "k", "n", "images", "samples", "num_images", "num_samples", "train_size")
SCORE_NAMES = (
    "score", "accuracy", "balanced_accuracy", "macro_f1", "f1", "auroc", "auc", "loss", "error", "heldout_loss",
    "test_accuracy", "test_loss", "test_score", "val_accuracy", "val_loss", "eval_accuracy", "eval_loss",
)  # fmt: skip
HEADER = ("size", "score", "repeat")


def read_scores(
    path: str | Folder, column: str | None = None
) -> tuple[Int[np.ndarray, " sizes"], Float[np.ndarray, "sizes repeats"], str]:
    """Read a table of scores: a column of sizes and one of scores; several rows of a size are repeats.

    Separated by commas, semicolons or tabs, as spreadsheets write it; a decimal comma is read where commas don't
    separate. Rows without a score are passed over.

    Args:
        path: of the file.
        column: of the scores; None for the one column with a name that is known.

    Returns:
        sizes, increasing; scores with NaN where a size has fewer repeats than others; the score's column.

    Raises:
        InputError: the file can't be read, has no such columns, or holds what is no number.
    """
    path = as_folder(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{str(path)!r} can't be read: {error.strerror}. Give the path of a CSV file.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not UTF-8 text. Save it as CSV UTF-8.") from None
    if not lines or not lines[0].strip():
        raise InputError(f"{path.name} is empty; its first line must name the columns, such as size,score.")
    delimiter = max(",;\t", key=lines[0].count)
    reader = csv.reader(lines, delimiter=delimiter)
    columns = [name.strip().lower() for name in next(reader)]
    size_at = _place(path.name, columns, None, SIZE_NAMES, "sizes")
    score_at = _place(path.name, columns, column, SCORE_NAMES, "scores")
    found: dict[int, list[float]] = {}
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path.name} line {reader.line_num}"
        if len(cells) != len(columns):
            raise InputError(f"{where} has {len(cells)} cells; the first line names {len(columns)} columns.")
        if cells[score_at].strip():
            size = _number(where, columns[size_at], cells[size_at], delimiter)
            if size < 1 or size != math.floor(size):
                raise InputError(
                    f"{where} has {columns[size_at]} {cells[size_at]!r}; it must be a whole number above 0."
                )
            found.setdefault(int(size), []).append(_number(where, columns[score_at], cells[score_at], delimiter))
    if not found:
        raise InputError(f"{path.name} has no row with a score under its first line; give one row a measurement.")
    sizes = sorted(found)
    scores = np.full((len(sizes), max(map(len, found.values()))), np.nan)
    for row, size in enumerate(sizes):
        scores[row, : len(found[size])] = found[size]
    return np.array(sizes), scores, columns[score_at]


def append_score(path: Path, size: int, score: float) -> None:
    """Add one row to a table of scores, whole or not at all; `repeat` counts the rows of a size from 0."""
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else [list(HEADER)]
    if tuple(rows[0]) != HEADER:
        raise InputError(f"{str(path)!r} begins with {','.join(rows[0])}; it must be {','.join(HEADER)}. Name another.")
    repeat = sum(row[0] == str(size) for row in rows[1:])
    rows.append([str(size), repr(float(score)), str(repeat)])
    write_whole(path, ("\n".join(",".join(row) for row in rows) + "\n").encode())


def _place(file: str, columns: list[str], asked: str | None, names: tuple[str, ...], what: str) -> int:
    if asked is not None:
        if asked.lower() not in columns:
            raise InputError(f"column is {asked!r}; {file} has {', '.join(columns)}.")
        return columns.index(asked.lower())
    places = [at for at, name in enumerate(columns) if name in names]
    if len(places) == 1:
        return places[0]
    has = f"{file} has the columns {', '.join(columns)}"
    if not places:
        raise InputError(f"{has}; one must hold the {what} and be named {names[0]} (or {', '.join(names[1:8])}, ...).")
    several = ", ".join(columns[at] for at in places)
    hint = "name one with --column" if what == "scores" else "keep one"
    raise InputError(f"{has}; {several} could all hold the {what}: {hint}.")


def _number(where: str, name: str, text: str, delimiter: str) -> float:
    plain = text.strip() if delimiter == "," else text.strip().replace(",", ".")
    try:
        value = float(plain)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where} has {name} {text.strip()!r}; it must be a finite number. Leave failed runs out.")
    return value
