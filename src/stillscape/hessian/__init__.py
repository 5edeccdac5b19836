"""Exact second derivatives of attention and of transformer blocks, in closed form (docs/theory, sections 2 and 5).

losses           value, gradient and Hessian at the output
layers           attention, LayerNorm, feed-forward: forward, backward, and the same once more along a direction
families, sweep  parameters as left vector (x) right matrix, and how they go through the network
assemble         what blocks are made of; each_sample and summed write them
exact            the Hessian dense, by block, as a mean, as a product with a vector
reference        slow and obvious: autodiff, the oracle of every test
"""

from stillscape.hessian.exact import ExactHessian
from stillscape.hessian.losses import MSE, CrossEntropy, Expansion, Loss, OutputLoss
from stillscape.hessian.pieces import (
    Derivatives,
    feed_forward,
    feed_forward_derivatives,
    layer_norm,
    layer_norm_derivatives,
)
from stillscape.hessian.row_maps import RowActivation
from stillscape.hessian.self_attention import causal_mask, self_attention
from stillscape.hessian.transformer_block import transformer_block, transformer_chain

__all__ = [
    "MSE",
    "CrossEntropy",
    "Derivatives",
    "ExactHessian",
    "Expansion",
    "Loss",
    "OutputLoss",
    "RowActivation",
    "causal_mask",
    "feed_forward",
    "feed_forward_derivatives",
    "layer_norm",
    "layer_norm_derivatives",
    "self_attention",
    "transformer_block",
    "transformer_chain",
]
