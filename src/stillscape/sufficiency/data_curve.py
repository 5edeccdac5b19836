"""What a data curve will do beyond the data at hand, and how much data a target needs: from scores alone."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError
from stillscape._notebook import forecast_html, required_html
from stillscape.sufficiency import wording
from stillscape.sufficiency.curve_posterior import CurvePosterior, curve_posterior
from stillscape.sufficiency.curve_prior import load_prior
from stillscape.sufficiency.doublings import check_sizes

KINDS = ("loss", "score")
FEWEST_SIZES = 3
FARTHEST = 1e4  # times the largest measured size; a target not met by then is as good as never met
VALIDATED = 8  # times the largest measured size; farther out no interval was ever held against what came
_PER_DOUBLING = 6  # points of the grid on which sizes are sought; between them the curve is straight in logs
_ROUND_OFF = 1e-9  # of a size that went through logarithms and back
_LEAST_ERROR = 1e-4  # of a perfect score; no held-out set of fewer than ten thousand images can tell it from none


@dataclass(frozen=True)
class Forecast:
    """Scores at sizes that may lie beyond those measured.

    Attributes:
        sizes: what was asked for, (A,).
        mean: expected score as it would be measured, (A,).
        low: lower end of the interval for a score measured like those given, (A,).
        high: upper end, (A,).
        level: of the interval.
        kind: "loss" or "score".
        status: "ok", or "too_far" where a size lies farther out than intervals were ever checked.
        reason: why.
    """

    sizes: Float[np.ndarray, " sizes"]
    mean: Float[np.ndarray, " sizes"]
    low: Float[np.ndarray, " sizes"]
    high: Float[np.ndarray, " sizes"]
    level: float
    kind: str
    status: str
    reason: str

    def to_dict(self) -> dict:
        """Return plain values for JSON."""
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in asdict(self).items()}

    def _repr_html_(self) -> str:
        return forecast_html(self)


@dataclass(frozen=True)
class RequiredSize:
    """How much data a target needs.

    Attributes:
        value: the size that is as likely too small as too large; None where there is none.
        low: lower end of its interval; None where there is none.
        high: upper end; None where none can be given, and then the status is not "reached" or "beyond".
        status: "reached" within the measured sizes; "beyond" them; "unreachable" with the probability asked for;
            "cannot_tell" where it may or may not be reached.
        level: of the interval.
        target: what was asked for.
        reason: why.
    """

    value: float | None
    low: float | None
    high: float | None
    status: str
    level: float
    target: float
    reason: str

    def to_dict(self) -> dict:
        """Return plain values for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        return required_html(self)


def forecast(
    sizes: ArrayLike,
    scores: ArrayLike,
    at: ArrayLike,
    *,
    level: float = 0.9,
    kind: str = "loss",
    prior: Mapping[str, float] | None = None,
) -> Forecast:
    r"""Forecast a score at larger sizes from what was measured at smaller ones.

        y(k) = A (c + g(k)) * e^{strays(k)} * e^{noise},   y the loss, or one less the score

    g runs through forms that bend once between two power laws (see `Forms`: power law with and without constant,
    shifted, the rectified law with its pre-power phase, a steep start that slows down), each weighted by how well it
    forecasts every measured size from those before it. What strays from all of them is a Wiener process in log k, so
    that the forecast starts from the last measurements and its interval widens with the horizon. It is not monotone
    unless the data say so. The prior was fitted to published curves of other tasks; its numbers, their source and the
    measured coverage stand in benchmarks/verdict.

    Args:
        sizes: measured sizes, at least 3, in any order, (K,).
        scores: (K,), or (K, R) with R repeats; NaN where a repeat is missing.
        at: sizes to forecast, (A,).
        level: of the interval.
        kind: "loss" (above 0, lower is better) or "score" (in [0, 1], higher is better).
        prior: numbers in place of those that ship, for whoever fits new ones.

    Returns:
        the forecast; the interval is for a score measured as those given are, with as many repeats.

    Raises:
        InputError: too few sizes, shapes that don't fit, scores out of range, or a level outside 0..1.

    Cost: some 20 ms.

    >>> sizes = 10 * 2 ** np.arange(8)
    >>> f = forecast(sizes, 0.1 + 2.0 / sizes**0.5, at=[2560])
    >>> float(abs(f.mean[0] - (0.1 + 2.0 / 2560**0.5))) < 0.004, bool(f.low[0] < f.mean[0] < f.high[0])
    (True, True)
    """
    _checks.fraction("level", level)
    asked = _checks.finite_vector("at", np.atleast_1d(np.asarray(at, dtype=np.float64)))
    if np.any(asked <= 0):
        raise InputError(f"at holds {asked.min():g}; every size must be above zero.")
    return forecast_from(believe(sizes, scores, kind, prior), asked, level, kind)


