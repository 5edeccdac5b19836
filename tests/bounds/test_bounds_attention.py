"""Theorem 1: the mended bounds are never exceeded and are attained; the printed one is refuted."""

import math
from itertools import pairwise

import pytest
import torch

from stillscape._errors import InputError
from stillscape.bounds import _attention_norms, constants, counterexamples
from stillscape.bounds.attention import pair_norms, self_attention
from stillscape.hessian.losses import MSE, CrossEntropy, OutputLoss
from tests.bounds import draws

TRUE_KINDS = ("a_priori", "data", "token")
#: The truth itself is computed with rounding, and cancels where a loss is nearly flat.
SLACK = 1 + 1e-9


def generator(seed):
    return torch.Generator().manual_seed(seed)


def truth(layer, problem):
    return draws.spectral(draws.attention_hessians(*layer, problem))


def example_truth(example):
    return draws.attention_hessians(*example.layer, draws.Problem(None, draws.mean_square, (example.target,)))


def ratio(example, kind):
    bound = self_attention(*example.layer, loss=example.loss, kind=kind)
    return float(draws.spectral(example_truth(example)) / bound)


# ---- never exceeded ----


@pytest.mark.parametrize("name", draws.LOSSES)
def test_never_exceeded(name):
    gen = generator(draws.LOSSES.index(name))
    for sizes in ((2, 1, 1, 1), (1, 2, 1, 1), (3, 2, 1, 3), (4, 3, 2, 2), (5, 2, 3, 2)):
        for _ in range(2):
            layer, problem = draws.random_attention_case(name, sizes, 40, gen)
            norms = truth(layer, problem)
            for kind in TRUE_KINDS:
                assert torch.all(norms <= SLACK * self_attention(*layer, loss=problem.loss, kind=kind)), (sizes, kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", draws.LOSSES)
def test_never_exceeded_in_100_000_draws(name):
    """Together; every draw has weights of its own, so the door is passed by."""
    gen, count = generator(100 + draws.LOSSES.index(name)), 0
    small = [(2, 1, 1, 1), (3, 1, 1, 1), (2, 1, 1, 2), (3, 1, 2, 1), (2, 2, 1, 2), (3, 2, 1, 1), (1, 2, 1, 1)]
    for sizes, n in [
        *((sizes, 2500) for sizes in small),
        ((4, 3, 2, 2), 2000),
        ((5, 2, 3, 2), 1500),
        ((8, 4, 2, 3), 300),
    ]:
        layer, problem = draws.random_attention_case(name, sizes, n, gen, shared=False)
        norms = truth(layer, problem)
        for kind in TRUE_KINDS:
            bound = _attention_norms.block_matrix_norm(pair_norms(_attention_norms.Layer(*layer), problem.loss, kind))
            assert torch.all(norms <= SLACK * bound), (sizes, kind)
        count += n
    assert count * len(draws.LOSSES) >= 100_000


def test_every_block_is_bounded():
    gen = generator(7)
    for name in draws.LOSSES:
        layer, problem = draws.random_attention_case(name, (3, 3, 2, 2), 40, gen)
        H = draws.attention_hessians(*layer, problem)
        blocks = draws.blocks_of(H, [w.numel() for w in layer[1:]])
        for kind in TRUE_KINDS:
            N = pair_norms(_attention_norms.Layer(*layer), problem.loss, kind)
            assert torch.all(blocks <= SLACK * N + 1e-12 * draws.spectral(H)[:, None, None]), (name, kind)


def test_each_kind_is_at_most_the_cheaper_one():
    gen = generator(8)
    for name in draws.LOSSES:
        layer, problem = draws.random_attention_case(name, (4, 3, 2, 3), 100, gen)
        rough, data, token = (self_attention(*layer, loss=problem.loss, kind=kind) for kind in TRUE_KINDS)
        assert torch.all(token <= SLACK * data)
        assert torch.all(data <= SLACK * rough)


# ---- attained ----


@pytest.mark.parametrize(
    ("kind", "sizes", "least"),
    [
        ("a_priori", (2, 1, 1, 1), 0.99),
        ("a_priori", (2, 2, 1, 2), 0.9),
        ("data", (2, 2, 1, 2), 0.999),
        ("token", (2, 2, 1, 2), 0.999),
    ],
)
def test_ascent_reaches_the_bound_and_no_further(kind, sizes, least):
    best = draws.ascend(kind, sizes, restarts=12, steps=100, gen=generator(0))
    assert least <= float(best.max()) <= SLACK


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRUE_KINDS)
@pytest.mark.parametrize("sizes", [(2, 1, 1, 1), (2, 2, 2, 1), (3, 2, 2, 2), (4, 2, 1, 3)])
def test_long_ascent_never_passes_the_bound(kind, sizes):
    best = draws.ascend(kind, sizes, restarts=24, steps=400, gen=generator(1))
    assert 0.5 <= float(best.max()) <= SLACK


