"""The plan of a run: everything that decides its numbers, in one TOML file that a person can read and change."""

import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stillscape._errors import InputError
from stillscape._folders import Folder
from stillscape._secrets import holds_secret
from stillscape.models.adapt import parse_adaptation
from stillscape.training.metrics import METRICS
from stillscape.training.precision import Precision
from stillscape.training.recipe import Recipe, default_recipe

#: Fields that may differ when a run folder is taken up again: they choose among cells, or ask another question of them.
REVISABLE = frozenset(
    {
        "adapt",
        "sizes",
        "repeats",
        "seeds",
        "metric",
        "epsilon",
        "epsilon_loss",
        "target",
        "cost_per_image",
        "value_per_point",
        "level",
        "workers",
        "executor",
        "cell_seconds",
        "cache_gib",
        "curvature",
        "evidence",
        "surface",
        "surface_points",
        "skip_broken",
        "trust_remote_code",
    }
)


#: How numbers are computed; fields that came after the first records, whose keys say nothing of them.
ARITHMETIC = ("precision", "deterministic", "device")
_PRICE = ("cost_per_image", "value_per_point")
#: What "enough" can mean, and the fields that ask for it; a plan asks one question.
QUESTIONS = {"epsilon": ("epsilon",), "target": ("target",), "cost with value": _PRICE}


