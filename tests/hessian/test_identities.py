"""What must be true of every Hessian, whatever its entries: symmetries, sums, invariances, and special cases."""

from dataclasses import replace

import pytest
import torch

from stillscape import hessian
from stillscape.hessian import CrossEntropy, OutputLoss, causal_mask, reference, upper
from stillscape.hessian.normalization import LayerNorm
from stillscape.hessian.pointwise import pointwise
from tests.hessian.cases import LAYERS, LOSSES, random_case
from tests.hessian.oracles import relative_error

DOUBLE = torch.float64
PARTS = ("full", "outer", "functional")
EVERYWHERE = pytest.mark.parametrize(("layer", "seed"), [(layer, seed) for layer in LAYERS for seed in range(4)])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def norm(H):
    return H.flatten(1).norm(dim=1)


def span(h, *names):
    """Return which rows of the Hessian belong to the named parameters."""
    owner = [name for name, shape in h.shapes.items() for _ in range(torch.Size(shape).numel())]
    return torch.tensor([name in names for name in owner])


# ---- where all sizes are equal, a transposed matrix has the right shape ----------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "mean", "output"])
@pytest.mark.parametrize("layer", LAYERS)
def test_square_weights(layer, loss):
    sizes = {"n": 2, "L": 3, "d": 3, "d_K": 3, "d_V": 3, "d_out": 3, "d_f": 3, "heads": 1}
    options = {"attention": "softmax", "mask": "none", "activation": "gelu", "head": False}
    # Behind the first block of a pre-norm chain, adjoints and tangents pass through a whole block of their own.
    options |= {"norm": "pre", "wrt": 0, "blocks": 2} if layer == "transformer_chain" else {"norm": "post"}
    case = random_case(2, layer, loss=loss, **options, **sizes)
    h, want = case.closed_form(), case.hessians
    v = draw(h.num_parameters)
    for part in PARTS:
        assert relative_error(h.dense(part), want[part], want["full"]) < 1e-12
        assert relative_error(h.mean(part)[None], want[part].mean(0)[None], want["full"].mean(0)[None]) < 1e-11
        assert relative_error(h.matvec(v, part), want[part] @ v, norm(want["full"])[:, None] * v.norm()) < 1e-12


# ---- symmetry, sign, sums --------------------------------------------------------------------------------------------


@EVERYWHERE
def test_symmetric(layer, seed):
    h = random_case(seed, layer).closed_form()
    for part in PARTS:
        H = h.dense(part)
        assert relative_error(H.mT, H, h.dense()) < 1e-13
        assert relative_error(h.mean(part).mT[None], h.mean(part)[None], h.dense()) < 1e-13


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("seed", range(2))
def test_blocks_of_two_orders_are_transposed(layer, seed):
    h = random_case(seed, layer).closed_form()
    scale = h.dense()
    for row in h.names:
        for column in h.names:
            assert relative_error(h.block(row, column), h.block(column, row).mT, scale) < 1e-13


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "output"])
@pytest.mark.parametrize("layer", LAYERS)
def test_outer_part_is_positive_semidefinite_where_the_loss_is_convex(layer, loss):
    H = random_case(5, layer, loss=loss).closed_form().dense("outer")
    assert bool((torch.linalg.eigvalsh(H)[:, 0] >= -1e-13 * norm(H)).all())
    assert bool((norm(H) > 0).all())


def test_outer_part_is_not_where_the_loss_is_not():
    H = random_case(5, loss="output").closed_form().dense("outer")
    assert bool((torch.linalg.eigvalsh(H)[:, 0] < -1e-3 * norm(H)).all())


@EVERYWHERE
def test_parts_add_up_to_the_whole(layer, seed):
    h = random_case(seed, layer).closed_form()
    full, v = h.dense(), draw(h.num_parameters)
    scale = norm(full)[:, None]
    assert relative_error(h.dense("outer") + h.dense("functional"), full) < 1e-13
    assert relative_error((h.mean("outer") + h.mean("functional"))[None], h.mean()[None], full) < 1e-12
    assert relative_error(h.matvec(v, "outer") + h.matvec(v, "functional"), h.matvec(v), scale * v.norm()) < 1e-12


