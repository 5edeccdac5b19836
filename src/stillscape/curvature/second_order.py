"""Run a module so that it can be differentiated twice: dropout off, attention by a kernel that has second derivatives.

Flash and memory-efficient attention have no second derivative. PyTorch's ``scaled_dot_product_attention`` is told to
use its math kernel; a model that picks its own kernels and has ``set_attn_implementation`` (as Hugging Face's have) is
switched to "eager" meanwhile, unless it goes through PyTorch's.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

DIFFERENTIABLE = (None, "eager", "sdpa")  # the last by its math kernel
log = logging.getLogger("stillscape")


@contextmanager
def second_order(model: nn.Module) -> Iterator[None]:
    """Put `model` into that state, and back into its own afterwards."""
    modes = {module: module.training for module in model.modules()}
    with ExitStack() as stack:
        for module, name in _switched(model):
            _set_attention(module, "eager")
            stack.callback(_set_attention, module, name)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # of nn.TransformerEncoderLayer, which has no derivative at all
        stack.callback(_restore, modes)
        for module in modes:
            module.training = False
        yield


def say_which_attention(model: nn.Module, forward: Callable[[], object]) -> None:
    """Run `forward` once, and tell in one line if attention is computed by another kernel than the model's own."""
    switched = _switched(model)
    with _Watch() as watch:
        forward()
    if switched:
        names = ", ".join(sorted({name for _, name in switched}))
        log.warning("attention: %s has no second derivative; eager attention is used for curvature.", names)
    elif watch.seen:
        log.warning("attention: flash kernels have no second derivative; PyTorch's math kernel is used for curvature.")


def _switched(model: nn.Module) -> list[tuple[nn.Module, str]]:
    found: list[tuple[nn.Module, str]] = []
    for module in model.modules():
        name = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if hasattr(module, "set_attn_implementation") and name not in DIFFERENTIABLE:
            found.append((module, str(name)))
    return found


def _set_attention(module: nn.Module, name: str) -> None:
    module.set_attn_implementation(name)  # type: ignore[operator]  # Hugging Face's, which nn.Module doesn't have


def _restore(modes: dict[nn.Module, bool]) -> None:
    # Not by train(), which modules override: what was frozen in eval mode inside a training model must stay so.
    for module, mode in modes.items():
        module.training = mode


class _Watch(TorchFunctionMode):
    """Notices calls of PyTorch's attention."""

    seen = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Let the call pass."""
        self.seen = self.seen or func in (F.scaled_dot_product_attention, F.multi_head_attention_forward)
        return func(*args, **(kwargs or {}))
