"""The oracle itself: by hand, against PyTorch's own layers, one automatic derivative against another, differences."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stillscape._errors import InputError
from stillscape.hessian import reference
from tests.hessian import cases
from tests.hessian.cases import LAYERS, random_case
from tests.hessian.oracles import (
    finite_difference_hessian,
    relative_error,
    value_difference_hessian,
)

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# ---- by hand ---------------------------------------------------------------------------------------------------------


def two_tokens(attention, q):
    """Two tokens of one feature, (x_1, x_2); loss |F|^2 / 2 in (q, k, v) at (q, 1, 1)."""
    X = torch.tensor([[[1.0], [0.0 if attention == "softmax" else 2.0]]], dtype=DOUBLE)
    params = {name: torch.full((1, 1), value, dtype=DOUBLE) for name, value in (("W_Q", q), ("W_K", 1.0), ("W_V", 1.0))}

    def output(p):
        return reference.self_attention(X, **p, attention=attention)

    return output, lambda F: reference.mse(F, torch.zeros_like(X)), params


def test_softmax_by_hand():
    # F = v (sigma(qk), 1/2): at q = 0, k = v = 1 sigma = 1/2, sigma' = 1/4, sigma'' = 0, and B is the identity.
    output, loss, params = two_tokens("softmax", 0.0)
    assert output(params).flatten().tolist() == [0.5, 0.5]
    full = torch.tensor([[[1 / 16, 1 / 8, 1 / 4], [1 / 8, 0, 0], [1 / 4, 0, 1 / 2]]], dtype=DOUBLE)
    outer = torch.tensor([[[1 / 16, 0, 1 / 8], [0, 0, 0], [1 / 8, 0, 1 / 2]]], dtype=DOUBLE)
    for oracle in (reference.hessian, reference.double_backward_hessian):
        torch.testing.assert_close(oracle(lambda p: loss(output(p)), params), full)
    got_outer, got_functional = reference.split(output, loss, params)
    torch.testing.assert_close(got_outer, outer)
    torch.testing.assert_close(got_functional, full - outer)


def test_linear_attention_by_hand():
    # F = qkv (X X') X = qkv (5, 10), so the loss is 62.5 (qkv)^2, with second derivatives 125 and 250 at 1.
    output, loss, params = two_tokens("linear", 1.0)
    want = torch.full((1, 3, 3), 250.0, dtype=DOUBLE) - 125 * torch.eye(3, dtype=DOUBLE)
    torch.testing.assert_close(reference.hessian(lambda p: loss(output(p)), params), want)
    outer, _ = reference.split(output, loss, params)  # J has columns (5, 10): J'J is 125 everywhere
    torch.testing.assert_close(outer, torch.full((1, 3, 3), 125.0, dtype=DOUBLE))


def test_order_is_that_of_the_dict_each_tensor_row_by_row():
    weights = torch.arange(1.0, 7.0, dtype=DOUBLE)
    params = {"b": torch.zeros(2, dtype=DOUBLE), "a": torch.zeros(2, 2, dtype=DOUBLE)}

    def losses(p):
        return (torch.cat([p["b"], p["a"][0], p["a"][1]]) ** 2 * weights).sum()[None]

    for oracle in (reference.hessian, reference.double_backward_hessian, finite_difference_hessian):
        torch.testing.assert_close(oracle(losses, params), torch.diag(2 * weights)[None])
    back = reference.unflatten(reference.flatten(params), params)
    assert [name for name in back if torch.equal(back[name], params[name])] == ["b", "a"]


def test_parameters_without_curvature_have_rows_of_zeros():
    params = {"used": torch.ones(2, dtype=DOUBLE), "straight": torch.ones(1, dtype=DOUBLE), "idle": torch.ones(1)}

    def losses(p):
        return torch.stack([p["used"].prod() + p["straight"][0], p["straight"][0], torch.ones((), dtype=DOUBLE)])

    want = torch.zeros(3, 4, 4, dtype=DOUBLE)
    want[0, 0, 1] = want[0, 1, 0] = 1
    params["idle"] = params["idle"].double()
    for oracle in (reference.hessian, reference.double_backward_hessian):
        torch.testing.assert_close(oracle(losses, params), want)


# ---- against PyTorch's own layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["none", "causal", "padding"])
@pytest.mark.parametrize(("heads", "bias"), [(1, False), (2, True), (3, True)])
def test_self_attention_is_that_of_torch(heads, bias, mask):
    d, X = 6, randn(3, 5, 6)
    theirs = nn.MultiheadAttention(d, heads, bias=bias, batch_first=True, dtype=DOUBLE)
    redraw(theirs)
    allowed = random_case(2, mask=mask, n=3, L=5).options["mask"]
    hidden = None if allowed is None else ~allowed.expand(3, 5, 5).repeat_interleave(heads, 0)
    want, _ = theirs(X, X, X, attn_mask=hidden)
    mapped = attention_of(theirs)
    biases = {name: mapped.pop(name) for name in list(mapped) if name.startswith("b")}
    got = reference.self_attention(X, **mapped, mask=allowed, heads=heads, biases=biases)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_every_bias_has_its_place():
    """By linear attention: under softmax b_K adds the same to a whole row of scores, and could not be seen."""
    X, W = randn(2, 4, 3), {name: randn(3, 2, seed=i) for i, name in enumerate(("W_Q", "W_K", "W_V"))}
    W["W_O"], b = randn(2, 3, seed=3), {name: randn(2, seed=i) for i, name in enumerate(("b_Q", "b_K", "b_V"))}
    b["b_O"] = randn(3, seed=3)
    Q, K, V = (X @ W[f"W_{letter}"] + b[f"b_{letter}"] for letter in "QKV")
    want = Q @ K.mT @ V / 2**0.5 @ W["W_O"] + b["b_O"]
    torch.testing.assert_close(reference.self_attention(X, **W, attention="linear", biases=b), want)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_transformer_block_is_that_of_torch(norm, activation):
    X, theirs = randn(2, 4, 6), encoder(norm, activation)
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    for mask in (None, causal):
        want = theirs(X, src_mask=None if mask is None else ~mask)
        got = reference.transformer_block(X, block_of(theirs), activation, norm, mask=mask, heads=2, eps=1e-3)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    nested = block_of(theirs)
    nested["biases"] = {name: nested.pop(name) for name in reference.BIASES}
    torch.testing.assert_close(
        reference.transformer_block(X, nested, activation, norm, mask=causal, heads=2, eps=1e-3), got
    )


def test_transformer_chain_is_blocks_in_turn():
    X, layers = randn(2, 4, 6), [encoder("post", "gelu", seed) for seed in (1, 2)]
    got = reference.transformer_chain(X, [block_of(layer) for layer in layers], heads=2, eps=1e-3)
    torch.testing.assert_close(got, layers[1](layers[0](X)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_hessian_is_that_through_torchs_own_layer(norm):
    """The same parameters through nn.TransformerEncoderLayer, by double backward: no line of code in common."""
    X, theirs, target = randn(2, 3, 4), encoder(norm, "gelu", d=4, width=3), randn(2, 3, 4, seed=5)

    def through_torch(p):
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            return reference.mse(torch.func.functional_call(theirs, state_of(p), (X,)), target)

    def written_out(p):
        return reference.mse(reference.transformer_block(X, p, norm=norm, heads=2, eps=1e-3), target)

    params = block_of(theirs)
    want = reference.double_backward_hessian(through_torch, params)
    assert relative_error(reference.hessian(written_out, params), want) < 1e-12


def encoder(norm, activation, seed=0, d=6, width=5):
    layer = nn.TransformerEncoderLayer(
        d, 2, width, 0.0, activation, layer_norm_eps=1e-3, batch_first=True, norm_first=norm == "pre", dtype=DOUBLE
    )
    return redraw(layer, seed)


def redraw(module, seed=0):
    """Give every parameter a value of its own: PyTorch starts with biases at 0 and gains at 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.7 * torch.randn(p.shape, generator=generator, dtype=DOUBLE))
    return module