@EVERYWHERE
def test_product_is_linear_and_symmetric(layer, seed):
    h = random_case(seed, layer).closed_form()
    u, v, scale = draw(h.num_parameters), draw(h.num_parameters, seed=1), norm(h.dense())[:, None]
    scale = scale * u.norm() * v.norm()
    for part in PARTS:
        Hu, Hv = h.matvec(u, part), h.matvec(v, part)
        assert relative_error(h.matvec(2 * u - 3 * v, part), 2 * Hu - 3 * Hv, scale) < 1e-12
        assert relative_error((Hu @ v)[:, None], (Hv @ u)[:, None], scale) < 1e-12
    assert not h.matvec(torch.zeros_like(u)).any()


@pytest.mark.parametrize("layer", LAYERS)
def test_mean_grows_by_one_sample_at_a_time(layer):
    """The identity on which every size of a sweep rests: k mean_k + H_{k+1} = (k + 1) mean_{k+1}."""
    case = random_case(4, layer, n=5, loss="mean", mask="none")

    def first(k):
        data = case.loss_data | {"labels": case.loss_data["labels"][:k]}
        return replace(case, X=case.X[:k], loss_data=data).closed_form()

    each = case.closed_form().dense()
    scale = norm(each).max()[None, None]
    for k in range(1, 5):
        grown = (k * first(k).mean() + each[k]) / (k + 1)
        assert relative_error(grown[None], first(k + 1).mean()[None], scale) < 1e-13
        # 1/k in place of 1/(k + 1) would be seen here.
        assert relative_error((grown * (k + 1) / k)[None], first(k + 1).mean()[None]) > 0.1


@pytest.mark.parametrize("panels", [1, 3, 1000])
def test_mean_of_more_parameters_than_a_tile(panels, monkeypatch):
    """Large enough that what is above the diagonal is copied below it piece by piece."""
    monkeypatch.setattr(upper, "HUGE_BYTES", 1)
    monkeypatch.setattr(upper, "PANELS", panels)
    case = random_case(0, "transformer_block", loss="mean", n=2, L=3, d=8, d_K=4, d_f=32, heads=1)
    h = case.closed_form()
    assert h.num_parameters > 700
    for part in PARTS:
        assert relative_error(h.mean(part)[None], h.dense(part).mean(0)[None], h.dense().mean(0)[None]) < 1e-12


@EVERYWHERE
def test_samples_do_not_meet(layer, seed):
    case = random_case(seed, layer, n=3, mask="none")
    alone = replace(case, X=case.X[1:2], loss_data={})
    rows = {name: value[1:2] for name, value in case.loss_data.items() if name not in ("W_h", "b_h")}
    alone = replace(alone, loss_data=case.loss_data | rows)
    H = case.closed_form().dense()
    assert relative_error(alone.closed_form().dense(), H[1:2]) < 1e-13


# ---- tokens, scores and masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("seed", range(3))
def test_order_of_tokens_does_not_matter_under_mean_pooling(layer, seed):
    case = random_case(seed, layer, loss="mean", mask="none", L=5)
    turned = replace(case, X=case.X[:, [3, 0, 4, 1, 2]])
    for part in PARTS:
        got, want = turned.closed_form().dense(part), case.closed_form().dense(part)
        assert relative_error(got, want, case.closed_form().dense()) < 1e-12


