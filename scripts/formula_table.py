"""Write docs/theory-table.md: each formula, its place in docs/theory, function, test, and its error, measured here.

    python scripts/formula_table.py                     the file anew, a minute or two on one core
    python scripts/formula_table.py --quick --out FILE  few cases, as the tests run it

An error is relative to the whole Hessian, float64. Errors are those of the worst of all cases. What is refuted has to
come out above its limit, what is proved at or below it; the script ends with an error where anything does not.
"""

import argparse
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.stats import hypergeom, norm  # noqa: E402
from tests.bounds import draws  # noqa: E402
from tests.hessian.cases import ENTROPIES, random_case  # noqa: E402
from tests.hessian.oracles import finite_difference_hessian, relative_error  # noqa: E402
from torch.func import grad, jacfwd, vmap  # noqa: E402

from stillscape import bounds, hessian  # noqa: E402
from stillscape.bounds import _attention_norms as norms  # noqa: E402
from stillscape.bounds import _block_measured, constants, counterexamples, finite_sample  # noqa: E402
from stillscape.bounds.attention import pair_norms  # noqa: E402
from stillscape.bounds.attention import self_attention as attention_bound  # noqa: E402
from stillscape.bounds.block import transformer_block as block_bound  # noqa: E402
from stillscape.bounds.block import transformer_block_pairs  # noqa: E402
from stillscape.hessian import normalization, reference  # noqa: E402
from stillscape.hessian.pointwise import ACTIVATIONS  # noqa: E402
from stillscape.hessian.row_maps import Softmax  # noqa: E402

EXACT, DIFFERENCES, STEP = 1e-12, 1e-6, 1e-5
SLACK = 1 + 1e-9  # the truth of a bound has a rounding of its own
NOISE = 1e-10  # a small block carries the rounding of the whole
PARTS = ("full", "outer", "functional")
ATTENTION = ("W_V", "W_V"), ("W_V", "W_Q"), ("W_V", "W_K"), ("W_Q", "W_Q"), ("W_Q", "W_K"), ("W_K", "W_K")


@dataclass(frozen=True)
class Check:
    """A measured number and the limit that it must keep: at most, or (for what is refuted) above."""

    what: str
    value: float
    limit: float
    above: bool = False

    @property
    def holds(self) -> bool:
        """Say whether the limit is kept."""
        return self.value > self.limit if self.above else self.value <= self.limit * SLACK

    def __str__(self) -> str:
        """Return what the table shows."""
        number = f"{self.value:.0e}" if 0 < self.value < 1e-3 else f"{self.value:.5g}"
        return f"{self.what} {number} ({'>' if self.above else '<='} {self.limit:g})"


Found = tuple[str, list[Check]]  # what was looked at, and what came out


@dataclass(frozen=True)
class Row:
    """One formula; `measure` takes a factor on the number of cases, 1 or less."""

    formula: str
    section: str
    function: str
    test: str
    measure: Callable[[float], Found]


def some(count: int, share: float) -> int:
    """Return how many cases to take."""
    return max(2, round(count * share))


def generator(seed: int) -> torch.Generator:
    """Return a generator of its own."""
    return torch.Generator().manual_seed(seed)


# ---- Hessians


def by_differences(case):
    """Return the Hessian by part from central differences: of outputs, of gradients at the output, of gradients."""
    theta, F = reference.flatten(case.params), case.F

    def slope(at):
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad(case.loss_at_output(leaf).sum(), leaf)[0]

    def central(function, at, units):
        return torch.stack([(function(at + STEP * u) - function(at - STEP * u)) / (2 * STEP) for u in units], -1)

    J = central(lambda t: case.output(reference.unflatten(t, case.params)), theta, torch.eye(len(theta)).to(theta))
    B = central(slope, F, torch.eye(F[0].numel()).to(F).reshape(-1, 1, *F.shape[1:]))
    J, B = J.flatten(1, 2), B.flatten(1, 2)
    full, outer = finite_difference_hessian(case.losses, case.params, STEP), J.mT @ B @ J
    return {"full": full, "outer": outer, "functional": full - outer}


@cache
def attention_pairs(count):
    """Return the worst error of each block by part, names and route: one head, softmax."""
    worst = defaultdict(float)
    for seed in range(count):
        case = random_case(seed, attention="softmax", heads=1)
        h, starts = case.closed_form(), {}
        for name, shape in h.shapes.items():
            starts[name] = slice(at := sum(torch.Size(h.shapes[n]).numel() for n in starts), at + math.prod(shape))
        for (route, want), part, pair in itertools.product(
            {"autodiff": case.hessians, "differences": by_differences(case)}.items(), PARTS[1:], ATTENTION
        ):
            true = want[part][:, starts[pair[0]], starts[pair[1]]]
            error = relative_error(h.block(*pair, part), true, want["full"])
            worst[part, pair, route] = max(worst[part, pair, route], error)
    return worst


def one_pair(part, pair, share):
    """Measure one block of one part of the attention layer."""
    worst = attention_pairs(count := some(40, share))
    checks = [Check(route, worst[part, pair, route], limit) for route, limit in zip(*ROUTES, strict=True)]
    return f"{count} layers", checks


ROUTES = ("autodiff", "differences"), (EXACT, DIFFERENCES)


def whole(layer, share, count=30, differences=0, **named):
    """Measure the dense Hessian, all its parts; no block can be further off on the scale of the whole."""
    worst, count = [0.0, 0.0], some(count, share)
    for seed in range(count):
        case = random_case(seed, layer, **named)
        h = case.closed_form()
        for part in PARTS:
            worst[0] = max(worst[0], relative_error(h.dense(part), case.hessians[part], case.hessians["full"]))
        if seed < differences:
            worst[1] = max(worst[1], relative_error(h.dense(), finite_difference_hessian(case.losses, case.params)))
    checks = [Check("autodiff", worst[0], EXACT)]
    return f"{count} cases", checks + ([Check("differences", worst[1], DIFFERENCES)] if differences else [])