@pytest.mark.parametrize("size", [0.1, 0.01, 0.001])
def test_tight_examples(size):
    assert 1 - size**2 <= ratio(counterexamples.tight_a_priori(size), "a_priori") <= 1
    assert 1 - size**2 <= ratio(counterexamples.tight_second_derivative(size), "data") <= 1
    assert 1 - size**2 <= ratio(counterexamples.tight_second_derivative(size), "token") <= 1


def equal_tokens():
    """All tokens alike and no other weight: H is that of W_V alone, of norm c L x_inf^2."""
    X, none = torch.ones(1, 4, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    return counterexamples.Example(X, none, none, none, torch.zeros_like(X))


def test_theorem_1_by_its_closed_form():
    """The norm of the 3 x 3 matrix as the theorem writes it out, with all constants from scratch."""
    gen = generator(2)
    (X, *weights), problem = draws.random_attention_case("mse", (4, 3, 2, 5), 30, gen)
    L, d_K, d_V = 4, 2, 5
    c, E = 2 / (L * d_V), draws.forward(X, *weights) - problem.own[0]
    x, x_inf = torch.linalg.matrix_norm(X, ord=2), X.norm(dim=-1).amax(-1)
    w = max(torch.linalg.matrix_norm(W, ord=2) for W in weights)
    R, R_inf = E.flatten(1).norm(dim=-1), E.norm(dim=-1).amax(-1)
    a = c * L * x_inf**2
    q = c / d_K * (w**4 * x**6 / 4 + math.sqrt(6) / 9 * R_inf * w**3 * x**5)
    kappa = q + c / (2 * math.sqrt(d_K)) * R * w * x**3
    v = c / (2 * math.sqrt(d_K)) * (math.sqrt(L) * x_inf * x**3 * w**2 + R * w * x**3)
    wanted = ((q + kappa + a) + torch.sqrt((q + kappa - a) ** 2 + 8 * v**2)) / 2
    torch.testing.assert_close(self_attention(X, *weights, loss=problem.loss, kind="a_priori"), wanted)


def test_cross_entropy_needs_no_residual():
    """The a-priori bound is the same for every label and every bias of the head."""
    gen = generator(3)
    layer, problem = draws.random_attention_case("mean", (3, 2, 1, 2), 5, gen)
    head = problem.loss.W_h
    bounds = {
        tuple(
            self_attention(*layer, loss=CrossEntropy(torch.full((5,), y), head, shift, "cls"), kind="a_priori").tolist()
        )
        for y in (0, 1)
        for shift in (None, torch.linspace(-3, 3, head.shape[1], dtype=torch.float64))
    }
    assert len(bounds) == 1


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_pooling_sharpens(pool):
    """The same G and B without the knowledge that they come from a pooled output."""
    layer, problem = draws.random_attention_case(pool, (4, 3, 2, 3), 50, generator(4))
    at = problem.loss.expand(draws.forward(*layer))
    blind = OutputLoss(at.gradient, at.matrix())
    for kind in ("data", "token"):
        sharp, plain = (self_attention(*layer, loss=loss, kind=kind) for loss in (problem.loss, blind))
        assert torch.all(sharp <= SLACK * plain)
        assert torch.any(sharp < 0.9 * plain)


# ---- refuted ----


def test_printed_theorem_by_hand():
    """One feature, one token x = 2, weights 3, -1, 1, target 5: F = 2, R = 3, c = 2."""
    X, target = torch.full((1, 1, 1), 2.0, dtype=torch.float64), torch.full((1, 1, 1), 5.0, dtype=torch.float64)
    weights = [torch.full((1, 1), w, dtype=torch.float64) for w in (3.0, -1.0, 1.0)]
    wanted = 2 * 3**4 * 2**6 + 2 * 3 * 3**3 * 2**5 + 2 * 3 * 3 * 2**3
    assert float(self_attention(X, *weights, loss=MSE(target), kind="printed")) == pytest.approx(wanted, rel=1e-11)


def test_printed_theorem_is_false():
    example = counterexamples.printed_theorem_1()
    H = example_truth(example)
    assert float(self_attention(*example.layer, loss=example.loss, kind="printed")) == pytest.approx(0.5, rel=1e-11)
    assert float(draws.spectral(H)) == pytest.approx(0.761401, abs=5e-7)
    assert ratio(example, "printed") == pytest.approx(1.523, abs=5e-4)
    blocks = draws.blocks_of(H, [2, 2, 4])[0]
    assert float(blocks[2, 2]) == pytest.approx(0.606776, abs=5e-7)  # the block of W_V alone is above 0.5
    assert float(blocks[2, 0]) == pytest.approx(0.2166, abs=5e-5)
    assert all(ratio(example, kind) <= 1 for kind in TRUE_KINDS)


def test_largest_block_is_not_the_norm():
    H = example_truth(counterexamples.max_over_blocks())
    blocks = draws.blocks_of(H, [1, 1, 1])
    torch.testing.assert_close(blocks, torch.full_like(blocks, 2 * math.tanh(1) ** 2))
    torch.testing.assert_close(draws.spectral(H), 3 * blocks[:, 0, 0])


@pytest.mark.parametrize(("eta", "wanted"), [(1.0, 1.4005), (1e-2, 136.82), (1e-4, 13681.8)])
def test_the_frobenius_norm_as_loss_has_no_bound(eta, wanted):
    example, loss = counterexamples.frobenius_loss(eta)

    def norm(out, target):
        return torch.linalg.vector_norm(out - target)

    H = draws.spectral(draws.attention_hessians(*example.layer, draws.Problem(None, norm, (example.target,))))
    assert float(H) == pytest.approx(wanted, rel=1e-4)
    printed = float(self_attention(*example.layer, loss=example.loss, kind="printed"))
    assert printed == pytest.approx(0.5 + eta * (0.5 + 0.5 * math.sqrt(2)), rel=0.1)
    assert (float(H) > 100 * printed) == (eta < 1)
    assert all(float(H / self_attention(*example.layer, loss=loss, kind=kind)) <= 1 for kind in TRUE_KINDS)


def test_attention_can_stretch():
    example = counterexamples.attention_norm_above_one(tokens=9)
    A = example.attention[0]
    assert float(torch.linalg.matrix_norm(A, ord=2)) == pytest.approx(3, abs=1e-6)
    assert float(torch.linalg.matrix_norm(A @ example.X[0], ord=2)) == pytest.approx(3, abs=1e-6)
    assert float(torch.linalg.matrix_norm(example.X[0], ord=2)) == 1


def test_printed_derivative_of_softmax_couples_rows():
    T = torch.randn(3, 3, generator=generator(5), dtype=torch.float64)
    A = T.softmax(-1)
    right = torch.func.jacfwd(lambda t: t.reshape(3, 3).softmax(-1).flatten())(T.flatten())
    torch.testing.assert_close(counterexamples.softmax_derivative(A), right)
    assert torch.linalg.matrix_norm(counterexamples.softmax_derivative_printed(A) - right) > 0.1
    one = A[:1, :1] * 0 + 1
    torch.testing.assert_close(counterexamples.softmax_derivative_printed(one), one * 0)  # a row of one is right


# ---- a whole ball ----


@pytest.mark.parametrize("name", ["mse", "mean", "cls", "token"])
def test_never_exceeded_on_a_ball(name):
    gen = generator(10)
    for sizes in ((2, 1, 1, 1), (3, 2, 2, 3)):
        (X, *weights), problem = draws.random_attention_case(name, sizes, 60, gen)
        for radius in (1e-3, 0.1, 3.0):
            bound = self_attention(X, *weights, loss=problem.loss, kind="a_priori", radius=radius)
            steps = [torch.randn(60, *w.shape, generator=gen, dtype=torch.float64) for w in weights]
            length = sum(s.square().sum((1, 2), keepdim=True) for s in steps).sqrt() / radius
            moved = [w + s / length for w, s in zip(weights, steps, strict=True)]
            assert torch.all(truth((X, *moved), problem) <= SLACK * bound)


def test_ball_bound_grows_and_starts_at_the_point():
    for name in ("mse", "mean", "token"):
        layer, problem = draws.random_attention_case(name, (3, 2, 1, 2), 40, generator(11))
        radii = (0.0, 1e-9, 1e-3, 0.1, 1.0, 10.0)
        found = [self_attention(*layer, loss=problem.loss, kind="a_priori", radius=radius) for radius in radii]
        assert all(torch.all(small < large) for small, large in pairwise(found))
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=0)


