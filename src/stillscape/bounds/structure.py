"""How norms, bounds and sufficient sizes depend on the structure of the network: L, d, d_K, heads, d_f and depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stillscape import _checks
from stillscape._errors import InputError
from stillscape.bounds import _structure_formula as theory
from stillscape.bounds._structure_draws import Measured, measure
from stillscape.bounds._structure_formula import Sizes
from stillscape.bounds.loss_difference import KINDS, sufficient_size

BASE = {"L": 8, "d": 16, "d_K": 16, "heads": 4, "d_f": 32, "depth": 1, "classes": 4}
VALUES = {
    "L": [2, 4, 8, 16, 32, 64],
    "d": [4, 8, 16, 32, 64],
    "d_K": [2, 4, 8, 16, 32, 64],
    "heads": [1, 2, 4, 8, 16],
    "d_f": [4, 8, 16, 32, 64, 128],
    "depth": [1, 2, 4, 8],
}
AXES = tuple(VALUES)
_DRAWS, _SAMPLES = {"depth": 3}, {"depth": 6}  # a chain costs more than all the rest


@dataclass(frozen=True)
class Spread:
    """A positive quantity over all draws and samples, for each value of the axis."""

    median: list[float]
    low: list[float]
    high: list[float]
    largest: list[float]


@dataclass(frozen=True)
class Formula:
    """What theory expects: a number for each value of the axis, and the power of the leading term (None: no power)."""

    values: list[float]
    exponent: float | None


@dataclass(frozen=True)
class Slope:
    """Least-squares slope of log y against log x; the error takes the residuals as they are, curvature included."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Panel:
    """One loss, at one place of the network.

    Attributes:
        loss: "cross_entropy" (pooled by the mean, nats) or "mse".
        place: "layer", "block", "first block" or "last block".
        parameters: number of parameters P for each value.
        norms: "exact", the spectral norm of a sample's Hessian; its bounds by kind; "value_block" that of W_V alone.
        formulas: "a_priori", Theorem 1' at expected norms; "value_block"; "law", with the median at the first value
            taken from the measurement.
        slopes: of each norm (median of each draw of weights) and each formula.
        k_star_samples: by kind of Theorem 3 and curve, the median over draws of weights; curves as in `norms`.
    """

    loss: str
    place: str
    parameters: list[int]
    norms: dict[str, Spread]
    formulas: dict[str, Formula]
    slopes: dict[str, Slope]
    k_star_samples: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Sweep:
    """One size of the network varied, all others fixed.

    Attributes:
        axis: which.
        values: its values.
        base: all sizes; that of the axis is not used.
        draws: draws of weights for each value.
        samples: samples for each draw.
        epsilon: tolerance of k*, in units of the loss (nats for the cross-entropy).
        radius: largest ||w - w*|| in Theorem 3.
        seed: of all draws.
        panels: what was found, by loss and place.
    """

    axis: str
    values: list[int]
    base: dict[str, int]
    draws: int
    samples: int
    epsilon: float
    radius: float
    seed: int
    panels: list[Panel]

    def panel(self, loss: str, place: str | None = None) -> Panel:
        """Return the panel of a loss; without a place, the first one.

        Raises:
            InputError: there is none.
        """
        for panel in self.panels:
            if panel.loss == loss and place in (None, panel.place):
                return panel
        held = ", ".join(f"{panel.loss} at the {panel.place}" for panel in self.panels)
        raise InputError(f"loss is {loss!r} and place {place!r}; this sweep holds {held}.")


