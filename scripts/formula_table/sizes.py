"""The rows of section 6.8: the inversions to k*."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from scripts.formula_table.measure import Check, some
from scripts.formula_table.row import Row, row
from stillscape import bounds
from stillscape.bounds import finite_sample


def sizes(size_of, bound_of, share):
    """Count the sizes that do not pass, or of which the one before passes too."""
    wrong, tolerances = 0, np.geomspace(0.02, 2, some(60, share))
    for epsilon in tolerances:
        k = size_of(epsilon)
        wrong += k is None or not bound_of(k) <= epsilon or (k > 1 and bound_of(k - 1) <= epsilon)
    return f"{len(tolerances)} tolerances", [Check("wrong sizes", wrong, 0)]


def inversion(name: str, size_of, bound_of, test: str, **given) -> Row:
    """Return the row of a size and the bound that it inverts, at the same constants."""
    function = f"bounds.{size_of.__name__}"
    return row(name, "6.8", function, test, sizes, partial(size_of, **given), partial(bound_of, **given))


def root_mean_square_difference(k, variance):
    """Return what `root_mean_square_size` inverts."""
    return bounds.mean_square_difference(k, variance) ** 0.5


def rows() -> Iterator[Row]:
    """Yield them in order."""
    given = {"loss_bound": 2.0, "hessian_bound": 3.0, "radius": 0.5, "gradient_bound": 1.0}
    pair, test = (bounds.sufficient_size, bounds.loss_difference), "inversion_is_the_smallest_size_that_passes"
    for kind in ("printed", "rigorous"):
        yield inversion(f"k* of Theorem 3, {kind}", *pair, f"difference:{test}", **given, kind=kind)
    pair = bounds.root_mean_square_size, root_mean_square_difference
    yield inversion("k* of the variance law", *pair, "square:size_is_the_smallest_that_passes", variance=5.0)
    given = {"loss_bound": 2.0, "std": 0.3, "population": 10**6}
    pair, test = (bounds.mean_sufficient_size, bounds.mean_deviation), "size_is_that_of_a_search_from_the_end"
    for kind in finite_sample.KINDS:
        yield inversion(f"k* of the mean, {kind}", *pair, f"sample:{test}", **given, kind=kind)
    given = {"variance_norm": 2.0, "largest": 3.0, "dimension": 50}
    pair, test = (bounds.matrix_bernstein_size, bounds.matrix_bernstein), "matrix_size_is_the_smallest_that_passes"
    yield inversion("k* of matrix Bernstein", *pair, f"surface:{test}", **given)
