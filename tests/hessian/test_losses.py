"""Losses on an output against automatic derivatives of the plain functions, and every way to be handed bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stillscape import hessian
from stillscape._errors import InputError
from stillscape.hessian import MSE, CrossEntropy, Expansion, OutputLoss, reference
from stillscape.hessian.losses import softmax_root
from tests.hessian.cases import LOSSES, random_case
from tests.hessian.oracles import relative_error

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def autodiff(case):
    """Return gradient (n, L, m) and B (n, L m, L m) at the case's output, and what crosses samples in either."""
    n, size = len(case.F), case.F[0].numel()
    point = {"F": case.F}
    first = torch.func.jacfwd(case.loss_at_output)(case.F).reshape(n, n, size)
    second = reference.hessian(lambda p: case.loss_at_output(p["F"]), point).reshape(n, n, size, n, size)
    own = range(n), range(n)
    return first[own].reshape(case.F.shape), torch.stack([second[i, i, :, i] for i in range(n)])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", LOSSES)
def test_expansion_is_that_of_autodiff(name, seed):
    case = random_case(seed, loss=name)
    at, (gradient, B) = case.loss().expand(case.F), autodiff(case)
    assert relative_error(at.gradient, gradient) < 1e-12
    assert relative_error(at.matrix(), B) < 1e-12
    if name == "output":
        assert at.value is None
    else:
        torch.testing.assert_close(at.value, case.loss_at_output(case.F), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_apply_and_norm_are_those_of_the_matrix(name):
    case = random_case(1, loss=name, n=3)
    at = case.loss().expand(case.F)
    B, V = at.matrix(), randn(2, 4, *case.F.shape)
    want = torch.einsum("nij,abnj->abni", B, V.flatten(-2)).reshape(V.shape)
    torch.testing.assert_close(at.apply(V), want)
    torch.testing.assert_close(at.apply(V[0, 0]), want[0, 0])
    torch.testing.assert_close(at.spectral_norm(), torch.linalg.matrix_norm(B, ord=2))
    torch.testing.assert_close(B, B.mT)


def test_forms_add_up():
    n, tokens, m = 2, 3, 2
    parts = {"diagonal": randn(n, tokens, m, m), "factor": randn(n, 2, tokens, m), "dense": randn(n, 6, 6)}
    parts["diagonal"] = parts["diagonal"] + parts["diagonal"].mT
    parts["dense"] = parts["dense"] + parts["dense"].mT
    gradient = randn(n, tokens, m)
    whole = Expansion(None, gradient, **parts).matrix()
    each = [Expansion(None, gradient, **{name: part}).matrix() for name, part in parts.items()]
    torch.testing.assert_close(whole, sum(each))
    torch.testing.assert_close(each[0], torch.stack([torch.block_diag(*blocks) for blocks in parts["diagonal"]]))
    torch.testing.assert_close(each[1], torch.einsum("nki,nkj->nij", *[parts["factor"].flatten(2)] * 2))
    torch.testing.assert_close(each[2], parts["dense"])
    torch.testing.assert_close(
        Expansion(None, gradient, **parts).spectral_norm(), torch.linalg.matrix_norm(whole, ord=2)
    )
    assert not Expansion(None, gradient).matrix().any()


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("classes", [1, 2, 3, 4])
def test_factor_has_rank_one_less_than_classes(classes, pool):
    head, F = randn(5, classes), randn(2, 3, 5)
    at = CrossEntropy(torch.zeros(2, dtype=torch.int64), head, pool=pool).expand(F)
    assert at.factor.shape == (2, max(classes - 1, 1), 3, 5)
    assert torch.linalg.matrix_rank(at.matrix(), rtol=1e-12).tolist() == [classes - 1] * 2


def test_one_class_is_no_loss():
    at = CrossEntropy(torch.zeros(2, 3, dtype=torch.int8), randn(5, 1), pool="token").expand(randn(2, 3, 5))
    assert not at.value.any()
    assert not at.gradient.any()
    assert not at.matrix().any()


@pytest.mark.parametrize("pool", ["mean", "cls", "token"])
def test_a_head_of_its_own_gives_the_same_loss(pool):
    case = random_case(0, loss=pool)
    loss, W_h = case.loss(), case.loss_data["W_h"]
    logits = case.F @ W_h + case.loss_data["b_h"]
    whole, on_logits = loss.expand(case.F), loss.on_logits().expand(logits)
    torch.testing.assert_close(on_logits.value, whole.value)
    torch.testing.assert_close(on_logits.gradient @ W_h.mT, whole.gradient)
    J = torch.kron(torch.eye(case.F.shape[1], dtype=DOUBLE), W_h)  # (L m, L C)
    torch.testing.assert_close(J @ on_logits.matrix() @ J.mT, whole.matrix())


def test_pooling_weights():
    labels, head = torch.tensor([0]), torch.eye(2)
    assert CrossEntropy(labels, head, pool="mean").pooling(4).tolist() == [0.25] * 4
    assert CrossEntropy(labels, head, pool="cls").pooling(3).tolist() == [1, 0, 0]
    assert CrossEntropy(labels[None], head, pool="token").pooling(2).tolist() == [0.5, 0.5]


def test_no_bias_is_a_bias_of_zero():
    labels, head, F = torch.tensor([0, 2]), randn(4, 3), randn(2, 3, 4)
    without, zero = (CrossEntropy(labels, head, b).expand(F) for b in (None, torch.zeros(3, dtype=DOUBLE)))
    torch.testing.assert_close(without.value, zero.value)
    torch.testing.assert_close(without.matrix(), zero.matrix())


@pytest.mark.parametrize("name", LOSSES)
def test_part_of_the_samples_is_part_of_the_expansion(name):
    case = random_case(2, loss=name, n=3)
    whole, part = case.loss().expand(case.F), case.loss().take(slice(1, 3)).expand(case.F[1:])
    torch.testing.assert_close(part.gradient, whole.gradient[1:])
    torch.testing.assert_close(part.matrix(), whole.matrix()[1:])
    if whole.value is not None:
        torch.testing.assert_close(part.value, whole.value[1:])


@pytest.mark.parametrize("name", LOSSES)
def test_single_precision_stays_single(name):
    case = random_case(3, loss=name)
    at, F = case.to(torch.float32).loss().expand(case.F.float()), case.F
    assert at.gradient.dtype == at.matrix().dtype == at.spectral_norm().dtype == torch.float32
    assert relative_error(at.matrix().double(), case.loss().expand(F).matrix()) < 1e-4


def test_losses_keep_no_graph():
    head = randn(2, 2).requires_grad_()
    loss = CrossEntropy(torch.tensor([0]), head)
    assert not loss.expand(randn(1, 2, 2)).gradient.requires_grad


# ---- the plain functions of the reference ----------------------------------------------------------------------------


def test_losses_are_those_of_torch():
    F, W_h, b_h = randn(3, 4, 5), randn(5, 3, seed=1), randn(3, seed=2)
    labels, tokens = torch.tensor([0, 2, 1]), torch.arange(12).reshape(3, 4) % 3
    entropy = nn.functional.cross_entropy
    for pool, pooled in (("mean", F.mean(1)), ("cls", F[:, 0])):
        want = entropy(pooled @ W_h + b_h, labels, reduction="none")
        torch.testing.assert_close(reference.cross_entropy(F, labels, W_h, b_h, pool), want)
    each = entropy((F @ W_h).flatten(0, 1), tokens.flatten(), reduction="none").reshape(3, 4)
    torch.testing.assert_close(reference.cross_entropy(F, tokens, W_h, pool="token"), each.mean(1))
    target = randn(3, 4, 5, seed=3)
    each = nn.functional.mse_loss(F, target, reduction="none").mean((1, 2))
    torch.testing.assert_close(reference.mse(F, target), each)


@pytest.mark.parametrize("gap", [20.0, 40.0, 100.0])
def test_cross_entropy_keeps_its_digits_where_the_model_is_sure(gap):
    # Two classes, logits (0, gap): loss log(1 + e^-gap), gradient -+ e^-gap, curvature e^-gap, to first order in it.
    small = torch.tensor(-gap, dtype=DOUBLE).exp()
    params = {"F": torch.tensor([[[0.0, gap]]], dtype=DOUBLE)}

    def losses(p):
        return reference.cross_entropy(p["F"], torch.tensor([1]), torch.eye(2, dtype=DOUBLE))

    torch.testing.assert_close(losses(params), small[None], rtol=1e-8, atol=0)
    want = small * torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]], dtype=DOUBLE)
    for oracle in (reference.hessian, reference.double_backward_hessian):
        torch.testing.assert_close(oracle(losses, params), want, rtol=1e-8, atol=0)