def attention_of(module):
    W = dict(zip(("W_Q", "W_K", "W_V"), module.in_proj_weight.detach().mT.chunk(3, 1), strict=True))
    W["W_O"] = module.out_proj.weight.detach().mT
    if module.in_proj_bias is None:
        return W
    b = dict(zip(("b_Q", "b_K", "b_V"), module.in_proj_bias.detach().chunk(3), strict=True))
    return W | b | {"b_O": module.out_proj.bias.detach()}


def block_of(layer):
    params = attention_of(layer.self_attn)
    for which, linear, norm in ((1, layer.linear1, layer.norm1), (2, layer.linear2, layer.norm2)):
        params |= {f"W_{which}": linear.weight.detach().mT, f"b_{which}": linear.bias.detach()}
        params |= {f"gamma_{which}": norm.weight.detach(), f"beta_{which}": norm.bias.detach()}
    return params


def state_of(p):
    """The way back from `block_of`: PyTorch's names and transposes, differentiable."""
    state = {
        "self_attn.in_proj_weight": torch.cat([p["W_Q"], p["W_K"], p["W_V"]], 1).mT,
        "self_attn.in_proj_bias": torch.cat([p["b_Q"], p["b_K"], p["b_V"]]),
        "self_attn.out_proj.weight": p["W_O"].mT,
        "self_attn.out_proj.bias": p["b_O"],
    }
    for which in (1, 2):
        state |= {f"linear{which}.weight": p[f"W_{which}"].mT, f"linear{which}.bias": p[f"b_{which}"]}
        state |= {f"norm{which}.weight": p[f"gamma_{which}"], f"norm{which}.bias": p[f"beta_{which}"]}
    return state


