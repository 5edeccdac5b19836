"""A pre-trained image model, read once, from which any number of models with a fresh classifier are made."""

import copy
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel

from stillscape._checks import at_least

CLASSIFIER_STD = 0.02


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A pre-trained image model whose classifier is yet to be chosen.

    Attributes:
        name: as it was asked for.
        config: the model's Hugging Face configuration.
        processor: the image processor that stands beside the weights.
        fingerprint: hash of the weights (without the classifier), the configuration and the processor.
        num_parameters: number of parameters, without the classifier.
        backbone: the loaded model, frozen, in eval mode, with a stand-in for a classifier: never trained, only copied.
        classifiers: names of the Linear layers that give one output for each class.
        remote_code: digest of the code that came with the model and was run; empty where none was.
    """

    name: str
    config: PretrainedConfig
    processor: BaseImageProcessor
    fingerprint: str
    num_parameters: int
    backbone: PreTrainedModel = field(repr=False)
    classifiers: tuple[str, ...] = field(repr=False)
    remote_code: str = ""
    # What was found out about the architecture by running it (see split.py): the same for every seed and class count.
    findings: dict[str, object] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backbone.parameters()).device

    def instantiate(self, num_labels: int, seed: int) -> PreTrainedModel:
        """Make an independent model: pre-trained weights and a fresh classifier, everything trainable.

        The classifier's weights are normal with standard deviation 0.02, its biases zero.

        Args:
            num_labels: number of classes, at least 2.
            seed: of the classifier; the global random state is neither used nor changed.

        Cost: one copy of the weights.
        """
        names = [name for name, _ in self.backbone.named_parameters()]
        return self.share(num_labels, seed, trained=names)

    def share(self, num_labels: int, seed: int, trained: Collection[str]) -> PreTrainedModel:
        """Make a model that owns the parameters named in `trained` and shares all others, frozen, with this one.

        Cost: one copy of the trained weights; the frozen ones are neither copied nor read.
        """
        own = set(trained)
        memo = {id(p): p for name, p in self.backbone.named_parameters() if name not in own}
        model = copy.deepcopy(self.backbone, memo)
        model.config.num_labels = num_labels
        if hasattr(model, "num_labels"):
            model.num_labels = num_labels  # type: ignore[assignment]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in own)
        for name, classifier in self.fresh_classifiers(num_labels, seed).items():
            model.set_submodule(name, classifier)
        return model

    def fresh_classifiers(self, num_labels: int, seed: int) -> dict[str, nn.Linear]:
        """Make the Linear layers that give the class scores, by name, drawn from `seed`."""
        at_least("num_labels", num_labels, 2)
        generator = torch.Generator().manual_seed(seed)
        return {name: _fresh(self.backbone.get_submodule(name), num_labels, generator) for name in self.classifiers}


def _fresh(old: nn.Module, num_labels: int, generator: torch.Generator) -> nn.Linear:
    assert isinstance(old, nn.Linear)
    # skip_init: the usual constructor would draw from the global random state.
    new = nn.utils.skip_init(nn.Linear, old.in_features, num_labels, bias=old.bias is not None)
    nn.init.normal_(new.weight, std=CLASSIFIER_STD, generator=generator)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new.to(old.weight.device)


def logits_of(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """Class scores (n, C) of a Hugging Face image classifier."""
    return model(pixel_values=pixel_values).logits