def every(layers, error, share, count=20, **named):
    """Measure `error(case, h)` over cases of several layers."""
    count = some(count, share)
    cases = [random_case(seed, layer, **named) for layer in layers for seed in range(count)]
    return f"{len(cases)} cases", [Check("autodiff", max(error(case, case.closed_form()) for case in cases), EXACT)]


def product_error(case, h):
    """Return the error of products with a vector, of every part."""
    v = torch.randn(h.num_parameters, generator=generator(1), dtype=case.X.dtype)
    scale = case.hessians["full"].norm(dim=(1, 2))[:, None] * v.norm()
    return max(relative_error(h.matvec(v, part), case.hessians[part] @ v, scale) for part in PARTS)


def mean_error(case, h):
    """Return the error of the mean over samples."""
    scale = case.hessians["full"].norm(dim=(1, 2)).max()[None, None]
    return max(relative_error(h.mean(part)[None], case.hessians[part].mean(0)[None], scale) for part in PARTS)


def factor_error(case, h):
    """Return the error of F'F."""
    F = h.outer_factor()
    return relative_error(F.mT @ F, case.hessians["outer"])


def norm_error(case, h):
    """Return the error of the spectral norm by Lanczos."""
    return relative_error(h.spectral_norm()[:, None], torch.linalg.matrix_norm(case.hessians["full"], ord=2)[:, None])


def gradient_error(case, h):
    """Return the error of the gradient."""
    return relative_error(h.gradient(), case.gradient)


def feed_forward_error(case, h):
    """Return the error of the blocks of W_1, b_1, W_2, b_2 with each other, by part."""
    names = ("W_1", "b_1", "W_2", "b_2")
    places = torch.cat([torch.full((math.prod(shape),), name in names) for name, shape in h.shapes.items()])
    errors = []
    for part in PARTS:
        got, want = (M[:, places][:, :, places] for M in (h.dense(part), case.hessians[part]))
        errors.append(relative_error(got, want, case.hessians["full"]))
    return max(errors)


def output_loss(names, share):
    """Measure G and B of a loss at the output."""
    worst, count = 0.0, some(10, share)
    for name, seed in itertools.product(names, range(count)):
        case = random_case(seed, loss=name)
        at, F = case.loss().expand(case.F), case.F
        for i in range(len(F)):

            def one(f, i=i, F=F, case=case):
                rows = torch.arange(len(F)) == i
                return case.loss_at_output(torch.where(rows[:, None, None], f, F))[i]

            slope, bend = grad(one)(F[i]), jacfwd(grad(one))(F[i]).reshape(1, F[i].numel(), -1)
            worst = max(worst, relative_error(at.gradient[i][None], slope[None]))
            worst = max(worst, relative_error(at.matrix()[i][None], bend))
    return f"{count * len(names)} outputs", [Check("autodiff", worst, EXACT)]


def effective_block(share):
    """Compare the middle block of a chain with the same block alone, under the effective loss."""
    count, worst = some(20, share), 0.0
    for seed in range(count):
        case = random_case(seed, CHAIN, blocks=3, wrt=1, head=False, activation="gelu")
        entered, loss = case.closed_form().effective_loss()
        alone = hessian.transformer_block(entered, case.blocks[1], loss=loss, **case.options)
        worst = max(worst, relative_error(alone.dense(), case.hessians["full"]))
    return f"{count} chains", [Check("error", worst, EXACT)]


def effective_layer(share):
    """Measure the corollary of Theorem 2': the blocks of W_Q, W_K, W_V from the layer alone, with B_eff."""
    worst, count, names = 0.0, some(10, share), ("W_Q", "W_K", "W_V")
    for seed, loss in itertools.product(range(count), ("mse", "token")):
        named = {"attention": "softmax", "mask": "none", "norm": "post", "activation": "gelu", "head": False}
        case = random_case(seed, "transformer_block", loss=loss, d=3, d_V=3, heads=1, **named)
        p = {name: value for name, value in case.blocks[0].items() if name not in ("W_O", *reference.BIASES)}
        whole, gradient, B = replace(case, blocks=(p,)), *collapsed(case, p)
        B = torch.stack([torch.block_diag(*blocks) for blocks in (B + B.mT) / 2])
        layer = hessian.self_attention(case.X, *(p[n] for n in names), loss=hessian.OutputLoss(gradient, B))
        size = layer.num_parameters
        worst = max(worst, relative_error(layer.dense(), whole.hessians["full"][:, :size, :size]))
    return f"{2 * count} blocks", [Check("autodiff", worst, EXACT)]


def collapsed(case, p):
    """Return Lambda_S and B_eff of docs/theory, section 5.4, for a loss in which tokens don't meet."""
    sigma, eps = ACTIVATIONS[case.options["activation"]], case.options["eps"]
    S = case.X + reference.self_attention(case.X, p["W_Q"], p["W_K"], p["W_V"])
    first = _block_measured.NormalizedRows(S, p["gamma_1"], p["beta_1"], eps)
    U = first.output @ p["W_1"] + p["b_1"]
    V = first.output + sigma.value(U) @ p["W_2"] + p["b_2"]
    second = _block_measured.NormalizedRows(V, p["gamma_2"], p["beta_2"], eps)
    at = case.loss().expand(second.output)
    to_V = second.pull(at.gradient)
    to_H = to_V @ p["W_2"].mT
    to_Y = to_V + (sigma.slope(U) * to_H) @ p["W_1"].mT
    F = torch.eye(3, dtype=S.dtype) + p["W_1"] * sigma.slope(U)[..., None, :] @ p["W_2"]
    bent = second.curvature(at.gradient) + second.slope @ at.diagonal @ second.slope.mT
    inner = F @ bent @ F.mT + p["W_1"] * (to_H * sigma.curvature(U))[..., None, :] @ p["W_1"].mT
    return first.pull(to_Y), first.slope @ inner @ first.slope.mT + first.curvature(to_Y)


# ---- pieces