def structure_sweep(
    axis: str,
    values: Sequence[int] | None = None,
    *,
    base: Mapping[str, int] | None = None,
    draws: int | None = None,
    samples: int | None = None,
    epsilon: float = 0.01,
    radius: float = 1.0,
    seed: int = 0,
    quick: bool = False,
) -> Sweep:
    r"""Return norms of one sample's Hessian, bounds on them and k* of Theorem 3 along one size of the network.

    Weights are drawn at Xavier initialization, N(0, 2/(rows + columns)), tokens and targets from N(0, 1), labels
    uniformly. For "L", "d" and "d_K" the network is one attention layer with d_V = d, for "heads" one whose heads share
    the width, d_K = d_V = d/heads, with an output projection; for "d_f" a post-norm block; for "depth" a chain of them,
    whose Hessian is taken in the first and in the last block. Every block of a chain is bounded as a single one with
    the loss that it sees from its output (docs/theory, section 5.4, effective loss).

    Beside the measured curves stand formulas: Theorem 1' with expected norms in place of measured ones, whose leading
    powers in L, d, d_K and heads are 2, 3 (squared error: 2), -1 and 2 (1.5); and for depth a mean-field recursion.

    Args:
        axis: "L", "d", "d_K", "heads", "d_f" or "depth".
        values: two or more rising whole numbers; None: a range around the base.
        base: sizes to change from L = 8, d = 16, d_K = 16, heads = 4, d_f = 32, depth = 1, classes = 4. Only "heads"
            uses heads, and only through its values.
        draws: draws of weights for each value; None: 5, for depth 3 (quick: 2).
        samples: samples for each draw, two at least; None: 12, for depth 6 (quick: 4).
        epsilon: tolerance of k*, in units of the loss.
        radius: r of Theorem 3. The Hessian is measured at its center only, so k* is a plug-in value there.
        seed: any whole number of at least 0; the same one gives the same sweep.
        quick: three values and few draws, to see that everything works.

    Returns:
        the sweep; numbers only, no tensors.

    Raises:
        InputError: an argument is out of its range, or heads do not divide d.

    Cost: with defaults about 5 s of one core for each of L, d, d_K and heads, 10 s for d_f and for depth.

    >>> sweep = structure_sweep("L", [1, 2], base={"d": 2, "d_K": 1}, draws=2, samples=3)
    >>> panel = sweep.panel("mse")
    >>> panel.place, panel.parameters
    ('layer', [8, 8])
    >>> panel.norms["token"].largest[0] >= panel.norms["exact"].largest[0]
    True
    """
    _checks.one_of("axis", axis, AXES)
    sizes = _base(base)
    chosen = _values(values, axis, sizes, quick)
    draws = _checks.at_least("draws", draws if draws is not None else 2 if quick else _DRAWS.get(axis, 5), 1)
    samples = _checks.at_least("samples", samples if samples is not None else 4 if quick else _SAMPLES.get(axis, 12), 2)
    _checks.positive("epsilon", epsilon, "It is the tolerance of k*, in units of the loss.")
    _checks.not_negative("radius", radius, "It is the distance from w* in parameter space.")
    _checks.at_least("seed", seed, 0)
    each = [_sizes(axis, value, sizes) for value in chosen]
    found = [
        [measure(s, axis, samples, (seed, AXES.index(axis), value, draw)) for draw in range(draws)]
        for s, value in zip(each, chosen, strict=True)
    ]
    panels = [
        _panel(axis, chosen, each, key, [[draw[key] for draw in at] for at in found], epsilon, radius)
        for key in found[0][0]
    ]
    return Sweep(axis, chosen, sizes, draws, samples, float(epsilon), float(radius), int(seed), panels)


def fitted_slope(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> Slope:
    """Return the slope of log y against log x by least squares, with its standard error (NaN for two points).

    >>> fitted_slope([1, 2, 4], [3, 12, 48])
    Slope(value=2.0, standard_error=0.0)
    """
    u, v = np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(y, dtype=np.float64))
    u, v = u - u.mean(), v - v.mean()
    slope = float(u @ v / (u @ u))
    residual = v - slope * u
    if len(u) < 3:
        return Slope(round(slope, 12), float("nan"))
    return Slope(round(slope, 12), round(float(np.sqrt(residual @ residual / (len(u) - 2) / (u @ u))), 12))


