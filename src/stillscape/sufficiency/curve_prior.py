"""What is believed of a data curve before it is seen: its forms, how far it strays from them, how noisy it is.

The numbers stand in ``curve_prior.json`` with the script that fitted them and the hash of its input; nothing here was
tuned by hand.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from scipy.special import betaincinv, ndtri
from scipy.stats import qmc

MOST_OF_FLOOR = 1 - 1e-6  # of the loss at the largest size: there the curve is flat
_STEEPEST = 50.0  # of a log curve within the sizes at hand: a factor of e^50 is as good as any larger one


@dataclass(frozen=True)
class Forms:
    r"""Forms of data curves, J of them, all in x = log(k / k_last).

        y(x) = A (c + g(x)),   log g(x) = -b0 x - (b1 - b0) / a * log(1 + e^{a (x - s)})

    g falls like k^-b0 before the bend at log size s and like k^-b1 after it; a says how sharply it bends. With b0 = 0
    and a = 1 this is the shifted power law, with b0 = 0 and a = b1 the rectified law of fine-tuning curves
    (arXiv 2402.02314, its pre-power phase), with b0 = b1 the power law with a constant; b0 > b1 is a steep start that
    gives way to a slower law. c is set by `floor`, the share of the loss at k_last that
    no data remove.

    Attributes:
        before: b0, (J,).
        after: b1, (J,).
        sharpness: a, (J,).
        bend: s, natural log of sizes over the largest one, (J,).
        floor: share of the loss at the largest size that stays for ever, (J,).
    """

    before: Float[np.ndarray, " forms"]
    after: Float[np.ndarray, " forms"]
    sharpness: Float[np.ndarray, " forms"]
    bend: Float[np.ndarray, " forms"]
    floor: Float[np.ndarray, " forms"]

    def log_curves(self, x: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, "forms sizes"]:
        """Return log(y(x) / y(0)) of each form, up to the same constant at every x: A stays open.

        >>> power = Forms(*np.array([[0.0], [0.5], [1.0], [-20.0], [0.0]]))
        >>> power.log_curves(np.log([1.0, 4.0])).round(6).tolist()
        [[0.0, -0.693147]]
        """
        falling = np.clip(self._log_g(x) - self._log_g(np.zeros(1)), -_STEEPEST, _STEEPEST)
        return np.log((self.floor / (1 - self.floor))[:, None] + np.exp(falling))

    def take(self, chosen: np.ndarray) -> "Forms":
        """Return some of the forms."""
        return Forms(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def _log_g(self, x: np.ndarray) -> np.ndarray:
        before, after, sharpness, bend = (
            column[:, None] for column in (self.before, self.after, self.sharpness, self.bend)
        )
        return -before * x - (after - before) / sharpness * np.logaddexp(0, sharpness * (x - bend))


def draw_forms(span: float, number: int, prior: Mapping[str, float]) -> Forms:
    """Return forms drawn from the prior, the same ones for the same span.

    Args:
        span: log of the largest over the smallest measured size; the bend is sought within it and around it.
        number: of forms, a power of two.
        prior: of `load_prior`.

    Returns:
        the forms.

    Cost: O(number).

    >>> len(draw_forms(3.0, 8, load_prior()).floor)
    8
    """
    u = uniforms(number, 6)
    exponent = np.exp(prior["log_exponent_mean"] + prior["log_exponent_sd"] * ndtri(u[:, 0]))
    sharpness = np.exp(prior["log_sharpness_mean"] + prior["log_sharpness_sd"] * ndtri(u[:, 1]))
    first, last = -span + prior["bend_first"], prior["bend_last"]
    none = prior["no_floor"]
    above = np.clip((u[:, 3] - none) / (1 - none), 0, 1)
    floor = np.minimum(betaincinv(prior["floor_alpha"], prior["floor_beta"], above), MOST_OF_FLOOR)
    slowing = u[:, 5] < prior["slowing_share"]
    straight = u[:, 5] > 1 - prior["straight_share"]
    return Forms(
        before=np.where(slowing | straight, exponent, 0.0),
        after=np.where(slowing, exponent * u[:, 4], exponent),
        sharpness=sharpness,
        bend=first + u[:, 2] * (last - first),
        floor=np.where(slowing, 0.0, floor),
    )


@lru_cache(maxsize=16)
def uniforms(number: int, axes: int, seed: int = 0) -> Float[np.ndarray, "number axes"]:
    """Return points that fill the unit cube evenly (scrambled Sobol), none on its faces; always the same ones."""
    points = np.clip(qmc.Sobol(axes, rng=np.random.default_rng(seed)).random(number), 1e-6, 1 - 1e-6)
    points.setflags(write=False)
    return points


@lru_cache(maxsize=1)
def load_prior() -> Mapping[str, float]:
    """Return the fitted numbers by name.

    >>> 0 < load_prior()["no_floor"] < 1
    True
    """
    text = files("stillscape.sufficiency").joinpath("curve_prior.json").read_text(encoding="utf-8")
    return MappingProxyType(json.loads(text)["prior"])
