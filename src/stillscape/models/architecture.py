"""Find the parts of a transformer by looking at it and running it once, so that no architecture is named here."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stillscape.models.pretrained import logits_of


@dataclass(frozen=True)
class Call:
    """One module's first call in a forward pass."""

    name: str
    takes_tensor: bool


def find_blocks(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Names of the transformer blocks, first to last, one tuple for each list that holds them.

    A list of blocks is a ModuleList of which each member has attention and none holds another such list: one for
    ViT, DeiT, DINOv2 and BEiT; one for each stage of Swin; none for a convolutional network.
    """
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and all(has_attention(member) for member in module)
    }
    innermost = [name for name in lists if not any(other.startswith(f"{name}.") for other in lists)]
    return tuple(tuple(f"{name}.{child}" for child, _ in lists[name].named_children()) for name in innermost)


def has_attention(module: nn.Module) -> bool:
    """Whether a module holds an attention layer, going by class names, as Hugging Face's own recorders do."""
    return any("attention" in type(part).__name__.lower() for part in module.modules())


@torch.no_grad()
def call_order(model: nn.Module, pixel_values: Tensor) -> list[Call]:
    """Modules in the order in which a forward pass first enters them."""
    calls: dict[str, Call] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        tensors = any(isinstance(value, Tensor) for value in (*args, *kwargs.values()))
        calls.setdefault(names[module], Call(names[module], tensors))

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in names]
    try:
        logits_of(model, pixel_values)
    finally:
        for handle in handles:
            handle.remove()
    return list(calls.values())


def is_within(name: str, ancestor: str) -> bool:
    """Whether the module or parameter `name` is `ancestor` or lies in it; "" is the root."""
    return ancestor == "" or name == ancestor or name.startswith(f"{ancestor}.")


def outermost(names: list[str]) -> list[str]:
    """Leave out names that lie within others of the list."""
    return [name for name in names if not any(name != other and is_within(name, other) for other in names)]


def entered_before(calls: list[Call], block: str) -> list[str]:
    """Outermost modules that are done with the pixels before `block` begins."""
    names = [call.name for call in calls]
    earlier = calls[: names.index(block)]
    return outermost([call.name for call in earlier if call.takes_tensor and not is_within(block, call.name)])


def entered_from(calls: list[Call], block: str) -> list[str]:
    """Outermost modules that a forward pass enters from `block` on, the classifier among them."""
    names = [call.name for call in calls]
    return outermost(names[names.index(block) :])


class _Reached(Exception):
    """Carries the input of the module at which a forward pass is cut."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


@torch.no_grad()
def input_of(model: nn.Module, name: str, pixel_values: Tensor) -> Tensor:
    """Run a model up to module `name` and return that module's first argument; nothing after it is run."""

    def stop(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        raise _Reached(args[0] if args else next(iter(kwargs.values())))

    handle = model.get_submodule(name).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        logits_of(model, pixel_values)
    except _Reached as reached:
        return reached.value
    finally:
        handle.remove()
    raise RuntimeError(f"module {name} is not reached by a forward pass")