def test_order_of_tokens_matters_under_cls():
    case = random_case(0, loss="cls", mask="none", L=5)
    turned = replace(case, X=case.X[:, [3, 0, 4, 1, 2]])
    assert relative_error(turned.closed_form().dense(), case.closed_form().dense()) > 1e-3


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("loss", LOSSES)
def test_softmax_does_not_see_a_shift_of_a_row_of_scores(loss, part):
    """b_K adds the same number to a whole row of scores, so that every derivative in it is zero."""
    X, target = draw(2, 4, 3), random_case(1, loss=loss, n=2, L=4, d_out=3, heads=1)
    weights = {name: draw(3, 2, seed=i + 1) for i, name in enumerate(("W_Q", "W_K", "W_V"))}
    data = {"W_O": draw(2, target.F.shape[-1], seed=9), "biases": {"b_Q": draw(2, seed=7), "b_K": draw(2, seed=8)}}
    h = hessian.self_attention(X, **weights, **data, loss=target.loss())
    assert "b_K" in h.names
    H, bias = h.dense(part), span(h, "b_K")
    scale = norm(h.dense()).max()
    assert float(H[:, bias].abs().max()) < 1e-14 * scale
    assert float(H[:, ~bias][:, :, ~bias].abs().max()) > 1e-3 * scale
    assert float(h.gradient()[:, bias].abs().max()) < 1e-14 * float(h.gradient().abs().max())


def test_linear_attention_does_see_it():
    X, weights = draw(2, 4, 3), {name: draw(3, 2, seed=i + 1) for i, name in enumerate(("W_Q", "W_K", "W_V"))}
    loss, biases = hessian.MSE(draw(2, 4, 2, seed=5)), {"b_K": draw(2, seed=8)}
    h = hessian.self_attention(X, **weights, biases=biases, loss=loss, attention="linear")
    assert float(h.dense()[:, span(h, "b_K")].norm()) > 1e-3 * float(h.dense().norm())


@pytest.mark.parametrize("attention", ["softmax", "linear"])
@pytest.mark.parametrize("loss", LOSSES)
def test_output_is_linear_in_the_values(attention, loss):
    case = random_case(8, loss=loss, attention=attention)
    h = case.closed_form()
    assert not h.block("W_V", "W_V", "functional").any()
    v = draw(h.num_parameters) * span(h, "W_V")
    moved = h.matvec(v, "functional")[:, span(h, "W_V")]
    assert float(moved.abs().max()) <= 1e-14 * float(h.matvec(v).abs().max())


def test_linear_attention_is_linear_in_each_of_the_others_too():
    h = random_case(8, loss="mse", attention="linear").closed_form()
    for name in ("W_Q", "W_K"):
        assert float(h.block(name, name, "functional").abs().max()) <= 1e-14 * float(h.dense().abs().max())
        assert float(h.block(name, "W_V", "functional").norm()) > 1e-3 * float(h.block(name, "W_V").norm())


@pytest.mark.parametrize("attention", ["softmax", "row_normalized", "linear", "sigmoid"])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_mask_that_hides_nothing_changes_nothing(layer, attention):
    case = random_case(3, layer, attention=attention, mask="none", n=2, L=4)
    h = case.closed_form()
    for shape in ((4, 4), (2, 4, 4)):
        masked = case.closed_form(mask=torch.ones(shape, dtype=torch.bool))
        for part in PARTS:
            assert relative_error(masked.dense(part), h.dense(part), h.dense()) < 1e-13


@pytest.mark.parametrize("layer", LAYERS)
def test_padding_is_as_if_it_were_not_there(layer):
    """Tokens that nobody attends to and no loss reads: the Hessian is that of the sample without them."""
    case = random_case(1, layer, loss="cls", attention="softmax", mask="none", n=2, L=5)
    mask = torch.arange(5) < 3
    h = case.closed_form(mask=mask.expand(5, 5))
    short = replace(case, X=case.X[:, :3]).closed_form()
    for part in PARTS:
        assert relative_error(h.dense(part), short.dense(part), short.dense()) < 1e-12


@pytest.mark.parametrize("layer", LAYERS)
def test_causal_tokens_do_not_see_what_follows(layer):
    """A loss on the first token of a causal sequence: only x_1 counts, which attends to itself alone."""
    case = random_case(2, layer, loss="cls", attention="softmax", mask="none", n=2, L=4)
    h = case.closed_form(mask=causal_mask(4))
    alone = replace(case, X=case.X[:, :1]).closed_form()
    for part in PARTS:
        assert relative_error(h.dense(part), alone.dense(part), alone.dense()) < 1e-12


