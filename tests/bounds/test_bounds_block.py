"""The bound of a transformer block: every one of its 11 x 11 entries holds, and the norm of the whole."""

import math

import pytest
import torch

from stillscape._errors import AssumptionError, InputError
from stillscape.bounds import _block_measured
from stillscape.bounds._block_norms import PARAMETERS, pair_norms
from stillscape.bounds.block import transformer_block, transformer_block_pairs
from stillscape.hessian import normalization
from stillscape.hessian.losses import MSE, CrossEntropy, OutputLoss
from tests.bounds import draws

ACTIVATIONS = ("gelu", "relu", "linear")
#: Of the bound, and of the whole norm: small blocks of the truth carry the rounding of the large ones.
SLACK, NOISE = 1 + 1e-9, 1e-10


def generator(seed):
    return torch.Generator().manual_seed(seed)


def case(name, seed, sizes=(3, 3, 2, 4), n=8, activation="gelu", eps=1e-2):
    """X, params, the door's other arguments, and the problem."""
    X, params, problem = draws.random_block_case(name, sizes, n, generator(seed), activation, eps)
    assert tuple(params) == PARAMETERS
    return X, params, {"loss": problem.loss, "activation": activation, "eps": eps}, problem


def violations(X, params, options, problem):
    """Return how often the truth is above its bound, entries and norms, for every kind that the loss allows."""
    H = draws.block_hessians(X, params, options["activation"], options["eps"], problem)
    norms = draws.spectral(H)
    blocks = draws.blocks_of(H, [w.numel() for w in params.values()]) - NOISE * norms[:, None, None]
    kinds = [{"kind": "data"}]
    if not isinstance(problem.loss, OutputLoss):
        tau = _block_measured.smallest_taus(X, params, options["activation"], options["eps"])
        kinds += [{"kind": "a_priori"}, {"kind": "a_priori", "tau": tau}]
    found = 0
    for kind in kinds:
        found += int((blocks > SLACK * transformer_block_pairs(X, params, **options, **kind)).sum())
        found += int((norms > SLACK * transformer_block(X, params, **options, **kind)).sum())
    return found


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", draws.LOSSES)
def test_never_exceeded(name, activation):
    seed = 10 * draws.LOSSES.index(name) + ACTIVATIONS.index(activation)
    for number, sizes in enumerate([(3, 3, 2, 4), (1, 4, 1, 2), (4, 3, 1, 5)]):
        X, params, options, problem = case(name, seed + 100 * number, sizes, 6, activation, eps=10.0 ** (-1 - number))
        assert violations(X, params, options, problem) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", draws.LOSSES)
def test_never_exceeded_in_thousands_of_draws(name):
    gen = generator(1000 + draws.LOSSES.index(name))
    for number in range(120):
        sizes = [int(torch.randint(low, high, (), generator=gen)) for low, high in ((1, 6), (3, 5), (1, 4), (1, 7))]
        eps = float(draws.log_uniform((), gen, -5, 0))
        assert violations(*case(name, 7919 * number, sizes, 10, ACTIVATIONS[number % 3], eps)) == 0


def test_two_features():
    """Normalization of two features is nearly constant: its derivative is eps/tau^3, what is left of a cancellation."""
    for name in draws.LOSSES:
        assert violations(*case(name, 3, (3, 2, 1, 3), 10, eps=0.3)) == 0


@pytest.mark.parametrize("name", ["mse", "mean", "cls", "token"])
def test_each_kind_is_at_most_the_cheaper_one(name):
    X, params, options, _ = case(name, 5)
    tau = _block_measured.smallest_taus(X, params, options["activation"], options["eps"])
    data = transformer_block_pairs(X, params, **options)
    known = transformer_block_pairs(X, params, **options, kind="a_priori", tau=tau)
    blind = transformer_block_pairs(X, params, **options, kind="a_priori")
    assert torch.all(data <= SLACK * known)
    assert torch.all(known <= SLACK * blind)
    assert torch.any(blind > 10 * known)