# ---- one derivative against another ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 30))])
@pytest.mark.parametrize("layer", LAYERS)
def test_forward_over_reverse_is_double_backward(layer, seed):
    case = random_case(seed, layer, small=True)
    want = reference.double_backward_hessian(case.losses, case.params)
    assert relative_error(case.hessians["full"], want) < 1e-12, case


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 30))])
@pytest.mark.parametrize("layer", LAYERS)
def test_hessian_is_the_difference_of_gradients(layer, seed):
    case = random_case(seed, layer, small=True, activation="gelu")  # a kink of ReLU may lie between two points
    got = finite_difference_hessian(case.losses, case.params)
    assert relative_error(got, case.hessians["full"]) < 1e-6, case


@pytest.mark.parametrize("seed", range(4))
def test_hessian_is_the_difference_of_values(seed):
    case = random_case(seed, small=True, d=2, d_K=1, heads=1)
    got = value_difference_hessian(case.losses, case.params)
    assert relative_error(got, case.hessians["full"]) < 1e-5, case


@pytest.mark.parametrize("layer", ["self_attention", "transformer_block"])
def test_outer_part_is_gauss_newton(layer):
    """The Hessian of the loss on the linearized output: no product J'BJ is formed."""
    case = random_case(1, layer, loss="cls", n=2, L=2, d=2, d_K=1, d_V=1, d_f=2, heads=1)
    F, theta = case.F, reference.flatten(case.params)

    def linearized(p):
        step = torch.cat([value.reshape(-1) for value in p.values()]) - theta
        tangent = torch.func.jvp(lambda at: case.output(reference.unflatten(at, case.params)), (theta,), (step,))[1]
        return case.loss_at_output(F + tangent)

    want = finite_difference_hessian(linearized, case.params)
    assert relative_error(case.hessians["outer"], want, case.hessians["full"]) < 1e-6


# ---- what masks and heads mean ---------------------------------------------------------------------------------------


def test_a_token_does_not_see_what_its_mask_hides():
    X, W = randn(1, 5, 3), {name: randn(3, 4, seed=i) for i, name in enumerate(("W_Q", "W_K", "W_V"))}
    later = X.clone()
    later[:, 3:] += 1.0
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    for attention in cases.ATTENTIONS.values():
        options = {"attention": attention, "mask": causal, "heads": 2}
        before, after = (reference.self_attention(x, **W, **options) for x in (X, later))
        torch.testing.assert_close(before[:, :3], after[:, :3])
        assert (before - after)[:, 3:].abs().min() > 1e-3


def test_masked_weights_are_zero_and_the_rest_is_normalized():
    T, mask = 300 * randn(2, 4, 4), random_case(0, mask="per_sample", n=2, L=4).options["mask"]
    for name, attention in cases.ATTENTIONS.items():
        A = reference.attention_weights(T, attention, mask)
        assert torch.isfinite(A).all()
        assert not A[~mask].any()
        if name in ("softmax", "row_normalized"):
            torch.testing.assert_close(A.sum(-1), mask.any(-1).double())
    torch.testing.assert_close(reference.attention_weights(T), T.softmax(-1))


@pytest.mark.parametrize("attention", list(cases.ATTENTIONS))
def test_a_token_that_attends_to_nothing_has_an_output_and_a_hessian(attention):
    case = random_case(0, small=True, mask="per_sample", attention=attention, loss="mse")
    assert not case.options["mask"][0, -1].any()
    for part in case.hessians.values():
        assert torch.isfinite(part).all()
    torch.testing.assert_close(
        case.hessians["full"], reference.double_backward_hessian(case.losses, case.params), rtol=1e-11, atol=1e-11
    )


def test_heads_are_layers_beside_each_other():
    X, W = randn(2, 4, 3), {name: randn(3, 6, seed=i) for i, name in enumerate(("W_Q", "W_K", "W_V"))}
    alone = [
        reference.self_attention(X, **{name: weight[:, 2 * h : 2 * h + 2] for name, weight in W.items()})
        for h in range(3)
    ]
    torch.testing.assert_close(reference.self_attention(X, **W, heads=3), torch.cat(alone, -1))
    identity = torch.eye(6, dtype=DOUBLE)
    torch.testing.assert_close(reference.self_attention(X, **W, heads=3, W_O=identity), torch.cat(alone, -1))