def test_a_causal_mask_hides_nothing_from_the_last_token():
    """A loss on the last token alone: in one layer its row of the mask is all True."""
    case = random_case(2, loss="output", attention="softmax", mask="none", n=2, L=4)
    last = torch.zeros(4, case.F.shape[-1], dtype=DOUBLE)
    last[-1] = 1.0
    pick = last.flatten()
    data = case.loss_data
    loss = OutputLoss(data["gradient"] * last, data["hessian"] * pick[:, None] * pick)
    causal, free = (case.closed_form(loss=loss, mask=mask) for mask in (causal_mask(4), None))
    for part in PARTS:
        assert relative_error(causal.dense(part), free.dense(part), free.dense()) < 1e-13
    assert relative_error(case.closed_form(mask=causal_mask(4)).dense(), case.closed_form().dense()) > 1e-3


# ---- special cases of one layer in another ---------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_identity_as_output_projection_changes_nothing(heads, loss):
    case = random_case(1, loss=loss, n=2, L=3, heads=heads, d_V=2, d_out=2 * heads)
    blocks = {name: value for name, value in case.blocks[0].items() if name not in ("W_O", "b_O")}
    case = replace(case, blocks=(blocks,))
    plain, projected = case.closed_form(), case.closed_form(W_O=torch.eye(2 * heads, dtype=DOUBLE))
    assert "W_O" in projected.names
    scale = plain.dense()
    for row in plain.names:
        for column in plain.names:
            for part in PARTS:
                got, want = projected.block(row, column, part), plain.block(row, column, part)
                assert relative_error(got, want, scale) < 1e-13


def test_heads_side_by_side_do_not_meet_in_the_functional_part():
    """Without a projection each head has features of its own: their Hessians meet in the loss only."""
    case = random_case(1, loss="mse", n=2, L=3, d=4, heads=2, d_K=2, d_V=2)
    blocks = {name: case.blocks[0][name] for name in ("W_Q", "W_K", "W_V")}
    h = replace(case, blocks=(blocks,)).closed_form(loss=hessian.MSE(draw(2, 3, 4)))
    for row in h.names:
        for column in h.names:
            H = h.block(row, column).unflatten(1, (4, 2, 2)).unflatten(-1, (4, 2, 2))
            assert not H[:, :, 0, :, :, 1].any()
            assert H[:, :, 0, :, :, 0].any() or (row, column) == ("W_V", "W_V")


@pytest.mark.parametrize("wrt", [0, 1])
def test_a_chain_is_its_last_block_on_what_enters_it(wrt):
    case = random_case(5, "transformer_chain", blocks=2, wrt=1, loss="mse", head=False)
    chain = case.closed_form(wrt=wrt)
    if wrt == 1:
        entering = reference.transformer_block(case.X, case.blocks[0], **case.options)
        block = hessian.transformer_block(entering, case.blocks[1], loss=case.loss(), **case.options)
        assert relative_error(chain.dense(), block.dense()) < 1e-12
    else:
        # Behind block 0 stands block 1: as a loss on the output of block 0 it gives the same Hessian.
        within = effective_loss(case)
        block = hessian.transformer_block(case.X, case.blocks[0], loss=within, **case.options)
        assert relative_error(chain.dense(), block.dense()) < 1e-11


@pytest.mark.parametrize("wrt", [0, 1])
@pytest.mark.parametrize("loss", ["mse", "cls", "token"])
def test_a_norm_after_the_last_block(loss, wrt):
    case = random_case(6, "transformer_chain", loss=loss, blocks=2, wrt=wrt, head=False, n=2, L=3, d=4, small=True)
    gamma, beta = 1.0 + 0.3 * draw(4), draw(4, seed=1)

    def output(params):
        return reference.layer_norm(case.output(params), gamma, beta, case.options["eps"])

    outer, functional = reference.split(output, case.loss_at_output, case.params)
    h = case.closed_form(final_norm=(gamma, beta))
    v, scale = draw(h.num_parameters), norm(outer + functional)[:, None]
    for part, want in {"full": outer + functional, "outer": outer, "functional": functional}.items():
        assert relative_error(h.dense(part), want, outer + functional) < 1e-12
        assert relative_error(h.matvec(v, part), want @ v, scale * v.norm()) < 1e-12


