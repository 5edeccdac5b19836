"""Planes through parameter space: coordinates, filter normalization by hand, and the surface near an optimum."""

import numpy as np
import pytest
import torch

from stillscape._errors import InputError
from stillscape.curvature import PerSampleHessian, Plane, across, filter_normalized, top_eigenvalues, unit

DOUBLE = torch.float64


def state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (3, 4), "kernel": (2, 3, 2, 2), "bias": (3,)}
    return {name: torch.randn(shape, generator=generator, dtype=DOUBLE) for name, shape in shapes.items()}


def flat(one: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in one.values()])


def test_coordinates_undo_at():
    plane = Plane(state(0), state(1), state(2))
    a, b, off = plane.coordinates(plane.at(0.7, -2.5))
    np.testing.assert_allclose([a, b, off], [0.7, -2.5, 0.0], atol=1e-12)


def test_the_nearest_point_is_the_nearest():
    plane, other = Plane(state(0), state(1), state(2)), state(3)
    a, b, off = plane.coordinates(other)
    np.testing.assert_allclose(off, float((flat(other) - flat(plane.at(a, b))).norm()))
    around = [float((flat(other) - flat(plane.at(a + da, b + db))).norm()) for da in (-1e-2, 0, 1e-2)
              for db in (-1e-2, 0, 1e-2)]  # fmt: skip
    assert min(around) == pytest.approx(off)
    rest = flat(other) - flat(plane.at(a, b))
    assert abs(float(rest @ flat(plane.first))) < 1e-10
    assert abs(float(rest @ flat(plane.second))) < 1e-10


def test_directions_across_each_other():
    one, other = unit(state(1)), across(state(2), state(1))
    assert float(flat(one).norm()) == pytest.approx(1)
    assert float(flat(other).norm()) == pytest.approx(1)
    assert abs(float(flat(one) @ flat(other))) < 1e-12


def test_filters_get_the_length_of_the_weights_own():
    """By hand, filter by filter: rows of a matrix, output channels of a kernel; biases do not move."""
    weights, direction = state(0), state(1)
    found = filter_normalized(direction, weights)
    for name in ("weight", "kernel"):
        for row in range(len(weights[name])):
            d, w = direction[name][row], weights[name][row]
            by_hand = d / d.square().sum().sqrt() * w.square().sum().sqrt()
            torch.testing.assert_close(found[name][row], by_hand)
    assert (found["bias"] == 0).all()


def test_filters_of_length_zero_do_not_move():
    weights, direction = state(0), state(1)
    weights["weight"][1] = 0
    direction["weight"][2] = 0
    found = filter_normalized(direction, weights)
    assert (found["weight"][1:] == 0).all()
    assert torch.isfinite(flat(found)).all()


def test_the_scale_of_weights_does_not_matter():
    """Scaled weights have scaled directions: the plane shows the same networks (Li et al. 2018, sec. 4)."""
    weights, direction = state(0), state(1)
    larger = {name: 10 * w for name, w in weights.items()}
    small, large = filter_normalized(direction, weights), filter_normalized(direction, larger)
    torch.testing.assert_close(flat(large), 10 * flat(small))


def test_along_the_largest_curvatures_the_surface_is_their_parabola():
    """Least squares: L(w* + a u_1 + b u_2) - L(w*) = (a^2 value_1 + b^2 value_2) / 2, exactly."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator, dtype=DOUBLE)
    y = x @ torch.randn(4, 1, generator=generator, dtype=DOUBLE) + torch.randn(40, 1, generator=generator, dtype=DOUBLE)
    model = torch.nn.Linear(4, 1, bias=False, dtype=DOUBLE)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    hv = PerSampleHessian(model, torch.nn.functional.mse_loss, x, y)
    top = top_eigenvalues(hv, 2, tol=1e-10)
    star = {"weight": model.weight.detach().clone()}
    plane = Plane(star, *({"weight": vector.reshape(1, 4)} for vector in top.vectors))

    def loss(weights):
        return float((x @ weights["weight"].T - y).square().mean())

    for a, b in [(0.0, 0.0), (1.0, 0.0), (-0.5, 2.0), (3.0, -3.0)]:
        rise = 0.5 * (a * a * float(top.values[0]) + b * b * float(top.values[1]))
        assert loss(plane.at(a, b)) - loss(star) == pytest.approx(rise, abs=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (state(1), state(1), "span no plane"),
        (state(1), {n: 0 * t for n, t in state(2).items()}, "span no plane"),
        (state(1), {n: t * torch.nan for n, t in state(2).items()}, "span no plane"),
        ({"weight": torch.ones(3, 4)}, state(2), r"first\['kernel'\] has shape None"),
        (state(1), {**state(2), "bias": torch.ones(4)}, r"second\['bias'\] has shape \(4,\)"),
    ],
)
def test_what_spans_no_plane(first, second, words):
    with pytest.raises(InputError, match=words):
        Plane(state(0), first, second)


def test_bad_directions():
    with pytest.raises(InputError, match="length 0"):
        unit({"w": torch.zeros(2)})
    with pytest.raises(InputError, match="must be alike"):
        filter_normalized({"w": torch.zeros(2, 2)}, {"w": torch.zeros(2, 3)})
    with pytest.raises(InputError, match="state"):
        Plane(state(0), state(1), state(2)).coordinates({"weight": torch.zeros(1)})