def required_size(
    sizes: ArrayLike,
    scores: ArrayLike,
    *,
    target: float,
    level: float = 0.9,
    kind: str = "loss",
    prior: Mapping[str, float] | None = None,
) -> RequiredSize:
    """Say how much data a target needs: the first size at which the curve itself, without noise, meets it.

    Args:
        sizes: measured sizes, at least 3, in any order, (K,).
        scores: (K,), or (K, R) with R repeats; NaN where a repeat is missing.
        target: the score to meet.
        level: of the interval.
        kind: "loss" (above 0, lower is better) or "score" (in [0, 1], higher is better).
        prior: as in `forecast`.

    Returns:
        the size with its interval and status. It never shrinks when the target gets harder.

    Raises:
        InputError: as in `forecast`, or a target that is not finite, or outside [0, 1] for a score.

    Cost: some 50 ms.

    >>> sizes = 10 * 2 ** np.arange(8)
    >>> r = required_size(sizes, 2.0 / sizes**0.5, target=2.0 / 2560**0.5)
    >>> r.status, abs(math.log2(r.value / 2560)) < 0.2
    ('beyond', True)
    """
    _checks.fraction("level", level)
    return sizes_from(believe(sizes, scores, kind, prior), [target], level, kind)[0]


def forecast_from(believed: CurvePosterior, asked: np.ndarray, level: float, kind: str) -> Forecast:
    """Return the forecast that a posterior makes; for whoever asks one posterior several things."""
    drawn = to_scores(np.exp(believed.scores(asked)), kind)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    status, reason = _how_far(float(asked.max()), believed.last)
    return Forecast(asked, drawn.mean(axis=0), low, high, level, kind, status, reason)


def sizes_from(believed: CurvePosterior, targets: Iterable[float], level: float, kind: str) -> list[RequiredSize]:
    """Return the sizes that a posterior asks for; for whoever asks one posterior several things."""
    first = believed.last * math.exp(believed.x[0])
    grid = _grid(first, FARTHEST * believed.last)
    paths, tail, found = believed.paths(grid), (1 - level) / 2, []
    for target in targets:
        met = _first_met(np.log(grid), paths, _log_loss_goal(target, kind))
        low, value, high = (_size(quantile) for quantile in _quantiles(met, [tail, 0.5, 1 - tail]))
        never = float(np.mean(np.isinf(met)))
        found.append(_answer(target, level, kind, (low, value, high), (first, believed.last), never))
    return found


def believe(sizes: ArrayLike, scores: ArrayLike, kind: str, prior: Mapping[str, float] | None = None) -> CurvePosterior:
    """Return the posterior of the curve, from scores of any kind, their repeats averaged."""
    _checks.one_of("kind", kind, KINDS)
    k, table = _table(sizes, scores)
    _check_range(table, kind)
    counts = np.isfinite(table).sum(axis=1)
    if not counts.all():
        raise InputError(f"scores has no number at size {k[counts == 0][0]}; leave that size out.")
    mean = np.nanmean(table, axis=1)
    losses, least = mean, 0.0
    if kind == "score":
        losses = 1 - mean
        above = losses[losses > 0]
        least = max(_LEAST_ERROR, float(above.min()) / 2 if above.size else 0.0)
        losses = np.maximum(losses, least)
    prior = prior or load_prior()
    relative = (losses[-1] / losses) ** prior["noise_power"] * counts.mean() / counts
    deviations = (table - mean[:, None]) / losses[:, None]
    squares = np.nansum(deviations**2, axis=1) / counts / relative
    measured = float((counts - 1).sum()), float(squares.sum())
    return curve_posterior(k.astype(np.float64), losses, prior=prior, relative_noise=relative, measured_noise=measured)


