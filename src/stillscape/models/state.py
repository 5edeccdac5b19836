"""The trained part of a model as plain tensors, to be stored and put back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stillscape._errors import InputError


def trained_state(suffix: nn.Module) -> dict[str, Tensor]:
    """Copy the trainable parameters.

    Returns:
        float32 tensors on the CPU by parameter name, sharing no memory with the model: fit for safetensors.

    >>> layer = nn.Linear(2, 1)
    >>> _ = layer.bias.requires_grad_(False)
    >>> list(trained_state(layer))
    ['weight']
    """
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, parameter in suffix.named_parameters()
        if parameter.requires_grad
    }


def load_trained_state(suffix: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back, in place, what `trained_state` copied.

    Raises:
        InputError: names or shapes differ from the model's trainable parameters.
    """
    own = {name: parameter for name, parameter in suffix.named_parameters() if parameter.requires_grad}
    same_direction("state", state, own)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def same_direction(argument: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse a mapping whose names or shapes are not those of the trainable parameters."""
    if given.keys() != own.keys():
        odd = sorted(given.keys() ^ own.keys())
        raise InputError(
            f"{argument} and the model's trainable parameters differ in {len(odd)} names, such as {odd[0]}."
        )
    for name, tensor in own.items():
        if given[name].shape != tensor.shape:
            raise InputError(
                f"{argument}[{name!r}] has shape {tuple(given[name].shape)}; the model's is {tuple(tensor.shape)}."
            )
