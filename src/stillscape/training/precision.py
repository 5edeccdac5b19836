"""In what precision a step of training is computed; weights, losses and whatever is measured stay in float32."""

from typing import Literal

import torch
from torch import Tensor, nn

from stillscape._errors import InputError

Precision = Literal["float32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `InputError` if a device can't train in a precision: fp16 needs CUDA, whose kernels sum in float32."""
    if precision not in DTYPES:
        raise InputError(f"precision is {precision!r}; it must be one of {', '.join(DTYPES)}.")
    if precision == "fp16" and device.type != "cuda":
        raise InputError(
            f"precision is 'fp16' on the {device.type.upper()}; fp16 is for CUDA devices. Use bf16, or float32."
        )


class Steps:
    """Forward and backward passes of training, in a precision, by PyTorch's automatic mixed precision.

    Parameters and their gradients are float32 in any case, and so are the class scores that a loss is taken of. In fp16
    the loss is scaled before it is differentiated, so that small gradients aren't rounded to zero; a step whose
    gradient overflows is passed over, and the scale halved (Micikevicius et al. 2018, "Mixed precision training").

    Args:
        precision: "float32", "bf16" or "fp16".
        device: of the parameters.

    Raises:
        InputError: if the device can't train in this precision.
    """

    def __init__(self, precision: str = "float32", device: torch.device | None = None) -> None:
        device = device or torch.device("cpu")
        check_precision(precision, device)
        self._dtype, self._device = DTYPES[precision], device.type
        self._scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None

    def scores(self, suffix: nn.Module, x: Tensor) -> Tensor:
        """Return the class scores, in float32 or better."""
        if self._dtype is None:
            return suffix(x)
        with torch.autocast(self._device, self._dtype):
            scores = suffix(x)
        return scores.float()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient, scaled where that is needed, to the parameters' own."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring gradients to their own scale, before they are clipped."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Move the parameters, unless the gradient overflowed."""
        if self._scaler is None:
            optimizer.step()
            return
        self._scaler.step(optimizer)
        self._scaler.update()
