"""Low-rank updates of the query and value projections, whatever an architecture calls them."""

import math

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from stillscape._errors import InputError
from stillscape.models.architecture import find_blocks

# Of each attention layer, the first of these sets of which all members are there. qkv: one layer for all three.
_NAMES = (("q_proj", "v_proj"), ("query", "value"), ("q", "v"), ("to_q", "to_v"), ("qkv",), ("in_proj",))


def find_targets(model: nn.Module) -> list[str]:
    """Names of the query and value projections in the transformer blocks, first block first."""
    targets: list[str] = []
    for block in (name for blocks in find_blocks(model) for name in blocks):
        for parent, module in model.get_submodule(block).named_modules():
            linear = {name for name, child in module.named_children() if isinstance(child, nn.Linear)}
            chosen = next((names for names in _NAMES if linear.issuperset(names)), ())
            targets += [".".join(filter(None, (block, parent, name))) for name in chosen]
    return targets


def add_lora(model: nn.Module, rank: int, seed: int) -> None:
    """Add trainable rank-`rank` updates to the query and value projections, in place.

    A projection W becomes W + 2 B A (that is, alpha = 2 rank), with A uniform as in the peft library's own start and
    B zero, so that the model's outputs are unchanged before training. Every other parameter is frozen.

    Args:
        model: an image transformer.
        rank: of the update, at most the width of the projections.
        seed: of A; the global random state is neither used nor changed.

    Raises:
        InputError: no query and value projections found, or the rank is above their width.
    """
    targets = find_targets(model)
    if not targets:
        raise InputError(
            f"adapt is 'lora:{rank}', but {type(model).__name__} has no query and value projections that are known "
            "here; use another adaptation."
        )
    narrowest = min(min(model.get_parameter(f"{name}.weight").shape) for name in targets)
    if rank > narrowest:
        raise InputError(f"adapt is 'lora:{rank}'; the rank must be at most the projections' width, {narrowest}.")
    with torch.random.fork_rng(devices=[]):  # peft draws a start of its own, which is overwritten below
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets), model
        )
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
        elif ".lora_B." in name:
            nn.init.zeros_(parameter)
