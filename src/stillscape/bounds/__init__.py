"""Theorems about the loss surface, each as printed and as it holds.

constants, counterexamples  sharp constants of softmax, LayerNorm and GELU; layers that refute what is printed
attention, block            bounds on the Hessian of a layer and of a block (Theorems 1 and 2)
softmax_head                the same for a linear head alone
loss_difference             one more sample at a fixed w (Theorem 3), and the size that follows
local_surface, minimum      the surface around w*: its second-order forecast; whether w* is a minimum at all
finite_sample, mean_square  what holds in probability over the order of the data
"""

import importlib
from typing import TYPE_CHECKING, Any

from stillscape.bounds.finite_sample import mean_deviation, mean_sufficient_size
from stillscape.bounds.local_surface import (
    local_gaps,
    loss_difference_at_minimum,
    matrix_bernstein,
    matrix_bernstein_size,
    quadratic_difference,
    uniform_deviation,
)
from stillscape.bounds.loss_difference import loss_difference, sufficient_size
from stillscape.bounds.mean_square import gaussian_mean_square, mean_square_difference, root_mean_square_size
from stillscape.bounds.minimum import check_minimum, minimum_shift, require_minimum
from stillscape.bounds.softmax_head import softmax_head

if TYPE_CHECKING:
    from stillscape.bounds.attention import self_attention
    from stillscape.bounds.block import transformer_block, transformer_block_pairs
    from stillscape.bounds.heads import multi_head_attention
    from stillscape.bounds.structure import structure_sweep

#: Bounds on Hessians need torch; curves and verdicts, which use the others, should not wait for it.
_WITH_TORCH = {
    "multi_head_attention": "heads",
    "self_attention": "attention",
    "structure_sweep": "structure",
    "transformer_block": "block",
    "transformer_block_pairs": "block",
}

__all__ = [
    "check_minimum",
    "gaussian_mean_square",
    "local_gaps",
    "loss_difference",
    "loss_difference_at_minimum",
    "matrix_bernstein",
    "matrix_bernstein_size",
    "mean_deviation",
    "mean_square_difference",
    "mean_sufficient_size",
    "minimum_shift",
    "multi_head_attention",
    "quadratic_difference",
    "require_minimum",
    "root_mean_square_size",
    "self_attention",
    "softmax_head",
    "structure_sweep",
    "sufficient_size",
    "transformer_block",
    "transformer_block_pairs",
    "uniform_deviation",
]


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(importlib.import_module(f"stillscape.bounds.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module 'stillscape.bounds' has no attribute {name!r}")
