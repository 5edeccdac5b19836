"""The rows of section 5: LayerNorm, activations, and the Hessians of blocks and chains of blocks."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from tests.hessian.cases import random_case
from tests.hessian.oracles import relative_error
from torch.func import grad, jacfwd, vmap

from scripts.formula_table.hessians import (
    BLOCK,
    CHAIN,
    FORMS,
    LAYERS,
    PAIRS,
    SA,
    block_error,
    every,
    gradient_error,
    mean_error,
    product_error,
    whole,
)
from scripts.formula_table.measure import EXACT, generator, largest, normal, some
from scripts.formula_table.row import Row, row
from stillscape import hessian
from stillscape.bounds._block_measured import NormalizedRows
from stillscape.hessian import normalization, reference
from stillscape.hessian.pointwise import ACTIVATIONS

EPS, STEP = 1e-2, 1e-5
FORWARD = {"gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), "relu": torch.relu}
FEED_FORWARD = ("W_1", "b_1", "W_2", "b_2")

# ---- LayerNorm and activations


def normalized(s):
    """Return x = Ps/tau and tau of one row."""
    centered = s - s.mean()
    tau = (centered.square().mean() + EPS).sqrt()[None]
    return centered / tau, tau


def eye(s):
    """Return every direction of a row."""
    return torch.eye(s.shape[-1], dtype=torch.float64)


def adjoint(s):
    """Return the l of N(l)."""
    return torch.linspace(-1, 2, s.shape[-1], dtype=torch.float64)


def unit_row(s):
    """Return what D is the derivative of."""
    return normalized(s)[0]


def D(s):
    """Return the package's first derivative."""
    return normalization.slope(eye(s), *normalized(s))


def pulled_row(s):
    """Return what N is the derivative of, by automatic differentiation."""
    return grad(lambda t: (unit_row(t) * adjoint(t)).sum())(s)


def N(s):
    """Return the package's second derivative."""
    return normalization.curve(adjoint(s), eye(s), *normalized(s))


def layer_norm_pieces(function, derivative, share):
    """Measure a derivative at rows of three to six features against autodiff and against central differences."""
    count, errors = some(200, share), {"autodiff": [], "differences": []}
    for m in (3, 4, 6):
        points = normal(generator(m), count, m)
        got, units = vmap(derivative)(points), eye(points)
        errors["autodiff"].append(relative_error(got, vmap(jacfwd(function))(points)))
        ahead, behind = (torch.stack([vmap(function)(points + s * STEP * u) for u in units], -1) for s in (1, -1))
        errors["differences"].append(relative_error(got, (ahead - behind) / (2 * STEP)))
    limits = {"autodiff": 1e-11, "differences": 1e-5}
    return f"{3 * count} rows", [largest(route, errors[route], limit) for route, limit in limits.items()]


def activations(name, share):
    """Measure sigma' and sigma'' on a grid."""
    u, sigma, own = torch.linspace(-6, 6, some(2000, share) * 2, dtype=torch.float64), FORWARD[name], ACTIVATIONS[name]
    pairs = (own.slope, grad(sigma)), (own.curvature, grad(grad(sigma)))
    errors = torch.stack([(got(u) - vmap(true)(u)).abs() for got, true in pairs])
    return f"{len(u)} points", [largest("autodiff", errors, EXACT)]


# ---- blocks


def feed_forward_error(case, h):
    """Return the error of the blocks of W_1, b_1, W_2, b_2 with each other."""
    return block_error(case, h, FEED_FORWARD)


def effective_block(share):
    """Compare the middle block of a chain with the same block alone, under the effective loss."""
    count, errors = some(20, share), []
    for seed in range(count):
        case = random_case(seed, CHAIN, blocks=3, wrt=1, head=False, activation="gelu")
        entered, loss = case.closed_form().effective_loss()
        alone = hessian.transformer_block(entered, case.blocks[1], loss=loss, **case.options)
        errors.append(relative_error(alone.dense(), case.hessians["full"]))
    return f"{count} chains", [largest("error", errors, EXACT)]