def against(function, derivative, points):
    """Return the error of a derivative at many points against autodiff and against central differences."""
    got, step = vmap(derivative)(points), 1e-5
    units = torch.eye(points.shape[-1], dtype=points.dtype)
    ahead, behind = (vmap(lambda u, s=s: vmap(function)(points + s * step * u))(units) for s in (1, -1))
    differences = ((ahead - behind) / (2 * step)).movedim(0, -1)
    true = vmap(jacfwd(function))(points)
    return [
        Check("autodiff", relative_error(got, true), 1e-11),
        Check(ROUTES[0][1], relative_error(got, differences), 1e-5),
    ]


def layer_norm_pieces(order, share):
    """Measure D and N(l) of rows of three to six features."""
    count, checks = some(200, share), []
    for m in (3, 4, 6):
        points = torch.randn(count, m, generator=generator(m), dtype=torch.float64)
        adjoint, eps = torch.linspace(-1, 2, m, dtype=torch.float64), 1e-2

        def parts(s, eps=eps):
            centered = s - s.mean()
            tau = (centered.square().mean() + eps).sqrt()[None]
            return centered / tau, tau

        def first(s, parts=parts, m=m):
            return normalization.slope(torch.eye(m, dtype=torch.float64), *parts(s))

        def second(s, parts=parts, m=m, adjoint=adjoint):
            return normalization.curve(adjoint, torch.eye(m, dtype=torch.float64), *parts(s))

        def slope(s, parts=parts, adjoint=adjoint):
            return grad(lambda t: (parts(t)[0] * adjoint).sum())(s)

        checks.append(
            against(lambda s, parts=parts: parts(s)[0], first, points) if order == 1 else against(slope, second, points)
        )
    worst = [max(row, key=lambda check: check.value) for row in zip(*checks, strict=True)]
    return f"{3 * count} rows", worst


