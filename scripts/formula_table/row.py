"""A row of the table."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from scripts.formula_table.measure import Found

TESTS = {
    "exact": "tests/hessian/test_exact.py::test_",
    "identities": "tests/hessian/test_identities.py::test_",
    "losses": "tests/hessian/test_losses.py::test_",
    "attention": "tests/bounds/test_bounds_attention.py::test_",
    "block": "tests/bounds/test_bounds_block.py::test_",
    "heads": "tests/bounds/test_bounds_heads.py::test_",
    "constants": "tests/bounds/test_bounds_constants.py::test_",
    "sample": "tests/bounds/test_bounds_finite_sample.py::test_",
    "surface": "tests/bounds/test_bounds_local_surface.py::test_",
    "square": "tests/bounds/test_bounds_mean_square.py::test_",
    "difference": "tests/bounds/test_bounds_loss_difference.py::test_",
    "products": "tests/curvature/test_per_sample.py::test_",
    "curve": "tests/curvature/test_difference.py::test_",
    "trace": "tests/curvature/test_trace.py::test_",
    "density": "tests/curvature/test_density.py::test_",
    "takeuchi": "tests/evidence/test_takeuchi.py::test_",
    "without": "tests/evidence/test_leave_one_out.py::test_",
    "added": "tests/evidence/test_added_sample.py::test_",
    "halves": "tests/evidence/test_halves.py::test_",
    "moving": "tests/evidence/test_moving_optimum.py::test_",
    "minimum": "tests/bounds/test_bounds_minimum.py::test_",
}


@dataclass(frozen=True)
class Row:
    """One formula; `measure` takes a factor on the number of cases, 1 or less."""

    formula: str
    section: str
    function: str
    test: str
    measure: Callable[[float], Found]


def row(formula: str, section: str, function: str, test: str, measure: Callable, *fixed, **named) -> Row:
    """Return a row, with short names of function and test written out; `measure` gets what is fixed and named."""
    where, name = test.split(":")
    return Row(formula, section, f"stillscape.{function}", TESTS[where] + name, partial(measure, *fixed, **named))
