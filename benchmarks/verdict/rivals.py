"""Rivals, written from their papers: plain curve fits with the interval of a residual bootstrap.

All but M4 are y = E + A g(k) with E, A >= 0 and a shape g from a fine grid, fitted by least squares (variable
projection), so that a fit can't end in a bad local minimum. Two names often stand for one form: POW4 of LCDB is the
power of a shifted size, MMF4 is the rectified law of fine-tuning curves.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cases import Case
from scoring import NEVER, Answer

DRAWS = 100  # of the bootstrap
GRID = 120  # sizes at which a target is sought


@dataclass(frozen=True)
class Fit:
    """Fitted curves, one for each column of the data.

    Attributes:
        at: from sizes (H,) to losses (H, B).
    """

    at: Callable[[np.ndarray], np.ndarray]


Fitter = Callable[[np.ndarray, np.ndarray], Fit]  # sizes (n,), losses (n, B)


def rival(fitter: Fitter, parameters: int, seed: int = 0) -> Callable[[Case, float], Answer]:
    """Return an estimator: the fit, and quantiles of a residual bootstrap with the noise of a measurement added."""

    def answer(case: Case, level: float) -> Answer:
        losses = _losses(case)
        plain = fitter(case.sizes, losses[:, None])
        fitted = plain.at(case.sizes)[:, 0]
        residuals = losses - fitted
        scale = np.sqrt(losses.size / max(losses.size - parameters, 1))
        generator = np.random.default_rng(seed)
        drawn = generator.choice(residuals - residuals.mean(), (losses.size, DRAWS)) * scale
        refitted = fitter(case.sizes, np.maximum(fitted[:, None] + drawn, 1e-9))
        noise = generator.choice(residuals - residuals.mean(), (case.hidden_sizes.size, DRAWS)) * scale
        bands = refitted.at(case.hidden_sizes) + noise
        return _answer(case, level, plain, refitted, bands)

    return answer


def last_value(case: Case, level: float) -> Answer:
    """Say that nothing will change; the interval is that of a random walk in log size with the steps seen so far."""
    losses, x = _losses(case), np.log(case.sizes)
    spread = np.sqrt(np.mean(np.diff(losses) ** 2 / np.diff(x)))
    generator = np.random.default_rng(0)
    steps = generator.standard_normal((1, DRAWS))
    still = Fit(lambda k: np.full((np.size(k), 1), losses[-1]))
    moving = Fit(lambda k: losses[-1] + spread * np.sqrt(np.maximum(np.log(np.asarray(k)) - x[-1], 0))[:, None] * steps)
    return _answer(case, level, still, moving, moving.at(case.hidden_sizes))


def _answer(case: Case, level: float, plain: Fit, refitted: Fit, bands: np.ndarray) -> Answer:
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = np.quantile(bands, tails, axis=1)
    mean = plain.at(case.hidden_sizes)[:, 0]
    if case.curve.kind == "score":
        mean, ends = 1 - mean, 1 - ends[::-1]
    sizes = np.geomspace(case.sizes[0], NEVER * case.sizes[-1], GRID)
    goals = case.targets if case.curve.kind == "loss" else 1 - case.targets
    of_fit, of_draws = plain.at(sizes), refitted.at(sizes)
    needed = [_needed(sizes, of_fit, of_draws, goal, tails) for goal in goals]
    table = np.reshape(needed, (-1, 3))
    # None of them says when its upper end is infinite, but for the fit that never comes down to the target at all.
    return Answer(mean, ends[0], ends[1], table, np.isinf(table[:, 1]))


def _needed(
    sizes: np.ndarray, of_fit: np.ndarray, of_draws: np.ndarray, goal: float, tails: list[float]
) -> tuple[float, float, float]:
    first = first_size(sizes, of_draws, goal)
    low, high = np.quantile(first, tails, method="inverted_cdf")
    return float(low), float(first_size(sizes, of_fit, goal)[0]), float(high)


def first_size(sizes: np.ndarray, curves: np.ndarray, goal: float) -> np.ndarray:
    """Return the size at which each falling curve, (K, B), first meets the goal, straight in the log of the size."""
    met = curves <= goal
    at = met.argmax(axis=0)
    columns = np.arange(curves.shape[1])
    before = np.maximum(at - 1, 0)
    high, low = curves[before, columns], curves[at, columns]
    share = np.where(high > low, (high - goal) / np.where(high > low, high - low, 1.0), 0.0)
    found = np.exp(np.log(sizes[before]) + np.clip(share, 0, 1) * (np.log(sizes[at]) - np.log(sizes[before])))
    return np.where(met.any(axis=0), found, np.inf)


def _losses(case: Case) -> np.ndarray:
    means = case.scores.mean(axis=1)
    return np.maximum(means if case.curve.kind == "loss" else 1 - means, 1e-9)


def _projected(shapes: Callable[[np.ndarray], np.ndarray], *, weigh: bool = False) -> Fitter:
    """Return a fitter of E + A g; `shapes` takes relative sizes and returns g for every point of the grid, (G, n)."""

    def fit(sizes: np.ndarray, losses: np.ndarray) -> Fit:
        weights = np.arange(1, sizes.size + 1) / sizes.size if weigh else np.ones(sizes.size)
        g = shapes(sizes / sizes[-1])
        total, of_g, of_gg = weights.sum(), g @ weights, (g * g) @ weights
        of_y, of_gy, of_yy = weights @ losses, (g * weights) @ losses, weights @ losses**2
        spread = of_gg - of_g**2 / total
        slope = (of_gy - np.outer(of_g, of_y) / total) / np.maximum(spread, 1e-300)[:, None]
        level = (of_y - of_g[:, None] * slope) / total
        slope = np.where(level < 0, of_gy / of_gg[:, None], slope)
        level = np.where(slope < 0, of_y / total, np.maximum(level, 0.0))
        slope = np.maximum(slope, 0.0)
        squares = (
            of_yy + total * level**2 + of_gg[:, None] * slope**2
            - 2 * level * of_y - 2 * slope * of_gy + 2 * level * slope * of_g[:, None]
        )  # fmt: skip
        best = squares.argmin(axis=0)
        columns = np.arange(losses.shape[1])
        a, e = slope[best, columns], level[best, columns]
        return Fit(lambda k: e + a * shapes(np.asarray(k, dtype=np.float64) / sizes[-1])[best].T)

    return fit


def _mesh(*axes: np.ndarray) -> list[np.ndarray]:
    return [axis.reshape(-1, 1) for axis in np.meshgrid(*axes, indexing="ij")]


_EXPONENTS = np.geomspace(0.02, 3, 60)
_PLACES = np.r_[0.0, np.geomspace(1e-4, 10, 25)]  # over the largest size seen
_SHARPNESS = np.geomspace(0.3, 4, 5)


def _power(k: np.ndarray) -> np.ndarray:
    return k[None] ** -_EXPONENTS[:, None]


def _shifted(k: np.ndarray) -> np.ndarray:
    shift, b = _mesh(_PLACES, _EXPONENTS)
    return ((k[None] + shift) / (1 + shift)) ** -b


def _m3(k: np.ndarray) -> np.ndarray:
    gamma, c = _mesh(np.r_[0.0, np.geomspace(1e-3, 1e3, 25)], _EXPONENTS)
    return ((1 / k[None] + gamma) / (1 + gamma)) ** c


def _rectified(k: np.ndarray) -> np.ndarray:
    place, d = _mesh(_PLACES[1:], _EXPONENTS)
    return 1 / (1 + (k[None] / place) ** d)


def _arctan(k: np.ndarray) -> np.ndarray:
    place, shift = _mesh(np.geomspace(1e-3, 10, 30), np.linspace(-2, 4, 13))
    return np.pi / 2 - np.arctan(k[None] / place + shift)


def _root(k: np.ndarray) -> np.ndarray:
    place, sharpness = _mesh(np.geomspace(1e-3, 10, 30), np.geomspace(0.1, 4, 20))
    u = k[None] / place
    return 1 - u / (1 + u**sharpness) ** (1 / sharpness)


def _broken(k: np.ndarray) -> np.ndarray:
    c0, c1, d, a = _mesh(np.geomspace(0.02, 1.5, 8), np.linspace(-0.5, 1.5, 9), np.geomspace(1e-3, 1, 8), _SHARPNESS)
    return k[None] ** -c0 * (1 + (k[None] / d) ** a) ** (-c1 / a)


def _log_power(sizes: np.ndarray, losses: np.ndarray) -> Fit:
    design = np.column_stack([np.ones(sizes.size), np.log(sizes)])
    solution = np.linalg.lstsq(design, np.log(losses), rcond=None)[0]
    return Fit(lambda k: np.exp(np.column_stack([np.ones(np.size(k)), np.log(k)]) @ solution))


def _logarithm(sizes: np.ndarray, losses: np.ndarray) -> Fit:
    design = np.column_stack([np.ones(sizes.size), np.log(sizes)])
    solution = np.linalg.lstsq(design, losses, rcond=None)[0]
    return Fit(lambda k: np.maximum(np.column_stack([np.ones(np.size(k)), np.log(k)]) @ solution, 0.0))


def _m4(sizes: np.ndarray, losses: np.ndarray) -> Fit:
    """(y - E) / (E_0 - y)^alpha = beta k^-c, E_0 the loss of knowing nothing, taken 2 % above the largest seen."""
    top = 1.02 * losses.max(axis=0)
    c, alpha = (axis[..., None] for axis in _mesh(np.geomspace(0.05, 2, 24), np.linspace(0, 2.5, 11)))
    k = (sizes / sizes[-1])[None, :, None]
    g = k**-c * (top - losses)[None] ** alpha
    mean_g, mean_y = g.mean(axis=1), losses.mean(axis=0)
    slope = ((g - mean_g[:, None]) * (losses - mean_y)).sum(axis=1)
    slope = np.maximum(slope / np.maximum(((g - mean_g[:, None]) ** 2).sum(axis=1), 1e-300), 0.0)
    floor = np.maximum(mean_y - slope * mean_g, 0.0)
    squares = ((losses - floor[:, None] - slope[:, None] * g) ** 2).sum(axis=1)
    best, columns = squares.argmin(axis=0), np.arange(losses.shape[1])
    e, beta, c, alpha = floor[best, columns], slope[best, columns], c[best, 0, 0], alpha[best, 0, 0]

    def at(asked: np.ndarray) -> np.ndarray:
        pull = beta * (np.asarray(asked) / sizes[-1])[:, None] ** -c
        low, high = np.broadcast_to(e, pull.shape).copy(), np.broadcast_to(top, pull.shape).copy()
        for _ in range(50):  # y - E - pull (E_0 - y)^alpha rises with y, so halving finds its one root
            middle = (low + high) / 2
            above = middle - e > pull * np.maximum(top - middle, 0) ** alpha
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return (low + high) / 2

    return Fit(at)


def mahmood_fitters() -> dict[str, Fitter]:
    """Return the four functions of Mahmood et al. (2022), in their losses."""
    return {
        "power law": _projected(_power),
        "arctan": _projected(_arctan),
        "logarithm": _logarithm,
        "algebraic root": _projected(_root),
    }


#: By name, with what it stands for; the number is that of free parameters.
RIVALS: dict[str, Callable[[Case, float], Answer]] = {
    "last value": last_value,
    "power": rival(_log_power, 2),
    "power + constant": rival(_projected(_power), 3),
    "power + constant, weighted (Figueroa 2012)": rival(_projected(_power, weigh=True), 3),
    "shifted power (POW4)": rival(_projected(_shifted), 4),
    "M3 (Alabdulmohsin 2022)": rival(_projected(_m3), 4),
    "M4 (Alabdulmohsin 2022)": rival(_m4, 5),
    "rectified law (Lin 2024; MMF4)": rival(_projected(_rectified), 4),
    "broken power law (Caballero 2023)": rival(_projected(_broken), 6),
    "arctan (Mahmood 2022)": rival(_projected(_arctan), 4),
    "logarithm": rival(_logarithm, 2),
}
