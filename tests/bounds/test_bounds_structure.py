"""Sweeps of the structure: bounds above the exact norm everywhere, known slopes found, formulas near the measured."""

import math

import numpy as np
import pytest
import torch

from stillscape._errors import InputError
from stillscape.bounds import _structure_draws, structure
from stillscape.bounds import _structure_formula as theory
from stillscape.bounds._structure_formula import Sizes
from stillscape.bounds.loss_difference import sufficient_size
from stillscape.bounds.structure import AXES, fitted_slope, structure_sweep
from stillscape.hessian import MSE, reference, self_attention
from stillscape.hessian.losses import CrossEntropy
from tests.bounds import draws

SMALL = {"L": 4, "d": 4, "d_K": 3, "d_f": 6, "classes": 3}
VALUES = {"L": [1, 2, 5], "d": [2, 4, 6], "d_K": [1, 2, 6], "heads": [1, 2, 4], "d_f": [2, 8], "depth": [1, 2, 3]}
PLACES = {"d_f": ["block"], "depth": ["first block", "last block"]}


@pytest.fixture(scope="module")
def sweeps():
    return {axis: structure_sweep(axis, VALUES[axis], base=SMALL, draws=2, samples=3, seed=1) for axis in AXES}


def layer(L, d, d_K, samples=6, seed=0):
    """Return X, weights and a random generator for what follows."""
    gen = torch.Generator().manual_seed(seed)
    X = torch.randn(samples, L, d, generator=gen, dtype=torch.float64)
    return X, [_structure_draws._xavier(d, width, gen) for width in (d_K, d_K, d)], gen


# ---- what a sweep holds ----


@pytest.mark.parametrize("axis", AXES)
def test_bounds_lie_above_the_exact_norm_of_every_single_sample(axis):
    for value in VALUES[axis]:
        sizes = structure._sizes(axis, value, structure._base(SMALL))
        for seen in _structure_draws.measure(sizes, axis, 5, (7, value)).values():
            kinds = set(seen.norms) - {"exact", "value_block"}
            assert kinds == ({"data"} if axis in PLACES else {"a_priori", "data", "token"})
            for kind in kinds:
                assert np.all(seen.norms["exact"] <= seen.norms[kind] * (1 + 1e-9)), (value, kind)
            if "value_block" in seen.norms:
                assert np.all(seen.norms["value_block"] <= seen.norms["exact"] * (1 + 1e-6))


@pytest.mark.parametrize("axis", AXES)
def test_every_panel_is_complete_and_in_order(axis, sweeps):
    sweep = sweeps[axis]
    places = PLACES.get(axis, ["layer"])
    assert [(p.loss, p.place) for p in sweep.panels] == [(x, y) for x in ("cross_entropy", "mse") for y in places]
    for panel in sweep.panels:
        for spread in panel.norms.values():
            columns = np.array([spread.low, spread.median, spread.high, spread.largest])
            assert columns.shape == (4, len(sweep.values))
            assert np.all(np.diff(columns, axis=0) >= 0)
            assert np.all(columns > 0) or axis == "L"  # a single token has no curvature in W_Q and W_K, but in W_V
        assert set(panel.slopes) == {*panel.norms, *(f"{name} formula" for name in panel.formulas)}
        for kind in ("printed", "rigorous"):
            assert set(panel.k_star_samples[kind]) == set(panel.norms) - {"value_block"}


def test_the_same_seed_gives_the_same_sweep_and_more_values_change_none():
    first = structure_sweep("d_K", [1, 2, 3], base=SMALL, draws=2, samples=2)
    assert first == structure_sweep("d_K", [1, 2, 3], base=SMALL, draws=2, samples=2)
    longer = structure_sweep("d_K", [1, 2, 3, 4], base=SMALL, draws=2, samples=2)
    assert longer.panels[0].norms["exact"].median[:3] == first.panels[0].norms["exact"].median
    other = structure_sweep("d_K", [1, 2, 3], base=SMALL, draws=2, samples=2, seed=1)
    assert other.panels[0].norms["exact"] != first.panels[0].norms["exact"]


def test_depth_one_has_one_block_that_is_first_and_last(sweeps):
    first, last = (sweeps["depth"].panel("mse", place) for place in ("first block", "last block"))
    assert first.norms["exact"].median[0] == last.norms["exact"].median[0]
    assert first.norms["data"].largest[0] == last.norms["data"].largest[0]


# ---- what is measured, by another way ----


