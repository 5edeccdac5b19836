"""Collecting in rounds, with a learnt correction: Mahmood et al., "How much more data do I need?" (CVPR 2022).

In each round a function is fitted to what was measured so far, the size at which it meets the target plus a correction
tau is collected, and the model is trained and scored there; it ends once the target is met, or after T rounds. Fits
ask for too little more often than not, so tau is learnt: the smallest at which enough problems of earlier data sets
end with their target met. Written from the paper's description; their own code is not published.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from cases import DataCurve
from rivals import Fit, Fitter, first_size, mahmood_fitters
from sklearn.isotonic import IsotonicRegression

from stillscape.sufficiency.data_curve import believe, sizes_from

GRID = 400  # sizes at which a fit is asked whether it meets the target
FARTHEST = 1e3  # times the largest size measured
LEAST_STEP = 1.05  # a round that asks for less than it has, though the target is not met, collects this much
ENOUGH = 0.9  # share of earlier problems that have to end with their target met
SHARES = (8, 4)  # at the start, a curve is known up to its largest size over this
DEPTHS = (0.25, 0.5, 0.75)  # of the gain that remains; targets
LEAST_GAIN = 0.005  # points of accuracy (or loss): where less is left to gain, there is no problem
Asks = Callable[[np.ndarray, np.ndarray, float], float]  # sizes (n,), scores (n, R), target -> size, infinite for never


@dataclass(frozen=True)
class Problem:
    """A curve known up to a size, and a score to reach.

    Attributes:
        curve: of scores.
        start: sizes known, a number of them.
        target: the score.
        needed: the smallest size at which the settled curve meets it.
    """

    curve: DataCurve
    start: int
    target: float
    needed: float


def settled(curve: DataCurve) -> np.ndarray:
    """Return the isotonic curve through the means, (K,)."""
    return IsotonicRegression(increasing=True).fit_transform(np.log(curve.sizes), curve.scores.mean(axis=1))


def problems_of(curves: Iterable[DataCurve]) -> list[Problem]:
    """Return every problem of every curve of scores."""
    found = []
    for curve in curves:
        truth = settled(curve)
        for share in SHARES:
            start = int(np.sum(curve.sizes <= curve.sizes[-1] / share * (1 + 1e-9)))
            left = truth[-1] - truth[start - 1] if start >= 4 else 0.0
            if left < LEAST_GAIN:
                continue
            for depth in DEPTHS:
                target = float(truth[start - 1] + depth * left)
                found.append(Problem(curve, start, target, size_meeting(curve.sizes, truth, target)))
    return found


def size_meeting(sizes: np.ndarray, truth: np.ndarray, target: float) -> float:
    """Return where a rising curve, straight in the log of the size, meets a target; infinite where it does not.

    >>> round(size_meeting(np.array([100.0, 400.0]), np.array([0.5, 0.7]), 0.6))
    200
    """
    return float(first_size(sizes, -truth[:, None], -target)[0])


def measured_at(curve: DataCurve, size: float) -> np.ndarray:
    """Return the scores of all repeats at a size, straight lines in the log of the size between those measured."""
    return np.array([np.interp(np.log(size), np.log(curve.sizes), column) for column in curve.scores.T])


def collect(problem: Problem, asks: Asks, rounds: int) -> tuple[float, bool, bool]:
    """Return the size at the end, whether the target is met there, and whether more than there is was asked for."""
    curve, truth = problem.curve, settled(problem.curve)
    sizes, scores = curve.sizes[: problem.start], curve.scores[: problem.start]
    too_much = False
    for _ in range(rounds):
        asked = max(asks(sizes, scores, problem.target), sizes[-1] * LEAST_STEP)
        too_much |= asked > curve.sizes[-1] * (1 + 1e-9)
        size = float(min(np.ceil(asked), curve.sizes[-1]))
        met = np.interp(np.log(size), np.log(curve.sizes), truth) >= problem.target - 1e-12
        if met or size == curve.sizes[-1]:
            return size, bool(met), too_much
        sizes, scores = np.append(sizes, size), np.vstack([scores, measured_at(curve, size)])
    return size, False, too_much


def by_fit(fitter: Fitter, tau: float) -> Asks:
    """Return who asks for the size at which a fit meets the target plus tau; no target lies beyond the last error."""

    def asks(sizes: np.ndarray, scores: np.ndarray, target: float) -> float:
        fit: Fit = fitter(sizes, 1 - scores.mean(axis=1)[:, None])
        at = np.geomspace(sizes[0], FARTHEST * sizes[-1], GRID)
        return float(first_size(at, fit.at(at), 1 - target - tau)[0])

    return asks


def by_forecast(quantile: float) -> Asks:
    """Return who asks for a quantile of the size that Stillscape's forecast says is required; 0.5 is its value."""
    level = abs(2 * quantile - 1)

    def asks(sizes: np.ndarray, scores: np.ndarray, target: float) -> float:
        found = sizes_from(believe(sizes, scores, "score"), [target], level or 0.5, "score")[0]
        size = found.value if level == 0 else found.high
        return np.inf if size is None else size

    return asks


#: By name: who asks, given its correction, and the corrections that are tried, smallest first. The first is none.
COLLECTORS: dict[str, tuple[Callable[[float], Asks], list[float]]] = {
    "stillscape: a quantile of the required size": (by_forecast, [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.975])
} | {
    f"Mahmood 2022, {name}": (lambda tau, fitter=fitter: by_fit(fitter, tau), np.arange(0, 0.1205, 0.002).tolist())
    for name, fitter in mahmood_fitters().items()
}


def outcomes(problems: list[Problem], asks: Asks, rounds: int) -> dict[str, np.ndarray]:
    """Return for each problem whether it failed, the size collected over the one needed, and if too much was asked."""
    found = [collect(problem, asks, rounds) for problem in problems]
    return {
        "failed": np.array([not met for _, met, _ in found]),
        "ratio": np.array([size / problem.needed for (size, _, _), problem in zip(found, problems, strict=True)]),
        "too_much": np.array([much for _, _, much in found]),
    }


def learnt(problems: list[Problem], name: str, rounds: int) -> float:
    """Return the smallest correction at which enough problems end with their target met; the largest if none does.

    Every curve counts the same, however many problems it gives.
    """
    make, tried = COLLECTORS[name]
    for correction in tried:
        if 1 - by_curve(problems, outcomes(problems, make(correction), rounds)["failed"]).mean() >= ENOUGH:
            return correction
    return tried[-1]


def by_curve(problems: list[Problem], values: np.ndarray) -> np.ndarray:
    """Return the mean of each curve's problems, in the order of the curves' names."""
    names = np.array([problem.curve.name for problem in problems])
    return np.array([values[names == name].mean() for name in np.unique(names)])
