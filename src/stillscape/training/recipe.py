"""How a model is fine-tuned: everything that decides the numbers, but for the data and the seed."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from stillscape.models.adapt import Adaptation

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class EarlyStop(BaseModel):
    """Stop when a validation part of the training subset no longer gains, and go back to the best epoch.

    Args:
        fraction: share of the subset, taken from each class, that is held back from training.
        patience_epochs: epochs without a lower validation loss after which training stops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    patience_epochs: Annotated[int, Field(ge=1)] = 5


class Recipe(BaseModel):
    """A training recipe.

    Args:
        epochs: passes over the training subset.
        steps: number of steps; if given, `epochs` and `min_steps` don't count.
        min_steps: least number of steps, so that small subsets are trained to the end as well.
        batch: images in a step.
        learning_rate: AdamW's, at its peak.
        warmup: share of the steps over which the learning rate climbs from zero.
        schedule: after the warm-up, "cosine" (down to zero) or "constant".
        weight_decay: AdamW's, on weights of two axes and more; none on biases and norms.
        clip: largest norm of a step's gradient; 0 for no limit.
        early_stop: None trains to the last step.
        l2: penalty of a head that is fitted to its optimum, l2/(2k) (||W||^2 + ||b||^2); nothing else of a recipe
            counts there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: _Positive = 20.0
    steps: Annotated[int, Field(ge=1)] | None = None
    min_steps: Annotated[int, Field(ge=1)] = 100
    batch: Annotated[int, Field(ge=1)] = 32
    learning_rate: _Positive = 1e-3
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: _NotNegative = 0.01
    clip: _NotNegative = 1.0
    early_stop: EarlyStop | None = None
    l2: _Positive = 1.0

    def num_steps(self, k: int) -> int:
        """Count the steps on k images; an epoch ends with a smaller batch where k is no multiple of the batch.

        >>> Recipe(epochs=20, batch=32).num_steps(400), Recipe(epochs=20, batch=32).num_steps(50)
        (260, 100)
        """
        if self.steps is not None:
            return self.steps
        return max(self.min_steps, math.ceil(self.epochs * math.ceil(k / self.batch)))

    def rate(self, step: int, total: int) -> float:
        """Learning rate of step 0, 1, ..., total - 1.

        >>> recipe = Recipe(learning_rate=1.0, warmup=0.5)
        >>> [round(recipe.rate(step, 4), 3) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
        """
        warm = round(self.warmup * total)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


# Starting points in common use for vision transformers; a plan may set its own.
_DEFAULTS = {
    "head": Recipe(learning_rate=1e-2, weight_decay=0.0),
    "last-layers": Recipe(learning_rate=1e-3, weight_decay=0.01),
    "lora": Recipe(learning_rate=2e-3, weight_decay=0.0),
    "full": Recipe(learning_rate=2e-4, weight_decay=0.05),
}


def default_recipe(adaptation: Adaptation) -> Recipe:
    """Look up the recipe used where a plan sets none."""
    return _DEFAULTS[adaptation.kind]