class Plan(BaseModel):
    """What to measure, and how; the defaults are sane for a few hundred images.

    Attributes:
        data: built-in name, folder, parquet file, or Hugging Face dataset.
        labels: a ``labels.csv`` for a flat folder.
        groups: column, or regular expression on file names, of what must never be split (a patient, a scene).
        window: grey values that become black and white, for 16-bit grey images.
        model: ``bundled-vit``, a local folder, or a Hub id.
        trust_remote_code: whether Python code that comes with the model may be run, with your rights.
        adapt: the adaptations to compare.
        sizes: the grid of k, or how many sizes a geometric grid should have.
        repeats: seeded orders of the data.
        seeds: training seeds for each order.
        evaluation: ``cross-fit``, ``holdout``, or ``auto``: cross-fitting under 2,000 images.
        folds: of cross-fitting.
        held_out: share of the images that is held out otherwise.
        split_seed: decides folds and orders.
        metric: what the verdict is about.
        epsilon: tolerance on the gain of the next doubling, in units of the metric.
        epsilon_loss: tolerance on losses, in nats; `epsilon` unless given.
        target: ask for this level of the metric instead.
        cost_per_image: of collecting and labeling one more; with `value_per_point`, enough is when the next doubling
            is not worth its price.
        value_per_point: what one point (0.01) of the metric is worth, in the unit of the cost.
        level: of every interval.
        recipes: changes to the default recipe, by kind of adaptation.
        skip_broken: leave images out that can't be read, and say how many.
        threads: of every cell; part of the plan because it moves the last digits.
        precision: of the steps of training: ``float32``, ``bf16``, or ``fp16`` on CUDA devices. Losses, scores and
            curvature are float32 or better in any case.
        device: of training, scores and curvature: ``cpu``, ``cuda``, ``cuda:1``, or another that PyTorch knows. Which
            of several alike moves no number.
        deterministic: use only kernels that give the same bits each time; an operation that has none ends the run.
        workers: cells at a time; moves no number.
        executor: ``local``, or ``ray`` for the machines of a Ray cluster; moves no number.
        cell_seconds: time that one cell may take; one that takes longer is recorded as failed. No limit unless given.
        cache_gib: GiB that the run folder's cache may hold; a run that needs more ends before it writes any. No limit
            unless given, but that of the disk.
        directions: random directions in which the neighborhood of w* is probed.
        probe_images: held-out images used there.
        curvature_images: of them, how many have their curvature taken.
        curvature: held-out images over which the curve of Hessians is measured; 0 for no such curve.
        evidence: whether the trained surfaces are asked what they say of more data where that is dear: Takeuchi's
            forecast for more than a head, halves of the images against each other, the moving optimum.
        surface: held-out images over which the loss surface is measured on planes through w*; 0 for no such surface.
        surface_points: of each plane along each of its two directions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    labels: str | None = None
    groups: str | None = None
    window: tuple[float, float] | None = None
    model: str = "bundled-vit"
    trust_remote_code: bool = False
    adapt: Annotated[tuple[str, ...], Field(min_length=1)] = ("head", "last-layers:1", "lora:4")
    sizes: int | tuple[Annotated[int, Field(ge=1)], ...] = 5
    repeats: Annotated[int, Field(ge=1)] = 3
    seeds: Annotated[int, Field(ge=1)] = 2
    evaluation: Literal["auto", "cross-fit", "holdout"] = "auto"
    folds: Annotated[int, Field(ge=2)] = 5
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: int = 0
    metric: str = "accuracy"
    epsilon: Annotated[float, Field(gt=0)] = 0.01
    epsilon_loss: Annotated[float, Field(gt=0)] | None = None
    target: float | None = None
    cost_per_image: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    value_per_point: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    recipes: dict[Literal["head", "last-layers", "lora", "full"], dict[str, Any]] = {}
    skip_broken: bool = False
    threads: Annotated[int, Field(ge=1)] = 1
    precision: Precision = "float32"
    deterministic: bool = False
    device: str = "cpu"
    workers: Annotated[int, Field(ge=1)] | None = None
    executor: Literal["local", "ray"] = "local"
    cell_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    cache_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    directions: Annotated[int, Field(ge=1)] = 2
    probe_images: Annotated[int, Field(ge=2)] = 512
    curvature_images: Annotated[int, Field(ge=1)] = 8
    curvature: Annotated[int, Field(ge=0)] = 0
    evidence: bool = False
    surface: Annotated[int, Field(ge=0)] = 0
    surface_points: Annotated[int, Field(ge=3)] = 25

    @field_validator("adapt", mode="before")
    @classmethod
    def _known_adaptations(cls, value: Any) -> Any:
        values = [value] if isinstance(value, str) else list(value)
        return tuple(dict.fromkeys(str(parse_adaptation(v)) for v in values))

    @field_validator("data", "labels", "groups", "model")
    @classmethod
    def _no_secrets(cls, value: str | None) -> str | None:
        if value and holds_secret(value):  # a plan is written into the run folder
            raise ValueError("it holds a password, signature or token; give that by the environment, not in a plan")
        return value

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(f"unknown; it must be one of {', '.join(METRICS)}")
        return value

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        try:
            kind = torch.device(value).type
        except RuntimeError:
            kind = "meta"
        if kind == "meta":  # PyTorch's own name for tensors without numbers
            raise ValueError("unknown; it must be cpu, cuda, cuda:1, or another device that PyTorch computes on")
        return value

    @field_validator("sizes")
    @classmethod
    def _growing(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(value, int):
            if value < 2:
                raise ValueError("a count of sizes must be at least 2, since a curve needs two points")
            return value
        if len(value) < 2 or any(b <= a for a, b in pairwise(value)):
            raise ValueError("must be at least two numbers, each above the one before: 50,100,200,400")
        return value

    @model_validator(mode="after")
    def _one_question(self) -> "Plan":
        if (self.cost_per_image is None) != (self.value_per_point is None):
            given, missing = sorted(_PRICE, key=lambda name: getattr(self, name) is None)
            raise ValueError(f"{given} is given without {missing}; a price needs both")
        asked = [name for name, fields in QUESTIONS.items() if any(self._asks(field) for field in fields)]
        if len(asked) > 1:
            raise ValueError(
                f"{' and '.join(asked)} ask different questions; keep one of epsilon, target, and cost with value"
            )
        return self

    @model_validator(mode="after")
    def _ray_chooses(self) -> "Plan":
        if self.executor == "ray" and torch.device(self.device).index is not None:
            raise ValueError(f"device is {self.device!r} with executor 'ray', which chooses the GPU; write 'cuda'")
        return self

    def _asks(self, field: str) -> bool:
        # Every plan has an epsilon, and plans of earlier versions wrote it down beside a target.
        return getattr(self, field) != type(self).model_fields[field].default

    @model_validator(mode="after")
    def _recipes_fit(self) -> "Plan":
        for text in self.adapt:
            self.recipe(text)
        return self

    def recipe(self, adapt: str) -> Recipe:
        """Return the default recipe of this adaptation with the plan's changes."""
        adaptation = parse_adaptation(adapt)
        changes = self.recipes.get(adaptation.kind, {})
        return Recipe.model_validate({**default_recipe(adaptation).model_dump(), **changes})

    @property
    def loss_tolerance(self) -> float:
        """The tolerance on losses, in nats."""
        return self.epsilon if self.epsilon_loss is None else self.epsilon_loss

    def to_toml(self) -> str:
        """Return the plan as a TOML document, without the fields that were left open."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def without_revisable(self) -> dict[str, Any]:
        """Return the fields that must not change within one run folder."""
        kept = {k: v for k, v in self.model_dump(mode="json").items() if k not in REVISABLE}
        return kept | {"device": self.device_type}

    def arithmetic(self) -> dict[str, Any]:
        """Return how numbers are computed where that isn't the default, which keys of old records don't name."""
        now = {name: getattr(self, name) for name in ARITHMETIC} | {"device": self.device_type}
        return {name: value for name, value in now.items() if value != type(self).model_fields[name].default}

    @property
    def device_type(self) -> str:
        """The device without its number."""
        return torch.device(self.device).type


def make_plan(path: Folder | None = None, **changes: Any) -> Plan:
    """Return the plan in a TOML file, changed by whatever is not None.

    Raises:
        InputError: if the file can't be read, isn't TOML, or a field is unknown or out of range; the field is named.

    Example:
        >>> make_plan(data="digits", sizes=[50, 100]).sizes
        (50, 100)
    """
    fields: dict[str, Any] = {}
    if path is not None:
        try:
            fields = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"plan {str(path)!r} can't be read: {error.strerror}. Give the path of a TOML file."
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"plan {str(path)!r} is not valid TOML: {error}.") from None
    given = {name: value for name, value in changes.items() if value is not None}
    asked = [name for name, names in QUESTIONS.items() if set(names) & set(given)]
    if len(asked) > 1:
        raise InputError(
            f"{' and '.join(asked)} are given together, but ask different questions; keep one of epsilon, target, and "
            "cost with value."
        )
    if asked:  # a new question takes the place of the file's
        others = {field for name, names in QUESTIONS.items() if name not in asked for field in names}
        fields = {name: value for name, value in fields.items() if name not in others}
    fields.update(given)
    if "data" not in fields:
        raise InputError("data is missing; name a folder of images, a dataset, or a built-in name such as 'digits'.")
    try:
        return Plan.model_validate(fields)
    except ValidationError as error:
        raise InputError(_first_problem(error)) from None


def resumed_plan(path: Folder, **changes: Any) -> Plan:
    """Return the plan that a run folder holds, changed as by `make_plan`.

    A folder may come from somebody else, so trust in code that comes with a model is not taken from it.

    Raises:
        InputError: as `make_plan`; also if the plan runs such code, and `trust_remote_code` is not given again.
    """
    plan = make_plan(path, **changes)
    if plan.trust_remote_code and not changes.get("trust_remote_code"):
        raise InputError(
            f"{str(path)!r} asks to run code that comes with model {plan.model!r}; a run folder is not trusted by "
            "itself. If you trust that code, give --trust-remote-code again."
        )
    return plan


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int)) or "plan"
    if problem["type"] == "extra_forbidden":
        return f"{name} is not a field of a plan; the fields are {', '.join(Plan.model_fields)}."
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"] and problem["type"] == "value_error":
        return f"{message.rstrip('.')}."
    value = problem["input"] if len(repr(problem["input"])) < 80 else "..."
    return f"{name} is {value!r}: {message[:1].lower()}{message[1:].rstrip('.')}."


def demo_plan(**changes: Any) -> Plan:
    """Return the plan of ``stillscape demo``: three adaptations of the bundled ViT to scikit-learn's digits."""
    return make_plan(Path(__file__).with_name("demo.toml"), **changes)
