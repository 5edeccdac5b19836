"""Bad input at every door of the room: a ValueError that begins with the argument's name."""

import pytest
import torch

from stillscape import hessian
from stillscape.hessian import MSE, CrossEntropy, OutputLoss, self_attention, transformer_block, transformer_chain

DOUBLE = torch.float64
n, L, d, d_K, d_V, d_f, C = 2, 3, 4, 2, 6, 5, 3
BIAS_WIDTHS = {"b_Q": d_K, "b_K": d_K, "b_V": d_V, "b_O": d}
ROWS = {"b_1": d_f, "b_2": d, "gamma_1": d, "beta_1": d, "gamma_2": d, "beta_2": d}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def weights():
    return {"W_Q": draw(d, d_K), "W_K": draw(d, d_K), "W_V": draw(d, d_V), "W_O": draw(d_V, d)}


def biases():
    return {name: draw(width) for name, width in BIAS_WIDTHS.items()}


def block():
    rows = {name: draw(width) for name, width in ROWS.items()}
    return weights() | biases() | {"W_1": draw(d, d_f), "W_2": draw(d_f, d)} | rows


def attend(**changes):
    """Call `self_attention` with everything right but for the changes; names of biases go where they belong."""
    arguments = {"X": draw(n, L, d), **weights(), "biases": biases(), "loss": MSE(draw(n, L, d))} | changes
    moved = {name: arguments.pop(name) for name in BIAS_WIDTHS if name in arguments}
    if moved:
        arguments["biases"] = arguments["biases"] | moved
    return self_attention(**arguments)


def in_block(**changes):
    """Call `transformer_block` likewise; names of parameters go into `params`."""
    params = block()
    params |= {name: changes.pop(name) for name in list(changes) if name in params}
    arguments = {"X": draw(n, L, d), "params": params, "loss": MSE(draw(n, L, d))} | changes
    return transformer_block(**arguments)


def in_chain(**changes):
    """Call `transformer_chain` with two blocks; names of parameters go into the second, the first is differentiated."""
    second = block()
    second |= {name: changes.pop(name) for name in list(changes) if name in second}
    arguments = {"X": draw(n, L, d), "blocks": [block(), second], "wrt": 0, "loss": MSE(draw(n, L, d))} | changes
    return transformer_chain(**arguments)


DOORS = {"self_attention": attend, "transformer_block": in_block, "transformer_chain": in_chain}
EVERY_DOOR = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
BLOCK_DOORS = pytest.mark.parametrize("door", [in_block, in_chain], ids=["transformer_block", "transformer_chain"])


def cross_entropy(**changes):
    given = {"labels": torch.tensor([0, 2]), "W_h": draw(d, C), "b_h": draw(C)} | changes
    return CrossEntropy(**given)


@EVERY_DOOR
def test_what_the_bad_calls_are_variations_of_is_right(door):
    h = door()
    assert torch.isfinite(h.dense()).all()
    assert "W_O" in h.names
    assert "b_O" in h.names


# ---- tensors: kind, dtype, finiteness, shape, device -----------------------------------------------------------------

#: How to spoil a tensor, and what is then said after its name.
SPOILT = {
    "numpy": (lambda x: x.numpy(), "is a ndarray; it must be a torch.Tensor"),
    "list": (lambda x: x.tolist(), "is a list; it must be a torch.Tensor"),
    "none": (lambda x: None, "is a NoneType; it must be a torch.Tensor"),
    "integers": (lambda x: x.long(), "has dtype torch.int64; it must be torch.float32 or torch.float64"),
    "bool": (lambda x: x > 0, "has dtype torch.bool; it must be torch.float32 or"),
    "half": (lambda x: x.half(), "has dtype torch.float16; it must be torch.float32 or"),
    "complex": (lambda x: x + 0j, "has dtype torch.complex128; it must be torch.float32 or"),
    "nan": (lambda x: x.clone().index_fill_(0, torch.tensor(0), torch.nan), "holds NaN or infinity"),
    "infinity": (lambda x: x.clone().index_fill_(-1, torch.tensor(0), torch.inf), "holds NaN or infinity"),
    "an axis more": (lambda x: x[None], "has shape"),
    "an axis less": (lambda x: x[0], "has shape"),
    "longer": (lambda x: torch.cat([x, x]), "has shape"),
}
#: And what only shows beside X.
ODD = {
    "float32": (lambda x: x.float(), "has dtype torch.float32 and the input has torch.float64; convert one"),
    "device": (lambda x: x.to("meta"), "is on meta and the input on cpu; move one"),
}
PER_DOOR = {
    "self_attention": (*weights(), *BIAS_WIDTHS),
    "transformer_block": tuple(block()),
    "transformer_chain": tuple(block()),
}
TENSORS = [(door, name) for door, names in PER_DOOR.items() for name in names]


