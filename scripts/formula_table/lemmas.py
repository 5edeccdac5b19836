"""The rows of sections 1 and 3: the printed derivative of softmax, and the constants under the bounds."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch.nn.functional import normalize

from scripts.formula_table.measure import generator, largest, normal, some
from scripts.formula_table.row import Row, row
from stillscape.bounds import constants, counterexamples
from stillscape.hessian import normalization
from stillscape.hessian.pointwise import ACTIVATIONS

spectral = partial(torch.linalg.matrix_norm, ord=2)


def rows_of_attention(count, tokens, gen):
    """Return rows of probabilities at all degrees of concentration."""
    scale = 10 ** (3 * torch.rand(count, 1, generator=gen, dtype=torch.float64) - 2)
    return (scale * normal(gen, count, tokens)).softmax(-1)


def with_extreme(drawn, extreme):
    """Return what was drawn, and one more of which the answer is known."""
    return torch.cat([drawn, torch.tensor([extreme], dtype=torch.float64)])


def printed_softmax(share):
    """Take A = 0.96 I + 0.01 11'."""
    A = 0.96 * torch.eye(4, dtype=torch.float64) + 0.01
    return "one matrix", [largest("norm", spectral(counterexamples.softmax_derivative_printed(A)), above=True)]


def lemma_1(share):
    """Draw rows; the largest at (1/2, 1/2)."""
    count = some(2000, share)
    a = with_extreme(rows_of_attention(count, 4, generator(0)), [0.5, 0.5, 0.0, 0.0])
    true = spectral(torch.diag_embed(a) - a[..., None] * a[..., None, :])
    return f"{count} rows", [
        largest("norm / 1/2", true / constants.SOFTMAX_JACOBIAN),
        largest("norm / bound of the row", true / constants.softmax_jacobian_norm(a)),
    ]


def lemma_2(share):
    """Draw rows and unit vectors; the largest at p = (1 - 1/sqrt 3)/2 on two tokens."""
    count, gen = some(5000, share), generator(1)
    p = (1 - 1 / math.sqrt(3)) / 2
    a = with_extreme(rows_of_attention(count, 3, gen), [p, 1 - p, 0.0])
    v = normalize(with_extreme(normal(gen, count, 3), [1.0, -1.0, 0.0]), dim=-1)
    value = (a * (v - (a * v).sum(-1, keepdim=True)) ** 3).sum(-1).abs()
    return f"{count} rows", [largest("value / constant", value / constants.SOFTMAX_SECOND)]


def lemma_3(share):
    """Draw rows; the second derivative is largest at eps = 2 var along s itself."""
    count, gen, first, second = some(300, share), generator(2), [], []
    for m in (3, 5):
        s = normal(gen, count, m)
        scale = torch.rand(count, 1, generator=gen, dtype=torch.float64) * 4
        scale[0] = 2.0
        centered, tau = s - s.mean(-1, keepdim=True), (s.var(-1, correction=0, keepdim=True) * (1 + scale)).sqrt()
        along, eye = normalize(centered, dim=-1), torch.eye(m, dtype=torch.float64)
        slope = normalization.slope(eye, (centered / tau)[:, None], tau[:, None])
        bent = normalization.curve(along, along, centered / tau, tau)
        steepest, most_bent = constants.layer_norm_norms(tau[:, 0], m)
        first.append(spectral(slope) / steepest)
        second.append((bent * along).sum(-1).abs() / most_bent)
    checks = [largest("first / bound", torch.cat(first)), largest("second / bound", torch.cat(second))]
    return f"{2 * count} rows", checks


def lemma_4(share):
    """Draw matrices of attention; the largest where all tokens attend to the first."""
    count = some(1000, share)
    A = rows_of_attention(5 * count, 5, generator(3)).unflatten(0, (count, 5))
    A = with_extreme(A, [[1.0, 0.0, 0.0, 0.0, 0.0]] * 5)
    true, bound = spectral(A), constants.attention_norm(A)
    return f"{count} matrices", [
        largest("norm / bound", true / bound),
        largest("bound / sqrt L", bound / math.sqrt(5)),
        largest("printed: norm", true, above=True),
    ]


def gelu_constants(share):
    """Look at a fine grid."""
    u, gelu = torch.linspace(-8, 8, 80001, dtype=torch.float64), ACTIVATIONS["gelu"]
    first, second = constants.activation_norms("gelu")
    slope, bend = gelu.slope(u).abs() / first, gelu.curvature(u).abs() / second
    return f"{len(u)} points", [largest("slope / bound", slope), largest("curvature / bound", bend)]


def rows() -> Iterator[Row]:
    """Yield them in order."""
    name, function = "printed dA/dT has norm at most 1: refuted", "bounds.counterexamples.softmax_derivative_printed"
    yield row(name, "1", function, "attention:printed_derivative_of_softmax_couples_rows", printed_softmax)
    for name, function, test, measure in (
        ("Lemma 1: norm of S, 1/2", "softmax_jacobian_norm", "softmax_jacobian_is_attained", lemma_1),
        ("Lemma 2: norm of D, sqrt(6)/9", "SOFTMAX_SECOND", "second_derivative_of_softmax_is_attained", lemma_2),
        ("Lemma 3: LayerNorm", "layer_norm_norms", "second_derivative_of_layer_norm_is_attained", lemma_3),
        ("Lemma 4: norm of A", "attention_norm", "norm_of_attention", lemma_4),
        ("norms of GELU's derivatives", "activation_norms", "gelu_on_a_grid", gelu_constants),
    ):
        yield row(name, "3", f"bounds.constants.{function}", f"constants:{test}", measure)
