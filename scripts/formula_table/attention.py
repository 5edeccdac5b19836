"""The rows of sections 0 and 2: losses at the output, softmax, and the Hessian of self-attention."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import torch
from tests.hessian.cases import ENTROPIES, random_case
from tests.hessian.oracles import relative_error
from torch.func import grad, jacfwd, vmap

from scripts.formula_table.hessians import (
    FORMS,
    LAYERS,
    LIMITS,
    PAIRS,
    PARTS,
    SA,
    block_of,
    by_differences,
    every,
    factor_error,
    norm_error,
    places,
    product_error,
    whole,
)
from scripts.formula_table.measure import EXACT, generator, largest, normal, some
from scripts.formula_table.row import Row, row
from stillscape.hessian.row_maps import Softmax

WEIGHTS = ("W_V", "W_V"), ("W_V", "W_Q"), ("W_V", "W_K"), ("W_Q", "W_Q"), ("W_Q", "W_K"), ("W_K", "W_K")
VARIANTS = {
    "three heads": {"heads": 3},
    "causal mask": {"mask": "causal"},
    "a mask for each sample": {"mask": "per_sample"},
    "linear": {"attention": "linear"},
    "given by its derivatives": {"attention": "row_normalized"},
}


def output_loss(names, share):
    """Measure G and B of a loss at the output."""
    cases = [random_case(seed, loss=name) for name in names for seed in range(some(10, share))]
    errors = [error for case in cases for i in range(len(case.F)) for error in expansion_errors(case, i)]
    return f"{len(cases)} outputs", [largest("autodiff", errors, EXACT)]


def expansion_errors(case, i):
    """Return the errors of G and B of one sample."""
    at, F = case.loss().expand(case.F), case.F
    here = torch.arange(len(F)) == i

    def loss(f):
        return case.loss_at_output(torch.where(here[:, None, None], f, F))[i]

    slope, bend = grad(loss)(F[i]), jacfwd(grad(loss))(F[i]).reshape(1, F[i].numel(), -1)
    return relative_error(at.gradient[i][None], slope[None]), relative_error(at.matrix()[i][None], bend)


def softmax_pieces(share):
    """Measure S t and D[u] t."""
    count = some(300, share)
    t, u, v = normal(generator(0), 3, count, 5)
    rows = Softmax.at(2 * t, None)
    first = vmap(jacfwd(lambda x: x.softmax(-1)))(2 * t)
    second = vmap(lambda x, w: jacfwd(grad(lambda y: (y.softmax(-1) * w).sum()))(x))(2 * t, u)
    return f"{count} rows", [
        largest("S", relative_error(rows.push(v), (first @ v[..., None])[..., 0]), EXACT),
        largest("D", relative_error(rows.curve(u, v), (second @ v[..., None])[..., 0], u), EXACT),
    ]


@cache
def pair_errors(count):
    """Return the errors of each block by part, names and route: one head, softmax."""
    errors = defaultdict(list)
    for seed in range(count):
        case = random_case(seed, attention="softmax", heads=1)
        h, routes = case.closed_form(), (case.hessians, by_differences(case))
        at = places(h)
        for (route, want), part, (a, b) in itertools.product(zip(LIMITS, routes, strict=True), PARTS[1:], WEIGHTS):
            error = relative_error(h.block(a, b, part), block_of(want[part], at[a], at[b]), want["full"])
            errors[part, (a, b), route].append(error)
    return errors


def one_pair(part, pair, share):
    """Measure one block of one part of the attention layer."""
    errors = pair_errors(count := some(40, share))
    return f"{count} layers", [largest(route, errors[part, pair, route], limit) for route, limit in LIMITS.items()]


def rows() -> Iterator[Row]:
    """Yield them in order."""
    loss, layer, exact = "losses:expansion_is_that_of_autodiff", f"hessian.{SA}", "hessian.ExactHessian."
    yield row("G and B of the mean squared error", "0", "hessian.MSE", loss, output_loss, ("mse",))
    yield row("G and B of the cross-entropies", "0", "hessian.CrossEntropy", loss, output_loss, ENTROPIES)
    yield row("softmax: S t and D[u] t", "2.1", "hessian.row_maps.Softmax", FORMS, softmax_pieces)
    for (part, section), (a, b) in itertools.product((("functional", "2.2"), ("outer", "2.3")), WEIGHTS):
        yield row(f"attention: H_{part[0]}({a}, {b})", section, layer, PAIRS, one_pair, part, (a, b))
    test = "exact:outer_factor_of_a_pooled_cross_entropy"
    yield row("H_o = F'F", "2.3", exact + "outer_factor", test, every, LAYERS, factor_error, count=8, loss="mean")
    name = "attention: products H v (Proposition 3)"
    yield row(name, "2.4", exact + "matvec", FORMS, every, (SA,), product_error, attention="softmax")
    name, test = "norm of H by Lanczos", "exact:spectral_norm"
    yield row(name, "2.4", exact + "spectral_norm", test, every, LAYERS, norm_error, count=8)
    for name, options in VARIANTS.items():
        yield row(f"attention: {name}", "2.5", layer, FORMS, whole, SA, **options)
