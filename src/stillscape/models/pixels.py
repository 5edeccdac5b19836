"""From images to the numbers a model takes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor
from transformers import BaseImageProcessor

from stillscape._errors import InputError


def pixel_values(processor: BaseImageProcessor, images: Sequence[Image]) -> Float[Tensor, "n channels height width"]:
    """Resize and normalize images as the model's own processor does.

    Args:
        processor: of the pre-trained model.
        images: RGB images, at least one; sizes may differ.

    Returns:
        float32 tensor, one image in a row.

    Raises:
        InputError: no image, or the processor leaves the images at different sizes.
    """
    if not len(images):
        raise InputError("images is empty; give at least one image.")
    try:
        batch = processor(images=list(images), return_tensors="pt")["pixel_values"]
    except ValueError as error:
        raise InputError(
            f"images can't be brought to one size by the model's {type(processor).__name__}; "
            "its preprocessor_config.json must resize to a fixed height and width."
        ) from error
    return batch.to(torch.float32)
