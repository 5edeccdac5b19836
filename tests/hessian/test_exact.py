"""Every form of every Hessian against automatic differentiation and against finite differences."""

import math

import pytest
import torch

from stillscape import hessian
from tests.hessian.cases import ENTROPIES, LAYERS, LOSSES, random_case
from tests.hessian.oracles import finite_difference_hessian, relative_error

PARTS = ("full", "outer", "functional")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
CASES = [(layer, seed) for layer in LAYERS for seed in range(12)]
MORE = [(layer, seed) for layer in LAYERS for seed in range(12, 150)]


def check_forms(case):
    h, want = case.closed_form(), case.hessians
    tolerance = TOLERANCE[case.X.dtype]
    assert h.shapes == {name: tuple(value.shape) for name, value in case.params.items()}
    vector = torch.randn(h.num_parameters, generator=torch.Generator().manual_seed(1), dtype=case.X.dtype)
    for part in PARTS:
        assert relative_error(h.dense(part), want[part], want["full"]) < tolerance
        mean = want[part].mean(0, keepdim=True)
        assert relative_error(h.mean(part)[None], mean, want["full"].norm(dim=(1, 2)).max()[None, None]) < tolerance
        scale = want["full"].norm(dim=(1, 2), keepdim=True)[..., 0] * vector.norm()
        assert relative_error(h.matvec(vector, part), want[part] @ vector, scale) < tolerance


def check_blocks(case):
    h, want = case.closed_form(), case.hessians
    starts = torch.tensor([0, *(torch.Size(s).numel() for s in h.shapes.values())]).cumsum(0)
    for part in PARTS:
        for i, row in enumerate(h.names):
            for j, column in enumerate(h.names):
                true = want[part][:, starts[i] : starts[i + 1], starts[j] : starts[j + 1]]
                assert relative_error(h.block(row, column, part), true, want["full"]) < TOLERANCE[torch.float64]


@pytest.mark.parametrize(("layer", "seed"), CASES)
def test_dense_mean_and_products_are_the_derivatives(layer, seed):
    check_forms(random_case(seed, layer))


@pytest.mark.parametrize(("layer", "seed"), [(layer, seed) for layer in LAYERS for seed in range(4)])
def test_every_block_of_every_part(layer, seed):
    check_blocks(random_case(seed, layer))


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "seed"), MORE)
def test_many_more_cases(layer, seed):
    check_forms(random_case(seed, layer))
    check_blocks(random_case(seed, layer))


@pytest.mark.parametrize(("layer", "loss"), [(layer, loss) for layer in LAYERS for loss in LOSSES])
def test_finite_differences_of_gradients(layer, loss):
    case = random_case(LOSSES.index(loss), layer, loss=loss, small=True, activation="gelu", heads=1)
    want = finite_difference_hessian(case.losses, case.params)
    assert relative_error(case.closed_form().dense(), want) < 1e-6


@pytest.mark.parametrize(("layer", "seed"), [(layer, seed) for layer in LAYERS for seed in range(6)])
def test_single_precision(layer, seed):
    # A scale of weights at which single precision is not drowned by the LayerNorm of nearly constant tokens.
    case = random_case(seed, layer, n=2, L=4, d=4, attention="softmax")
    h, want = case.to(torch.float32).closed_form(), case.hessians
    assert h.dense().dtype == torch.float32
    for part in PARTS:
        assert relative_error(h.dense(part).double(), want[part], want["full"]) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("seed", range(5))
def test_gradient_and_losses(layer, seed):
    case = random_case(seed, layer)
    h = case.closed_form()
    assert relative_error(h.gradient(), case.gradient) < 1e-12
    if case.loss_name == "output":
        assert h.losses() is None
    else:
        torch.testing.assert_close(h.losses(), case.losses(case.params))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("loss", ["mean", "cls"])
def test_outer_factor_of_a_pooled_cross_entropy(layer, loss):
    case = random_case(3, layer, loss=loss, classes=3)
    h = case.closed_form()
    F = h.outer_factor()
    assert F.shape == (case.X.shape[0], 2, h.num_parameters)
    assert relative_error(F.mT @ F, case.hessians["outer"]) < 1e-12


def test_no_factor_where_there_is_none():
    with pytest.raises(ValueError, match="loss has no low-rank"):
        random_case(0, loss="token").closed_form().outer_factor()


@pytest.mark.parametrize(("layer", "seed"), [(layer, seed) for layer in LAYERS for seed in range(8)])
def test_spectral_norm(layer, seed):
    h = random_case(seed, layer).closed_form()
    for part in PARTS:
        want = torch.linalg.matrix_norm(h.dense(part), ord=2)
        torch.testing.assert_close(h.spectral_norm(part), want, rtol=1e-9, atol=1e-9 * float(want.max()) + 1e-30)