def effective_layer(share):
    """Measure the corollary of Theorem 2': the blocks of W_Q, W_K, W_V from the layer alone, with B_eff."""
    errors, named = [], {"attention": "softmax", "mask": "none", "norm": "post", "activation": "gelu", "head": False}
    for seed, loss in itertools.product(range(some(10, share)), ("mse", "token")):
        case = random_case(seed, BLOCK, loss=loss, d=3, d_V=3, heads=1, **named)
        p = {name: value for name, value in case.blocks[0].items() if name not in ("W_O", *reference.BIASES)}
        gradient, B = collapsed(case, p)
        B = torch.stack([torch.block_diag(*blocks) for blocks in (B + B.mT) / 2])
        effective = hessian.OutputLoss(gradient, B)
        layer = hessian.self_attention(case.X, p["W_Q"], p["W_K"], p["W_V"], loss=effective)
        size = layer.num_parameters
        true = replace(case, blocks=(p,)).hessians["full"][:, :size, :size]
        errors.append(relative_error(layer.dense(), true))
    return f"{len(errors)} blocks", [largest("autodiff", errors, EXACT)]


def collapsed(case, p):
    """Return Lambda_S and B_eff of docs/theory, section 5.4, for a loss in which tokens don't meet."""
    sigma, eps = ACTIVATIONS[case.options["activation"]], case.options["eps"]
    S = case.X + reference.self_attention(case.X, p["W_Q"], p["W_K"], p["W_V"])
    first = NormalizedRows(S, p["gamma_1"], p["beta_1"], eps)
    U = first.output @ p["W_1"] + p["b_1"]
    V = first.output + sigma.value(U) @ p["W_2"] + p["b_2"]
    second = NormalizedRows(V, p["gamma_2"], p["beta_2"], eps)
    at = case.loss().expand(second.output)
    to_V = second.pull(at.gradient)
    to_H = to_V @ p["W_2"].mT
    to_Y = to_V + (sigma.slope(U) * to_H) @ p["W_1"].mT
    F = torch.eye(3, dtype=S.dtype) + p["W_1"] * sigma.slope(U)[..., None, :] @ p["W_2"]
    bent = second.curvature(at.gradient) + second.slope @ at.diagonal @ second.slope.mT
    inner = F @ bent @ F.mT + p["W_1"] * (to_H * sigma.curvature(U))[..., None, :] @ p["W_1"].mT
    return first.pull(to_Y), first.slope @ inner @ first.slope.mT + first.curvature(to_Y)


def rows() -> Iterator[Row]:
    """Yield them in order."""
    layer, exact = "hessian.normalization.", "hessian.ExactHessian."
    block, chain = f"hessian.{BLOCK}", f"hessian.{CHAIN}"
    yield row("LayerNorm: D", "5.1", layer + "slope", FORMS, layer_norm_pieces, unit_row, D)
    yield row("LayerNorm: N", "5.1", layer + "curve", FORMS, layer_norm_pieces, pulled_row, N)
    for name, test in (("gelu", "constants:gelu_on_a_grid"), ("relu", FORMS)):
        yield row(f"{name}: both derivatives", "5.1", "hessian.pointwise.pointwise", test, activations, name)
    yield row("gradient", "5.3", exact + "gradient", "exact:gradient_and_losses", every, LAYERS, gradient_error)
    yield row("feed-forward: W_1, b_1, W_2, b_2", "5.3", block, PAIRS, every, (BLOCK,), feed_forward_error)
    for (norm, section), sigma in itertools.product((("post", "5.4"), ("pre", "5.8")), ("gelu", "relu")):
        named = {"norm": norm, "activation": sigma, "head": False, "differences": 6 * (sigma == "gelu")}
        yield row(f"Theorem 2', all pairs: {norm}-norm, {sigma}", section, block, PAIRS, whole, BLOCK, **named)
    test = "identities:attention_blocks_of_a_block_are_those_of_the_layer_with_an_effective_loss"
    yield row("effective loss of the attention in a block", "5.4", f"hessian.{SA}", test, effective_layer)
    yield row("mean over samples", "5.4", exact + "mean", FORMS, every, LAYERS, mean_error, n=3)
    for number, count in ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)):
        named = {"wrt": number, "blocks": count, "count": 10}
        yield row(f"chain of {count}: block {number + 1}", "5.6", chain, FORMS, whole, CHAIN, **named)
    yield row("products H v, all layers", "5.6", exact + "matvec", FORMS, every, LAYERS, product_error)
    test = "exact:what_follows_a_block_is_a_loss_on_its_output"
    yield row("effective loss of a block in a chain", "5.6", exact + "effective_loss", test, effective_block)
    yield row("block with its head", "5.7", block, FORMS, whole, BLOCK, head=True)
    yield row("head alone", "5.7", chain, FORMS, whole, CHAIN, wrt="head", count=10)
