"""The rows of sections 6.1 to 6.5: the difference that one more sample makes."""

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np

from scripts.formula_table.measure import EXACT, Check, largest, some
from scripts.formula_table.row import Row, row
from stillscape import bounds


def quadratics(seed, samples=6, size=3, gradient=1.0):
    """Return losses, gradients and Hessians at w* and a step; every third seed lines all up against each other."""
    rng = np.random.default_rng(seed)
    step = rng.normal(size=size)
    if seed % 3:
        H = rng.normal(size=(samples, size, size))
        return rng.random(samples), gradient * rng.normal(size=(samples, size)), H + H.transpose(0, 2, 1), step
    new, unit = np.arange(samples) == samples - 1, step / np.linalg.norm(step)
    sign = np.where(new, 1.0, -1.0)
    return new.astype(float), gradient * sign[:, None] * unit, 2.0 * sign[:, None, None] * np.outer(unit, unit), step


def gap(values):
    """Return the new sample's value less the mean of the others."""
    return values[-1] - values[:-1].mean(axis=0)


def difference(losses, gradients, hessians, step):
    """Return L_{k+1} - L_k at w* + step."""
    at = losses + gradients @ step + hessians @ step @ step / 2
    return at.mean() - at[:-1].mean()


def forecast(kind, limit, share, above=False):
    """Compare the forecast of quadratic losses with their difference."""
    count, errors = some(300, share), []
    for seed in range(count):
        given = quadratics(seed)
        gaps = bounds.local_gaps(*given)
        pieces = {"loss_gap": gaps.loss, "gradient_gap": gaps.gradient, "hessian_gap_form": gaps.hessian}
        errors.append(abs(bounds.quadratic_difference(gaps.k, **pieces, kind=kind) / difference(*given) - 1))
    return f"{count} draws", [largest("error", errors, limit, above)]


def assumption_1(share):
    """Check that a cross-entropy with an output bias always has a gradient: p - y of the new sample."""
    rng, count, norms = np.random.default_rng(6), some(300, share), []
    for _ in range(count):
        p = rng.dirichlet(np.ones(3), size=5)
        gradients = p - np.eye(3)[rng.integers(3, size=5)]
        norms.append(bounds.check_minimum(gradients).new_gradient_norm)
    return f"{count} draws", [Check("smallest new gradient", float(np.min(norms)), 0, above=True)]


def shift(share):
    """Compare with the minimizer of quadratic losses, which one Newton step reaches."""
    count, errors = some(100, share), []
    for seed in range(count):
        _, gradients, hessians, _ = quadratics(3 * seed + 1)
        hessians = hessians @ hessians + np.eye(3)
        gradients[:-1] -= gradients[:-1].mean(axis=0)
        true = -np.linalg.solve(hessians.mean(axis=0), gradients.mean(axis=0))
        found = bounds.minimum_shift(hessians.mean(axis=0), gradients[-1], len(gradients) - 1)
        errors.append(np.linalg.norm(found - true) / np.linalg.norm(true))
    return f"{count} problems", [largest("error", errors, EXACT)]


def against_bound(bound_of, share, gradient=1.0, above=False):
    """Draw quadratic losses; without gradients the premise of the printed theorem is met, at w* for every sample."""
    drawn = [quadratics(seed, gradient=gradient) for seed in range(some(300, share))]
    ratios = [abs(difference(*given)) / bound_of(*given) for given in drawn]
    return f"{len(drawn)} draws", [largest("difference / bound", ratios, above=above)]


def theorem_3(kind, losses, gradients, hessians, step):
    """Return the bound from the largest norm of a Hessian."""
    return bounds.loss_difference(
        len(losses) - 1,
        loss_bound=1.0,
        hessian_bound=np.linalg.norm(hessians, 2, axis=(1, 2)).max(),
        radius=np.linalg.norm(step),
        gradient_bound=np.linalg.norm(gap(gradients)),
        kind=kind,
    )


