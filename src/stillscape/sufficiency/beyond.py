"""What more data would bring, by forecast: the next doubling, and the size at which doublings stop paying."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape.convergence import Curve
from stillscape.sufficiency import wording
from stillscape.sufficiency.curve_posterior import CurvePosterior
from stillscape.sufficiency.data_curve import (
    FEWEST_SIZES,
    VALIDATED,
    RequiredSize,
    believe,
    forecast_from,
    sizes_from,
    to_scores,
    where_it_lies,
)

_PER_DOUBLING = 4  # points of the grid
_DRAWN = 3  # doublings beyond the largest size that the report draws


@dataclass(frozen=True)
class _Paths:
    """Possible curves on a grid that doubles every `_PER_DOUBLING` points.

    Attributes:
        sizes: from the smallest measured one to half of `VALIDATED` times the largest, (G,).
        gains: of one doubling from each, positive for better, (draws, G).
    """

    sizes: Float[np.ndarray, " grid"]
    gains: Float[np.ndarray, "draws grid"]


def settling_size(
    sizes: ArrayLike, scores: ArrayLike, *, epsilon: float, level: float = 0.9, kind: str = "loss"
) -> RequiredSize:
    r"""Say from which size on every doubling gains at most epsilon, up to 8 times the largest size measured.

        k* = min{ k : |y(k') - y(2 k')| <= epsilon towards the better, for all k' >= k }

    on each of the curves that `forecast` believes possible.

    Args:
        sizes: measured sizes, at least 3, (K,).
        scores: (K,) or (K, R).
        epsilon: tolerance for one doubling, in the unit of the score.
        level: of the interval.
        kind: "loss" or "score".

    Returns:
        the size with its interval; "cannot_tell" where doublings may still pay at 4 times the largest size.

    Raises:
        InputError: as in `forecast`, or epsilon not above zero.

    Cost: some 50 ms.

    >>> sizes = 10 * 2 ** np.arange(8)
    >>> r = settling_size(sizes, 0.2 + 2.0 / sizes, epsilon=0.04)
    >>> r.status, 20 < r.value < 40  # 2 / k - 2 / (2 k) falls to 0.04 at k = 25
    ('reached', True)
    """
    _checks.positive("epsilon", epsilon)
    _checks.fraction("level", level)
    believed = believe(sizes, scores, kind)
    return _settling(_paths(believed, kind), epsilon, level, believed.last)


def outlook_beyond(
    metric: str, sizes: ArrayLike, scores: Float[np.ndarray, "repeats sizes"], question: Mapping
) -> tuple[dict, dict[str, Curve]] | None:
    """Forecast beyond the measured sizes, for the report.

    Args:
        metric: of the scores.
        sizes: measured sizes, (K,).
        scores: measured, for each repeat, (R, K).
        question: with "level", "epsilon" and "target" (or None).

    Returns:
        {"next_doubling", "required", "sentence"} and the curve of the forecast; None with too few sizes.

    Cost: that of `forecast` and of `settling_size`.
    """
    k, kind = np.asarray(sizes), "score" if wording.higher_is_better(metric) else "loss"
    table = np.asarray(scores, dtype=np.float64).T
    if k.size < FEWEST_SIZES or (kind == "loss" and np.any(table <= 0)):
        return None
    level, target = question["level"], question.get("target")
    believed = believe(k, table, kind)
    ahead = np.unique(np.round(k[-1] * 2.0 ** np.linspace(0, _DRAWN, 2 * _DRAWN + 1)).astype(int))
    seen = forecast_from(believed, ahead.astype(np.float64), level, kind)
    paths = _paths(believed, kind)
    doubling = _next_doubling(paths, float(k[-1]), level)
    if target is None:
        needed = _settling(paths, question["epsilon"], level, believed.last)
    else:
        needed = sizes_from(believed, [target], level, kind)[0]
    unit = "nats" if kind == "loss" else "share"
    curve = Curve(ahead, seen.mean, seen.low, seen.high, "forecast", unit)
    sentence = f"{_of_doubling(metric, doubling, level)} {_of_need(metric, needed, target, level)}"
    return {"next_doubling": doubling, "required": needed.to_dict(), "sentence": sentence}, {
        f"{metric}_forecast": curve
    }


def _paths(believed: CurvePosterior, kind: str) -> _Paths:
    steps = math.ceil(_PER_DOUBLING * -believed.x[0] / math.log(2))
    beyond = round(_PER_DOUBLING * math.log2(VALIDATED))
    # Whole steps back from the largest size, so that it is on the grid itself.
    grid = believed.last * 2.0 ** (np.arange(-steps, beyond + 1) / _PER_DOUBLING)
    values = to_scores(np.exp(believed.paths(grid)), kind)
    rises = values[:, _PER_DOUBLING:] - values[:, :-_PER_DOUBLING]
    return _Paths(grid[:-_PER_DOUBLING], rises if kind == "score" else -rises)


def _next_doubling(paths: _Paths, last: float, level: float) -> dict:
    gains = paths.gains[:, np.abs(np.log(paths.sizes / last)).argmin()]
    low, high = np.quantile(gains, [(1 - level) / 2, (1 + level) / 2])
    return {
        "from": round(last), "to": round(2 * last), "mean": float(gains.mean()), "low": float(low), "high": float(high)
    }  # fmt: skip


def _settling(paths: _Paths, epsilon: float, level: float, last: float) -> RequiredSize:
    settled = np.logical_and.accumulate((paths.gains <= epsilon)[:, ::-1], axis=1)[:, ::-1]
    first = np.where(settled.any(axis=1), settled.argmax(axis=1), paths.sizes.size)
    tail = (1 - level) / 2
    at = np.quantile(first, [tail, 0.5, 1 - tail], method="inverted_cdf").astype(int)
    low, value, high = (None if i == paths.sizes.size else float(paths.sizes[i]) for i in at)
    wanted = f"every doubling gains at most {epsilon:g}"
    if high is None:
        reason = f"at {VALIDATED // 2} times the largest size measured a doubling may still gain more than {epsilon:g}"
        return RequiredSize(value, low, None, "cannot_tell", level, epsilon, reason)
    assert value is not None
    status = where_it_lies(value, high, last)
    reason = {
        "reached": f"{wanted} from within the sizes measured",
        "cannot_tell": f"whether {wanted} lies within what the data leave open",
        "beyond": f"{wanted} from about {value / last:.2g} times the largest size measured",
    }[status]
    return RequiredSize(value, low, high, status, level, epsilon, reason)


def _of_doubling(metric: str, step: Mapping, level: float) -> str:
    change = wording.change(metric, step, level)
    return f"By forecast, the next doubling, to {wording.images(step['to'])}, would change {change}."


def _of_need(metric: str, needed: RequiredSize, target: float | None, level: float) -> str:
    if target is None:
        wanted = f"doublings that gain at most {wording.amount(metric, needed.target)}"
    else:
        wanted = f"{wording.value(metric, target)} in {wording.noun(metric)}"
    if needed.status == "unreachable":
        return f"More data of this kind would not reach {wanted}, however much."
    if needed.status == "cannot_tell":
        return f"How many images {wanted} would need can't be told: {needed.reason}."
    sizes = f"about {_round(needed.value)} ({wording.percent(level)} interval: {_round(needed.low)} to "
    return f"For {wanted} it would take {sizes}{_round(needed.high)} images)."


def _round(size: float | None) -> str:
    assert size is not None
    digits = 1 - math.floor(math.log10(size))
    return str(int(round(size, digits)))