def test_exact_norm_value_block_and_gradients_against_automatic_differentiation():
    X, weights, gen = layer(3, 3, 2)
    labels, head = torch.randint(0, 3, (len(X),), generator=gen), _structure_draws._xavier(3, 3, gen)
    target = torch.randn(X.shape, generator=gen, dtype=X.dtype)
    for loss in (MSE(target), CrossEntropy(labels, head)):
        seen = _structure_draws._layer(X, weights, None, 1, loss)
        named = dict(zip(("W_Q", "W_K", "W_V"), weights, strict=True))

        def values(p, loss=loss):
            return loss_values(loss, draws.forward(X, p["W_Q"], p["W_K"], p["W_V"]))

        H = reference_hessian(values, named)
        assert np.allclose(seen.norms["exact"], draws.spectral(H), rtol=1e-5)
        assert np.allclose(seen.norms["value_block"], draws.spectral(H[:, 12:, 12:]), rtol=1e-10)
        gradients = torch.stack([g.flatten() for g in reference_gradient(values, named)])
        apart = (gradients - gradients.mean(0)).norm(dim=1).max()
        assert math.isclose(seen.gradient_bound, 2 * float(apart), rel_tol=1e-10)
        assert math.isclose(seen.loss_bound, float(values(named).max()), rel_tol=1e-12)


def loss_values(loss, output):
    if isinstance(loss, MSE):
        return (output - loss.target).square().mean((1, 2))
    logits = output.mean(1) @ loss.W_h + loss.b_h
    return torch.nn.functional.cross_entropy(logits, loss.labels, reduction="none")


def reference_gradient(values, named):
    theta = reference.flatten(named)
    return torch.func.jacrev(lambda v: values(reference.unflatten(v, named)))(theta)


def reference_hessian(values, named):
    theta = reference.flatten(named)
    return torch.func.jacfwd(torch.func.jacrev(lambda v: values(reference.unflatten(v, named))))(theta)


def test_k_star_is_that_of_the_measured_constants():
    sizes = structure._sizes("L", 4, structure._base(SMALL))
    seen = _structure_draws.measure(sizes, "L", 3, (0, AXES.index("L"), 4, 0))["mse", "layer"]
    sweep = structure_sweep("L", [2, 4], base=SMALL, draws=1, samples=3, epsilon=0.02, radius=0.5)
    for kind in ("printed", "rigorous"):
        for curve in ("exact", "a_priori"):
            expected = sufficient_size(
                0.02, loss_bound=seen.loss_bound, hessian_bound=float(seen.norms[curve].max()), radius=0.5,
                gradient_bound=seen.gradient_bound, kind=kind,
            )  # fmt: skip
            assert sweep.panel("mse").k_star_samples[kind][curve][1] == expected


def test_the_bound_of_a_first_block_knows_what_follows():
    """Planted: the loss put straight onto the first block's output gives another number."""
    gen = torch.Generator().manual_seed(0)
    sizes = Sizes(4, 4, 3, 1, 6, 6, 3)
    X = torch.randn(4, 4, 4, generator=gen, dtype=torch.float64)
    blocks = [_structure_draws._block(sizes, gen) for _ in range(6)]
    loss = MSE(torch.randn(X.shape, generator=gen, dtype=X.dtype))
    found = dict(_structure_draws._chain(X, blocks, {"mse": loss}, "depth"))["mse", "first block"]
    straight = _structure_draws.block.transformer_block(X, blocks[0], loss=loss).numpy()
    assert np.all(found.norms["exact"] <= found.norms["data"])
    assert not np.allclose(found.norms["data"], straight, rtol=0.1)


# ---- slopes ----


def test_slope_of_a_power_law_is_exact_and_its_error_is_that_of_least_squares():
    x = [2, 4, 8, 16]
    assert fitted_slope(x, [3 * value**-1.5 for value in x]).value == pytest.approx(-1.5, abs=1e-12)
    noise = np.array([0.1, -0.1, 0.2, 0.0])
    got = fitted_slope(x, np.exp(2 * np.log(x) + noise))
    design = np.stack([np.ones(4), np.log(x)], 1)
    beta, rest, *_ = np.linalg.lstsq(design, 2 * np.log(x) + noise, rcond=None)
    error = math.sqrt(rest[0] / 2 * np.linalg.inv(design.T @ design)[1, 1])
    assert (got.value, got.standard_error) == (pytest.approx(beta[1]), pytest.approx(error))
    assert math.isnan(fitted_slope([1, 2], [1, 2]).standard_error)


