"""Memory that runs out: training goes on with fewer images at a time, to the same numbers, and says so."""

import numpy as np
import pytest
import torch
from torch import nn

from stillscape._errors import RunError
from stillscape.training import EarlyStop, Recipe, fit, score
from stillscape.training.room import Room
from tests.training.problems import problem, small_net

RECIPE = Recipe(steps=12, batch=16, learning_rate=1e-2, clip=1.0)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."),
]


def limited(net, most, error=ERRORS[0], *, in_backward=False):
    """Let a net run out of memory whenever more than `most` images go through it."""
    sizes = []

    def check(x):
        sizes.append(len(x))
        if len(x) > most:
            raise error

    if in_backward:

        def on_output(module, args, output):
            if output.requires_grad:
                output.register_hook(check)

        net.register_forward_hook(on_output)
    else:
        net.register_forward_pre_hook(lambda module, args: check(args[0]))
    return net, sizes


@pytest.fixture(scope="module")
def data():
    return problem(60, 6, 3, noise=1.0)


def trained(data, net, recipe=RECIPE):
    outcome = fit(net, *data, np.arange(50), recipe, seed=3)
    return outcome, torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("error", ERRORS, ids=["gpu", "cpu"])
@pytest.mark.parametrize("in_backward", [False, True])
def test_training_in_parts_gives_the_same_numbers(data, error, in_backward):
    whole, weights = trained(data, small_net(6, 3))
    outcome, parted = trained(data, limited(small_net(6, 3), 5, error, in_backward=in_backward)[0])
    assert (whole.micro_batch, outcome.micro_batch) == (None, 4)
    torch.testing.assert_close(parted, weights, rtol=1e-5, atol=1e-6)
    assert outcome.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)
    np.testing.assert_allclose(outcome.scores.losses, whole.scores.losses, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([p["loss"] for p in outcome.trace], [p["loss"] for p in whole.trace], rtol=1e-4)


def test_early_stop_goes_on_too(data):
    recipe = RECIPE.model_copy(update={"early_stop": EarlyStop(fraction=0.4, patience_epochs=2)})
    _, weights = trained(data, small_net(6, 3), recipe)
    outcome, parted = trained(data, limited(small_net(6, 3), 3)[0], recipe)
    assert outcome.micro_batch == 2
    torch.testing.assert_close(parted, weights, rtol=1e-5, atol=1e-6)


def test_scores_go_on_in_halves_and_skip_no_image(data):
    net = small_net(6, 3)
    before = score(net, *data, np.arange(60))
    after = score(limited(net, 7)[0], *data, np.arange(60))
    np.testing.assert_allclose(after.losses, before.losses, rtol=1e-6)


def test_only_the_part_that_failed_is_done_again():
    done, room, fail = [], Room(), iter([False, True, False, False, False])
    room.fits = 4

    def work(x, y):
        if next(fail):
            raise torch.OutOfMemoryError
        done.extend(y.tolist())
        return len(y)

    assert list(room.of_batch(torch.zeros(10), torch.arange(10), work)) == [4, 2, 2, 2]
    assert done == list(range(10))


def test_one_image_that_does_not_fit_is_said(data):
    with pytest.raises(RunError, match="memory ran out with one image at a time"):
        score(limited(small_net(6, 3), 0)[0], *data, np.arange(60))


def test_other_errors_pass(data):
    with pytest.raises(RuntimeError, match="odd"):
        trained(data, limited(small_net(6, 3), 5, RuntimeError("odd"))[0])


def test_a_model_that_needs_whole_batches_is_refused_not_changed(data):
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    with pytest.raises(RunError, match="batch normalization needs whole batches"):
        trained(data, limited(net, 5)[0])
