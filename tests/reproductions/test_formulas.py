"""The mathematics that reproductions add, each against an oracle."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad

from stillscape.convergence import mean_absolute_deviation
from stillscape.reproductions import assumption_1, base, block_heterogeneity, diversity, heads, tightness, tiny_vit
from stillscape.reproductions.addition import EQUALS, PLUS, LinearAttention, addition
from stillscape.reproductions.mlp import network, trend
from stillscape.reproductions.tightness_of_means import loss_difference_ratios, mean_hessian_ratio


def autodiff_hessian(parameters, loss):
    """Return the Hessian by double backward, a row at a time: slow, and right through LayerNorm."""
    parameters = list(parameters)
    first = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), parameters, create_graph=True)])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True) for entry in first]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


def random_tiny_vit(plain):
    model = tiny_vit.TinyVit(4, 5, 4, 6, 3, seed=1, plain=plain)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # biases and norms away from their start, so that none of them drops out
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    return model, x, torch.tensor([0, 2, 1])


@pytest.mark.parametrize("plain", [False, True])
def test_the_exact_hessian_of_the_tiny_vit_is_autodiffs(plain):
    model, x, labels = random_tiny_vit(plain)
    exact = model.exact(x, labels)
    assert sorted(exact.names) == sorted(model.block)
    truth = autodiff_hessian((model.block[name] for name in exact.names), lambda: F.cross_entropy(model(x), labels))
    torch.testing.assert_close(exact.mean(), truth, rtol=1e-10, atol=1e-12)


def test_block_norms_are_those_of_slices():
    model, x, labels = random_tiny_vit(False)
    h = model.exact(x, labels)
    norms = block_heterogeneity.block_norms(h, "full")
    names = list(block_heterogeneity.GROUPS)
    value = h.block("W_V", "W_1").mean(0).norm()
    assert norms[names.index("values"), names.index("W_1")] == pytest.approx(float(value), rel=1e-10)
    np.testing.assert_allclose(norms, norms.T, rtol=1e-10)


def test_hessian_norms_of_the_base_network_are_autodiffs():
    model = base.Regression(3, 4, seed=0)
    x, y = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3, -1.0])
    found = base.hessian_norms(model, x, y.double())
    for row in range(2):
        one = slice(row, row + 1)
        truth = autodiff_hessian(model.parameters(), lambda one=one: base.squares(model, x[one], y[one].double()).sum())
        assert found[row].item() == pytest.approx(torch.linalg.matrix_norm(truth, 2).item(), rel=1e-10)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_base_networks_bound_holds_on_the_ball(scale):
    generator = torch.Generator().manual_seed(int(10 * scale))
    ratios = []
    for seed in range(20):
        model = base.Regression(3, 4, seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        x = scale * torch.randn(10, 3, generator=generator, dtype=torch.float64)
        y = torch.randn(10, generator=generator, dtype=torch.float64)
        radius = 0.5 * seed / 20
        bound = base.hessian_bound(model, x, y, radius)
        step = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in model.parameters()]
        length = math.sqrt(sum(float(part.square().sum()) for part in step))
        with torch.no_grad():
            for parameter, part in zip(model.parameters(), step, strict=True):
                parameter.add_(radius / length * part)
        ratios.append(base.hessian_norms(model, x, y) / bound)
    worst = torch.cat(ratios).max().item()
    assert worst <= 1
    assert worst > 0.02  # not so loose that any bug would hide in it


def test_the_base_networks_bound_is_nearly_met_at_a_worst_case():
    # x = 0: J = (0, a tanh'(0), tanh(0) = 0, 1), so that with one hidden unit and b = 0 the norm is 2 (a^2 + 1) + ...
    model = base.Regression(1, 1, seed=0)
    with torch.no_grad():
        model.W.zero_(), model.b.zero_(), model.a.fill_(5.0), model.c.zero_()
    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert base.hessian_norms(model, x, y).item() == pytest.approx(2 * (25 + 1))
    assert 52 <= base.hessian_bound(model, x, y, 0.0).item() <= 60


def test_the_base_networks_bound_holds_where_curvature_is_all():
    # One unit with a large weight a, x far out and a large residual: (f - y) a tanh''(u) x~x~' outweighs the rest.
    model = base.Regression(1, 1, seed=0)
    x, y = torch.full((1, 1), 3.0, dtype=torch.float64), torch.full((1,), 1e4, dtype=torch.float64)
    with torch.no_grad():
        model.W.fill_(0.2), model.b.zero_(), model.a.fill_(8.0), model.c.zero_()
    norm, bound = base.hessian_norms(model, x, y).item(), base.hessian_bound(model, x, y, 0.0).item()
    assert 0.7 * bound < norm <= bound


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_linear_attention_is_homogeneous_of_degree_three_to_the_depth(depth):
    model = LinearAttention(4, depth, seed=0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(2 * x), 2.0 ** (3**depth) * model(x), rtol=1e-9, atol=0)


def test_sums_are_right():
    lines = addition(50, 3, torch.Generator().manual_seed(0))
    for row in lines.tolist():
        words = "".join({PLUS: "+", EQUALS: "="}.get(token, str(token)) for token in row)
        left, right = words.split("=")
        a, b = left.split("+")
        assert int(a) + int(b) == int(right)
        assert (len(a), len(b), len(right)) == (3, 3, 4)


def test_sinusoids_repeat_with_their_wavelength():
    places = tiny_vit.sinusoids(700, 4)
    torch.testing.assert_close(places[0, 1::2], torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(places[5, 0], torch.tensor(5.0, dtype=torch.float64).sin())
    torch.testing.assert_close(places[5, 2], torch.tensor(0.05, dtype=torch.float64).sin())


def test_first_and_second_order_terms_are_finite_differences_through_layer_norm():
    model, x, labels = random_tiny_vit(False)
    w = {name: p.detach() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(3)
    step = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in w.items()}

    def loss(weights, row, label):
        return F.cross_entropy(functional_call(model, weights, (row[None],)), label[None])

    first, second = assumption_1._terms(loss, w, step, x, labels)
    t = 1e-4
    for row in range(3):
        back, here, ahead = (
            loss({name: w[name] + s * step[name] for name in w}, x[row], labels[row]) for s in (-t, 0.0, t)
        )
        assert first[row].item() == pytest.approx(((ahead - back) / (2 * t)).item(), rel=1e-5)
        assert second[row].item() == pytest.approx(((ahead - 2 * here + back) / (2 * t * t)).item(), rel=1e-4)


def test_terms_of_a_head_are_autodiffs():
    rng = np.random.default_rng(0)
    x, w, step = rng.normal(size=(6, 3)), rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    labels = rng.integers(4, size=6)

    def loss(t, row):
        scores = torch.tensor(x[row]) @ (torch.tensor(w) + t * torch.tensor(step)).T
        return F.cross_entropy(scores[None], torch.tensor(labels[row : row + 1]))

    zero = torch.tensor(0.0, dtype=torch.float64)
    first = np.array([grad(loss)(zero, row).item() for row in range(6)])
    second = np.array([grad(grad(loss))(zero, row).item() / 2 for row in range(6)])
    k, new = 4, 2
    found = assumption_1._head_terms(x, labels, k, w, step, new)
    for value, values in zip(found, (first, second), strict=True):
        assert value == pytest.approx(np.abs(values[-new:] - values[:k].mean()).mean())


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    x = (rng.normal(size=(60, 5)) + labels[:, None]).astype(np.float32)
    return heads.Features(x, labels, np.arange(60) >= 40)


@pytest.mark.parametrize(
    ("fitter", "loss"), [(heads.by_cross_entropy, F.cross_entropy), (heads.by_squares, heads.squared)]
)
def test_a_head_is_at_the_optimum_of_its_objective(features, fitter, loss):
    rows, l2 = np.arange(30), 0.7
    head = fitter(l2)(features, rows).head
    x, y = torch.tensor(features.x[rows], dtype=torch.float64), torch.tensor(features.labels[rows])
    objective = loss(head(x), y) + l2 / (2 * len(rows)) * sum(p.square().sum() for p in head.parameters())
    gradients = torch.autograd.grad(objective, list(head.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-7


def test_scores_of_a_head_are_its_losses_on_held_out_images(features):
    scored = heads.by_squares(1.0)(features, np.arange(40))
    z = scored.head(torch.tensor(features.x[features.held], dtype=torch.float64)).detach().numpy()
    targets = np.eye(3)[features.labels[features.held]]
    np.testing.assert_allclose(scored.losses, ((z - targets) ** 2).mean(1), rtol=1e-12)
    assert scored.hits.tolist() == (z.argmax(1) == features.labels[features.held]).tolist()
    assert mean_absolute_deviation(scored.losses) > 0


def test_no_image_is_hit_by_one_of_several_classes_that_were_never_seen(features):
    rows = np.flatnonzero(features.labels[:40] == 0)
    far = np.where(features.held[:, None], -3 - features.x, 3 + features.x)
    mirrored = heads.Features(far, features.labels, features.held)
    scored = heads.by_squares(1.0)(mirrored, rows)
    z = scored.head(torch.tensor(mirrored.x[features.held], dtype=torch.float64)).detach().numpy()
    assert (z[:, 0] < z[:, 1]).sum() > 5  # there classes 1 and 2 have the highest score together
    assert scored.hits.tolist() == ((features.labels[features.held] == 0) & (z[:, 0] > z[:, 1])).tolist()


@pytest.mark.parametrize("order", [lambda f: diversity.skewed(f, 0.3, 1), lambda f: diversity.clustered(f, 5, 1)])
def test_less_diverse_orders_lose_and_double_no_image(features, order):
    assert sorted(order(features)) == list(range(40))


def test_skewed_draws_begin_with_one_class(features):
    many = heads.Features(np.zeros((3000, 1), np.float32), np.arange(3000) % 3, np.zeros(3000, bool))
    first = many.labels[diversity.skewed(many, 0.1, 0)[:300]]
    ranks = np.random.default_rng(0).permutation(3)  # as the function draws them: which class is frequent
    shares = np.bincount(first, minlength=3)[np.argsort(ranks)] / 300
    np.testing.assert_allclose(shares, np.array([1, 0.1, 0.01]) / 1.11, atol=0.06)


def test_clustered_draws_keep_clusters_together(features):
    order = diversity.clustered(features, 5, 1)
    steps = np.linalg.norm(np.diff(features.x[order], axis=0), axis=1).mean()
    shuffled = np.random.default_rng(0).permutation(order)
    assert steps < np.linalg.norm(np.diff(features.x[shuffled], axis=0), axis=1).mean()


def test_a_networks_depth_counts_hidden_layers_beyond_the_first():
    model = network(7, 5, 3, 2, seed=0)
    assert [tuple(p.shape) for p in model.parameters()] == [(5, 7), (5, 5), (5, 5), (5, 5), (2, 5)]


def test_a_trend_of_noise_has_an_interval_around_zero():
    noise = np.random.default_rng(0).normal(size=(4, 6))
    _, low, high = trend(tuple(range(6)), noise, 0)
    assert low < 0 < high


def test_theorem_3_over_the_truth_is_the_spread_of_losses_at_the_optimum_itself():
    model, generator = tightness.AttentionLayer(3, 0), torch.Generator().manual_seed(1)
    X, target = (torch.randn(12, 4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    found = loss_difference_ratios(model, X, target, torch.zeros(12, dtype=torch.float64), 1e-9, 1, 0)
    losses = (model(X) - target).square().mean((1, 2)).detach().numpy()
    before = np.cumsum(losses)[:-1] / np.arange(1, 12)
    np.testing.assert_allclose(found["rigorous"], losses.max() / np.abs(losses[1:] - before), rtol=1e-5)
    np.testing.assert_allclose(found["printed"], 2 * found["rigorous"], rtol=1e-5)


def test_matrix_bernstein_over_the_truth_does_not_hang_on_the_scale_and_is_above_one():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(40, 3, 3, generator=generator, dtype=torch.float64)
    hessians = root + root.mT
    ratio = mean_hessian_ratio(hessians, 4, 300, 0)
    assert 1 < ratio < 10
    assert mean_hessian_ratio(1e-3 * hessians, 4, 300, 0) == pytest.approx(ratio, rel=1e-9)