def test_slope_of_the_value_block_where_it_is_known():
    """All tokens alike attend evenly: M = 1x', so ||H(V, V)|| = c ||M'M|| = 2 |x|^2 / d, without L: the power is 0."""
    x, found = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64), []
    for L in (2, 4, 8):
        X = x.expand(1, L, 3)
        weights = [torch.eye(3, dtype=torch.float64)] * 3
        loss = MSE(torch.zeros(1, L, 3, dtype=torch.float64))
        found.append(float(_structure_draws._value_block(X, weights, loss)))
        H = self_attention(X, *weights, loss=loss).block("W_V", "W_V")
        assert found[-1] == pytest.approx(float(draws.spectral(H)), rel=1e-12)
        assert found[-1] == pytest.approx(2 * 9 / 3, rel=1e-12)
    assert fitted_slope([2, 4, 8], found).value == pytest.approx(0.0, abs=1e-10)


# ---- formulas ----


def test_expected_norm_of_a_gaussian_matrix():
    gen = np.random.default_rng(0)
    for rows, columns in ((2, 2), (4, 16), (16, 16), (64, 16), (1, 9)):
        measured = np.mean([np.linalg.norm(gen.standard_normal((rows, columns)), 2) for _ in range(300)])
        assert theory.gaussian_norm(rows, columns, 4.0) == pytest.approx(2 * measured, rel=0.12)


@pytest.mark.parametrize(("axis", "far"), [("L", 10**9), ("d", 10**9), ("d_K", None), ("heads", None)])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_leading_powers_are_those_of_the_formula(axis, far, loss):
    """Far out the formula's own slope tends to the power that is stated for it."""
    base = {"L": 8, "d": 16, "d_K": 16}
    if far is not None:
        ends = [far, 4 * far]
        sizes = [Sizes(**{**base, axis: v}, heads=1, d_f=1, depth=1, classes=4) for v in ends]
    elif axis == "d_K":  # other terms are constant: the power is that of the leading one, seen where tokens are long
        ends = [10**6, 4 * 10**6]
        sizes = [Sizes(10**8, 10**4, v, 1, 1, 1, 4) for v in ends]
    else:
        ends = [10**4, 4 * 10**4]
        sizes = [Sizes(10**8, 4 * 10**8, 4 * 10**8 // v, v, 1, 1, 4, True) for v in ends]
    slope = math.log(theory.a_priori(sizes[1], loss) / theory.a_priori(sizes[0], loss)) / math.log(4)
    assert slope == pytest.approx(theory.exponent(axis, loss, "a_priori"), abs=0.05)


@pytest.mark.parametrize("heads", [1, 4])
def test_formula_of_the_a_priori_bound_is_near_the_measured_one(heads):
    axis = "heads" if heads > 1 else "L"
    sizes = structure._sizes(axis, heads if heads > 1 else 8, structure.BASE)
    draws_seen = [_structure_draws.measure(sizes, axis, 6, (9, draw)) for draw in range(4)]
    for loss in ("mse", "cross_entropy"):
        seen = [draw[loss, "layer"].norms for draw in draws_seen]
        ratio = np.median([norms["a_priori"] for norms in seen]) / theory.a_priori(sizes, loss)
        assert 0.5 < ratio < 2.5
        if heads == 1:
            floor = np.median([norms["value_block"] for norms in seen]) / theory.value_block(sizes, loss)
            assert 0.6 < floor < 1.6


def test_depth_law_starts_at_one_and_grows():
    sizes = Sizes(8, 16, 16, 1, 32, 1, 4)
    for place in ("first block", "last block"):
        law = theory.depth_law(sizes, [1, 2, 4, 8], place)
        assert law[0] == 1.0
        assert law == sorted(law)


# ---- the door ----


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"axis": "width"}, "axis"), ({"values": [4]}, "values"), ({"values": [4, 2]}, "values"),
        ({"values": [0, 2]}, r"values\[0\]"), ({"values": [1.5, 2]}, r"values\[0\]"), ({"values": "12"}, "values"),
        ({"axis": "heads", "values": [1, 3]}, "heads"), ({"base": {"d_V": 2}}, "base"), ({"base": {"d": 0}}, "base"),
        ({"draws": 0}, "draws"), ({"samples": 1}, "samples"), ({"epsilon": 0.0}, "epsilon"),
        ({"radius": -1.0}, "radius"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(given, named):
    with pytest.raises(InputError, match=named):
        structure_sweep(**{"axis": "L", "quick": True, **given})


def test_an_unknown_panel_is_refused(sweeps):
    with pytest.raises(InputError, match="cross_entropy at the layer"):
        sweeps["L"].panel("mse", "block")


@pytest.mark.slow
@pytest.mark.parametrize("axis", AXES)
def test_default_sweeps_keep_every_bound_above(axis):
    for panel in structure_sweep(axis).panels:
        for kind in set(panel.norms) - {"exact", "value_block"}:
            assert all(b >= e for b, e in zip(panel.norms[kind].largest, panel.norms["exact"].largest, strict=True))
            assert all(b >= e for b, e in zip(panel.norms[kind].median, panel.norms["exact"].median, strict=True))
