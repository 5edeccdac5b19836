"""The gradient of a batch, in parts where the memory can't take it whole."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillscape._errors import RunError
from stillscape._room import is_out_of_memory
from stillscape.training.precision import Steps
from stillscape.training.rows import check_classes


class StillTooLargeError(Exception):
    """A single image at a time is too much for the memory."""


class MicroBatches:
    """Takes batches whole until the memory can't; from then on in parts of half the size, and half of that.

    The gradient is that of the whole batch, up to rounding and the draws of dropout:

        g = sum over parts of (size of the part / size of the batch) * gradient of the part's mean loss

    Args:
        batch: images at a time, to begin with.
        steps: in what precision; float32 unless given.
    """

    def __init__(self, batch: int, steps: Steps | None = None) -> None:
        self._size, self._steps = batch, steps or Steps()
        self.halved_to: int | None = None

    def gradient(self, suffix: nn.Module, x: Tensor, y: Tensor, largest_label: Tensor | None = None) -> float:
        """Add the gradient of the mean loss to the parameters' own, and return that loss.

        Args:
            suffix: from inputs to class scores.
            x: inputs.
            y: labels.
            largest_label: of all data, where it is to be held against the number of classes.

        Raises:
            StillTooLargeError: if a single image at a time is too much.
            RunError: if the batch is too much for a model with batch normalization, which parts would train otherwise.
        """
        before = [p.grad for p in suffix.parameters()]
        while True:
            try:
                return self._in_parts(suffix, x, y, largest_label)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            for parameter, gradient in zip(suffix.parameters(), before, strict=True):
                parameter.grad = gradient
            if min(self._size, len(x)) == 1:
                raise StillTooLargeError
            if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in suffix.modules()):
                raise RunError(
                    f"memory ran out at batch {len(x)}, and this model's batch normalization needs whole batches; all "
                    "that is recorded is kept. Set a smaller batch in the plan's recipes, in another run folder."
                )
            self._size = self.halved_to = (min(self._size, len(x)) + 1) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _in_parts(self, suffix: nn.Module, x: Tensor, y: Tensor, largest_label: Tensor | None) -> float:
        value = 0.0
        for inputs, labels in zip(x.split(self._size), y.split(self._size), strict=True):
            logits = self._steps.scores(suffix, inputs)
            if largest_label is not None:
                check_classes(largest_label, logits)
            loss = F.cross_entropy(logits, labels)
            if len(inputs) < len(x):
                loss = loss * (len(inputs) / len(x))
            self._steps.backward(loss)
            value += loss.item()
        return value
