"""Samples as trees of tensors: one, or a tuple or mapping of them, each with the samples along its first axis."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stillscape._errors import InputError

Tree = Any  # a tensor, or a tuple, list or dict of trees; PyTorch has no public type for it


def as_tree(name: str, data: Tree) -> Tree:
    """Return `data` as a tree that PyTorch can walk, its tensors checked to hold equally many samples."""
    if isinstance(data, Mapping):
        data = dict(data)  # tokenizers and processors return mappings of their own, which PyTorch doesn't know
    counts = set()
    for leaf in pytree.tree_leaves(data):
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            raise InputError(
                f"{name} holds {_described(leaf)}; each entry must be a tensor with the samples along its first axis. "
                "Leave out entries that are None, and turn arrays into tensors."
            )
        counts.add(len(leaf))
    if len(counts) != 1 or 0 in counts:
        raise InputError(
            f"{name} holds tensors of {sorted(counts)} samples; all must have the same number, at least 1."
        )
    return data


def length(tree: Tree) -> int:
    """Return the number of samples."""
    return len(pytree.tree_leaves(tree)[0])


def take(tree: Tree, rows: Sequence[int], device: torch.device | None = None) -> Tree:
    """Return the samples of `rows`, where they lie or on `device`: data may go to a GPU piece by piece."""
    index = torch.as_tensor(rows)

    def picked(leaf: Tensor) -> Tensor:
        return leaf[index.to(leaf.device)].to(device or leaf.device)

    return pytree.tree_map(picked, tree)


def with_batch_axis(tree: Tree) -> Tree:
    """Return one sample as a batch of one."""
    return pytree.tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, tree)


def _described(leaf: object) -> str:
    return "a tensor without axes" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
