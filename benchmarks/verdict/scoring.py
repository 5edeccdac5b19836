"""How good a forecast is: its error, its interval, and the same for the sizes it says are needed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from cases import Case

DRAWS = 2000
NEVER = 1e4  # times the largest size seen: an end that is infinite is charged as this


@dataclass(frozen=True)
class Answer:
    """What an estimator says of a case.

    Attributes:
        mean: at the hidden sizes, (H,).
        low: ends of the interval there.
        high: likewise.
        needed: for each target a triple low, value, high; infinite where there is none.
        open_ended: for each target whether the estimator itself says that it can give no upper end.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    needed: np.ndarray
    open_ended: np.ndarray


Estimator = Callable[[Case, float], Answer]


def score(case: Case, answer: Answer, level: float) -> dict:
    """Return one row of figures; interval scores as in Gneiting and Raftery (2007), section 6.2."""
    truth, weight = case.hidden_scores, 2 / (1 - level)
    row = {
        "domain": case.curve.domain,
        "dataset": case.curve.dataset,
        "curve": case.curve.name,
        "horizon": case.horizon,
        "few": case.few,
        "rmse": float(np.sqrt(np.mean((answer.mean - truth) ** 2))),
        "bias": float(np.mean(answer.mean - truth)),
        "covered": float(np.mean((truth >= answer.low) & (truth <= answer.high))),
        "width": float(np.mean(answer.high - answer.low)),
        "log_interval_score": float(np.log(np.mean(_interval_score(answer.low, answer.high, truth, weight)))),
    }
    return row | (_size_figures(case, answer, weight) if case.targets.size else {})


def _size_figures(case: Case, answer: Answer, weight: float) -> dict:
    farthest = np.log(case.sizes[-1] * NEVER)
    low, value, high = np.minimum(np.log(np.maximum(answer.needed, 1.0)), farthest).T
    truth = np.log(case.needed)
    off = np.abs(value - truth)
    return {
        "within_1.25": float(np.mean(off <= np.log(1.25))),
        "within_2": float(np.mean(off <= np.log(2))),
        "log2_ratio": float(np.mean((value - truth) / np.log(2))),
        "size_covered": float(np.mean((answer.needed[:, 0] <= case.needed) & (case.needed <= answer.needed[:, 2]))),
        "open_ended": float(np.mean(answer.open_ended)),
        "size_interval_score": float(np.mean(_interval_score(low, high, truth, weight))),
    }


def _interval_score(low: np.ndarray, high: np.ndarray, truth: np.ndarray, weight: float) -> np.ndarray:
    return high - low + weight * (np.maximum(low - truth, 0) + np.maximum(truth - high, 0))


def score_all(estimator: Estimator, cases: list[Case], level: float = 0.9) -> pd.DataFrame:
    """Return the figures of every case."""
    return pd.DataFrame([score(case, estimator(case, level), level) for case in cases])


def mean_interval(values: np.ndarray, clusters: np.ndarray, level: float = 0.9) -> list[float]:
    """Return the interval of a mean by a bootstrap over clusters, which are drawn whole: what is in one goes together.

    >>> mean_interval(np.array([0.0, 0.0, 1.0, 1.0]), np.array(["a", "a", "b", "b"]))
    [0.0, 1.0]
    """
    generator, names = np.random.default_rng(0), np.unique(clusters)
    sums = np.array([[values[clusters == name].sum(), np.sum(clusters == name)] for name in names])
    drawn = sums[generator.integers(names.size, size=(DRAWS, names.size))].sum(axis=1)
    return np.quantile(drawn[:, 0] / drawn[:, 1], [(1 - level) / 2, (1 + level) / 2]).tolist()