def _panel(
    axis: str,
    values: list[int],
    each: list[Sizes],
    key: tuple[str, str],
    found: list[list[Measured]],
    epsilon: float,
    radius: float,
) -> Panel:
    loss, place = key
    curves = list(found[0][0].norms)
    norms = {name: _spread([np.concatenate([m.norms[name] for m in at]) for at in found]) for name in curves}
    formulas = _formulas(axis, values, each, loss, place, norms)
    x = np.repeat(values, len(found[0]))
    slopes = {
        name: fitted_slope(x, [float(np.median(m.norms[name])) for at in found for m in at]) for name in curves
    } | {f"{name} formula": fitted_slope(values, formula.values) for name, formula in formulas.items()}
    k_star = {
        kind: {
            name: [float(np.median([_k_star(m, name, kind, epsilon, radius) for m in at])) for at in found]
            for name in curves
            if name != "value_block"
        }
        for kind in KINDS
    }
    return Panel(loss, place, [at[0].parameters for at in found], norms, formulas, slopes, k_star)


def _formulas(
    axis: str, values: list[int], each: list[Sizes], loss: str, place: str, norms: dict[str, Spread]
) -> dict[str, Formula]:
    if axis == "depth":
        law = theory.depth_law(each[0], values, place)
        start = norms["exact"].median[0] / law[0]
        return {"law": Formula([start * step for step in law], None)}
    if axis == "d_f":
        return {"law": Formula([norms["exact"].median[0]] * len(values), theory.exponent(axis, loss, "law"))}
    expected = {"a_priori": Formula([theory.a_priori(s, loss) for s in each], theory.exponent(axis, loss, "a_priori"))}
    if axis != "heads":
        floor = [theory.value_block(s, loss) for s in each]
        expected["value_block"] = Formula(floor, theory.exponent(axis, loss, "value_block"))
    return expected


def _k_star(m: Measured, curve: str, kind: str, epsilon: float, radius: float) -> int:
    return sufficient_size(
        epsilon,
        loss_bound=m.loss_bound,
        hessian_bound=float(m.norms[curve].max()),
        radius=radius,
        gradient_bound=m.gradient_bound,
        kind=kind,
    )


def _spread(samples: list[np.ndarray]) -> Spread:
    low, median, high = (np.array([np.quantile(at, share) for at in samples]) for share in (0.1, 0.5, 0.9))
    return Spread(median.tolist(), low.tolist(), high.tolist(), [float(at.max()) for at in samples])


def _sizes(axis: str, value: int, base: dict[str, int]) -> Sizes:
    chosen = base | {axis: value}
    heads = chosen["heads"] if axis == "heads" else 1
    d_K = chosen["d"] // heads if axis == "heads" else chosen["d_K"]
    depth = chosen["depth"] if axis == "depth" else 1
    return Sizes(chosen["L"], chosen["d"], d_K, heads, chosen["d_f"], depth, chosen["classes"], axis == "heads")


def _base(base: Mapping[str, int] | None) -> dict[str, int]:
    given = dict(base or {})
    unknown = [name for name in given if name not in BASE]
    if unknown:
        raise InputError(f"base has the unknown {', '.join(map(str, unknown))}; it takes {', '.join(BASE)}.")
    for name, value in given.items():
        least = 2 if name in ("d", "classes") else 1
        given[name] = _checks.at_least(f"base[{name!r}]", value, least)
    return BASE | given


def _values(values: Sequence[int] | None, axis: str, base: dict[str, int], quick: bool) -> list[int]:
    if values is None:
        values = [value for value in VALUES[axis] if axis != "heads" or base["d"] % value == 0]
        values = values[:3] if quick else values
    elif isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
        raise InputError(f"values is a {type(values).__name__}; it must be a list of rising whole numbers, or None.")
    least = 2 if axis == "d" else 1  # a single feature is normalized away
    chosen = [_checks.at_least(f"values[{i}]", value, least) for i, value in enumerate(values)]
    if len(chosen) < 2 or any(b <= a for a, b in pairwise(chosen)):
        raise InputError(f"values is {list(values)!r}; it must be two or more whole numbers in rising order.")
    odd = [value for value in chosen if axis == "heads" and base["d"] % value]
    if odd:
        raise InputError(
            f"values holds {odd[0]} heads, which does not divide d = {base['d']}. Change it, or base['d']."
        )
    return chosen
