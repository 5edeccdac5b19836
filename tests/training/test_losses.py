import numpy as np
import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from stillscape._errors import InputError
from stillscape.training import directional_slopes, score
from tests.training.problems import problem, small_net


class Logits(nn.Module):
    """Returns its input."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.w * x


def test_losses_by_hand():
    x = np.array([[0.0, 0.0], [np.log(3), 0.0]], dtype=np.float32)
    scores = score(Logits(), x, np.array([0, 1]), np.array([1, 0]))
    np.testing.assert_allclose(scores.losses, [np.log(4), np.log(2)], rtol=1e-7)
    np.testing.assert_allclose(scores.probabilities, [[0.75, 0.25], [0.5, 0.5]], rtol=1e-6)
    assert scores.losses.dtype == np.float64
    assert scores.probabilities.dtype == np.float32


def test_small_losses_are_not_rounded_away():
    x = np.array([[40.0, 0.0]], dtype=np.float32)
    assert score(Logits(), x, np.array([0]), np.array([0])).losses[0] == pytest.approx(np.exp(-40), rel=1e-2)
    assert score(Logits(), x * 25, np.array([1]), np.array([0])).losses[0] == 1000.0


def test_batches_and_mode_do_not_matter():
    x, y = problem(50, 6, 3)
    net = small_net(6, 3, dropout=0.5).train()
    whole = score(net, x, y, np.arange(50))
    assert not net.training
    parts = score(net.train(), x, y, np.arange(50), batch=7)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-6)
    np.testing.assert_allclose(whole.probabilities.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(whole.losses, -np.log(whole.probabilities[np.arange(50), y]), rtol=1e-5)


def by_backward(net, x, y, direction):
    slopes = []
    for i in range(len(x)):
        loss = nn.functional.cross_entropy(net(torch.from_numpy(x[i : i + 1])), torch.from_numpy(y[i : i + 1]))
        named = {n: p for n, p in net.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(named.values()))
        slopes.append(sum(float((g * direction[n]).sum()) for n, g in zip(named, gradients, strict=True)))
    return np.array(slopes)


def random_direction(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn(p.shape, generator=generator).to(p.dtype) for n, p in net.named_parameters() if p.requires_grad
    }


def test_slopes_against_one_backward_pass_for_each_image():
    x, y = problem(20, 6, 3)
    net = small_net(6, 3, dropout=0.5)
    net[0].bias.requires_grad_(False)
    direction = random_direction(net)
    found = directional_slopes(net, x, y, np.arange(20), direction, batch=7)
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(found, by_backward(net.eval(), x, y, direction), rtol=1e-4, atol=1e-5)


def test_slopes_against_differences_of_losses():
    x, y = problem(20, 6, 3)
    net = small_net(6, 3).double()
    x = x.astype(np.float32)

    class AsDouble(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, v):
            return self.net(v.double())

    suffix = AsDouble()
    direction = random_direction(suffix)
    found = directional_slopes(suffix, x, y, np.arange(20), direction)
    step, sides = 1e-5, []
    for sign in (1, -2):
        with torch.no_grad():
            for name, p in suffix.named_parameters():
                p.add_(sign * step * direction[name])
        sides.append(score(suffix, x, y, np.arange(20)).losses)
    np.testing.assert_allclose(found, (sides[0] - sides[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_slopes_through_a_vision_transformer():
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8,
        num_labels=3, initializer_range=0.3, attn_implementation="eager",
    )  # fmt: skip

    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = ViTForImageClassification(config)

        def forward(self, x):
            return self.model(pixel_values=x).logits

    with torch.random.fork_rng(devices=[]):
        net = Scores().eval()
    for name, p in net.named_parameters():
        p.requires_grad_("layers.1" in name or "classifier" in name)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3, 16, 16)).astype(np.float32), rng.integers(0, 3, 5)
    direction = random_direction(net)
    found = directional_slopes(net, x, y, np.arange(5), direction)
    expected = by_backward(net, x, y, direction)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_direction_of_another_model_is_refused():
    x, y = problem(5, 6, 3)
    net = small_net(6, 3)
    direction = random_direction(net)
    with pytest.raises(InputError, match="direction"):
        directional_slopes(net, x, y, np.arange(5), {k: v for k, v in direction.items() if k != "0.bias"})
    with pytest.raises(InputError, match="shape"):
        directional_slopes(net, x, y, np.arange(5), direction | {"0.bias": torch.zeros(3)})


def test_a_label_without_a_score_is_refused():
    with pytest.raises(InputError, match="the model has 2 classes"):
        score(Logits(), np.zeros((2, 2), np.float32), np.array([0, 2]), np.arange(2))
