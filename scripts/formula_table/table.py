"""All rows in order, as a file."""

from collections.abc import Iterator

import numpy as np
import torch

from scripts.formula_table import (
    attention,
    block,
    bounds,
    curvature,
    evidence,
    lemmas,
    one_more_sample,
    sizes,
    whole_data,
)
from scripts.formula_table.row import Row

SUBJECTS = (attention, block, lemmas, bounds, one_more_sample, whole_data, sizes, curvature, evidence)

HEAD = """# Formula, function, test, measured error

Written by `python -m scripts.formula_table`; don't edit it by hand. Everything under "measured" was computed when the
script ran, with torch {torch} and numpy {numpy} in float64, on one thread. Errors of Hessians are relative to the
whole Hessian, against automatic differentiation and against central differences; the number in brackets is the limit,
and `>` stands where a statement is refuted. For a bound it is the largest ratio of truth to bound, so 1 is sharp.
Sections are those of [docs/theory](theory.md); `stillscape audit` goes through the drafts statement by statement.

| formula | section | function | test | cases | measured |
|---|---|---|---|---|---|
"""


def all_rows() -> Iterator[Row]:
    """Yield every row in order."""
    for subject in SUBJECTS:
        yield from subject.rows()


def table(share: float) -> tuple[str, list[str]]:
    """Return the file, and the rows that do not keep their limit; `share` of the cases are taken."""
    lines, failed = [], []
    for row in all_rows():
        cases, checks = row.measure(share)
        shown = "; ".join(str(check) for check in checks)
        lines.append(f"| {row.formula} | {row.section} | `{row.function}` | `{row.test}` | {cases} | {shown} |")
        failed += [f"{row.formula}: {check}" for check in checks if not check.holds]
    return HEAD.format(torch=torch.__version__.split("+")[0], numpy=np.__version__) + "\n".join(lines) + "\n", failed
