"""The graph of a first derivative, kept, so that a product with any vector is one backward pass through it.

Everything here is reverse over reverse: no forward-mode rule is used, some of which are missing or wrong in PyTorch
(mean squared error, LayerNorm). J v, a product forward, is the derivative of J' u in u, in which that is linear.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stillscape.curvature.network import Forward

PARTS = ("full", "outer", "functional", "fisher")


class Graph:
    """Products of the curvature of a sum of losses, in the leaves it was run with.

    Args:
        forward: the pass; its losses depend on `leaves`.
        leaves: what is differentiated.
        part: one of `PARTS`.

    Attributes:
        first: what a product differentiates once more: for the full part, the gradient.
    """

    def __init__(self, forward: Forward, leaves: Sequence[Tensor], part: str) -> None:
        self._leaves, self._part = list(leaves), part
        losses = forward.losses
        if part == "full":
            self.first = _backward([losses], self._leaves, [torch.ones_like(losses)], again=True)
            return
        if part == "fisher":  # the outer product of the losses' own gradients: as if the model's output were its loss
            self._outputs, self._bent = [losses], None
        else:
            self._outputs = forward.outputs
            at = [output.detach().requires_grad_() for output in forward.outputs]
            bent = forward.loss_of(at)
            self._at = at
            self._bent = _backward([bent], at, [torch.ones_like(bent)], again=True)
        if part == "functional":  # J' c with the loss's gradient c held fixed: what bends in it is the model alone
            assert self._bent is not None
            self.first = _backward(self._outputs, self._leaves, [c.detach() for c in self._bent], again=True)
        else:
            self._cotangents = [torch.zeros_like(output).requires_grad_() for output in self._outputs]
            self.first = _backward(self._outputs, self._leaves, self._cotangents, again=True)

    def product(self, direction: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the product with `direction`; a leading axis of one that the leaves lack is passed over."""
        direction = [step.reshape(leaf.shape) for step, leaf in zip(direction, self._leaves, strict=True)]
        if self._part in ("full", "functional"):
            return _backward(self.first, self._leaves, direction)
        moved = _backward(self.first, self._cotangents, direction)
        bent = moved if self._bent is None else _backward(self._bent, self._at, moved)
        return _backward(self._outputs, self._leaves, bent)


def _backward(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], again: bool = False
) -> Sequence[Tensor]:
    """Return the cotangents pulled back to `inputs`; zeros where nothing depends on them."""
    live = [(output, cotangent) for output, cotangent in zip(outputs, cotangents, strict=True) if output.requires_grad]
    if not live:
        return [torch.zeros_like(leaf) for leaf in inputs]
    return torch.autograd.grad(
        [output for output, _ in live],
        inputs,
        grad_outputs=[cotangent for _, cotangent in live],
        create_graph=again,
        retain_graph=True,
        materialize_grads=True,
    )
