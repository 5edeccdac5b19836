"""A module and a loss of one sample, run on many: as one batch, or each sample with its own copy of the parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from stillscape._errors import InputError
from stillscape.curvature.parameters import Parameters
from stillscape.curvature.samples import Tree, length, with_batch_axis
from stillscape.curvature.second_order import second_order

LossFn = Callable[[Any, Any], Tensor]


class NotPerSampleError(Exception):
    """The model's output can't be told apart by samples, so samples must be run one by one."""


@dataclass(frozen=True)
class Forward:
    """What a forward pass gave.

    Attributes:
        outputs: tensors of the model's output that depend on the parameters, samples first.
        losses: (n,) of the samples.
        loss_of: the losses as a function of the outputs alone.
    """

    outputs: list[Tensor]
    losses: Tensor
    loss_of: Callable[[list[Tensor]], Tensor]


@dataclass
class Network:
    """How samples are run.

    Attributes:
        model: any module.
        loss_fn: takes the model's output for a batch of one, and the target likewise; returns a scalar.
        parameters: those that are differentiated.
        loss_is_mapped: whether the loss goes through ``vmap``; where it can't, samples are looped over.
    """

    model: nn.Module
    loss_fn: LossFn
    parameters: Parameters
    loss_is_mapped: bool = True

    def alone(self, leaves: Sequence[Tensor], x: Tree, y: Tree) -> Forward:
        """Run one sample, given as a batch of one: no function transform, so that any module will do."""
        with second_order(self.model):
            tensors, rebuild = _tensors(self._call(leaves, x))
            return _forward(tensors, lambda outputs: self._loss(rebuild(outputs), y).reshape(1))

    def batch(self, leaves: Sequence[Tensor], x: Tree, y: Tree) -> Forward:
        """Run all samples as one batch, with shared parameters.

        Raises:
            NotPerSampleError: if an output has no axis of samples.
        """
        n = length(x)
        with second_order(self.model):
            tensors, rebuild = _tensors(self._call(leaves, x))
            if not tensors or any(t.ndim == 0 or len(t) != n for t in tensors):
                raise NotPerSampleError
            return self._mapped(tensors, lambda outputs: rebuild([output[None] for output in outputs]), y)

    def each(self, leaves: Sequence[Tensor], x: Tree, y: Tree) -> Forward:
        """Run each sample as a batch of one; leaf i has the samples along its first axis."""
        kept: list[Callable[[Sequence[Tensor]], Any]] = []

        def one(own: Sequence[Tensor], sample: Tree) -> list[Tensor]:
            tensors, rebuild = _tensors(self._call(own, with_batch_axis(sample)))
            kept.append(rebuild)
            return tensors

        with second_order(self.model):
            tensors = vmap(one, randomness="error")(list(leaves), x)
            return self._mapped(tensors, kept[-1], y)  # each output has a batch axis of one below that of the samples

    def _call(self, leaves: Sequence[Tensor], x: Tree) -> Any:
        state = self.parameters.others() | dict(zip(self.parameters.names, leaves, strict=True))
        if isinstance(x, dict):
            return functional_call(self.model, state, (), x)
        return functional_call(self.model, state, tuple(x) if isinstance(x, tuple | list) else (x,))

    def _mapped(self, tensors: list[Tensor], rebuild: Callable[[Sequence[Tensor]], Any], y: Tree) -> Forward:
        def one(outputs: list[Tensor], target: Tree) -> Tensor:
            return self._loss(rebuild(outputs), with_batch_axis(target))

        return _forward(tensors, lambda outputs: self._over_samples(one, outputs, y))

    def _loss(self, output: Any, target: Tree) -> Tensor:
        loss = self.loss_fn(output, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise InputError(f"loss_fn returns {got}; for a batch of one it must return one number, as a tensor.")
        return loss.reshape(())

    def _over_samples(self, one: Callable[[list[Tensor], Tree], Tensor], outputs: list[Tensor], y: Tree) -> Tensor:
        if self.loss_is_mapped:
            return vmap(one, in_dims=(0, None if y is None else 0), randomness="error")(outputs, y)
        pick = [
            pytree.tree_map(lambda leaf, i=i: leaf[i], y) if y is not None else None for i in range(len(outputs[0]))
        ]
        return torch.stack([one([t[i] for t in outputs], target) for i, target in enumerate(pick)])


def _forward(tensors: list[Tensor], losses_of: Callable[[list[Tensor]], Tensor]) -> Forward:
    """Return a pass with the losses as a function of those tensors alone that depend on the parameters."""
    moving = [i for i, tensor in enumerate(tensors) if tensor.requires_grad]

    def loss_of(outputs: list[Tensor]) -> Tensor:
        replaced = dict(zip(moving, outputs, strict=True))
        return losses_of([replaced.get(i, tensor) for i, tensor in enumerate(tensors)])

    outputs = [tensors[i] for i in moving]
    return Forward(outputs, loss_of(outputs), loss_of)


def _tensors(output: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """Return the tensors in a model's output, and how to put others in their places."""
    leaves, spec = pytree.tree_flatten(output)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def rebuild(tensors: Sequence[Tensor]) -> Any:
        replaced = dict(zip(places, tensors, strict=True))
        return pytree.tree_unflatten([replaced.get(i, leaf) for i, leaf in enumerate(leaves)], spec)

    return [leaves[i] for i in places], rebuild
