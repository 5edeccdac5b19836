"""Losses of single images, and their slopes along a direction in parameter space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, jvp

from stillscape.models.state import same_direction
from stillscape.training.room import Room
from stillscape.training.rows import Rows, check_classes, check_rows, device_of


@dataclass(frozen=True)
class Scores:
    """What a model says about each of n images.

    Attributes:
        losses: cross-entropy in nats, float64.
        probabilities: of the classes, float32.
    """

    losses: Float[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n C"]


def losses_of(logits: Float[Tensor, "n C"], labels: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Losses (float64) and class probabilities (float32) of a batch.

    Raises:
        InputError: a label has no class score.
    """
    check_classes(labels, logits)
    log_p = torch.log_softmax(logits.double(), dim=1)
    return F.nll_loss(log_p, labels, reduction="none"), log_p.exp().float()


def as_scores(batches: Sequence[tuple[Tensor, Tensor]]) -> Scores:
    """Join what `losses_of` gave for each batch."""
    losses, probabilities = (torch.cat(parts).detach().cpu().numpy() for parts in zip(*batches, strict=True))
    return Scores(losses, probabilities)


@torch.no_grad()
def score(
    suffix: nn.Module,
    inputs: Float[np.ndarray, "n ..."],
    labels: Int[np.ndarray, " n"],
    rows: Int[np.ndarray, " m"],
    *,
    batch: int = 256,
) -> Scores:
    """Measure each row's loss and class probabilities, in eval mode.

        l_i = log sum_c exp(z_ic) - z_i,y_i

    with scores z in the model's precision and the logarithm in float64, so that no loss is lost to rounding at zero.

    Args:
        suffix: from activations to class scores; left in eval mode.
        inputs: what the suffix takes, in memory or memory-mapped.
        labels: class numbers.
        rows: rows to measure, in the order of the results.
        batch: rows at a time; fewer where memory runs out.

    Raises:
        InputError: rows, labels and inputs don't belong together.
        MemoryShortError: memory runs out with one row at a time.
    """
    suffix.eval()
    data = Rows(inputs, labels, check_rows(inputs, labels, rows), device_of(suffix))
    room = Room()
    batches = data.batches(batch)
    return as_scores([part for x, y in batches for part in room.of_batch(x, y, lambda x, y: losses_of(suffix(x), y))])


@torch.no_grad()
def directional_slopes(
    suffix: nn.Module,
    inputs: Float[np.ndarray, "n ..."],
    labels: Int[np.ndarray, " n"],
    rows: Int[np.ndarray, " m"],
    direction: Mapping[str, Tensor],
    *,
    batch: int = 64,
) -> Float[np.ndarray, " m"]:
    """Measure the slope of each row's loss along a direction, by forward-mode differentiation.

        s_i = <grad l_i(w), direction>

    Args:
        suffix: from activations to class scores; left in eval mode.
        inputs: what the suffix takes, in memory or memory-mapped.
        labels: class numbers.
        rows: rows to measure, in the order of the results.
        direction: one tensor for each trainable parameter, named as by `trained_state`.
        batch: rows at a time.

    Raises:
        InputError: rows, labels and inputs don't belong together, or the direction isn't one of the model's.

    Cost: about two forward passes; no gradient of a single image is formed.
    """
    suffix.eval()
    device = device_of(suffix)
    data = Rows(inputs, labels, check_rows(inputs, labels, rows), device)
    own = {name: p.detach() for name, p in suffix.named_parameters() if p.requires_grad}
    same_direction("direction", direction, own)
    tangent = {name: direction[name].to(device, p.dtype) for name, p in own.items()}
    slopes = []
    for x, y in data.batches(batch):

        def losses(parameters: dict[str, Tensor], x: Tensor = x, y: Tensor = y) -> Tensor:
            return losses_of(functional_call(suffix, parameters, (x,)), y)[0]

        slopes.append(jvp(losses, (own,), (tangent,))[1])
    return torch.cat(slopes).cpu().numpy()