def effective_loss(case):
    """Return the gradient and Hessian of block 1 and the loss, by autodiff, at the output of block 0."""
    Y = reference.transformer_block(case.X, case.blocks[0], **case.options)

    def losses(params):
        return case.loss_at_output(reference.transformer_block(params["Y"], case.blocks[1], **case.options))

    H = reference.hessian(losses, {"Y": Y})
    n, size = len(Y), Y[0].numel()
    own = torch.stack([H[i].reshape(n, size, n, size)[i, :, i] for i in range(n)])
    leaf = Y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses({"Y": leaf}).sum(), leaf)
    return OutputLoss(gradient, 0.5 * (own + own.mT))


@pytest.mark.parametrize("loss", ["mse", "token"])
@pytest.mark.parametrize("activation", ["gelu", "relu", "linear"])
def test_attention_blocks_of_a_block_are_those_of_the_layer_with_an_effective_loss(loss, activation):
    """The corollary of docs/theory, section 5.4: G -> Lambda_S and B_i -> B_i^eff, for a post-norm block.

    B_eff = D_1 [F (N_2 + D_2 B D_2') F' + W_1 diag(lambda_H sigma'') W_1'] D_1' + N_1, token by token.
    """
    # Without an attention bias: the layer's parameters are then W_Q, W_K, W_V alone.
    sizes = {"n": 2, "L": 4, "d": 3, "d_K": 2, "d_V": 3, "d_f": 5, "heads": 1}
    case = random_case(0, "transformer_block", loss=loss, activation=activation, norm="post", head=False, **sizes)
    p = {name: value for name, value in case.blocks[0].items() if name not in ("W_O", "b_Q", "b_K", "b_V", "b_O")}
    whole = replace(case, blocks=(p,), options=case.options | {"attention": "softmax", "mask": None})
    gradient, B_eff = collapsed(whole, p)
    dense = torch.stack([torch.block_diag(*blocks) for blocks in B_eff])
    dense = 0.5 * (dense + dense.mT)
    weights = {name: p[name] for name in ("W_Q", "W_K", "W_V")}
    layer = hessian.self_attention(case.X, **weights, loss=OutputLoss(gradient, dense))
    block = whole.closed_form()
    own = span(block, *weights)
    assert relative_error(layer.dense(), block.dense()[:, own][:, :, own]) < 1e-12
    assert relative_error(layer.gradient(), block.gradient()[:, own]) < 1e-12


def collapsed(case, p):
    """Return Lambda_S (n, L, d) and B_eff (n, L, d, d), written with matrices as in docs/theory, section 5."""
    eps, act = case.options["eps"], pointwise(case.options["activation"])
    S = case.X + reference.self_attention(case.X, p["W_Q"], p["W_K"], p["W_V"])
    Y = LayerNorm(p["gamma_1"], p["beta_1"], eps).forward(S)
    U = Y @ p["W_1"] + p["b_1"]
    V = Y + act.value(U) @ p["W_2"] + p["b_2"]
    at = case.loss().expand(LayerNorm(p["gamma_2"], p["beta_2"], eps).forward(V))
    W_1, D_1, D_2 = p["W_1"], jacobian(S, p["gamma_1"], eps), jacobian(V, p["gamma_2"], eps)
    to_V = rows_times(at.gradient, D_2.mT)
    to_H = to_V @ p["W_2"].mT
    F = torch.eye(S.shape[-1], dtype=DOUBLE) + W_1 @ torch.diag_embed(act.slope(U)) @ p["W_2"]
    to_Y = rows_times(to_V, F.mT)
    N_2, N_1 = curvature(V, p["gamma_2"] * at.gradient, eps), curvature(S, p["gamma_1"] * to_Y, eps)
    bend = W_1 @ torch.diag_embed(to_H * act.curvature(U)) @ W_1.mT
    inner = F @ (N_2 + D_2 @ at.diagonal @ D_2.mT) @ F.mT + bend
    return rows_times(to_Y, D_1.mT), D_1 @ inner @ D_1.mT + N_1


