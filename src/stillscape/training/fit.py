"""Fit the trained part of a model on a subset."""

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from stillscape.training.descent import descend
from stillscape.training.optimum import fit_head
from stillscape.training.outcome import Fit
from stillscape.training.recipe import Recipe
from stillscape.training.rows import check_rows


def fit(
    suffix: nn.Module,
    inputs: Float[np.ndarray, "n ..."],
    labels: Int[np.ndarray, " n"],
    rows: Int[np.ndarray, " k"],
    recipe: Recipe,
    *,
    seed: int,
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

    Returns:
        how it went. A loss that is not finite is a status, not an exception.

    Raises:
        InputError: rows, labels and inputs don't belong together.
    """
    rows = check_rows(inputs, labels, rows)
    if type(suffix) is nn.Linear:
        return fit_head(suffix, inputs, labels, rows, recipe)
    return descend(suffix, inputs, labels, rows, recipe, seed=seed)