def test_some_entries_are_attained():
    """One token and one sample: the blocks of the shifts are as large as the bound says."""
    X, params, options, problem = case("mse", 4, (1, 3, 1, 3), 30)
    H = draws.block_hessians(X, params, options["activation"], options["eps"], problem)
    blocks = draws.blocks_of(H, [w.numel() for w in params.values()])
    bound = transformer_block_pairs(X, params, **options)
    for name in ("beta_2", "b_2"):
        place = PARAMETERS.index(name)
        close = blocks[:, place, place] / bound[:, place, place]
        assert float(close.median()) > (0.9999999 if name == "beta_2" else 0.5)
    assert torch.all(bound == bound.mT)
    assert torch.all(bound >= 0)
    no_curvature = bound[:, PARAMETERS.index("gamma_2"), PARAMETERS.index("beta_2")]
    assert torch.all(no_curvature <= 2 / 3 * math.sqrt(2) * SLACK)  # c xi_2 sqrt(L), and xi_2 <= sqrt(L (m - 1))


def test_order_of_the_dict_does_not_matter():
    X, params, options, _ = case("mean", 6)
    turned = dict(reversed(params.items()))
    assert torch.equal(transformer_block_pairs(X, turned, **options), transformer_block_pairs(X, params, **options))


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_pooling_sharpens(pool):
    """The same G and B without the knowledge that they come from a pooled output."""
    X, params, options, problem = case(pool, 8, (5, 3, 2, 4), 10)
    at = problem.loss.expand(draws.block_forward(X, params, "gelu", options["eps"]))
    blind = options | {"loss": OutputLoss(at.gradient, at.matrix())}
    sharp, plain = (transformer_block_pairs(X, params, **o) for o in (options, blind))
    assert torch.all(sharp <= SLACK * plain)
    assert pool == "mean" or torch.any(sharp < 0.5 * plain)


def halved(function):
    return lambda *arguments: function(*arguments) / 2


@pytest.mark.parametrize("fault", ["LN slope", "LN curvature", "activation", "attention", "terms of W_2"])
def test_a_planted_fault_is_found(fault, monkeypatch):
    examples = [case(name, seed, (1, 3, 1, 4), 30, "gelu") for seed in range(3) for name in ("mse", "output")]
    assert not any(violations(*example) for example in examples)
    if fault == "LN slope":
        monkeypatch.setattr(normalization, "slope", halved(normalization.slope))
    elif fault == "LN curvature":
        monkeypatch.setattr(normalization, "curve", halved(normalization.curve))
    elif fault == "activation":
        right = _block_measured.pointwise
        monkeypatch.setattr(_block_measured, "pointwise", lambda name: right("linear"))
    elif fault == "attention":
        right = _block_measured.norms.token_jacobians
        monkeypatch.setattr(_block_measured.norms, "token_jacobians", halved(right))
    else:
        right = pair_norms
        mask = torch.ones(11, 11, dtype=torch.float64)
        mask[PARAMETERS.index("W_2"), PARAMETERS.index("W_1")] = 0.7
        monkeypatch.setitem(transformer_block_pairs.__globals__, "pair_norms", lambda b: right(b) * mask)
    assert any(violations(*example) for example in examples)


# ---- tau ----


def test_a_larger_tau_sharpens():
    X, params, options, _ = case("token", 9)
    tau = _block_measured.smallest_taus(X, params, "gelu", options["eps"])
    least = tuple(float(t.min()) for t in tau)
    found = [transformer_block(X, params, **options, kind="a_priori", tau=t) for t in (None, (1e-9, 1e-9), least, tau)]
    assert torch.equal(found[0], found[1])  # tau is never below sqrt(eps)
    assert torch.all(found[2] < found[1])
    assert torch.all(found[3] <= found[2])


def test_smallest_tau_by_hand():
    """S = X + AXW_V = X for W_V = 0; one token (0, 2, 4) has variance 8/3."""
    X = torch.tensor([[[0.0, 2.0, 4.0]]], dtype=torch.float64)
    params = {k: v.double() for k, v in plain_params(3).items()}
    first, second = _block_measured.smallest_taus(X, params, "linear", 1 / 3)
    assert float(first) == pytest.approx(math.sqrt(3), rel=1e-14)
    # y = (-2, 0, 2)/sqrt 3, and V = Y: variance 8/9.
    assert float(second) == pytest.approx(math.sqrt(8 / 9 + 1 / 3), rel=1e-14)


def plain_params(d):
    """Return the parameters of a block that does nothing but normalize twice."""
    sizes = {"W_Q": (d, 1), "W_K": (d, 1), "W_V": (d, d), "W_1": (d, 2), "b_1": (2,), "W_2": (2, d)}
    zeros = {name: torch.zeros(sizes.get(name, (d,))) for name in PARAMETERS}
    return zeros | {"gamma_1": torch.ones(d), "gamma_2": torch.ones(d)}


