"""The rows of sections 4, 8 and 5.5: bounds on the Hessians of attention, of several heads and of a block."""

import itertools
from collections.abc import Iterator
from functools import cache

import torch
from tests.bounds import draws
from torch.nn.functional import normalize

from scripts.formula_table.measure import EXACT, SLACK, Check, generator, largest, normal, some
from scripts.formula_table.row import Row, row
from stillscape import hessian
from stillscape.bounds import _attention_norms as norms
from stillscape.bounds import _block_measured, counterexamples, multi_head_attention
from stillscape.bounds.attention import pair_norms
from stillscape.bounds.attention import self_attention as attention_bound
from stillscape.bounds.block import transformer_block as block_bound
from stillscape.bounds.block import transformer_block_pairs

EPS = 1e-2
NOISE = 1e-10  # a small block carries the rounding of the whole
SIZES = ((2, 1, 1, 1), (2, 2, 1, 2), (3, 2, 2, 1), (4, 3, 2, 2))


def example_hessian(example):
    """Return the Hessian of an example by autodiff."""
    return draws.attention_hessians(*example.layer, draws.Problem(None, draws.mean_square, (example.target,)))


def example_ratio(example, kind):
    """Return norm / bound of an example."""
    bound = attention_bound(*example.layer, loss=example.loss, kind=kind)
    return draws.spectral(example_hessian(example)) / bound


def printed_theorem(share):
    """Take counterexample 1."""
    ratio = example_ratio(counterexamples.printed_theorem_1(), "printed")
    return "counterexample 1", [largest("norm / M", ratio, above=True)]


def largest_block(share):
    """Take counterexample 2."""
    H = example_hessian(counterexamples.max_over_blocks())
    return "counterexample 2", [
        largest("norm / largest block, less 3", (draws.spectral(H) / H.abs().max() - 3).abs(), EXACT)
    ]


def frobenius(share):
    """Take counterexample 3 at eta = 1e-4."""
    example, loss = counterexamples.frobenius_loss(1e-4)
    exact = hessian.self_attention(*example.layer, loss=loss).dense()
    printed = attention_bound(*example.layer, loss=example.loss, kind="printed")
    return "counterexample 3", [largest("norm / M", draws.spectral(exact) / printed, above=True)]


@cache
def attention_draws(count):
    """Return random layers of every loss, and the norms of their Hessians."""
    gen, found = generator(5), []
    for name, sizes in itertools.product(draws.LOSSES, SIZES):
        layer, problem = draws.random_attention_case(name, sizes, count, gen, shared=False)
        found.append((layer, problem, draws.spectral(draws.attention_hessians(*layer, problem))))
    return found


def attention_bounds(kind, tight, share):
    """Draw layers, and take the example at which the bound is tight."""
    ratios = []
    for layer, problem, true in attention_draws(some(400, share)):
        ratios.append(true / norms.block_matrix_norm(pair_norms(norms.Layer(*layer), problem.loss, kind)))
    ratios = torch.cat(ratios)
    return f"{len(ratios)} draws", [
        Check("violations", int((ratios > SLACK).sum()), 0),
        largest("norm / bound", ratios),
        largest("tight example", example_ratio(tight(), kind), 0.99, above=True),
    ]


def ball(share):
    """Draw weights in a ball, and take the bound at its center."""
    gen, count, ratios = generator(6), some(100, share), []
    for name, radius in itertools.product(("mse", "mean", "token"), (0.1, 1.0)):
        (X, *weights), problem = draws.random_attention_case(name, (3, 2, 2, 2), count, gen)
        bound = attention_bound(X, *weights, loss=problem.loss, kind="a_priori", radius=radius)
        sizes = [w.numel() for w in weights]
        pieces = (radius * normalize(normal(gen, sum(sizes)), dim=0)).split(sizes)
        moved = [w + piece.reshape(w.shape) for w, piece in zip(weights, pieces, strict=True)]
        ratios.append(draws.spectral(draws.attention_hessians(X, *moved, problem)) / bound)
    ratios = torch.cat(ratios)
    return f"{len(ratios)} draws", [largest("norm / bound", ratios)]


def heads_bounds(share):
    """Compare the bound on a layer of two heads and W_O with the exact norm."""
    ratios, shapes = [], ((20, 3, 4), (4, 4), (4, 4), (4, 6), (6, 4), (20, 3, 4))
    for seed in range(some(30, share)):
        gen = generator(seed)
        X, W_Q, W_K, W_V, W_O, target = (normal(gen, *shape) for shape in shapes)
        given = {"loss": hessian.MSE(target), "heads": 2, "W_O": W_O}
        exact = hessian.self_attention(X, W_Q, W_K, W_V, **given).spectral_norm()
        ratios.append(exact / multi_head_attention(X, W_Q, W_K, W_V, **given))
    ratios = torch.cat(ratios)
    return f"{len(ratios)} draws", [largest("norm / bound", ratios)]


def block_bounds(kind, share):
    """Draw blocks; look at the norm of the whole and at all 121 entries."""
    gen, count, ratios, entries = generator(7), some(20, share), [], 0
    for name, activation in itertools.product(draws.LOSSES if kind == "data" else draws.LOSSES[:4], ("gelu", "relu")):
        X, params, problem = draws.random_block_case(name, (3, 3, 2, 3), count, gen, activation, EPS)
        H = draws.block_hessians(X, params, activation, EPS, problem)
        options = {"loss": problem.loss, "activation": activation, "eps": EPS, "kind": kind}
        if kind == "a_priori":
            options["tau"] = _block_measured.smallest_taus(X, params, activation, EPS)
        true = draws.spectral(H)
        ratios.append(true / block_bound(X, params, **options))
        blocks = draws.blocks_of(H, [w.numel() for w in params.values()]) - NOISE * true[:, None, None]
        entries += int((blocks > SLACK * transformer_block_pairs(X, params, **options)).sum())
    ratios = torch.cat(ratios)
    return f"{len(ratios)} draws", [largest("norm / bound", ratios), Check("entries above theirs", entries, 0)]


def rows() -> Iterator[Row]:
    """Yield them in order."""
    for name, function, test, measure in (
        ("Theorem 1 as printed: refuted", "printed_theorem_1", "printed_theorem_is_false", printed_theorem),
        ("largest block for the whole: off by 3", "max_over_blocks", "largest_block_is_not_the_norm", largest_block),
        ("Frobenius norm as loss: refuted", "frobenius_loss", "the_frobenius_norm_as_loss_has_no_bound", frobenius),
    ):
        yield row(name, "4.1", f"bounds.counterexamples.{function}", f"attention:{test}", measure)
    layer, never = "bounds.attention.self_attention", "attention:never_exceeded"
    a_priori, second = counterexamples.tight_a_priori, counterexamples.tight_second_derivative
    yield row("Theorem 1'", "4.2", layer, never, attention_bounds, "a_priori", a_priori)
    yield row("Theorem 1''", "4.3", layer, never, attention_bounds, "data", second)
    yield row("Theorem 1'''", "4.4", layer, never, attention_bounds, "token", second)
    yield row("Theorem 1' on a ball", "4.2", layer, never + "_on_a_ball", ball)
    test = "heads:never_exceeded_in_2400_draws_of_each_loss"
    yield row("several heads with W_O", "8", "bounds.heads.multi_head_attention", test, heads_bounds)
    for kind in ("data", "a_priori"):
        function = "bounds.block.transformer_block"
        yield row(f"block bound: {kind}", "5.5", function, "block:never_exceeded", block_bounds, kind)
