"""What is believed of a data curve once some of its sizes are measured: weighted forms, and what strays from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.special import stdtrit

from stillscape.sufficiency.curve_prior import Forms, draw_forms, uniforms

FORMS = 1 << 12
KEPT = 400  # candidates with the largest weights; the others together weigh next to nothing
DRAWS = 2048


@dataclass(frozen=True)
class _Straying:
    """Candidates that share one strength of straying; what the data say of each form's level and scale."""

    strength: float
    covariance: np.ndarray  # (n, n), in units of the noise variance
    precision_of_level: float
    levels: np.ndarray  # (J,) posterior mean of log A
    scales: np.ndarray  # (J,) rate of the inverse gamma of the noise variance
    log_weights: np.ndarray  # (J,)


@dataclass(frozen=True)
class CurvePosterior:
    r"""Beliefs about log y at every size, given measurements at some.

        log y(k) = log A + form(k) + strength * sigma * W(log k) + sigma * noise,   W a Wiener process

    log A has a flat prior, sigma^2 an inverse gamma, forms and strengths a discrete one: every integral is closed. A
    candidate's weight is its marginal likelihood, which is the product of its one-step-ahead forecasts of the measured
    sizes, each given those before it. Attributes are those of the candidates that were kept.

    Attributes:
        last: largest measured size.
        x: log(k / last) of the measured sizes, (n,).
        forms: of the candidates, (J,).
        strengths: number of the strength of each candidate, (J,).
        weights: that sum to 1, (J,).
        levels: log A, (J,).
        variances: of the noise, (J,).
        residuals: log measurements less form and level, (J, n).
        dof: degrees of freedom of Student's t.
        straying: for each strength, what its candidates share.
        prior: the numbers it rests on.
    """

    last: float
    x: np.ndarray
    forms: Forms
    strengths: np.ndarray
    weights: np.ndarray
    levels: np.ndarray
    variances: np.ndarray
    residuals: np.ndarray
    dof: float
    straying: tuple[_Straying, ...]
    prior: Mapping[str, float]

    def scores(self, sizes: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, "draws sizes"]:
        """Return draws of log y as it would be measured; each size's draws don't depend on which others are asked."""
        mean, variance, x = self._moments(sizes)
        points = uniforms(DRAWS, 2, seed=1)
        chosen = self._candidates(points[:, 0])
        noise = self.variances * self.prior["noise_factor"] ** 2 + self.prior["least_noise"] ** 2
        spread = variance[chosen] + self._drift(x)[None] + noise[chosen, None]
        return mean[chosen] + np.sqrt(spread) * stdtrit(self.dof, points[:, 1])[:, None]

    def paths(self, sizes: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, "draws sizes"]:
        """Return draws of the curve itself, without noise: sizes of one draw belong to one curve."""
        mean, _, x = self._moments(sizes)
        chosen = self._candidates((np.arange(DRAWS) + 0.5) / DRAWS)
        own, common = _normals(x.size)
        stretch = np.sqrt(self.dof / np.random.default_rng(1).chisquare(self.dof, DRAWS))[:, None]
        drift = np.cumsum(common * np.sqrt(np.diff(self._drift(x), prepend=0.0).clip(0)), axis=1)
        found = np.empty((DRAWS, x.size))
        for number, shared in enumerate(self.straying):
            of_it = np.flatnonzero(self.strengths[chosen] == number)
            if of_it.size:
                sd = np.sqrt(self.variances[chosen[of_it]])[:, None]
                strays = sd * (own[of_it] @ _root(self._predictive(shared, x)[1]).T)
                found[of_it] = mean[chosen[of_it]] + stretch[of_it] * (strays + drift[of_it])
        return found

    def _candidates(self, u: np.ndarray) -> np.ndarray:
        return np.minimum(np.searchsorted(np.cumsum(self.weights), u), self.weights.size - 1)

    def _drift(self, x: np.ndarray) -> np.ndarray:
        """Return the variance that any forecast gains with its horizon, on top of what this curve has shown."""
        return self.prior["drift"] ** 2 * np.maximum(x, 0.0) ** self.prior["drift_power"]

    def _moments(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = np.log(np.asarray(sizes, dtype=np.float64) / self.last)
        mean = self.forms.log_curves(x) + self.levels[:, None]
        variance = np.empty_like(mean)
        for number, shared in enumerate(self.straying):
            of_it = self.strengths == number
            if of_it.any():
                gain, spread = self._predictive(shared, x)
                mean[of_it] += self.residuals[of_it] @ gain
                variance[of_it] = self.variances[of_it, None] * np.diag(spread).clip(0)
        return mean, variance, x

    def _predictive(self, shared: _Straying, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights of the residuals, (n, m), and the covariance at x in units of the noise variance."""
        start = self.x[0]
        across = shared.strength**2 * _wiener(self.x - start, x - start)
        gain = np.linalg.solve(shared.covariance, across)
        left = 1 - gain.sum(axis=0)
        within = shared.strength**2 * _wiener(x - start, x - start)
        return gain, within - across.T @ gain + np.outer(left, left) / shared.precision_of_level


def curve_posterior(
    sizes: Float[np.ndarray, " n"],
    losses: Float[np.ndarray, " n"],
    *,
    prior: Mapping[str, float],
    relative_noise: Float[np.ndarray, " n"],
    measured_noise: tuple[float, float] = (0.0, 0.0),
) -> CurvePosterior:
    """Return the posterior of a curve of losses above zero.

    Args:
        sizes: increasing, (n,).
        losses: (n,).
        prior: of `load_prior`.
        relative_noise: variance of each log loss against the others', (n,).
        measured_noise: degrees of freedom and sum of squares of log losses that repeats add about the noise.

    Returns:
        the posterior.

    Cost: O(FORMS n^2) for each of three strengths, some 10 ms.
    """
    x = np.log(sizes / sizes[-1])
    forms = draw_forms(-x[0], FORMS, prior)
    rest = np.log(losses) - forms.log_curves(x)
    shape = prior["noise_shape"] + measured_noise[0] / 2
    rate = prior["noise_shape"] * prior["noise_scale"] ** 2 + measured_noise[1] / 2
    strengths = ((0.0, 1.0), (prior["straying_1"], prior["weight_1"]), (prior["straying_2"], prior["weight_2"]))
    half_dof = shape + (x.size - 1) / 2
    straying = tuple(_integrate(x, rest, s, np.log(weight), half_dof, rate, relative_noise) for s, weight in strengths)
    log_weights = np.concatenate([shared.log_weights for shared in straying])
    best = np.sort(np.argsort(-log_weights, kind="stable")[:KEPT])
    number, form = best // FORMS, best % FORMS
    weights = np.exp(log_weights[best] - log_weights[best].max())
    levels = np.array([straying[q].levels[j] for q, j in zip(number, form, strict=True)])
    rates = np.array([straying[q].scales[j] for q, j in zip(number, form, strict=True)])
    return CurvePosterior(
        last=float(sizes[-1]),
        x=x,
        forms=forms.take(form),
        strengths=number,
        weights=weights / weights.sum(),
        levels=levels,
        variances=rates / half_dof,
        residuals=rest[form] - levels[:, None],
        dof=2 * half_dof,
        straying=straying,
        prior=prior,
    )


def _integrate(
    x: np.ndarray,
    rest: np.ndarray,
    strength: float,
    log_weight: float,
    half_dof: float,
    rate: float,
    relative_noise: np.ndarray,
) -> _Straying:
    """Integrate level and noise out, for every form at once: generalized least squares on a constant."""
    covariance = np.diag(relative_noise) + strength**2 * _wiener(x - x[0], x - x[0])
    root = np.linalg.cholesky(covariance)
    white = solve_triangular(root, np.column_stack([np.ones(x.size), rest.T]), lower=True)
    one, white_rest = white[:, 0], white[:, 1:]
    precision = float(one @ one)
    levels = one @ white_rest / precision
    squares = np.maximum((white_rest**2).sum(axis=0) - precision * levels**2, 0.0)
    rates = rate + squares / 2
    evidence = -np.log(np.diag(root)).sum() - np.log(precision) / 2 - half_dof * np.log(rates)
    return _Straying(strength, covariance, precision, levels, rates, log_weight + evidence)


@lru_cache(maxsize=4)
def _normals(number: int) -> Float[np.ndarray, "2 draws number"]:
    """Return standard normals, the same ones for the same number of sizes; to draw them would cost half the time."""
    drawn = np.random.default_rng(0).standard_normal((2, DRAWS, number))
    drawn.setflags(write=False)
    return drawn


def _wiener(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.minimum(a[:, None], np.maximum(b, 0.0)[None])


def _root(matrix: np.ndarray) -> np.ndarray:
    """Return a square root of a covariance that may be singular: at a measured size nothing is left to vary."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return vectors * np.sqrt(values.clip(0))