@pytest.mark.parametrize("way", [*SPOILT, *ODD])
@pytest.mark.parametrize(("door", "name"), TENSORS)
def test_a_bad_parameter_is_named(door, name, way):
    spoil, match = (SPOILT | ODD)[way]
    if (name, way, door) == ("W_O", "none", "self_attention"):
        match = "b_O is given without W_O"
    match = match if match.startswith("b_O") else f"{name} {match}"
    with pytest.raises(ValueError, match=f"^{match}"):
        DOORS[door](**{name: spoil(block()[name])})


@EVERY_DOOR
@pytest.mark.parametrize("way", [way for way in SPOILT if way != "longer"])
def test_a_bad_input_is_named(door, way):
    spoil, match = SPOILT[way]
    with pytest.raises(ValueError, match=f"^X {match}"):
        door(X=spoil(draw(n, L, d)))


@EVERY_DOOR
@pytest.mark.parametrize(
    ("X", "match"),
    [
        (draw(n, L, d + 1), r"has shape \(4, \d\); it must be \(5, any\)"),
        (draw(n, L, d).float(), "has dtype torch.float64 and the input has torch.float32"),
        (draw(0, L, d), r"X is empty: its shape is \(0, 3, 4\)"),
        (draw(n, 0, d), r"X is empty: its shape is \(2, 0, 4\)"),
        (draw(n, L, 0), r"X is empty: its shape is \(2, 3, 0\)"),
    ],
)
def test_an_input_that_does_not_fit(door, X, match):
    with pytest.raises(ValueError, match=match):
        door(X=X)


@EVERY_DOOR
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"W_Q": draw(d, d_K + 1)}, r"W_K has shape \(4, 2\); it must be \(4, 3\)"),
        ({"W_K": draw(d, d_K + 1)}, r"W_K has shape \(4, 3\); it must be \(4, 2\)"),
        ({"W_Q": draw(d_K, d)}, r"W_Q has shape \(2, 4\); it must be \(4, any\)"),
        ({"W_V": draw(d, d_V + 1)}, r"W_O has shape \(6, 4\); it must be \(7, any\)"),
        ({"b_Q": draw(d_K + 1)}, r"b_Q has shape \(3,\); it must be \(2,?\)"),
        ({"b_K": draw(1, d_K)}, r"b_K has shape \(1, 2\)"),
        ({"b_V": draw(d_V - 1)}, r"b_V has shape \(5,\); it must be \(6,?\)"),
        ({"b_O": draw(d + 1)}, r"b_O has shape \(5,\); it must be \(4,?\)"),
    ],
)
def test_weights_that_do_not_fit_each_other(door, changes, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        door(**changes)


@BLOCK_DOORS
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"W_O": draw(d_V, d + 1), "b_O": draw(d + 1)}, "W_O has 5 columns; X has 4 features, and the residual adds"),
        ({"W_1": draw(d + 1, d_f)}, r"W_1 has shape \(5, 5\); it must be \(4, any\)"),
        ({"W_2": draw(d_f + 1, d)}, r"W_2 has shape \(6, 4\); it must be \(5, 4\)"),
        ({"W_2": draw(d_f, d + 1)}, r"W_2 has shape \(5, 5\); it must be \(5, 4\)"),
        ({"b_1": draw(d)}, r"b_1 has shape \(4,\); it must be \(5,?\)"),
        ({"gamma_2": draw(d_f)}, r"gamma_2 has shape \(5,\); it must be \(4,?\)"),
        ({"beta_1": draw(1)}, r"beta_1 has shape \(1,\); it must be \(4,?\)"),
    ],
)
def test_weights_that_do_not_fit_the_block(door, changes, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        door(**changes)


def test_values_must_fit_the_residual_where_nothing_projects():
    params = {name: value for name, value in block().items() if name not in ("W_O", "b_O")}
    with pytest.raises(ValueError, match=r"^W_V has 6 columns; X has 4 features, and the residual adds them"):
        transformer_block(draw(n, L, d), params, loss=MSE(draw(n, L, d)))


# ---- dicts of parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [[draw(d_K)], draw(d_K), "b_Q", 3])
def test_biases_must_be_a_dict(bad):
    with pytest.raises(ValueError, match=r"^biases is a \w+; it must be a dict of tensors, or None"):
        attend(biases=bad)


def test_unknown_biases_are_named():
    with pytest.raises(ValueError, match=r"^biases has the unknown b_X; it takes .*b_Q"):
        attend(biases={"b_X": draw(d_K)})


def test_the_bias_of_no_projection():
    with pytest.raises(ValueError, match=r"^b_O is given without W_O; it is the bias of the output projection"):
        attend(W_O=None)
    params = {name: value for name, value in block().items() if name != "W_O"} | {"W_V": draw(d, d), "b_V": draw(d)}
    with pytest.raises(ValueError, match=r"^b_O is given without W_O"):
        transformer_block(draw(n, L, d), params, loss=MSE(draw(n, L, d)))


@pytest.mark.parametrize("name", [name for name in block() if name not in ("W_O", *BIAS_WIDTHS)])
def test_a_missing_parameter_is_named(name):
    params = {key: value for key, value in block().items() if key != name}
    with pytest.raises(ValueError, match=rf"^params of block 0 lacks {name}; it takes W_Q, W_K"):
        transformer_block(draw(n, L, d), params, loss=MSE(draw(n, L, d)))
    with pytest.raises(ValueError, match=rf"^params of block 1 lacks {name}"):
        in_chain(blocks=[block(), params])


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"W_3": draw(1)}, "has the unknown W_3; it takes"),
        ({"w_q": draw(1), "heads": 2}, "has the unknown w_q, heads"),
        ({"biases": {"b_X": draw(1)}}, "has the unknown b_X"),
        ({"biases": [draw(1)]}, "has the unknown biases"),
        ({0: draw(1)}, "has the unknown 0"),
    ],
)
def test_an_unknown_parameter_is_named(extra, match):
    with pytest.raises(ValueError, match=f"^params of block 0 {match}"):
        transformer_block(draw(n, L, d), block() | extra, loss=MSE(draw(n, L, d)))


