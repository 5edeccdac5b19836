"""Stillscape's forecast as an estimator of the benchmark."""

from collections.abc import Mapping

import numpy as np
from cases import Case
from scoring import Answer

from stillscape.sufficiency.data_curve import believe, forecast_from, sizes_from

OPEN_ENDED = ("unreachable", "cannot_tell")


class Ours:
    """What `forecast` and `required_size` say, with the numbers that ship or others; one posterior for each case."""

    def __init__(self, prior: Mapping[str, float] | None = None) -> None:
        self.prior = prior

    def __call__(self, case: Case, level: float) -> Answer:
        """Return what they say of a case."""
        kind = case.curve.kind
        believed = believe(case.sizes, case.scores, kind, self.prior)
        at = forecast_from(believed, case.hidden_sizes, level, kind)
        found = sizes_from(believed, case.targets.tolist(), level, kind) if case.targets.size else []
        needed = [[_or_never(size) for size in (one.low, one.value, one.high)] for one in found]
        open_ended = [one.status in OPEN_ENDED for one in found]
        return Answer(at.mean, at.low, at.high, np.reshape(needed, (-1, 3)), np.array(open_ended, dtype=bool))


def _or_never(size: float | None) -> float:
    return np.inf if size is None else size