def test_unknown_pool_is_named():
    with pytest.raises(InputError, match="pool is 'max'"):
        reference.cross_entropy(randn(1, 1, 2), torch.tensor([0]), torch.eye(2, dtype=DOUBLE), pool="max")


# ---- the root of softmax's covariance --------------------------------------------------------------------------------


def covariance(p):
    """Return diag(p) - pp' without subtracting from 1: the diagonal is p_c times the sum of the others."""
    off = -p[:, None] * p[None, :]
    off.fill_diagonal_(0)
    return off - torch.diag(off.sum(1))


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_root_squared_is_the_covariance(classes):
    for seed in range(5):
        p = (3 * randn(classes, seed=seed)).softmax(-1)
        R = softmax_root(p)
        assert R.shape == (classes, max(classes - 1, 1))
        torch.testing.assert_close(R @ R.mT, covariance(p), rtol=1e-12, atol=1e-15)


def test_root_of_certainty_is_zero():
    for p in torch.eye(3, dtype=DOUBLE):
        assert softmax_root(p).abs().max() < 1e-15


@pytest.mark.parametrize("sure_of", [0, 1, 2])
@pytest.mark.parametrize("gap", [20.0, 40.0, 100.0])
def test_root_keeps_its_digits_where_the_model_is_sure(sure_of, gap):
    """A model is sure of most samples it was trained on: their Hessians are small, and should still be right."""
    logits = torch.tensor([0.0, 0.5, -0.5], dtype=DOUBLE)
    logits[sure_of] = gap
    p = logits.softmax(-1)
    R = softmax_root(p)
    torch.testing.assert_close(R @ R.mT, covariance(p), rtol=1e-11, atol=0)


