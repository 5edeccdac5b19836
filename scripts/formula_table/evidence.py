"""The rows of section 10: what a trained surface says by itself of more data."""

from collections.abc import Iterator
from itertools import combinations, permutations

import numpy as np
import torch
from scipy.special import softmax

from scripts.formula_table.measure import EXACT, generator, largest, normal, some
from scripts.formula_table.row import Row, row
from stillscape.evidence import (
    SoftmaxHead,
    leave_one_out_losses,
    moving_optimum,
    softmax_gradients,
    softmax_hessian,
    takeuchi,
)
from stillscape.evidence.added_sample import solved_residuals
from stillscape.evidence.halves import _discrepancy, _weights


def problem(seed, samples=9, classes=3, width=4):
    """Return features, labels and weights of a head."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, width)), rng.integers(0, classes, samples), rng.normal(size=(classes, width))


def excess(share):
    """Compare with the trace of the dense inverse times the mean of g g'."""
    errors = []
    for seed in range(some(60, share)):
        x, y, w = problem(seed)
        hessian, gradients = softmax_hessian(x, w), softmax_gradients(x, y, w)
        truth = np.trace(np.linalg.inv(hessian + 0.1 * np.eye(w.size)) @ gradients.T @ gradients) / (2 * 7 * len(x))
        errors.append(abs(takeuchi(hessian, gradients, 7, damping=0.1).excess / truth - 1))
    return f"{len(errors)} draws", [largest("error", errors, EXACT)]


def newton(share):
    """Compare with the Newton step on the objective without the sample, by dense matrices."""
    errors = []
    for seed in range(some(60, share)):
        x, y, w = problem(seed)
        found, gradients = leave_one_out_losses(SoftmaxHead(x, y, w, 0.5)), softmax_gradients(x, y, w)
        total = len(x) * softmax_hessian(x, w) + 0.5 * np.eye(w.size)
        for i in range(len(x)):
            own = softmax_hessian(x[[i]], w)
            moved = w + np.linalg.solve(total - own, gradients[i]).reshape(w.shape)
            errors.append(abs(found[i] + np.log(softmax(moved @ x[i])[y[i]])))
    return f"{len(errors)} samples", [largest("error", errors, EXACT * 100)]


def residual(share):
    """Put the residual back into its equation, leverages up to a thousand."""
    rng, errors = np.random.default_rng(0), []
    for _ in range(some(20, share)):
        root = rng.normal(size=(20, 4, 4)) * np.geomspace(0.1, 30, 20)[:, None, None]
        z, y, a = 5 * rng.normal(size=(20, 4)), rng.integers(0, 4, 20), root @ root.transpose(0, 2, 1)
        r = solved_residuals(z, y, a)
        errors.append(abs(r - softmax(z - np.einsum("icd,id->ic", a, r), axis=1) + np.eye(4)[y]).max())
    return f"{20 * len(errors)} samples", [largest("error", errors, 1e-8)]


def halves(share):
    """Compare the closed form with the mean square over all cuts."""
    errors = []
    cuts = torch.stack([_weights(first, 6) for first in combinations(range(6), 3)]).double()
    for seed in range(some(30, share)):
        images = normal(generator(seed), 6, 2, 5)
        squares = [_discrepancy(iter([(list(range(6)), images)]), one.repeat(2, 1)).value ** 2 for one in cuts]
        expected = _discrepancy(iter([(list(range(6)), images)]), cuts).expected
        errors.append(abs(expected**2 / np.mean(squares) - 1))
    return f"{len(errors)} draws, all cuts", [largest("error", errors, 1e-6)]


def null(share):
    """Compare the mean square over all orders with the null's."""
    errors = []
    for seed in range(some(20, share)):
        losses = np.random.default_rng(seed).exponential(size=5)
        found = [moving_optimum(losses[list(order)][None], 2) for order in permutations(range(5))]
        errors.append(abs(np.mean([one.value for one in found]) / np.mean([one.null for one in found]) - 1))
    return f"{len(errors)} draws, all orders", [largest("error", errors, EXACT)]


def rows() -> Iterator[Row]:
    """Yield the rows."""
    name = "takeuchi:excess_is_that_of_fits_drawn_anew"
    yield row("tr((H + lambda I)^-1 G) / (2k)", "10.1", "evidence.takeuchi", name, excess)
    name = "without:losses_are_those_of_refits"
    yield row("z + A (I - S A)^-1 (p - y)", "10.2", "evidence.leave_one_out_losses", name, newton)
    name = "added:residuals_solve_their_equation"
    yield row("r = softmax(z - A r) - e_y", "10.3", "evidence.added_sample", name, residual)
    name = "halves:expected_is_the_mean_square_over_all_cuts"
    yield row("mean square of H_A - H_B", "10.4", "evidence.split_half", name, halves)
    name = "moving:null_is_the_mean_square_over_all_orders"
    yield row("L_m - L_k at a fixed w, squared", "10.5", "evidence.moving_optimum", name, null)