def test_tau_above_the_measured_one_is_refused():
    X, params, options, _ = case("mse", 10)
    tau = _block_measured.smallest_taus(X, params, "gelu", options["eps"])
    for number in (0, 1):
        claim = list(tau)
        claim[number] = claim[number].clone()
        claim[number][3] *= 1.01
        measured = f"{float(tau[number][3]):.6g}"
        with pytest.raises(AssumptionError, match=rf"tau\[{number}\] is .* for sample 3, .* down to {measured}"):
            transformer_block(X, params, **options, kind="a_priori", tau=tuple(claim))


# ---- the door ----


def test_float32_is_rounded_upward():
    X, params, _, problem = case("mse", 11)
    single = {name: value.float() for name, value in params.items()}
    target = problem.loss.target.float()
    for kind in ("data", "a_priori"):
        low = transformer_block(X.float(), single, loss=MSE(target), eps=1e-2, kind=kind)
        same = {name: value.double() for name, value in single.items()}
        high = transformer_block(X.float().double(), same, loss=MSE(target.double()), eps=1e-2, kind=kind)
        assert low.dtype == torch.float32
        assert torch.all(low.double() >= high)
        torch.testing.assert_close(low.double(), high, rtol=1e-6, atol=0)


def test_samples_do_not_meet(monkeypatch):
    for name in draws.LOSSES:
        X, params, options, problem = case(name, 12)
        whole = transformer_block_pairs(X, params, **options)
        part = transformer_block_pairs(X[2:4], params, **(options | {"loss": problem.loss.take(slice(2, 4))}))
        torch.testing.assert_close(part, whole[2:4], rtol=1e-10, atol=1e-13)
        with monkeypatch.context() as small:
            small.setitem(transformer_block_pairs.__globals__, "_CHUNK", 1)
            torch.testing.assert_close(transformer_block_pairs(X, params, **options), whole, rtol=1e-10, atol=1e-13)


def small():
    return {"X": torch.ones(2, 4, 3), "params": plain_params(3), "loss": MSE(torch.ones(2, 4, 3))}


def with_param(**changes):
    return {"params": plain_params(3) | changes}


OUTPUT = OutputLoss(torch.ones(2, 4, 3), torch.eye(12).expand(2, 12, 12))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "token"}, "kind is 'token'; it must be one of a_priori, data"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"X": torch.ones(4, 3)}, "X has shape"),
        (with_param(W_O=torch.eye(3)), "params has W_O; the bound covers one head"),
        (with_param(b_Q=torch.ones(1)), "params has b_Q"),
        (with_param(bias=torch.ones(1)), "params has the unknown bias"),
        ({"params": {"W_Q": torch.ones(3, 1)}}, "params lacks W_K"),
        ({"params": [torch.ones(3, 1)]}, "params is a list"),
        (with_param(W_V=torch.ones(3, 2)), "W_V has shape"),
        (with_param(W_K=torch.ones(3, 2)), "W_K has shape"),
        (with_param(W_1=torch.ones(3)), "W_1 has shape"),
        (with_param(W_2=torch.ones(3, 3)), "W_2 has shape"),
        (with_param(gamma_2=torch.ones(2)), "gamma_2 has shape"),
        (with_param(b_2=torch.ones(3).double()), "b_2 has dtype torch.float64"),
        ({"loss": MSE(torch.ones(2, 4, 2))}, "target has shape"),
        ({"loss": CrossEntropy(torch.zeros(3).long(), torch.eye(3))}, "labels has shape"),
        ({"loss": OUTPUT, "kind": "a_priori"}, 'kind is "a_priori" and loss a OutputLoss'),
        ({"tau": (1.0, 1.0)}, 'tau is given with kind "data"'),
        ({"tau": 1.0, "kind": "a_priori"}, "tau is 1.0; it must be a pair"),
        ({"tau": (0.0, 1.0), "kind": "a_priori"}, r"tau\[0\] is 0.0; it must be a number above zero"),
        ({"tau": (1e-3, torch.ones(3)), "kind": "a_priori"}, r"tau\[1\] is .* a tensor of 2 of them"),
    ],
)
def test_bad_arguments_are_named(change, match):
    for function in (transformer_block, transformer_block_pairs):
        with pytest.raises(InputError, match=match):
            function(**(small() | change))