@pytest.mark.parametrize("bad", [None, [draw(1)], "W_Q", draw(d, d)])
def test_params_must_be_a_dict(bad):
    with pytest.raises(ValueError, match=r"^params of block 0 is a \w+; it must be a dict of tensors"):
        transformer_block(draw(n, L, d), bad, loss=MSE(draw(n, L, d)))
    with pytest.raises(ValueError, match=r"^params of block 1 is a \w+; it must be a dict"):
        in_chain(blocks=[block(), bad])


@pytest.mark.parametrize("bad", [[], (), block(), None, 2])
def test_blocks_must_be_a_list(bad):
    with pytest.raises(ValueError, match=r"^blocks is a \w+; it must be a list of at least one dict"):
        in_chain(blocks=bad)


# ---- heads, masks, names, numbers ------------------------------------------------------------------------------------


@EVERY_DOOR
@pytest.mark.parametrize(
    ("heads", "match"),
    [
        (0, "heads is 0; it must be a whole number of at least 1"),
        (-1, "heads is -1"),
        (1.5, "heads is 1.5"),
        (True, "heads is True"),
        ("2", "heads is '2'"),
        (3, "W_Q has 2 columns, which heads = 3 does not divide"),
        (4, "W_Q has 2 columns, which heads = 4 does not divide"),
    ],
)
def test_heads(door, heads, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        door(heads=heads)


@EVERY_DOOR
def test_heads_that_divide_queries_but_not_values(door):
    with pytest.raises(ValueError, match=r"^W_V has 7 columns, which heads = 2 does not divide"):
        door(heads=2, W_V=draw(d, 7), W_O=draw(7, d), b_V=draw(7))


@EVERY_DOOR
@pytest.mark.parametrize(
    ("mask", "match"),
    [
        ([[True]], "mask is list; it must be a boolean tensor"),
        (True, "mask is bool; it must be a boolean tensor"),
        ("causal", "mask is str; it must be a boolean tensor"),
        (torch.ones(L, L), "mask is torch.float32; it must be a boolean tensor, True where"),
        (torch.ones(L, L, dtype=torch.uint8), "mask is torch.uint8"),
        (torch.ones(L, dtype=torch.bool), r"mask has shape \(3,\); it must be \(3, 3\) or \(2, 3, 3\)"),
        (torch.ones(n, L, dtype=torch.bool), r"mask has shape \(2, 3\)"),
        (torch.ones(L, L + 1, dtype=torch.bool), r"mask has shape \(3, 4\)"),
        (torch.ones(1, L, L, dtype=torch.bool), r"mask has shape \(1, 3, 3\)"),
        (torch.ones(n, 1, L, L, dtype=torch.bool), r"mask has shape \(2, 1, 3, 3\)"),
        (torch.ones(L, L, dtype=torch.bool, device="meta"), "mask is on meta and X on cpu; move one"),
    ],
)
def test_masks(door, mask, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        door(mask=mask)


class Shapeless:
    """An attention of the caller's own whose derivative in `wrong` has lost an axis."""

    def __init__(self, wrong):
        self.wrong = wrong

    def value(self, scores, mask):
        return scores[0] if self.wrong == "value" else scores

    def jacobian(self, scores, mask):
        S = torch.diag_embed(torch.ones_like(scores))
        return S[0] if self.wrong == "jacobian" else S

    def hessian(self, scores, mask):
        D = torch.zeros(*scores.shape, L, L, dtype=scores.dtype)
        return D[0] if self.wrong == "hessian" else D


@EVERY_DOOR
@pytest.mark.parametrize("attention", ["Softmax", "relu", "", None, 3, torch.softmax, object()])
def test_unknown_attention(door, attention):
    with pytest.raises(ValueError, match=r"^attention is .*; it must be 'softmax', 'linear', or an object with"):
        door(attention=attention).dense()


@EVERY_DOOR
@pytest.mark.parametrize("wrong", ["value", "jacobian", "hessian"])
def test_attention_of_a_wrong_shape(door, wrong):
    with pytest.raises(ValueError, match=rf"^attention.{wrong} returned shape \(1, 3.*; it must be \(1, 1, 3"):
        door(attention=Shapeless(wrong)).dense()


def test_attention_that_shows_what_is_masked():
    with pytest.raises(ValueError, match=r"^attention.value is not 0 where the mask is False"):
        attend(attention=Shapeless(None), mask=hessian.causal_mask(L)).dense()


@BLOCK_DOORS
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"activation": "tanh"}, "activation is 'tanh'; it must be one of gelu, linear, relu"),
        ({"activation": "GELU"}, "activation is 'GELU'"),
        ({"activation": None}, "activation is None"),
        ({"norm": "rms"}, "norm is 'rms'; it must be one of post, pre"),
        ({"norm": None}, "norm is None"),
        ({"eps": 0.0}, "eps is 0.0; it must be a finite number above zero"),
        ({"eps": -1e-5}, "eps is -1e-05"),
        ({"eps": float("nan")}, "eps is nan"),
    ],
)
def test_names_and_numbers_of_a_block(door, changes, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        door(**changes)


@pytest.mark.parametrize("wrt", [-1, 2, 1.0, True, "tail", "0", None])
def test_wrt_out_of_range(wrt):
    with pytest.raises(ValueError, match=r'^wrt is .*; it must be the number of a block, 0\.\.1, or "head"'):
        in_chain(wrt=wrt)


@pytest.mark.parametrize(
    "bad",
    [draw(d), (draw(d),), (draw(d), draw(d), draw(d)), "layer norm", {"gamma": draw(d), "beta": draw(d)}],
    ids=["tensor", "one", "three", "str", "dict"],
)
def test_final_norm_is_a_pair(bad):
    with pytest.raises(ValueError, match=r"^final_norm is a \w+; it must be a pair \(gamma, beta\), or None"):
        in_chain(final_norm=bad)


@pytest.mark.parametrize(
    ("pair", "match"),
    [
        ((draw(d), draw(d + 1)), r"final_norm has shape \(5,\); it must be \(4,?\)"),
        ((draw(d), None), "final_norm is a NoneType"),
        ((draw(d).long(), draw(d)), "final_norm has dtype torch.int64"),
        ((draw(d).float(), draw(d)), "final_norm has dtype torch.float32 and the input has torch.float64"),
        ((draw(d), draw(d) / 0), "final_norm holds NaN or infinity"),
        ((draw(d), draw(d).to("meta")), "final_norm is on meta and the input on cpu"),
    ],
)
def test_final_norm_that_does_not_fit(pair, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        in_chain(final_norm=pair)


# ---- losses ----------------------------------------------------------------------------------------------------------


@EVERY_DOOR
@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda: MSE(draw(n, L, d + 1)), r"target has shape \(.*, 3, 5\); it must be \(.*, 3, 4\)"),
        (lambda: MSE(draw(n, L + 1, d)), r"target has shape \(.*, 4, 4\); it must be \(.*, 3, 4\)"),
        (lambda: MSE(draw(n - 1, L, d)), "target has"),
        (lambda: MSE(draw(n, L, d).float()), "target has dtype torch.float32 and the input has torch.float64"),
        (lambda: MSE(torch.ones(n, L, d, dtype=torch.int64)), "target has dtype torch.int64"),
        (lambda: MSE(draw(n, L, d) / 0), "target holds NaN or infinity"),
        (lambda: cross_entropy(labels=torch.tensor([0, C])), r"labels run from 0 to 3; .* they must lie in 0\.\.2"),
        (lambda: cross_entropy(labels=torch.tensor([-1, 0])), "labels run from -1 to 0"),
        (lambda: cross_entropy(labels=torch.tensor([0.0, 1.0])), "labels are torch.float32"),
        (lambda: cross_entropy(labels=[0, 1]), "labels are list"),
        (lambda: cross_entropy(labels=torch.tensor([0])), "labels has"),
        (lambda: cross_entropy(labels=torch.tensor([[0, 1, 2]] * n)), r'labels have shape .*; pool="mean" takes'),
        (lambda: cross_entropy(labels=torch.zeros(n, L + 1).long(), pool="token"), r"labels has shape \(.*, 4\)"),
        (lambda: cross_entropy(pool="max"), "pool is 'max'; it must be one of cls, mean, token"),
        (lambda: cross_entropy(W_h=draw(d + 1, C)), r"W_h has shape \(5, 3\); it must be \(4, any\)"),
        (lambda: cross_entropy(W_h=draw(d, C).float(), b_h=None), "W_h has dtype torch.float32 and the input has"),
        (lambda: cross_entropy(b_h=draw(C + 1)), r"b_h has shape \(4,\); it must be \(3,?\)"),
        (lambda: cross_entropy(b_h=draw(C).float()), "b_h has dtype torch.float32"),
        (lambda: OutputLoss(draw(n, L, d), draw(n, L * d, L * d)), "hessian differs from its transpose by"),
        (lambda: OutputLoss(draw(n, L, d), torch.eye(L * d, dtype=DOUBLE)), r"hessian has shape \(12, 12\)"),
        (lambda: OutputLoss(draw(n, L, d + 1), torch.zeros(n, 15, 15, dtype=DOUBLE)), r"gradient has shape"),
    ],
)
def test_a_loss_that_does_not_fit(door, loss, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        door(loss=loss()).dense()


@BLOCK_DOORS
@pytest.mark.parametrize(
    "loss", [MSE(draw(n, L, d)), OutputLoss(draw(n, L, d), torch.zeros(n, L * d, L * d, dtype=DOUBLE))]
)
def test_a_head_without_cross_entropy(door, loss):
    with pytest.raises(ValueError, match=f"^head has parameters only in a CrossEntropy .* got {type(loss).__name__}"):
        door(loss=loss, head=True)


def test_the_head_of_a_chain():
    with pytest.raises(ValueError, match=r"^head has parameters only in a CrossEntropy .* got MSE and wrt = 'head'"):
        in_chain(wrt="head")
    with pytest.raises(ValueError, match=r"^head has parameters .* on the last block's output; .* wrt = 0"):
        in_chain(wrt=0, head=True, loss=cross_entropy())


# ---- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["Full", "inner", "", None, 0])
@pytest.mark.parametrize("method", ["dense", "mean", "matvec", "block", "spectral_norm"])
def test_unknown_part(method, part):
    h = attend()
    arguments = {"matvec": [torch.zeros(h.num_parameters, dtype=DOUBLE)], "block": ["W_Q", "W_K"]}.get(method, [])
    with pytest.raises(ValueError, match=r"^part is .*; it must be one of full, functional, outer"):
        getattr(h, method)(*arguments, part=part)


@pytest.mark.parametrize("bad", ["W_1", "w_q", "", None, 0])
def test_unknown_block(bad):
    h = attend()
    with pytest.raises(ValueError, match=r"^rows is .*; it must be one of W_K, W_O, W_Q, W_V, b_K"):
        h.block(bad, "W_Q")
    with pytest.raises(ValueError, match=r"^columns is .*; it must be one of"):
        h.block("W_Q", bad)


def test_vectors():
    h = attend()
    size = h.num_parameters
    v = torch.ones(size, dtype=DOUBLE)
    for bad, match in [
        (v[:-1], r"has shape \(\d+,\); it must be"),
        (v.expand(n + 1, -1), r"has shape \(3, \d+\); it must be \(2, "),
        (v.expand(1, n, -1), r"has shape \(1, 2, \d+\)"),
        (torch.ones(()), "has"),
        (v.float(), "has dtype torch.float32 and the input has torch.float64"),
        (v.long(), "has dtype torch.int64"),
        (v * torch.nan, "holds NaN or infinity"),
        (v.to("meta"), "is on meta and the input on cpu"),
        (v.numpy(), "is a ndarray"),
        (v.tolist(), "is a list"),
        (None, "is a NoneType"),
    ]:
        with pytest.raises(ValueError, match=f"^v {match}"):
            h.matvec(bad)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tol": 0.0}, "tol is 0.0; it must be a finite number above zero"),
        ({"tol": -1.0}, "tol is -1.0"),
        ({"tol": float("nan")}, "tol is nan"),
    ],
)
def test_lanczos(changes, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        attend().spectral_norm(**changes)


@pytest.mark.parametrize("loss", [MSE(draw(n, L, d)), cross_entropy(labels=torch.zeros(n, L).long(), pool="token")])
def test_no_factor(loss):
    with pytest.raises(ValueError, match=r"^loss has no low-rank Hessian; only CrossEntropy with pool"):
        attend(loss=loss).outer_factor()


# ---- not told yet ----------------------------------------------------------------------------------------------------

#: Bad input that is taken in silence, or ends in an error of another kind.
UNUSUAL = {
    "a weight among the biases": (lambda: attend(biases={"W_Q": draw(d, d_K)}), "biases has the unknown W_Q"),
    "no projection among the biases": (lambda: attend(biases={"W_O": draw(d_V, d)}), "biases has the unknown W_O"),
    "more targets than samples": (lambda: attend(loss=MSE(draw(n + 1, L, d))).dense(), "target has"),
    "more labels than samples": (
        lambda: in_block(loss=cross_entropy(labels=torch.tensor([0, 1, 2]))).dense(), "labels has"),
    "more gradients than samples": (
        lambda: attend(loss=OutputLoss(draw(n + 1, L, d), torch.zeros(n + 1, 12, 12, dtype=DOUBLE))).dense(),
        "gradient has",
    ),
    "fewer targets than samples, at the door": (lambda: attend(loss=MSE(draw(n - 1, L, d))), "target has"),
    "a target of another shape, at the door": (lambda: attend(loss=MSE(draw(n, L, d + 1))), "target has"),
    "unknown attention, at the door": (lambda: attend(attention="relu"), "attention is 'relu'"),
    "no loss": (lambda: attend(loss=None), "loss is"),
    "a name as loss": (lambda: in_block(loss="mse"), "loss is"),
    "a function as loss": (lambda: attend(loss=torch.nn.functional.mse_loss), "loss is"),
    "a tensor as loss": (lambda: attend(loss=draw(n, L, d)), "loss is"),
    "the class of a loss": (lambda: attend(loss=MSE), "loss is"),
    "no number of heads": (lambda: attend(heads=None), "heads is None"),
    "a word as eps": (lambda: in_block(eps="small"), "eps is 'small'"),
    "no eps": (lambda: in_block(eps=None), "eps is None"),
    "a word as blocks": (lambda: in_chain(blocks="block"), "blocks is a str"),
    "a word as tol": (lambda: attend().spectral_norm(tol="fine"), "tol is 'fine'"),
    "no steps": (lambda: attend().spectral_norm(max_steps=0), "max_steps is 0"),
    "fewer than no steps": (lambda: attend().spectral_norm(max_steps=-3), "max_steps is -3"),
    "half a step": (lambda: attend().spectral_norm(max_steps=2.5), "max_steps is 2.5"),
    "a mask of no tokens": (lambda: hessian.causal_mask(0), "tokens is 0"),
    "a mask of fewer than no tokens": (lambda: hessian.causal_mask(-1), "tokens is -1"),
    "head is no bool": (lambda: in_block(head="no", loss=cross_entropy()), "head is 'no'"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_mistakes(case):
    call, match = UNUSUAL[case]
    with pytest.raises(ValueError, match=f"^{match}"):
        call()