def at_minimum(losses, gradients, hessians, step):
    """Return the bound from the norm of H_{k+1} less the mean."""
    return bounds.loss_difference_at_minimum(
        len(losses) - 1,
        loss_bound=1.0,
        gradient_bound=np.linalg.norm(gap(gradients)),
        hessian_gap=gap(hessians),
        radius=np.linalg.norm(step),
    )


def variance_law(share):
    """Sum over every sample of three values."""
    values, errors = np.array([0.0, 0.3, 2.0]), []
    for k in range(1, 6):
        chosen = values[np.array(list(itertools.product(range(3), repeat=k + 1)))]
        true = ((chosen.mean(axis=1) - chosen[:, :-1].mean(axis=1)) ** 2).mean()
        errors.append(abs(bounds.mean_square_difference(k, values.var()) / true - 1))
    return "every sample, k <= 5", [largest("error", errors, EXACT)]


def gaussian_steps(share):
    """Integrate by Gauss-Hermite quadrature, exact for polynomials of this degree."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    steps = 0.7 * np.array(list(itertools.product(nodes, repeat=2)))
    weight, errors = np.outer(weights, weights).flatten() / (2 * np.pi), []
    count = some(30, share)
    for seed in range(count):
        losses, gradients, hessians, _ = quadratics(seed, size=2)
        true = sum(w * difference(losses, gradients, hessians, s) ** 2 for w, s in zip(weight, steps, strict=True))
        found = bounds.gaussian_mean_square(
            len(losses) - 1,
            loss_gap=gap(losses),
            gradient_gap=np.linalg.norm(gap(gradients)),
            hessian_gap_trace=np.trace(gap(hessians)),
            hessian_gap_frobenius=np.linalg.norm(gap(hessians)),
            spread=0.7,
        )
        errors.append(abs(found / true - 1))
    return f"{count} surfaces", [largest("error", errors, 1e-11)]


def rows() -> Iterator[Row]:
    """Yield them in order."""
    function = "bounds.quadratic_difference"
    test = "surface:forecast_is_exact_for_quadratics"
    yield row("forecast of one more sample", "6.1", function, test, forecast, "exact", 1e-9)
    name, test = "the printed equality, H of the new sample: refuted", "surface:orders_of_the_errors"
    yield row(name, "6.2", function, test, forecast, "printed", 0.1, above=True)
    test = "minimum:cross_entropy_with_an_output_bias_never_satisfies_it"
    name = "Assumption 1, cross-entropy with a bias: fails"
    yield row(name, "6.3", "bounds.check_minimum", test, assumption_1)
    test = "minimum:shift_is_exact_for_quadratics"
    yield row("shift of the minimizer", "6.3", "bounds.minimum_shift", test, shift)
    function, test = "bounds.loss_difference", "difference:printed_by_hand"
    printed, rigorous = (partial(theorem_3, kind) for kind in ("printed", "rigorous"))
    name = "Theorem 3 as printed, its premises met"
    yield row(name, "6.4", function, test, against_bound, printed, gradient=0.0)
    name = "Theorem 3 as printed, without Assumption 1: fails"
    yield row(name, "6.4", function, test, against_bound, printed, gradient=9.0, above=True)
    test = "difference:rigorous_bound_holds_for_quadratic_losses"
    yield row("Theorem 3' on the ball", "6.4", function, test, against_bound, rigorous)
    function, test = "bounds.loss_difference_at_minimum", "surface:bound_holds_in_the_ball"
    yield row("Theorem 3' from w* alone", "6.4", function, test, against_bound, at_minimum)
    test = "square:law_by_every_sample_of_three_values"
    yield row("variance law", "6.5", "bounds.mean_square_difference", test, variance_law)
    test = "square:gaussian_mean_by_quadrature"
    yield row("mean square over Gaussian steps", "6.5", "bounds.gaussian_mean_square", test, gaussian_steps)