@pytest.mark.parametrize("sure_of", [0, 1])
def test_gradient_keeps_its_digits_where_the_model_is_sure(sure_of):
    case = random_case(1, loss="mean", n=1, classes=2)
    data = dict(case.loss_data)
    data["b_h"] = torch.zeros(2, dtype=DOUBLE)
    data["b_h"][sure_of] = 50.0
    for label in (0, 1):
        sure = replace(case, loss_data=data | {"labels": torch.tensor([label])})
        at, (gradient, _) = sure.loss().expand(case.F), autodiff(sure)
        assert relative_error(at.gradient, gradient) < 1e-12


# ---- bad input -------------------------------------------------------------------------------------------------------

F = randn(2, 3, 4)
LABELS, HEAD = torch.tensor([0, 2]), randn(4, 3)
BAD_FLOATS = [
    pytest.param(lambda x: x.numpy(), "is a ndarray; it must be a torch.Tensor", id="numpy"),
    pytest.param(lambda x: x.tolist(), "is a list; it must be a torch.Tensor", id="list"),
    pytest.param(lambda x: x.long(), "has dtype torch.int64; it must be torch.float32 or", id="integers"),
    pytest.param(lambda x: x.half(), "has dtype torch.float16; it must be torch.float32 or", id="half"),
    pytest.param(lambda x: x.bool(), "has dtype torch.bool; it must be torch.float32 or", id="bool"),
    pytest.param(lambda x: x + 0j, "has dtype torch.complex128; it must be", id="complex"),
    pytest.param(lambda x: torch.full_like(x, torch.nan), "holds NaN or infinity", id="NaN"),
    pytest.param(lambda x: torch.full_like(x, -torch.inf), "holds NaN or infinity", id="infinity"),
    pytest.param(lambda x: x[..., :0], r"(is empty: its shape is|has shape)", id="empty"),
    pytest.param(lambda x: x[None, None], "has shape", id="axes"),
]


@pytest.mark.parametrize(("spoil", "match"), BAD_FLOATS)
def test_a_bad_tensor_is_named(spoil, match):
    doors = {
        "target": lambda bad: MSE(bad),
        "W_h": lambda bad: CrossEntropy(LABELS, bad),
        "b_h": lambda bad: CrossEntropy(LABELS, HEAD, bad),
        "gradient": lambda bad: OutputLoss(bad, torch.ones(2, 12, 12, dtype=DOUBLE)),
        "hessian": lambda bad: OutputLoss(F, bad),
    }
    good = {"target": F, "W_h": HEAD, "b_h": randn(3), "gradient": F, "hessian": torch.ones(2, 12, 12, dtype=DOUBLE)}
    for name, door in doors.items():
        door(good[name])
        with pytest.raises(InputError, match=f"^{name} {match}"):
            door(spoil(good[name]))


