"""A flat curve may be that of a model that has learned nothing: the metric against naming the most frequent class."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape.sufficiency import wording
from stillscape.sufficiency.criterion import Criterion

_ADVICE = (
    "train more of the model or for longer, look at labels and preprocessing, or hold out more images to tell a small "
    "advantage from none"
)


def standing(
    metric: str,
    sizes: ArrayLike,
    mean: ArrayLike,
    draws: Float[np.ndarray, "draws sizes"],
    baseline: float,
    level: float,
) -> dict:
    """Return whether the metric at the largest size is above the baseline, by the lower end of its interval.

    Args:
        metric: higher is better.
        sizes: measured sizes, (K,).
        mean: the measured curve, (K,).
        draws: of it, (B, K).
        baseline: the metric of always naming the most frequent class.
        level: of the interval.

    Returns:
        {"value", "above", "sentence"}, the last one a clause.

    >>> standing("accuracy", [10, 20], [0.5, 0.6], np.array([[0.5, 0.6]] * 9), 0.55, 0.9)["above"]
    True
    """
    low, high = np.quantile(draws[:, -1], [(1 - level) / 2, (1 + level) / 2])
    above = bool(low > baseline)
    clause = (
        f"at {wording.images(int(np.max(sizes)))} {wording.noun(metric)} is "
        f"{wording.value(metric, float(np.asarray(mean)[-1]))} ({wording.percent(level)} interval: "
        f"{wording.value(metric, low)} to {wording.value(metric, high)}), {'' if above else 'not '}above the "
        f"{wording.value(metric, baseline)} of always naming the most frequent class"
    )
    return {"value": float(baseline), "above": above, "sentence": clause}


def not_above_baseline(criterion: Criterion, floor: Mapping, metric: str) -> Criterion:
    """Return the criterion, but never "reached" where its metric is not above the baseline.

    >>> flat = Criterion("accuracy", "reached", 9, 9, 9, 0.01, (), False, "why")
    >>> not_above_baseline(flat, {"sentence": "it is not above"}, "accuracy").status
    'cannot_tell'
    """
    if wording.metric_of(criterion.name) != metric or criterion.status != "reached":
        return criterion
    reason = f"{floor['sentence']}, and a model that has learned nothing has a flat curve, too"
    return replace(criterion, status="cannot_tell", k_star=None, low=None, high=None, reason=reason, advice=_ADVICE)