def test_spectral_norm_where_samples_use_up_their_krylov_space_at_different_steps():
    # One token makes the attention layer linear in W_V alone: a rank-one outer part beside samples of full rank.
    case = random_case(4, "self_attention", loss="mse", n=3, L=4)
    case.X[0, 1:] = case.X[0, 0]
    h = case.closed_form()
    torch.testing.assert_close(h.spectral_norm(), torch.linalg.matrix_norm(h.dense(), ord=2), rtol=1e-9, atol=1e-12)


def test_one_vector_for_each_sample():
    case = random_case(7, "transformer_block", n=3)
    h = case.closed_form()
    v = torch.randn(3, h.num_parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(h.matvec(v), (h.dense() @ v[..., None]).squeeze(-1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("heads", "d_K"), [(1, 1), (1, 3), (2, 1), (2, 3)])
@pytest.mark.parametrize("layer", LAYERS)
def test_queries_and_keys_of_a_mean(layer, heads, d_K, seed):
    # With d < 2 d_K both come from the second derivatives in W_Q W_K', else each from its own.
    sizes = {"n": 3, "L": 4, "d": 4, "d_K": d_K, "d_f": 3, "heads": heads}
    h = random_case(seed, layer, **sizes).closed_form()
    for part in PARTS:
        assert relative_error(h.mean(part)[None], h.dense(part).mean(0)[None], h.dense().mean(0)[None]) < 1e-12


@pytest.mark.parametrize("layer", LAYERS)
def test_chunks_change_nothing(layer, monkeypatch):
    from stillscape.hessian import each_sample, exact, summed, upper

    case = random_case(6, layer, n=5, loss="mean")
    whole = case.closed_form()
    dense, mean, norm = whole.dense(), whole.mean(), whole.spectral_norm()
    monkeypatch.setattr(exact, "CHUNK_BYTES", 1)
    monkeypatch.setattr(exact, "SUMMED_BYTES", 1)
    monkeypatch.setattr(exact, "SUMMED_SHARE", 2**40)
    monkeypatch.setattr(each_sample, "PANEL_BYTES", 1)
    monkeypatch.setattr(summed, "SLICE_BYTES", 1)
    monkeypatch.setattr(each_sample, "TURNED_ROWS", 1)
    monkeypatch.setattr(summed, "CORE_BYTES", 1)
    monkeypatch.setattr(upper, "HUGE_BYTES", 1)
    monkeypatch.setattr(upper, "PANELS", 1000)
    parts = case.closed_form()
    torch.testing.assert_close(parts.dense(), dense)
    torch.testing.assert_close(parts.mean(), mean)
    torch.testing.assert_close(parts.spectral_norm(), norm)


@pytest.mark.parametrize("loss", ENTROPIES)
def test_a_confident_model_keeps_its_digits(loss):
    # p_y = 1 - 1e-28: p - y by subtraction would be rounding noise. The curvature is then that of the logits' softmax.
    case = random_case(1, loss=loss, n=1, L=2, d=2, classes=2, heads=1)
    case.loss_data["b_h"] = torch.tensor([66.0, 0.0], dtype=torch.float64)
    case.loss_data["W_h"] *= 0.1
    case.loss_data["labels"].zero_()
    half = case.closed_form().dense("functional")
    case.loss_data["b_h"] = torch.tensor([66.0 + math.log(2.0), 0.0], dtype=torch.float64)
    # One more log 2 halves the probability of the wrong class, and with it the gradient.
    torch.testing.assert_close(2 * case.closed_form().dense("functional"), half, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_follows_a_block_is_a_loss_on_its_output(loss):
    case = random_case(11, "transformer_chain", loss=loss, blocks=3, wrt=1, head=False)
    entered, effective = case.closed_form().effective_loss()
    options = {name: value for name, value in case.options.items() if name != "mask"}
    alone = hessian.transformer_block(entered, case.blocks[1], loss=effective, mask=case.options["mask"], **options)
    assert relative_error(alone.dense(), case.hessians["full"]) < 1e-11


@pytest.mark.parametrize("loss", LOSSES)
def test_without_anything_behind_it_the_effective_loss_is_the_loss(loss):
    case = random_case(5, "self_attention", loss=loss)
    _, effective = case.closed_form().effective_loss()
    at = case.loss().expand(case.F)
    torch.testing.assert_close(effective.gradient, at.gradient)
    torch.testing.assert_close(effective.hessian, at.matrix())