def activations(names, share):
    """Measure sigma' and sigma'' on a grid."""
    u, worst = torch.linspace(-6, 6, some(2000, share) * 2, dtype=torch.float64), 0.0
    for name in names:
        sigma = {"gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), "relu": torch.relu}[name]
        for got, true in ((ACTIVATIONS[name].slope, grad(sigma)), (ACTIVATIONS[name].curvature, grad(grad(sigma)))):
            worst = max(worst, float((got(u) - vmap(true)(u)).abs().max()))
    return f"{len(u)} points", [Check("autodiff", worst, EXACT)]


def softmax_pieces(share):
    """Measure S t and D[u] t."""
    count, worst = some(300, share), 0.0
    t, u, v = torch.randn(3, count, 5, generator=generator(0), dtype=torch.float64)
    rows = Softmax.at(2 * t, None)
    first = vmap(jacfwd(lambda x: x.softmax(-1)))(2 * t)
    second = vmap(lambda x, w: jacfwd(grad(lambda y: (y.softmax(-1) * w).sum()))(x))(2 * t, u)
    worst = relative_error(rows.push(v), (first @ v[..., None])[..., 0])
    return f"{count} rows", [
        Check("S", worst, EXACT),
        Check("D", relative_error(rows.curve(u, v), (second @ v[..., None])[..., 0], u), EXACT),
    ]


# ---- constants and bounds


def ratio(what, values, limit=1.0, above=False):
    """Return the check of the largest ratio."""
    return Check(what, float(torch.as_tensor(values).max()), limit, above)


def rows_of_attention(count, tokens, gen):
    """Return rows of probabilities at all degrees of concentration."""
    scale = 10 ** (3 * torch.rand(count, 1, generator=gen, dtype=torch.float64) - 2)
    return (scale * torch.randn(count, tokens, generator=gen, dtype=torch.float64)).softmax(-1)


def lemma_1(share):
    """Draw rows; the largest at (1/2, 1/2)."""
    count = some(2000, share)
    a = torch.cat([rows_of_attention(count, 4, generator(0)), torch.tensor([[0.5, 0.5, 0.0, 0.0]]).double()])
    true = torch.linalg.matrix_norm(torch.diag_embed(a) - a[..., None] * a[..., None, :], ord=2)
    return f"{count} rows", [
        ratio("norm / 1/2", true / constants.SOFTMAX_JACOBIAN),
        ratio("norm / bound of the row", true / constants.softmax_jacobian_norm(a)),
    ]


def lemma_2(share):
    """Draw rows and unit vectors; the largest at p = (1 - 1/sqrt 3)/2 on two tokens."""
    count, gen = some(5000, share), generator(1)
    p = (1 - 1 / math.sqrt(3)) / 2
    a = torch.cat([rows_of_attention(count, 3, gen), torch.tensor([[p, 1 - p, 0.0]]).double()])
    v = torch.cat(
        [torch.randn(count, 3, generator=gen, dtype=torch.float64), torch.tensor([[1.0, -1.0, 0.0]]).double()]
    )
    v = torch.nn.functional.normalize(v, dim=-1)
    value = (a * (v - (a * v).sum(-1, keepdim=True)) ** 3).sum(-1).abs()
    return f"{count} rows", [ratio("value / constant", value / constants.SOFTMAX_SECOND)]


def lemma_3(share):
    """Draw rows; the second derivative is largest at eps = 2 var along s itself."""
    count, gen, worst = some(300, share), generator(2), [0.0, 0.0]
    for m in (3, 5):
        s = torch.randn(count, m, generator=gen, dtype=torch.float64)
        variance = s.var(-1, correction=0, keepdim=True)
        scale = torch.rand(count, 1, generator=gen, dtype=torch.float64) * 4
        scale[0] = 2.0
        centered, tau = s - s.mean(-1, keepdim=True), (variance * (1 + scale)).sqrt()
        along = torch.nn.functional.normalize(centered, dim=-1)
        bent = normalization.curve(along, along, centered / tau, tau)
        eye = torch.eye(m, dtype=torch.float64)
        slope = normalization.slope(eye, (centered / tau)[:, None], tau[:, None])
        first, second = constants.layer_norm_norms(tau[:, 0], m)
        worst[0] = max(worst[0], float((torch.linalg.matrix_norm(slope, ord=2) / first).max()))
        worst[1] = max(worst[1], float(((bent * along).sum(-1).abs() / second).max()))
    return f"{2 * count} rows", [Check("first / bound", worst[0], 1), Check("second / bound", worst[1], 1)]


def lemma_4(share):
    """Draw matrices of attention."""
    count = some(1000, share)
    A = rows_of_attention(5 * count, 5, generator(3)).unflatten(0, (count, 5))
    A = torch.cat([A, torch.eye(5, dtype=torch.float64)[[0] * 5][None]])
    true, bound = torch.linalg.matrix_norm(A, ord=2), constants.attention_norm(A)
    return f"{count} matrices", [
        ratio("norm / bound", true / bound),
        ratio("bound / sqrt L", bound / math.sqrt(5)),
        ratio("printed: norm", true, 1, above=True),
    ]


def gelu_constants(share):
    """Look at a fine grid."""
    u = torch.linspace(-8, 8, 80001, dtype=torch.float64)
    slope, bend = (f(u).abs().max() for f in (ACTIVATIONS["gelu"].slope, ACTIVATIONS["gelu"].curvature))
    first, second = constants.activation_norms("gelu")
    return "80001 points", [ratio("slope / bound", slope / first), ratio("curvature / bound", bend / second)]


def example_norm(example):
    """Return the Hessian of an example by autodiff."""
    return draws.attention_hessians(*example.layer, draws.Problem(None, draws.mean_square, (example.target,)))


def printed_theorem(share):
    """Take counterexample 1."""
    example = counterexamples.printed_theorem_1()
    bound = attention_bound(*example.layer, loss=example.loss, kind="printed")
    return "counterexample 1", [ratio("norm / M", draws.spectral(example_norm(example)) / bound, 1, above=True)]


def largest_block(share):
    """Take counterexample 2."""
    H = example_norm(counterexamples.max_over_blocks())
    return "counterexample 2", [
        Check("norm / largest block, less 3", abs(float(draws.spectral(H) / H.abs().max()) - 3), EXACT)
    ]


def frobenius(share):
    """Take counterexample 3 at eta = 1e-4."""
    example, loss = counterexamples.frobenius_loss(1e-4)
    exact = hessian.self_attention(*example.layer, loss=loss).dense()
    printed = attention_bound(*example.layer, loss=example.loss, kind="printed")
    return "counterexample 3", [ratio("norm / M", draws.spectral(exact) / printed, 1, above=True)]


def printed_softmax(share):
    """Take A = 0.96 I + 0.01 11'."""
    A = 0.96 * torch.eye(4, dtype=torch.float64) + 0.01
    value = torch.linalg.matrix_norm(counterexamples.softmax_derivative_printed(A), ord=2)
    return "one matrix", [ratio("norm", value, 1, above=True)]


@cache
def attention_draws(count):
    """Return random layers of every loss, and the norms of their Hessians."""
    gen, found = generator(5), []
    for name, sizes in itertools.product(draws.LOSSES, ((2, 1, 1, 1), (2, 2, 1, 2), (3, 2, 2, 1), (4, 3, 2, 2))):
        layer, problem = draws.random_attention_case(name, sizes, count, gen, shared=False)
        found.append((layer, problem, draws.spectral(draws.attention_hessians(*layer, problem))))
    return found


def attention_bounds(kind, share):
    """Draw layers, and take the example at which the bound is tight."""
    tight = counterexamples.tight_a_priori if kind == "a_priori" else counterexamples.tight_second_derivative
    reached = draws.spectral(example_norm(tight())) / attention_bound(*tight().layer, loss=tight().loss, kind=kind)
    ratios = []
    for layer, problem, true in attention_draws(some(400, share)):
        ratios.append(true / norms.block_matrix_norm(pair_norms(norms.Layer(*layer), problem.loss, kind)))
    ratios = torch.cat(ratios)
    return f"{len(ratios)} draws", [
        Check("violations", int((ratios > SLACK).sum()), 0),
        ratio("norm / bound", ratios),
        ratio("tight example", reached, 0.99, above=True),
    ]


def ball(share):
    """Draw weights in a ball, and take the bound at its center."""
    gen, count, ratios = generator(6), some(100, share), []
    for name, radius in itertools.product(("mse", "mean", "token"), (0.1, 1.0)):
        (X, *weights), problem = draws.random_attention_case(name, (3, 2, 2, 2), count, gen)
        bound = attention_bound(X, *weights, loss=problem.loss, kind="a_priori", radius=radius)
        step = torch.nn.functional.normalize(
            torch.randn(sum(w.numel() for w in weights), generator=gen, dtype=X.dtype), dim=0
        )
        pieces = (radius * step).split([w.numel() for w in weights])
        moved = [w + piece.reshape(w.shape) for w, piece in zip(weights, pieces, strict=True)]
        ratios.append(draws.spectral(draws.attention_hessians(X, *moved, problem)) / bound)
    return f"{6 * count} draws", [ratio("norm / bound", torch.cat(ratios))]


def heads_bounds(share):
    """Compare the bound on a layer of two heads and W_O with the exact norm."""
    count, ratios = some(30, share), []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape, generator=generator):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        X, W_Q, W_K, W_V, W_O = draw(20, 3, 4), draw(4, 4), draw(4, 4), draw(4, 6), draw(6, 4)
        given = {"loss": hessian.MSE(draw(20, 3, 4)), "heads": 2, "W_O": W_O}
        exact = hessian.self_attention(X, W_Q, W_K, W_V, **given).spectral_norm()
        ratios += (exact / bounds.multi_head_attention(X, W_Q, W_K, W_V, **given)).tolist()
    return f"{len(ratios)} draws", [ratio("norm / bound", ratios)]


