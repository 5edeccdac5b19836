"""The rows of sections 6.6 and 6.7: how far k samples are from all."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import hypergeom, norm

from scripts.formula_table.measure import EXACT, largest, some
from scripts.formula_table.row import Row, row
from stillscape import bounds
from stillscape.bounds import finite_sample


def misses(kind, share):
    """Sum the hypergeometric law of losses of two values, over populations of up to 2000."""
    ratios = []
    for m, k_of, ones_of in itertools.product((20, 200, 2000), (0.1, 0.5, 0.9), (0.0, 0.05, 0.5)):
        k, ones = int(k_of * m), max(1, int(ones_of * m))
        seen = np.arange(k + 1)
        given = {"kind": kind, "population": m, "loss_bound": 1.0, "std": np.sqrt(seen / k * (1 - seen / k))}
        for level in (0.3, 0.5, 0.9, 0.99):
            bound = bounds.mean_deviation(np.full(k + 1, k), level=level, **given)
            missed = np.abs(seen / k - ones / m) > bound + 1e-12
            ratios.append(hypergeom.pmf(seen, m, ones, k)[missed].sum() / (1 - level))
    return f"{len(ratios)} exact sums", [largest("miss probability / (1 - level)", ratios)]


def normal_law(share):
    """Compare the mean square over every subset with that of the true deviation, times z^2."""
    losses, errors = np.array([0.001, 0.02, 0.05, 0.1, 0.4, 0.9, 1.5, 3.0]), []
    for k in range(2, 8):
        chosen = losses[np.array(list(itertools.combinations(range(8), k)))]
        std = chosen.std(axis=1, ddof=1)
        bound = bounds.mean_deviation(np.full(len(chosen), k), kind="normal", level=0.95, population=8, std=std)
        true = norm.ppf(0.975) ** 2 * np.mean((chosen.mean(axis=1) - losses.mean()) ** 2)
        errors.append(abs(np.mean(bound**2) / true - 1))
    return "every subset of 8", [largest("error of the mean square", errors, EXACT)]


def bernstein(share):
    """Put t back into the tail, and draw means of random matrices without replacement."""
    rng, tails = np.random.default_rng(4), []
    for k, v, R, P in itertools.product((1, 50, 5000), (0.01, 3.0), (0.1, 9.0), (1, 400)):
        t = bounds.matrix_bernstein(k, variance_norm=v, largest=R, dimension=P, level=0.9)
        tails.append(abs(2 * P * math.exp(-(k * t * t / 2) / (v + R * t / 3)) / 0.1 - 1))
    raw = rng.normal(size=(200, 4, 4)) * rng.pareto(1.5, size=(200, 1, 1))
    raw = raw + raw.transpose(0, 2, 1)
    centered = raw - raw.mean(axis=0)
    spread = {
        "variance_norm": np.linalg.norm((centered @ centered).mean(axis=0), 2),
        "largest": np.linalg.norm(centered, 2, axis=(1, 2)).max(),
    }
    t, count = bounds.matrix_bernstein(60, **spread, dimension=4, level=0.5), some(500, share)
    found = [np.linalg.norm(centered[rng.permutation(200)[:60]].mean(axis=0), 2) / t for _ in range(count)]
    return f"{count} draws", [largest("tail", tails, 1e-9), largest("largest / t", found)]


def uniform(share):
    """Draw a quadratic difference of means within the three deviations, and the one that attains them."""
    count, rng, ratios = some(300, share), np.random.default_rng(5), []
    for number in range(count):
        step, slope = rng.normal(size=(2, 3))
        slope = slope if number else step / np.linalg.norm(step)
        bend = rng.normal(size=(3, 3)) if number else np.outer(slope, slope)
        bend = bend + bend.T
        true = abs(0.3 + slope @ step + step @ bend @ step / 2)
        bound = bounds.uniform_deviation(
            np.linalg.norm(step),
            loss_deviation=0.3,
            gradient_deviation=np.linalg.norm(slope),
            hessian_deviation=np.linalg.norm(bend, 2),
        )
        ratios.append(true / bound)
    return f"{count} draws", [largest("deviation / bound", ratios)]


def rows() -> Iterator[Row]:
    """Yield them in order."""
    name, function = "mean of k of m losses: ", "bounds.mean_deviation"
    for kind in finite_sample.KINDS[:3]:
        yield row(name + kind, "6.6", function, "sample:every_subset_of_a_small_population", misses, kind)
    test = "sample:normal_variance_is_unbiased_with_divisor_k_minus_1"
    yield row(name + "normal (CLT)", "6.6", function, test, normal_law)
    test = "surface:deviation_is_never_missed_by_sampling"
    yield row("matrix Bernstein", "6.7", "bounds.matrix_bernstein", test, bernstein)
    test = "surface:uniform_deviation_holds_and_is_attained"
    yield row("uniform over a ball", "6.7", "bounds.uniform_deviation", test, uniform)