def test_residual_far_from_the_target_is_that_of_the_theorem():
    """At a large radius R <= sqrt(L) x_inf (omega + radius) + ||Y||_F, by hand for one token and one feature."""
    one = torch.ones(1, 1, dtype=torch.float64)
    x, target, radius = 1.0, 3.0, 99.0
    bound = self_attention(one[None], one, one, one, loss=MSE(target * one[None]), kind="a_priori", radius=radius)
    w, R = 100.0, x * 100.0 + target
    q = 2 * (w**4 / 4 + math.sqrt(6) / 9 * R * w**3)
    kappa, v, a = q + R * w, w**2 + R * w, 2.0
    assert float(bound) == pytest.approx(((q + kappa + a) + math.sqrt((q + kappa - a) ** 2 + 8 * v**2)) / 2, rel=1e-11)


# ---- planted faults ----


@pytest.mark.parametrize(
    ("module", "name", "fault", "example", "kind"),
    [
        (constants, "SOFTMAX_JACOBIAN", 0.4, counterexamples.tight_a_priori, "a_priori"),
        (constants, "SOFTMAX_SECOND", 0.2, counterexamples.tight_second_derivative, "data"),
        (
            constants,
            "softmax_jacobian_norm",
            lambda a: (a * (1 - a)).amax(-1),
            counterexamples.max_over_blocks,
            "data",
        ),
        (_attention_norms, "row_norm", lambda m: m.norm(dim=-1).mean(-1) / 2, equal_tokens, "a_priori"),
        (_attention_norms, "gram", lambda Z, w: Z.square().sum((-2, -1)) * w.amin(-1) / 4,
         counterexamples.max_over_blocks, "token"),
        (_attention_norms, "block_matrix_norm", lambda N: N.amax((-2, -1)), counterexamples.max_over_blocks, "token"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(module, name, fault, example, kind, monkeypatch):
    assert 0.999999 <= ratio(example(), kind) <= 1
    monkeypatch.setattr(module, name, fault)
    assert ratio(example(), kind) > 1.05


# ---- the door ----


def test_float32_is_no_lower_than_the_truth():
    gen = generator(12)
    for example in (counterexamples.max_over_blocks(), counterexamples.printed_theorem_1(), equal_tokens()):
        single = [tensor.float() for tensor in (*example.layer, example.target)]
        same = counterexamples.Example(*(tensor.double() for tensor in single))
        for kind in TRUE_KINDS:
            bound = self_attention(*single[:4], loss=MSE(single[4]), kind=kind)
            assert bound.dtype == torch.float32
            assert bound.double() >= draws.spectral(example_truth(same))
    (X, *weights), problem = draws.random_attention_case("token", (3, 2, 2, 3), 20, gen)
    loss = problem.loss
    single = CrossEntropy(loss.labels, loss.W_h.float(), loss.b_h.float(), "token")
    bound = self_attention(X.float(), *(w.float() for w in weights), loss=single, kind="token")
    torch.testing.assert_close(bound.double(), self_attention(X, *weights, loss=loss, kind="token"), rtol=1e-3, atol=0)
    given = OutputLoss(torch.ones(1, 2, 1), torch.tensor([[[1.0, 1.0], [1.0 + 1e-6, 1.0]]]))  # symmetric for float32
    assert self_attention(*(t.float() for t in counterexamples.max_over_blocks().layer), loss=given).isfinite().all()


def test_samples_do_not_meet(monkeypatch):
    for name in draws.LOSSES:
        (X, *weights), problem = draws.random_attention_case(name, (3, 2, 2, 2), 7, generator(13))
        for kind in TRUE_KINDS:
            whole = self_attention(X, *weights, loss=problem.loss, kind=kind)
            rows = slice(2, 4)
            part = self_attention(X[rows], *weights, loss=problem.loss.take(rows), kind=kind)
            torch.testing.assert_close(part, whole[rows], rtol=1e-12, atol=0)
            with monkeypatch.context() as small:
                small.setitem(self_attention.__globals__, "_CHUNK", 1)
                sliced = self_attention(X, *weights, loss=problem.loss, kind=kind)
            torch.testing.assert_close(sliced, whole, rtol=1e-12, atol=0)


def test_a_loss_of_other_make():
    """Any object that expands itself; in its own dtype."""

    class Doubled:
        def __init__(self, inner):
            self.inner = inner

        def expand(self, output):
            at = self.inner.expand(output)
            return type(at)(None, 2 * at.gradient, 2 * at.diagonal)

        def take(self, rows):
            return Doubled(self.inner.take(rows))

    example = counterexamples.printed_theorem_1()
    layer, target = [t.float() for t in example.layer], example.target.float()
    for kind in TRUE_KINDS:
        single = self_attention(*layer, loss=MSE(target), kind=kind)
        torch.testing.assert_close(self_attention(*layer, loss=Doubled(MSE(target)), kind=kind), 2 * single)


def small():
    one = torch.ones(2, 2, dtype=torch.float64)
    return {"X": torch.ones(3, 4, 2, dtype=torch.float64), "W_Q": one, "W_K": one, "W_V": one,
            "loss": MSE(torch.ones(3, 4, 2, dtype=torch.float64))}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "sharp"}, "kind is 'sharp'"),
        ({"radius": -1.0}, "radius is -1.0"),
        ({"radius": math.nan}, "radius is nan"),
        ({"radius": 0.5}, 'radius is 0.5 with kind "data"'),
        ({"radius": 0.5, "kind": "token"}, 'radius is 0.5 with kind "token"'),
        ({"X": torch.ones(4, 2)}, "X has shape"),
        ({"W_Q": torch.ones(3, 2, dtype=torch.float64)}, "W_Q has shape"),
        ({"W_K": torch.ones(2, 1, dtype=torch.float64)}, "W_K has shape"),
        ({"W_V": torch.ones(2, 2)}, "W_V has dtype torch.float32"),
        ({"X": torch.full((3, 4, 2), math.nan, dtype=torch.float64)}, "X holds NaN"),
        ({"loss": MSE(torch.ones(3, 4, 2))}, "target has dtype torch.float32"),
        ({"loss": MSE(torch.ones(3, 4, 3, dtype=torch.float64))}, "target has shape"),
        ({"loss": CrossEntropy(torch.zeros(3).long(), torch.eye(2))}, "W_h has dtype torch.float32"),
        ({"loss": CrossEntropy(torch.zeros(2).long(), torch.eye(2).double())}, "labels has shape"),
        ({"loss": CrossEntropy(torch.zeros(2).long(), torch.eye(2).double()), "kind": "a_priori"}, "labels has shape"),
        ({"loss": "mse"}, "loss is a str"),
    ],
)
def test_bad_arguments_are_named(change, match):
    with pytest.raises(InputError, match=match):
        self_attention(**(small() | change))


CROSS_ENTROPY = CrossEntropy(torch.zeros(3).long(), torch.eye(2).double())
OUTPUT = OutputLoss(torch.ones(3, 4, 2).double(), torch.eye(8).double().expand(3, 8, 8))


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, OUTPUT])
def test_printed_theorem_is_for_the_mean_squared_error(loss):
    with pytest.raises(InputError, match="stated for the mean squared error"):
        self_attention(**(small() | {"loss": loss, "kind": "printed"}))
    with pytest.raises(InputError, match=r'radius is 0\.5 with kind "printed"'):
        self_attention(**(small() | {"kind": "printed", "radius": 0.5}))


def test_a_loss_known_at_one_output_has_no_ball():
    with pytest.raises(InputError, match=r"radius is 0\.5 with a OutputLoss"):
        self_attention(**(small() | {"loss": OUTPUT, "kind": "a_priori", "radius": 0.5}))