def block_bounds(kind, share):
    """Draw blocks; look at the norm of the whole and at all 121 entries."""
    gen, count, ratios, entries = generator(7), some(20, share), [], 0
    for name, activation in itertools.product(draws.LOSSES if kind == "data" else draws.LOSSES[:4], ("gelu", "relu")):
        X, params, problem = draws.random_block_case(name, (3, 3, 2, 3), count, gen, activation, 1e-2)
        H = draws.block_hessians(X, params, activation, 1e-2, problem)
        options = {"loss": problem.loss, "activation": activation, "eps": 1e-2, "kind": kind}
        if kind == "a_priori":
            options["tau"] = _block_measured.smallest_taus(X, params, activation, 1e-2)
        true = draws.spectral(H)
        ratios.append(true / block_bound(X, params, **options))
        blocks = draws.blocks_of(H, [w.numel() for w in params.values()]) - NOISE * true[:, None, None]
        entries += int((blocks > SLACK * transformer_block_pairs(X, params, **options)).sum())
    ratios = torch.cat(ratios)
    return f"{len(ratios)} draws", [ratio("norm / bound", ratios), Check("entries above theirs", entries, 0)]


# ---- one more sample


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


def difference(losses, gradients, hessians, step):
    """Return L_{k+1} - L_k at w* + step."""
    at = losses + gradients @ step + hessians @ step @ step / 2
    return at.mean() - at[:-1].mean()


def theorem_3(kind, gradient, share, above=False):
    """Draw quadratic losses; without gradients the premise of the printed theorem is met, at w* for every sample."""
    count, ratios = some(300, share), []
    for seed in range(count):
        losses, gradients, hessians, step = quadratics(seed, gradient=gradient)
        bound = bounds.loss_difference(
            len(losses) - 1,
            loss_bound=1.0,
            hessian_bound=np.linalg.norm(hessians, 2, axis=(1, 2)).max(),
            radius=np.linalg.norm(step),
            gradient_bound=np.linalg.norm(gradients[-1] - gradients[:-1].mean(axis=0)),
            kind=kind,
        )
        ratios.append(abs(difference(losses, gradients, hessians, step)) / bound)
    return f"{count} draws", [ratio("difference / bound", ratios, 1, above)]


def at_minimum(share):
    """Draw quadratic losses, with the norm of H_{k+1} less the mean."""
    count, ratios = some(300, share), []
    for seed in range(count):
        losses, gradients, hessians, step = quadratics(seed)
        bound = bounds.loss_difference_at_minimum(
            len(losses) - 1,
            loss_bound=1.0,
            gradient_bound=np.linalg.norm(gradients[-1] - gradients[:-1].mean(axis=0)),
            hessian_gap=hessians[-1] - hessians[:-1].mean(axis=0),
            radius=np.linalg.norm(step),
        )
        ratios.append(abs(difference(losses, gradients, hessians, step)) / bound)
    return f"{count} draws", [ratio("difference / bound", ratios)]


def forecast(kind, limit, share, above=False):
    """Compare the forecast of quadratic losses with their difference."""
    count, worst = some(300, share), 0.0
    for seed in range(count):
        given = quadratics(seed)
        gaps = bounds.local_gaps(*given)
        pieces = {"loss_gap": gaps.loss, "gradient_gap": gaps.gradient, "hessian_gap_form": gaps.hessian}
        worst = max(worst, abs(bounds.quadratic_difference(gaps.k, **pieces, kind=kind) / difference(*given) - 1))
    return f"{count} draws", [Check("error", worst, limit, above)]


def variance_law(share):
    """Sum over every sample of three values."""
    values, worst = np.array([0.0, 0.3, 2.0]), 0.0
    for k in range(1, 6):
        chosen = values[np.array(list(itertools.product(range(3), repeat=k + 1)))]
        true = ((chosen.mean(axis=1) - chosen[:, :-1].mean(axis=1)) ** 2).mean()
        worst = max(worst, abs(bounds.mean_square_difference(k, values.var()) / true - 1))
    return "every sample, k <= 5", [Check("error", worst, EXACT)]