def rows_times(rows, matrices):
    return (rows[..., None, :] @ matrices).squeeze(-2)


def moments(s, eps):
    P = torch.eye(s.shape[-1], dtype=DOUBLE) - 1.0 / s.shape[-1]
    tau = ((s @ P).square().mean(-1) + eps).sqrt()[..., None, None]
    return P, tau, (s @ P / tau.squeeze(-1))[..., None]


def jacobian(s, gamma, eps):
    """Return D = (P - xx'/m)/tau diag(gamma), so that dy = ds D."""
    P, tau, x = moments(s, eps)
    return (P - x @ x.mT / s.shape[-1]) / tau * gamma


def curvature(s, adjoint, eps):
    """Return N of docs/theory, section 5.1; the adjoint is that of the normalized row."""
    P, tau, x = moments(s, eps)
    pulled, m = (adjoint @ P)[..., None], s.shape[-1]
    level = adjoint[..., None, :] @ x
    return -(pulled @ x.mT + x @ pulled.mT + level * (P - 3.0 / m * x @ x.mT)) / (m * tau**2)


# ---- types -----------------------------------------------------------------------------------------------------------


@EVERYWHERE
def test_single_precision_stays_single(layer, seed):
    case = random_case(seed, layer).to(torch.float32)
    h = case.closed_form()
    found = [h.gradient(), h.matvec(torch.ones(h.num_parameters)), h.mean(), h.spectral_norm(max_steps=2)]
    found += [h.dense(part) for part in PARTS] + [h.block(h.names[0], h.names[-1])]
    found += [] if h.losses() is None else [h.losses()]
    assert {x.dtype for x in found} == {torch.float32}
    assert all(torch.isfinite(x).all() for x in found)


def test_inputs_that_carry_gradients_are_taken_as_numbers():
    case = random_case(0, loss="mse")
    tracked = replace(case, X=case.X.clone().requires_grad_())
    H = tracked.closed_form().dense()
    assert not H.requires_grad
    torch.testing.assert_close(H, case.closed_form().dense(), rtol=0, atol=0)


def test_nothing_that_is_given_is_changed():
    case = random_case(0, "transformer_block", loss="mean", n=2)
    before = {name: value.clone() for name, value in case.blocks[0].items()}
    X, h = case.X.clone(), case.closed_form()
    for part in PARTS:
        first = h.dense(part)
        h.mean(part), h.matvec(torch.ones(h.num_parameters, dtype=DOUBLE), part)
        assert torch.equal(h.dense(part), first)
    assert torch.equal(case.X, X)
    assert all(torch.equal(case.blocks[0][name], value) for name, value in before.items())


def test_a_perfect_model_of_squared_error_has_no_functional_part():
    case = random_case(0, "transformer_block", loss="mse")
    h = case.closed_form(loss=hessian.MSE(case.F))
    assert float(h.dense("functional").abs().max()) < 1e-12 * float(h.dense().abs().max())


def test_adding_a_constant_to_all_logits_changes_nothing():
    case = random_case(0, "transformer_block", loss="mean", head=True, n=2)
    data = case.loss_data
    shifted = CrossEntropy(data["labels"], data["W_h"], data["b_h"] + 3.0)
    assert relative_error(case.closed_form(loss=shifted).dense(), case.closed_form().dense()) < 1e-12
    # So the Hessian has the direction in which all entries of b_h move alike in its kernel.
    h = case.closed_form()
    v = span(h, "b_h").to(DOUBLE)
    assert float(h.matvec(v).abs().max()) < 1e-13 * float(h.dense().abs().max())