# ---- precision, names, faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_single_precision_stays_single(layer):
    case = random_case(3, layer, small=True, attention="softmax")
    single = case.to(torch.float32)
    for part, want in case.hessians.items():
        got = single.hessians[part]
        assert got.dtype == torch.float32
        assert relative_error(got.double(), want, case.hessians["full"]) < 1e-3, (part, case)
    assert reference.double_backward_hessian(single.losses, single.params).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"attention": "hardmax"}, "attention is 'hardmax'"),
        ({"norm": "both"}, "norm is 'both'"),
        ({"activation": "silu"}, "activation is 'silu'"),
    ],
)
def test_unknown_names_are_named(change, match):
    case = random_case(0, "transformer_block", small=True)
    with pytest.raises(InputError, match=match):
        reference.transformer_block(case.X, case.blocks[0], **(case.options | change))


@pytest.mark.parametrize(
    "fault",
    [
        {"mask": None},
        {"heads": 1},
        {"norm": "pre"},
        {"activation": "relu"},
        {"attention": "linear"},
        {"eps": 0.2},
    ],
    ids=str,
)
def test_a_planted_fault_is_seen(fault):
    drawn = {"norm": "post", "activation": "gelu", "attention": "softmax", "mask": "causal"}
    case = random_case(4, "transformer_block", **drawn, n=1, L=3, d=4, d_K=1, d_V=1, heads=2)
    wrong = replace(case, options=case.options | fault)
    assert relative_error(wrong.hessians["full"], case.hessians["full"]) > 1e-3


def test_the_error_is_that_of_the_worst_sample():
    want = randn(3, 4, 4)
    got = want.clone()
    got[1] *= 1.5
    assert relative_error(got, want) == pytest.approx(0.5)
    assert relative_error(got, want, scale=10 * want) == pytest.approx(0.05)
    assert relative_error(want, want) == 0
    assert relative_error(0 * want, 0 * want) == 0
    assert relative_error(want, 0 * want) == float("inf")
    got[2, 0, 0] = torch.nan
    assert not relative_error(got, want) < 1e9
    with pytest.raises(AssertionError, match="is not"):
        relative_error(want[:1], want)


# ---- the cases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_thirty_cases_meet_every_option(layer):
    drawn = [random_case(seed, layer) for seed in range(30)]
    met = {name: {case.drawn[name] for case in drawn} for name in drawn[0].drawn}
    assert met["loss"] == set(cases.LOSSES)
    assert met["attention"] == set(cases.ATTENTIONS)
    assert met["mask"] == set(cases.MASKS)
    assert met["norm"] == set(cases.NORMS)
    assert met["activation"] == set(cases.ACTIVATIONS)
    assert len({(case.drawn["loss"], case.drawn["attention"]) for case in drawn}) == 20
    assert {1, 2, 3} <= {case.options["heads"] for case in drawn}
    assert {True, False} == {"W_O" in case.blocks[0] for case in drawn}
    assert {0, 1} <= {sum(name in case.blocks[0] for name in reference.BIASES) // 4 for case in drawn}
    if layer != "self_attention":
        assert {case.head for case in drawn} == {True, False}
    if layer == "transformer_chain":
        assert {case.wrt for case in drawn} == {0, 1, 2, "head"}


def test_a_seed_is_a_case():
    first, again, other = (random_case(seed, "transformer_chain") for seed in (5, 5, 6))
    assert torch.equal(first.hessians["full"], again.hessians["full"])
    assert first.X.shape != other.X.shape or not torch.equal(first.X, other.X)


@pytest.mark.parametrize("mask", [None, "per_sample"])
@pytest.mark.parametrize("name", ["row_normalized", "sigmoid"])
def test_derivatives_of_the_example_attentions(name, mask):
    attention = cases.ATTENTIONS[name]
    rows, L = 6, 4
    T = randn(rows, L)
    allowed = None if mask is None else torch.rand(rows, L, generator=torch.Generator().manual_seed(1)) < 0.6
    if allowed is not None:
        allowed[0] = False
    for row in range(rows):
        here = None if allowed is None else allowed[row]
        value = lambda t, here=here: attention.value(t, here)  # noqa: E731
        first = torch.func.jacrev(value)
        torch.testing.assert_close(attention.jacobian(T, allowed)[row], first(T[row]))
        torch.testing.assert_close(attention.hessian(T, allowed)[row], torch.func.jacfwd(first)(T[row]))
    jacobian = attention.jacobian(T, allowed)
    assert (name == "row_normalized") == bool((jacobian - jacobian.mT).abs().max() > 1e-2)
    if allowed is not None:
        assert not attention.value(T, allowed)[~allowed].any()