def gaussian_steps(share):
    """Integrate by Gauss-Hermite quadrature, exact for polynomials of this degree."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    steps = 0.7 * np.array(list(itertools.product(nodes, repeat=2)))
    weight, worst = np.array([a * b for a, b in itertools.product(weights, repeat=2)]) / (2 * np.pi), 0.0
    count = some(30, share)
    for seed in range(count):
        losses, gradients, hessians, _ = quadratics(seed, size=2)
        D, gap = hessians[-1] - hessians[:-1].mean(axis=0), losses[-1] - losses[:-1].mean()
        true = sum(w * difference(losses, gradients, hessians, s) ** 2 for w, s in zip(weight, steps, strict=True))
        slope = np.linalg.norm(gradients[-1] - gradients[:-1].mean(axis=0))
        found = bounds.gaussian_mean_square(
            len(losses) - 1,
            loss_gap=gap,
            gradient_gap=slope,
            hessian_gap_trace=np.trace(D),
            hessian_gap_frobenius=np.linalg.norm(D),
            spread=0.7,
        )
        worst = max(worst, abs(found / true - 1))
    return f"{count} surfaces", [Check("error", worst, 1e-11)]


def misses(kind, share):
    """Sum the hypergeometric law of losses of two values, over populations of up to 2000."""
    worst, cases = 0.0, 0
    for m, k_of, ones_of in itertools.product((20, 200, 2000), (0.1, 0.5, 0.9), (0.0, 0.05, 0.5)):
        k, ones = int(k_of * m), max(1, int(ones_of * m))
        seen = np.arange(k + 1)
        std = np.sqrt(seen / k * (1 - seen / k))
        for level in (0.3, 0.5, 0.9, 0.99):
            bound = bounds.mean_deviation(
                np.full(k + 1, k), kind=kind, level=level, population=m, loss_bound=1.0, std=std
            )
            missed = np.abs(seen / k - ones / m) > bound + 1e-12
            worst, cases = max(worst, hypergeom.pmf(seen, m, ones, k)[missed].sum() / (1 - level)), cases + 1
    return f"{cases} exact sums", [Check("miss probability / (1 - level)", worst, 1)]


def normal_law(share):
    """Compare the mean square over every subset with that of the true deviation, times z^2."""
    losses, worst = np.array([0.001, 0.02, 0.05, 0.1, 0.4, 0.9, 1.5, 3.0]), 0.0
    for k in range(2, 8):
        chosen = losses[np.array(list(itertools.combinations(range(8), k)))]
        std = chosen.std(axis=1, ddof=1)
        bound = bounds.mean_deviation(np.full(len(chosen), k), kind="normal", level=0.95, population=8, std=std)
        true = norm.ppf(0.975) ** 2 * np.mean((chosen.mean(axis=1) - losses.mean()) ** 2)
        worst = max(worst, abs(np.mean(bound**2) / true - 1))
    return "every subset of 8", [Check("error of the mean square", worst, EXACT)]


def bernstein(share):
    """Put t back into the tail, and draw means of random matrices without replacement."""
    rng, worst = np.random.default_rng(4), 0.0
    for k, v, R, P in itertools.product((1, 50, 5000), (0.01, 3.0), (0.1, 9.0), (1, 400)):
        t = bounds.matrix_bernstein(k, variance_norm=v, largest=R, dimension=P, level=0.9)
        worst = max(worst, abs(2 * P * math.exp(-(k * t * t / 2) / (v + R * t / 3)) / 0.1 - 1))
    raw = rng.normal(size=(200, 4, 4)) * rng.pareto(1.5, size=(200, 1, 1))
    centered = raw + raw.transpose(0, 2, 1) - (raw + raw.transpose(0, 2, 1)).mean(axis=0)
    spread = {
        "variance_norm": np.linalg.norm((centered @ centered).mean(axis=0), 2),
        "largest": np.linalg.norm(centered, 2, axis=(1, 2)).max(),
    }
    t, count = bounds.matrix_bernstein(60, **spread, dimension=4, level=0.5), some(500, share)
    found = [np.linalg.norm(centered[rng.permutation(200)[:60]].mean(axis=0), 2) for _ in range(count)]
    return f"{count} draws", [Check("tail", worst, 1e-9), Check("largest / t", max(found) / t, 1)]


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
    return f"{count} draws", [ratio("deviation / bound", ratios)]


def shift(share):
    """Compare with the minimizer of quadratic losses, which one Newton step reaches."""
    count, worst = some(100, share), 0.0
    for seed in range(count):
        _, gradients, hessians, _ = quadratics(3 * seed + 1)
        hessians = hessians @ hessians + np.eye(3)
        gradients[:-1] -= gradients[:-1].mean(axis=0)
        true = -np.linalg.solve(hessians.mean(axis=0), gradients.mean(axis=0))
        found = bounds.minimum_shift(hessians.mean(axis=0), gradients[-1], len(gradients) - 1)
        worst = max(worst, np.linalg.norm(found - true) / np.linalg.norm(true))
    return f"{count} problems", [Check("error", worst, EXACT)]


def assumption_1(share):
    """Check that a cross-entropy with an output bias always has a gradient: p - y of the new sample."""
    rng, count, smallest = np.random.default_rng(6), some(300, share), math.inf
    for _ in range(count):
        p = rng.dirichlet(np.ones(3), size=5)
        gradients = p - np.eye(3)[rng.integers(3, size=5)]
        smallest = min(smallest, bounds.check_minimum(gradients).new_gradient_norm)
    return f"{count} draws", [Check("smallest new gradient", smallest, 0, above=True)]


def sizes(size_of, bound_of, share):
    """Count the sizes that do not pass, or of which the one before passes too."""
    wrong, tolerances = 0, np.geomspace(0.02, 2, some(60, share))
    for epsilon in tolerances:
        k = size_of(epsilon)
        wrong += k is None or not bound_of(k) <= epsilon or (k > 1 and bound_of(k - 1) <= epsilon)
    return f"{len(tolerances)} tolerances", [Check("wrong sizes", wrong, 0)]


# ---- the table

TESTS = {
    "exact": "tests/hessian/test_exact.py::test_",
    "identities": "tests/hessian/test_identities.py::test_",
    "losses": "tests/hessian/test_losses.py::test_",
    "attention": "tests/bounds/test_bounds_attention.py::test_",
    "block": "tests/bounds/test_bounds_block.py::test_",
    "heads": "tests/bounds/test_bounds_heads.py::test_",
    "constants": "tests/bounds/test_bounds_constants.py::test_",
    "sample": "tests/bounds/test_bounds_finite_sample.py::test_",
    "surface": "tests/bounds/test_bounds_local_surface.py::test_",
    "square": "tests/bounds/test_bounds_mean_square.py::test_",
    "difference": "tests/bounds/test_bounds_loss_difference.py::test_",
    "minimum": "tests/bounds/test_bounds_minimum.py::test_",
}
SA, BLOCK, CHAIN = LAYERS = ("self_attention", "transformer_block", "transformer_chain")
FORMS, PAIRS = "exact:dense_mean_and_products_are_the_derivatives", "exact:every_block_of_every_part"


def row(formula: str, section: str, function: str, test: str, measure: Callable, *fixed, **named) -> Row:
    """Return a row, with short names of function and test written out."""
    where, name = test.split(":")
    return Row(formula, section, f"stillscape.{function}", TESTS[where] + name, partial(measure, *fixed, **named))


def hessian_rows() -> Iterator[Row]:
    """Yield the rows of sections 0, 2 and 5."""
    loss, h = "losses:expansion_is_that_of_autodiff", "hessian."
    yield row("G and B of the mean squared error", "0", h + "MSE", loss, output_loss, ("mse",))
    yield row("G and B of the cross-entropies", "0", h + "CrossEntropy", loss, output_loss, ENTROPIES)
    yield row("softmax: S t and D[u] t", "2.1", h + "row_maps.Softmax", FORMS, softmax_pieces)
    for part, section in (("functional", "2.2"), ("outer", "2.3")):
        for pair in ATTENTION:
            name = f"attention: H_{part[0]}({pair[0]}, {pair[1]})"
            yield row(name, section, h + SA, PAIRS, one_pair, part, pair)
    factor, exact = "exact:outer_factor_of_a_pooled_cross_entropy", h + "ExactHessian."
    yield row("H_o = F'F", "2.3", exact + "outer_factor", factor, every, LAYERS, factor_error, count=8, loss="mean")
    name = "attention: products H v (Proposition 3)"
    yield row(name, "2.4", exact + "matvec", FORMS, every, (SA,), product_error, attention="softmax")
    norm_row = "norm of H by Lanczos", "2.4", exact + "spectral_norm", "exact:spectral_norm"
    yield row(*norm_row, every, LAYERS, norm_error, count=8)
    for name, named in (
        ("three heads", {"heads": 3}),
        ("causal mask", {"mask": "causal"}),
        ("a mask for each sample", {"mask": "per_sample"}),
        ("linear", {"attention": "linear"}),
        ("given by its derivatives", {"attention": "row_normalized"}),
    ):
        yield row(f"attention: {name}", "2.5", h + SA, FORMS, whole, SA, **named)
    yield row("LayerNorm: D", "5.1", h + "normalization.slope", FORMS, layer_norm_pieces, 1)
    yield row("LayerNorm: N", "5.1", h + "normalization.curve", FORMS, layer_norm_pieces, 2)
    for name, test in (("gelu", "constants:gelu_on_a_grid"), ("relu", FORMS)):
        yield row(f"{name}: both derivatives", "5.1", h + "pointwise.pointwise", test, activations, (name,))
    yield row("gradient", "5.3", exact + "gradient", "exact:gradient_and_losses", every, LAYERS, gradient_error)
    yield row("feed-forward: W_1, b_1, W_2, b_2", "5.3", h + BLOCK, PAIRS, every, (BLOCK,), feed_forward_error)
    for (place, section), sigma in itertools.product((("post", "5.4"), ("pre", "5.8")), ("gelu", "relu")):
        named = {"norm": place, "activation": sigma, "head": False, "differences": 6 * (sigma == "gelu")}
        yield row(f"Theorem 2', all pairs: {place}-norm, {sigma}", section, h + BLOCK, PAIRS, whole, BLOCK, **named)
    test = "identities:attention_blocks_of_a_block_are_those_of_the_layer_with_an_effective_loss"
    yield row("effective loss of the attention in a block", "5.4", h + SA, test, effective_layer)
    yield row("mean over samples", "5.4", exact + "mean", FORMS, every, LAYERS, mean_error, n=3)
    for number, count in ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)):
        named = {"wrt": number, "blocks": count, "count": 10}
        yield row(f"chain of {count}: block {number + 1}", "5.6", h + CHAIN, FORMS, whole, CHAIN, **named)
    yield row("products H v, all layers", "5.6", exact + "matvec", FORMS, every, LAYERS, product_error)
    test = "exact:what_follows_a_block_is_a_loss_on_its_output"
    yield row("effective loss of a block in a chain", "5.6", exact + "effective_loss", test, effective_block)
    yield row("block with its head", "5.7", h + BLOCK, FORMS, whole, BLOCK, head=True)
    yield row("head alone", "5.7", h + CHAIN, FORMS, whole, CHAIN, wrt="head", count=10)


def bound_rows() -> Iterator[Row]:
    """Yield the rows of sections 1, 3, 4 and 5.5."""
    const, counter = "bounds.constants.", "bounds.counterexamples."
    test = "attention:printed_derivative_of_softmax_couples_rows"
    name = "printed dA/dT has norm at most 1: refuted"
    yield row(name, "1", counter + "softmax_derivative_printed", test, printed_softmax)
    for name, function, test, measure in (
        ("Lemma 1: norm of S, 1/2", "softmax_jacobian_norm", "softmax_jacobian_is_attained", lemma_1),
        ("Lemma 2: norm of D, sqrt(6)/9", "SOFTMAX_SECOND", "second_derivative_of_softmax_is_attained", lemma_2),
        ("Lemma 3: LayerNorm", "layer_norm_norms", "second_derivative_of_layer_norm_is_attained", lemma_3),
        ("Lemma 4: norm of A", "attention_norm", "norm_of_attention", lemma_4),
        ("norms of GELU's derivatives", "activation_norms", "gelu_on_a_grid", gelu_constants),
    ):
        yield row(name, "3", const + function, f"constants:{test}", measure)
    for name, function, test, measure in (
        ("Theorem 1 as printed: refuted", "printed_theorem_1", "printed_theorem_is_false", printed_theorem),
        ("largest block for the whole: off by 3", "max_over_blocks", "largest_block_is_not_the_norm", largest_block),
        ("Frobenius norm as loss: refuted", "frobenius_loss", "the_frobenius_norm_as_loss_has_no_bound", frobenius),
    ):
        yield row(name, "4.1", counter + function, f"attention:{test}", measure)
    layer, never = "bounds.attention.self_attention", "attention:never_exceeded"
    for kind, name, section in (("a_priori", "1'", "4.2"), ("data", "1''", "4.3"), ("token", "1'''", "4.4")):
        yield row(f"Theorem {name}", section, layer, never, attention_bounds, kind)
    yield row("Theorem 1' on a ball", "4.2", layer, never + "_on_a_ball", ball)
    test = "heads:never_exceeded_in_2400_draws_of_each_loss"
    yield row("several heads with W_O", "8", "bounds.heads.multi_head_attention", test, heads_bounds)
    for kind in ("data", "a_priori"):
        function = "bounds.block.transformer_block"
        yield row(f"block bound: {kind}", "5.5", function, "block:never_exceeded", block_bounds, kind)


def sample_rows() -> Iterator[Row]:
    """Yield the rows of section 6."""
    b, forecasts = "bounds.", "surface:forecast_is_exact_for_quadratics"
    yield row("forecast of one more sample", "6.1", b + "quadratic_difference", forecasts, forecast, "exact", 1e-9)
    printed = "the printed equality, H of the new sample: refuted", "6.2", b + "quadratic_difference"
    yield row(*printed, "surface:orders_of_the_errors", forecast, "printed", 0.1, above=True)
    test = "minimum:cross_entropy_with_an_output_bias_never_satisfies_it"
    name = "Assumption 1, cross-entropy with a bias: fails"
    yield row(name, "6.3", b + "check_minimum", test, assumption_1)
    yield row("shift of the minimizer", "6.3", b + "minimum_shift", "minimum:shift_is_exact_for_quadratics", shift)
    theorem, by_hand = b + "loss_difference", "difference:printed_by_hand"
    holds = "difference:rigorous_bound_holds_for_quadratic_losses"
    yield row("Theorem 3 as printed, its premises met", "6.4", theorem, by_hand, theorem_3, "printed", 0.0)
    without = "Theorem 3 as printed, without Assumption 1: fails", "6.4", theorem, by_hand
    yield row(*without, theorem_3, "printed", 9.0, above=True)
    yield row("Theorem 3' on the ball", "6.4", theorem, holds, theorem_3, "rigorous", 1.0)
    at_w = b + "loss_difference_at_minimum"
    yield row("Theorem 3' from w* alone", "6.4", at_w, "surface:bound_holds_in_the_ball", at_minimum)
    test = "square:law_by_every_sample_of_three_values"
    yield row("variance law", "6.5", b + "mean_square_difference", test, variance_law)
    test = "square:gaussian_mean_by_quadrature"
    yield row("mean square over Gaussian steps", "6.5", b + "gaussian_mean_square", test, gaussian_steps)
    for kind in finite_sample.KINDS[:3]:
        test = "sample:every_subset_of_a_small_population"
        yield row(f"mean of k of m losses: {kind}", "6.6", b + "mean_deviation", test, misses, kind)
    test = "sample:normal_variance_is_unbiased_with_divisor_k_minus_1"
    yield row("mean of k of m losses: normal (CLT)", "6.6", b + "mean_deviation", test, normal_law)
    test = "surface:deviation_is_never_missed_by_sampling"
    yield row("matrix Bernstein", "6.7", b + "matrix_bernstein", test, bernstein)
    test = "surface:uniform_deviation_holds_and_is_attained"
    yield row("uniform over a ball", "6.7", b + "uniform_deviation", test, uniform)


def size_rows() -> Iterator[Row]:
    """Yield the inversions to k*."""
    three = {"loss_bound": 2.0, "hessian_bound": 3.0, "radius": 0.5, "gradient_bound": 1.0}
    smallest, search = "inversion_is_the_smallest_size_that_passes", "sample:size_is_that_of_a_search_from_the_end"
    for kind in ("printed", "rigorous"):
        pair = [partial(f, **three, kind=kind) for f in (bounds.sufficient_size, bounds.loss_difference)]
        name = f"k* of Theorem 3, {kind}"
        yield row(name, "6.8", "bounds.sufficient_size", f"difference:{smallest}", sizes, *pair)
    pair = [partial(bounds.root_mean_square_size, variance=5.0), lambda k: bounds.mean_square_difference(k, 5.0) ** 0.5]
    test = "square:size_is_the_smallest_that_passes"
    yield row("k* of the variance law", "6.8", "bounds.root_mean_square_size", test, sizes, *pair)
    for kind in finite_sample.KINDS:
        given = {"kind": kind, "loss_bound": 2.0, "std": 0.3, "population": 10**6}
        pair = [partial(f, **given) for f in (bounds.mean_sufficient_size, bounds.mean_deviation)]
        yield row(f"k* of the mean, {kind}", "6.8", "bounds.mean_sufficient_size", search, sizes, *pair)
    given = {"variance_norm": 2.0, "largest": 3.0, "dimension": 50}
    pair = [partial(f, **given) for f in (bounds.matrix_bernstein_size, bounds.matrix_bernstein)]
    test = "surface:matrix_size_is_the_smallest_that_passes"
    yield row("k* of matrix Bernstein", "6.8", "bounds.matrix_bernstein_size", test, sizes, *pair)


HEAD = """# Formula, function, test, measured error