def _table(sizes: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    k, table = np.asarray(sizes), np.asarray(scores, dtype=np.float64)
    if k.ndim != 1 or table.ndim not in (1, 2) or table.shape[0] != k.size:
        raise InputError(
            f"sizes has shape {k.shape} and scores {table.shape}; they must be (K,), and (K,) or (K, repeats)."
        )
    if k.size < FEWEST_SIZES:
        raise InputError(
            f"sizes has {k.size} entries; at least {FEWEST_SIZES} are needed to see where a curve is going. "
            "Measure at one more size, such as half of the smallest."
        )
    order = np.argsort(k, kind="stable")
    return check_sizes(k[order]), table.reshape(k.size, -1)[order]


def _check_range(table: np.ndarray, kind: str) -> None:
    values = table[~np.isnan(table)]
    if not np.isfinite(values).all():
        raise InputError("scores holds a number that is not finite; leave failed runs out (NaN where one is missing).")
    if kind == "loss" and np.any(values <= 0):
        raise InputError(f"scores holds {values.min():g}; a loss must be above zero. For accuracies say kind='score'.")
    if kind == "score" and (np.any(values < 0) or np.any(values > 1)):
        outside = values[(values < 0) | (values > 1)][0]
        raise InputError(f"scores holds {outside:g}; a score must lie in [0, 1]. Divide percentages by 100.")


def _log_loss_goal(target: float, kind: str) -> float:
    """Return the target as a log loss."""
    _checks.one_of("kind", kind, KINDS)
    value = float(_checks.finite_vector("target", [target])[0])
    if kind == "score":
        if not 0 <= value <= 1:
            raise InputError(f"target is {target!r}; a score to meet must lie in [0, 1]. Divide percentages by 100.")
        return math.log(1 - value) if value < 1 else -math.inf
    return math.log(value) if value > 0 else -math.inf


def to_scores(losses: np.ndarray, kind: str) -> np.ndarray:
    return losses if kind == "loss" else 1 - np.minimum(losses, 1.0)


def _grid(first: float, last: float) -> np.ndarray:
    return np.geomspace(first, last, 1 + math.ceil(_PER_DOUBLING * math.log2(last / first)))


def _first_met(log_sizes: np.ndarray, paths: np.ndarray, goal: float) -> np.ndarray:
    """Return for each path the log size at which it first comes down to the goal; infinity where it never does."""
    met = paths <= goal
    at = np.where(met.any(axis=1), met.argmax(axis=1), 0)
    found = np.where(met[:, 0], log_sizes[0], np.inf)
    later = np.flatnonzero(at > 0)
    before, after = paths[later, at[later] - 1], paths[later, at[later]]
    step = log_sizes[at[later]] - log_sizes[at[later] - 1]
    found[later] = log_sizes[at[later] - 1] + step * (before - goal) / (before - after)
    return found


def _quantiles(values: np.ndarray, shares: list[float]) -> np.ndarray:
    # A quantile that is one of the values needs no arithmetic with infinity.
    return np.quantile(values, shares, method="inverted_cdf")


def _size(log_size: float) -> float | None:
    # Ten digits: a size that lies on the grid should come back as it went in.
    return None if math.isinf(log_size) else float(f"{math.exp(log_size):.10g}")


def _answer(
    target: float,
    level: float,
    kind: str,
    ends: tuple[float | None, float | None, float | None],
    measured: tuple[float, float],
    never: float,
) -> RequiredSize:
    (low, value, high), (first, last) = ends, measured
    wanted = f"{'a loss' if kind == 'loss' else 'a score'} of {target:g}"
    if low is None:
        reason = f"{wanted} is out of reach of more data: even {FARTHEST:g} times as much would leave the curve short"
        return RequiredSize(None, None, None, "unreachable", level, target, reason)
    if high is None:
        chance = wording.percent(round(never, 2))
        reason = f"with a probability of {chance} {wanted} is never met, however much data are added"
        return RequiredSize(value, low, None, "cannot_tell", level, target, reason)
    assert value is not None
    status = where_it_lies(value, high, last)
    if status == "reached":
        where = (
            "already at the smallest size measured" if high <= first * (1 + _ROUND_OFF) else "within the sizes measured"
        )
        reason = f"{wanted} is met {where}"
    elif status == "cannot_tell":
        reason = f"{wanted} is so near to what the largest size reached that the noise decides"
    else:
        reason = f"{wanted} needs about {value / last:.2g} times the largest size measured"
        if high > VALIDATED * last:
            reason += f"; beyond {VALIDATED} times no interval was ever checked"
    return RequiredSize(value, low, high, status, level, target, reason)


def where_it_lies(value: float, high: float, last: float) -> str:
    """Return the status of a size that has an interval: "reached", "beyond" or "cannot_tell".

    >>> where_it_lies(50, 90, 100), where_it_lies(90, 200, 100), where_it_lies(150, 200, 100)
    ('reached', 'cannot_tell', 'beyond')
    """
    at_most = last * (1 + _ROUND_OFF)
    if high <= at_most:
        return "reached"
    return "cannot_tell" if value <= at_most else "beyond"


def _how_far(farthest: float, last: float) -> tuple[str, str]:
    times = farthest / last
    if times > VALIDATED:
        return "too_far", (
            f"{farthest:g} is {times:.3g} times the largest size measured; beyond {VALIDATED} times no interval was "
            "ever checked. Measure at a larger size"
        )
    return "ok", f"up to {max(times, 1.0):.3g} times the largest size measured"
