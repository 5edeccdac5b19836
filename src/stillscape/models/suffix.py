"""Modules that map a batch (of pixels, or of cached activations) to class scores."""

from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stillscape.models.class_token import ClassTokenBlock
from stillscape.models.pretrained import logits_of


class WholeModel(nn.Module):
    """A Hugging Face image classifier as a plain map from pixels to class scores.

    Args:
        model: the classifier.
        active: names of the modules that follow `train()`; all others stay in eval mode, so that a frozen prefix is
            the same function (no dropout) whether it is cached or run anew. "" is the whole model.
    """

    def __init__(self, model: nn.Module, active: Sequence[str] = ("",)) -> None:
        super().__init__()
        self.model = model
        self.active = tuple(active)

    def forward(self, pixel_values: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n classes"]:
        """Class scores."""
        return logits_of(self.model, pixel_values)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the active modules; running averages of batch norm stay as they were pre-trained."""
        super().train(False)
        self.training = mode
        for name in self.active:
            self.model.get_submodule(name).train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class _Slot:
    """Holds the activations that stand in for what the skipped modules would have computed."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def take(self, *_args: object, **_kwargs: object) -> Tensor | None:
        return self.value


class Tail(nn.Module):
    """The last blocks of a Hugging Face image classifier, and all that stands after them.

    The model's own forward is run, with its own norm, pooling and classifier: modules before the first block return
    the given activations, and the block list holds only the last blocks, under their own numbers.

    Args:
        model: the classifier; it is changed and belongs to the tail from now on.
        skipped: modules before the first block.
        blocks: names of all blocks, of one list.
        count: how many of them are run.
        image_shape: (channels, height, width) of the pixels that the model expects.
        class_token: run the last block for token 0 alone.
    """

    def __init__(
        self,
        model: nn.Module,
        skipped: Sequence[str],
        blocks: Sequence[str],
        count: int,
        image_shape: tuple[int, ...],
        class_token: bool,
    ) -> None:
        super().__init__()
        self.slot = _Slot()
        for name in skipped:
            # Replacing forward, not the module: models look at the dtype of weights inside their embeddings.
            model.get_submodule(name).forward = self.slot.take
        kept = nn.ModuleList()
        for name in blocks[-count:]:
            block = model.get_submodule(name)
            if class_token and name == blocks[-1]:
                block = ClassTokenBlock.of(block)
            kept.add_module(name.rpartition(".")[2], block)
        model.set_submodule(blocks[0].rpartition(".")[0], kept)
        self.model = model
        self.image_shape = tuple(image_shape)

    def forward(self, activations: Float[Tensor, "n tokens d"]) -> Float[Tensor, "n classes"]:
        """Class scores."""
        # No pixels are needed, but some models (BEiT) read the image's size off them.
        blank = torch.zeros((), dtype=activations.dtype, device=activations.device)
        self.slot.value = activations
        try:
            return logits_of(self.model, blank.expand(len(activations), *self.image_shape))
        finally:
            self.slot.value = None