Written by `python scripts/formula_table.py`; don't edit it by hand. Everything under "measured" was computed when the
script ran, with torch {torch} and numpy {numpy} in float64, on one thread. Errors of Hessians are relative to the
whole Hessian, against automatic differentiation and against central differences; the number in brackets is the limit,
and `>` stands where a statement is refuted. For a bound it is the largest ratio of truth to bound, so 1 is sharp.
Sections are those of [docs/theory](theory.md); `stillscape audit` goes through the drafts statement by statement.

| formula | section | function | test | cases | measured |
|---|---|---|---|---|---|
"""


def all_rows() -> Iterator[Row]:
    """Yield every row in order."""
    yield from itertools.chain(hessian_rows(), bound_rows(), sample_rows(), size_rows())


def table(share: float) -> tuple[str, list[str]]:
    """Return the file, and the rows that do not keep their limit."""
    lines, failed = [], []
    for row in all_rows():
        cases, checks = row.measure(share)
        shown = "; ".join(str(check) for check in checks)
        lines.append(f"| {row.formula} | {row.section} | `{row.function}` | `{row.test}` | {cases} | {shown} |")
        failed += [f"{row.formula}: {check}" for check in checks if not check.holds]
    return HEAD.format(torch=torch.__version__.split("+")[0], numpy=np.__version__) + "\n".join(lines) + "\n", failed


def main() -> int:
    """Write the table; return 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cases")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "theory-table.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text, failed = table(0.05 if options.quick else 1.0)
    options.out.write_text(text, encoding="utf-8")
    for line in failed:
        sys.stderr.write(f"limit not kept: {line}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
