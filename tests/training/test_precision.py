"""Half precision while training: the same accuracy, with weights, losses and all that is measured in float32."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from stillscape._errors import InputError
from stillscape.training import Recipe, fit, score
from stillscape.training import precision as module
from stillscape.training.micro_batches import MicroBatches
from stillscape.training.precision import Steps
from tests.training.problems import problem, small_net

RECIPE = Recipe(steps=30, batch=16, learning_rate=1e-2)


@pytest.fixture
def fp16_anywhere(monkeypatch):
    """Let fp16 run on the CPU, slowly, so that what is done about its range is tested without a GPU."""
    monkeypatch.setattr(module, "check_precision", lambda precision, device: None)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_digits_are_told_apart_as_well_in_bf16():
    x, y = load_digits(return_X_y=True)
    x, recipe = (x / 16).astype(np.float32), Recipe(steps=300, batch=32, learning_rate=1e-2)
    train, held_out = np.arange(1000), np.arange(1000, 1797)
    right = {}
    for precision in ("float32", "bf16"):
        net = small_net(64, 10)
        assert fit(net, x, y, train, recipe, seed=0, precision=precision).status == "ok"
        right[precision] = score(net, x, y, held_out).probabilities.argmax(1) == y[held_out]
    assert right["float32"].mean() > 0.85
    unlike = right["bf16"].astype(float) - right["float32"]  # image by image
    assert abs(unlike.mean()) <= max(3 * unlike.std() / len(held_out) ** 0.5, 0.005)


def test_only_steps_are_in_half_precision(monkeypatch):
    """Layers compute in bf16 while training and in float32 in the last look and in scores; losses always in float32."""
    data, net, seen, losses = problem(40, 6, 3), small_net(6, 3), [], []
    cross_entropy = F.cross_entropy
    net[0].register_forward_hook(lambda layer, _, output: seen.append((layer.training, output.dtype)))

    def noted(scores, *args, **named):
        losses.append(scores.dtype)
        return cross_entropy(scores, *args, **named)

    monkeypatch.setattr(F, "cross_entropy", noted)
    outcome = fit(net, *data, np.arange(40), RECIPE, seed=0, precision="bf16")
    score(net, *data, np.arange(40))
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}
    assert set(losses) == {torch.float32}
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert outcome.scores.losses.dtype == np.float64
    plain = small_net(6, 3)
    fit(plain, *data, np.arange(40), RECIPE, seed=0)
    assert not torch.equal(weights(net), weights(plain))
    torch.testing.assert_close(weights(net), weights(plain), atol=0.05, rtol=0.1)


def test_the_default_is_untouched():
    data = problem(40, 6, 3)
    nets = [small_net(6, 3), small_net(6, 3)]
    for net, named in zip(nets, ({}, {"precision": "float32"}), strict=True):
        fit(net, *data, np.arange(40), RECIPE, seed=0, **named)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    scores = torch.randn(2, 3)
    assert Steps().scores(nn.Identity(), scores) is scores


def test_small_gradients_survive_fp16(fp16_anywhere):
    """A gradient of about 1e-8 is zero in fp16; scaled, differentiated and scaled back it is not."""
    x, y = 1e-3 * torch.randn(16, 6, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        nets = [nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)) for _ in range(2)]
    with torch.no_grad():
        nets[0][1].weight.mul_(1e-4)
    nets[1].load_state_dict(nets[0].state_dict())
    optimizer, by = torch.optim.SGD(nets[1].parameters(), 1.0), Steps("fp16", torch.device("cpu"))
    value = MicroBatches(16).gradient(nets[0], x, y)
    assert MicroBatches(5, by).gradient(nets[1], x, y) == pytest.approx(value, rel=1e-3)
    by.unscale(optimizer)
    small = nets[0][0].weight.grad
    assert 0 < small.abs().max() < 3e-8  # half the smallest number of fp16
    torch.testing.assert_close(nets[1][0].weight.grad, small, rtol=0.02, atol=float(small.abs().max()) * 0.02)


def test_gradients_are_clipped_at_their_own_scale(fp16_anywhere):
    data, recipe = problem(40, 6, 3), RECIPE.model_copy(update={"clip": 1e-3})
    net, plain = small_net(6, 3), small_net(6, 3)
    fit(plain, *data, np.arange(40), recipe, seed=0)
    from stillscape.training.descent import descend

    descend(net, *data, np.arange(40), recipe, seed=0, precision="fp16")
    torch.testing.assert_close(weights(net), weights(plain), atol=0.03, rtol=0.05)


def test_what_can_not_be_is_refused():
    data = problem(40, 6, 3)
    with pytest.raises(InputError, match=r"precision is 'fp16' on the CPU; fp16 is for CUDA devices\. Use bf16"):
        fit(small_net(6, 3), *data, np.arange(40), RECIPE, seed=0, precision="fp16")
    with pytest.raises(InputError, match="precision is 'int8'; it must be one of float32, bf16, fp16"):
        fit(small_net(6, 3), *data, np.arange(40), RECIPE, seed=0, precision="int8")