@pytest.mark.parametrize(
    ("door", "match"),
    [
        (lambda: MSE(F).expand(F[:, :2]), r"target has shape \(2, 3, 4\); it must be \(2, 2, 4\)"),
        (lambda: MSE(F).expand(F.float()), "target has dtype torch.float64 and the input has torch.float32"),
        (lambda: MSE(F).expand(F.to("meta")), "target is on cpu and the input on meta; move one"),
        (lambda: CrossEntropy(LABELS, HEAD, randn(4)), r"b_h has shape \(4,\); it must be \(3,?\)"),
        (lambda: CrossEntropy(LABELS, HEAD, randn(3).float()), "b_h has dtype torch.float32 and the input has"),
        (lambda: CrossEntropy(LABELS, HEAD, randn(3).to("meta")), "b_h is on meta and the input on cpu"),
        (lambda: CrossEntropy(LABELS, HEAD).expand(F.float()), "W_h has dtype torch.float64 and the input has"),
        (lambda: CrossEntropy(LABELS, HEAD).expand(F[..., :2]), r"W_h has shape \(4, 3\); it must be \(2, any\)"),
        (lambda: CrossEntropy(LABELS, HEAD).expand(F[:1]), r"labels has shape \(2,\); it must be \(1,?\)"),
        (lambda: OutputLoss(F, randn(2, 11, 11)), r"hessian has shape \(2, 11, 11\); it must be \(2, 12, 12\)"),
        (lambda: OutputLoss(F, randn(2, 12, 12)), "hessian differs from its transpose by"),
        (lambda: OutputLoss(F, torch.zeros(2, 12, 12)), "hessian has dtype torch.float32 and the input has"),
        (lambda: OutputLoss(F, 0 * randn(2, 12, 12)).expand(F[:1]), r"gradient has shape \(2, 3, 4\); it must be"),
        (lambda: OutputLoss(F, 0 * randn(2, 12, 12)).expand(F.float()), "gradient has dtype torch.float64 and"),
    ],
)
def test_what_does_not_fit_is_named(door, match):
    with pytest.raises(InputError, match=match):
        door()


@pytest.mark.parametrize(
    ("labels", "pool", "match"),
    [
        ([0, 2], "mean", "labels are list; they must be a tensor of whole numbers"),
        (np.array([0, 2]), "mean", "labels are ndarray"),
        (torch.tensor([0.0, 2.0]), "mean", "labels are torch.float32; they must be a tensor of whole numbers"),
        (torch.tensor([0, 3]), "mean", r"labels run from 0 to 3; W_h has 3 columns, so they must lie in 0\.\.2"),
        (torch.tensor([-1, 2]), "cls", "labels run from -1 to 2"),
        (torch.tensor([[0, 1, 3]] * 2), "token", "labels run from 0 to 3"),
        (torch.tensor([[0, 2]]), "mean", r'labels have shape \(1, 2\); pool="mean" takes \(n,\)'),
        (torch.tensor([0, 2]), "token", r'labels have shape \(2,\); pool="token" takes \(n, L\)'),
        (torch.tensor([], dtype=torch.int64), "mean", "labels is empty"),
        (torch.tensor([0, 2]), "max", "pool is 'max'; it must be one of cls, mean, token"),
    ],
)
def test_bad_labels_are_named(labels, pool, match):
    with pytest.raises(InputError, match=match):
        CrossEntropy(labels, HEAD, pool=pool)


def test_labels_may_be_any_whole_numbers():
    for dtype in (torch.uint8, torch.int8, torch.int32, torch.int64):
        assert CrossEntropy(LABELS.to(dtype), HEAD).labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        ([[True]], "mask is list; it must be a boolean tensor"),
        (torch.ones(3, 3), "mask is torch.float32; it must be a boolean tensor, True where a token may attend"),
        (torch.ones(3, 3, dtype=torch.int64), "mask is torch.int64"),
        (torch.ones(2, 3, dtype=torch.bool), r"mask has shape \(2, 3\); it must be \(3, 3\) or \(2, 3, 3\)"),
        (torch.ones(1, 3, 3, dtype=torch.bool), r"mask has shape \(1, 3, 3\)"),
        (torch.ones(3, 3, dtype=torch.bool, device="meta"), "mask is on meta and"),
    ],
)
def test_a_bad_mask_is_named(mask, match):
    weights = {name: randn(4, 2) for name in ("W_Q", "W_K", "W_V")}
    with pytest.raises(InputError, match=match):
        hessian.self_attention(F, **weights, loss=MSE(randn(2, 3, 2)), mask=mask)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"W_1": None}, "lacks W_1; it takes W_Q"),
        ({"W_3": torch.ones(1)}, "has the unknown W_3; it takes W_Q"),
        ({"b_2": None, "weight": torch.ones(1)}, "lacks b_2 and has the unknown weight; it takes"),
    ],
)
def test_bad_keys_are_named(change, match):
    case = random_case(0, "transformer_block")
    params = {name: value for name, value in (case.blocks[0] | change).items() if value is not None}
    with pytest.raises(InputError, match=f"params.* {match}"):
        case.closed_form(params=params)


def test_parameters_must_be_a_dict():
    case = random_case(0, "transformer_block")
    with pytest.raises(InputError, match=r"params.* is a list; it must be a dict of tensors"):
        case.closed_form(params=[1, 2])
