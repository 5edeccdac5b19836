"""Fit the trained part of a model on a subset."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from stillscape.training.descent import descend
from stillscape.training.optimum import fit_head
from stillscape.training.outcome import Fit
from stillscape.training.precision import Precision, check_precision
from stillscape.training.recipe import Recipe
from stillscape.training.rows import check_rows, device_of


def fit(
    suffix: nn.Module,
    inputs: Float[np.ndarray, "n ..."],
    labels: Int[np.ndarray, " n"],
    rows: Int[np.ndarray, " k"],
    recipe: Recipe,
    *,
    seed: int,
    precision: Precision = "float32",
    watch: Callable[[int], None] | None = None,
) -> Fit:
    """Fit a suffix, in place, on the given rows; it is left in eval mode.

    A suffix that is one Linear layer (the head on frozen features) is brought to the optimum of its convex objective,
    which no seed has a part in. Any other is trained by AdamW. The same arguments and number of threads give the same
    bits; the global random state is left alone.

    Args:
        suffix: from `split_model`; what requires a gradient is trained.
        inputs: float32, in memory or memory-mapped: what the suffix takes.
        labels: class numbers.
        rows: training rows; only they are read.
        recipe: how to train.
        seed: of the order of batches, of dropout and of the early stop's validation part.
        precision: of the steps: "float32", "bf16", or "fp16" (on CUDA devices). Weights, losses, the last gradient and
            scores are float32 or better in any case; a single Linear layer is brought to its optimum in float64.
        watch: called with the number of steps taken, at 0 before the first and after each, while the suffix holds the
            weights of that moment; it must only look. An early stop may go back to an earlier one at the end.

    Returns:
        how it went. A loss that is not finite is a status, not an exception.

    Raises:
        InputError: rows, labels and inputs don't belong together, or the device can't train in this precision.
    """
    check_precision(precision, device_of(suffix))
    rows = check_rows(inputs, labels, rows)
    if type(suffix) is nn.Linear:
        return fit_head(suffix, inputs, labels, rows, recipe, watch)
    return descend(suffix, inputs, labels, rows, recipe, seed=seed, precision=precision, watch=watch)
