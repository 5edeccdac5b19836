"""Where a run computes: one device, named in its plan, for training, scores and curvature alike."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stillscape._errors import InputError

THERE = "a CUDA device is here and not used; --device cuda computes on it"


def available(name: str) -> torch.device:
    """Return the device of this name.

    Raises:
        InputError: if this machine, or this build of PyTorch, doesn't offer it.

    >>> available("cpu")
    device(type='cpu')
    """
    try:
        return torch.zeros(1, device=name).add(1).device
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise InputError(
            f"device is {name!r}, which can't be used here ({reason}). Leave it out to compute on the CPU, or install "
            "a PyTorch that is built for the device."
        ) from None


def unused(name: str) -> str:
    """Return what is to be said where a plan computes on the CPU beside an NVIDIA GPU; else nothing."""
    return THERE if name == "cpu" and torch.cuda.is_available() else ""


def called(name: str) -> str:
    """Return a device's name, with that of the hardware where PyTorch knows it."""
    device = torch.device(name)
    return f"{name} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else name


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute convolutions on a GPU in float32 inside the block, not in the shorter TF32 that is PyTorch's default."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before
