"""Short of memory a batch is taken in parts: the same gradient, and it is said."""

import numpy as np
import pytest
import torch
from torch import nn

from stillscape.training import fit
from stillscape.training.micro_batches import MicroBatches, StillTooLargeError
from stillscape.training.recipe import Recipe


class Tight(nn.Module):
    """A linear model whose memory takes `room` images at a time."""

    def __init__(self, room):
        super().__init__()
        with torch.random.fork_rng():
            torch.random.manual_seed(0)
            self.linear = nn.Linear(5, 3)
        self.room, self.refused = room, 0

    def forward(self, x):
        if self.training and len(x) > self.room:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.linear(x)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 5)).astype(np.float32), rng.integers(0, 3, 40)


@pytest.mark.parametrize(("room", "halved"), [(16, None), (15, 8), (7, 4), (3, 2), (1, 1)])
def test_parts_give_the_gradient_of_the_whole(data, room, halved):
    x, y = torch.from_numpy(data[0][:16]), torch.from_numpy(data[1][:16])
    tight, wide = Tight(room), Tight(100)
    micro = MicroBatches(16)
    loss = micro.gradient(tight, x, y)
    expected = nn.functional.cross_entropy(wide(x), y)
    expected.backward()
    assert micro.halved_to == halved
    torch.testing.assert_close(torch.tensor(loss), expected.detach())
    torch.testing.assert_close(tight.linear.weight.grad, wide.linear.weight.grad)


def test_memory_for_less_than_one_image():
    with pytest.raises(StillTooLargeError):
        MicroBatches(4).gradient(Tight(0), torch.zeros(4, 5), torch.zeros(4, dtype=torch.long))


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        MicroBatches(4).gradient(Tight(9), torch.zeros(4, 6), torch.zeros(4, dtype=torch.long))


def test_a_fit_goes_on_and_says_so(data):
    recipe = Recipe(steps=12, batch=16)
    tight, wide = Tight(5), Tight(100)
    cut, whole = (fit(model, *data, np.arange(40), recipe, seed=1) for model in (tight, wide))
    assert (cut.status, cut.micro_batch, whole.micro_batch) == ("ok", 4, None)
    assert tight.refused == 2
    torch.testing.assert_close(tight.linear.weight, wide.linear.weight)
    failed = fit(Tight(0), *data, np.arange(40), recipe, seed=1)
    assert (failed.status, failed.reason) == ("failed", "out of memory at step 0 with a single image")
