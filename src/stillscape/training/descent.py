"""Fine-tune by AdamW on shuffled batches."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillscape.training.losses import Scores, as_scores, losses_of
from stillscape.training.micro_batches import MicroBatches, StillTooLargeError
from stillscape.training.outcome import Fit, Stop, TracePoint, thin
from stillscape.training.precision import Steps
from stillscape.training.recipe import EarlyStop, Recipe
from stillscape.training.room import Room
from stillscape.training.rows import Rows, device_of

_EVALUATION_BATCH = 256


def descend(
    suffix: nn.Module,
    inputs: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    recipe: Recipe,
    *,
    seed: int,
    precision: str = "float32",
    measure_end: bool = True,
    watch: Callable[[int], None] | None = None,
) -> Fit:
    """Train a suffix in place: AdamW, cross-entropy, warm-up; see `fit` for the arguments.

    Batches are drawn by shuffled epochs from a generator of `seed`; so is dropout, and the global random state is
    left as it was. Without `measure_end` neither gradient norm nor scores are taken, which saves a pass.
    """
    start = time.perf_counter()
    device = device_of(suffix)
    by = Steps(precision, device)
    generator = torch.Generator().manual_seed(seed)
    training, validation = _set_apart(np.asarray(labels), rows, recipe.early_stop, generator)
    data = Rows(inputs, labels, training, device)
    stopping = None
    if recipe.early_stop is not None and len(validation):
        stopping = _Watch(suffix, Rows(inputs, labels, validation, device), recipe.early_stop.patience_epochs)
    with _dropout_from(seed, device):
        suffix.train()
        progress = _run(suffix, data, recipe, by, generator, stopping, watch or _unwatched)
    suffix.eval()
    gradient, scores = math.nan, None
    if measure_end and not progress.reason:
        everything = data if training is rows else Rows(inputs, labels, rows, device)
        gradient, scores = last_look(suffix, everything)
        if not math.isfinite(gradient):
            progress.reason, progress.stop = "the gradient is not finite after the last step", "failed"
    return Fit(
        status="failed" if progress.reason else "ok",
        reason=progress.reason,
        steps=progress.steps,
        epochs=progress.seen / len(data),
        gradient_norm=gradient if math.isfinite(gradient) else math.nan,
        seconds=time.perf_counter() - start,
        stop=progress.stop,
        trace=thin(progress.trace),
        micro_batch=progress.micro_batch,
        scores=None if progress.reason else scores,
    )


@dataclass
class _Progress:
    steps: int
    seen: int
    trace: list[TracePoint]
    stop: Stop = "steps done"
    reason: str = ""
    micro_batch: int | None = None


def _unwatched(step: int) -> None:
    pass


def _run(
    suffix: nn.Module,
    data: Rows,
    recipe: Recipe,
    by: Steps,
    generator: torch.Generator,
    stopping: "_Watch | None",
    watch: Callable[[int], None],
) -> _Progress:
    parameters = [p for p in suffix.parameters() if p.requires_grad]
    optimizer = _adamw(parameters, recipe)
    total = recipe.num_steps(len(data))
    progress, micro, largest_label = _Progress(0, 0, []), MicroBatches(recipe.batch, by), data.labels.max()
    watch(0)
    for step, (places, epoch_ends) in zip(range(total), _batches(len(data), recipe.batch, generator), strict=False):
        rate = recipe.rate(step, total)
        optimizer.zero_grad()
        try:
            value = micro.gradient(suffix, *data.take(places), largest_label if step == 0 else None)
        except StillTooLargeError:
            progress.reason, progress.stop = f"out of memory at step {step} with a single image", "failed"
            break
        progress.trace.append(TracePoint(step=step, loss=value, learning_rate=rate))
        if not math.isfinite(value):
            progress.reason, progress.stop = f"the loss is {value} at step {step}; lower the learning rate", "failed"
            break
        by.unscale(optimizer)
        if recipe.clip > 0:
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate
        by.step(optimizer)
        progress.steps, progress.seen = step + 1, progress.seen + len(places)
        watch(progress.steps)
        if stopping is not None and epoch_ends and stopping.is_over():
            progress.stop = "early stop"
            break
    optimizer.zero_grad()
    progress.micro_batch = micro.halved_to
    if stopping is not None and not progress.reason:
        stopping.restore()
    return progress


def _adamw(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    # fused: one call a step instead of several for each parameter, which counts on small models.
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.learning_rate, fused=True)


def _batches(k: int, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, bool]]:
    """Places of each batch, without end, and whether an epoch ends with it."""
    while True:
        parts = torch.randperm(k, generator=generator).split(size)
        for i, part in enumerate(parts, 1):
            yield part, i == len(parts)


def last_look(suffix: nn.Module, data: Rows) -> tuple[float, Scores]:
    """Norm of the gradient of the mean loss over all rows, and each row's loss, in one pass, in the present mode."""
    room = Room()

    def look(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        losses, probabilities = losses_of(suffix(x), y)
        gradient = torch.autograd.grad(losses.sum(), parameters, materialize_grads=True)
        return gradient, losses.detach(), probabilities.detach()

    parameters = [p for p in suffix.parameters() if p.requires_grad]
    sums = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    scored = []
    for x, y in data.batches(_EVALUATION_BATCH):
        for gradient, losses, probabilities in room.of_batch(x, y, look):
            for total, part in zip(sums, gradient, strict=True):
                total += part
            scored.append((losses, probabilities))
    return math.sqrt(sum(float(total.square().sum()) for total in sums)) / len(data), as_scores(scored)


@contextmanager
def _dropout_from(seed: int, device: torch.device) -> Iterator[None]:
    """Let dropout, which knows only the global random state, draw from `seed`; put the global state back.

    The one place where the house rule against the global state is bent: torch's dropout takes no generator.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        if on_gpu:
            torch.cuda.set_rng_state(torch.Generator(device).manual_seed(seed).get_state(), device)
        yield


def _set_apart(
    labels: np.ndarray, rows: np.ndarray, early_stop: EarlyStop | None, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into training and validation, class by class; each class keeps at least one training row."""
    if early_stop is None:
        return rows, rows[:0]
    shuffled = rows[torch.randperm(len(rows), generator=generator).numpy()]
    held = np.zeros(len(rows), dtype=bool)
    for label in np.unique(labels[shuffled]):
        places = np.flatnonzero(labels[shuffled] == label)
        held[places[: min(round(early_stop.fraction * len(places)), len(places) - 1)]] = True
    return shuffled[~held], shuffled[held]


class _Watch:
    """Follows the validation loss and keeps the best parameters."""

    def __init__(self, suffix: nn.Module, data: Rows, patience: int) -> None:
        self.suffix, self.data, self.patience, self.room = suffix, data, patience, Room()
        self.best, self.waited = math.inf, 0
        self.parameters = [p for p in suffix.parameters() if p.requires_grad]
        self.kept: list[Tensor] = []

    def is_over(self) -> bool:
        loss = self._loss()
        if loss < self.best:
            self.best, self.waited = loss, 0
            self.kept = [p.detach().clone() for p in self.parameters]
        else:
            self.waited += 1
        return self.waited >= self.patience

    @torch.no_grad()
    def _loss(self) -> float:
        self.suffix.eval()
        sums = [
            value
            for x, y in self.data.batches(_EVALUATION_BATCH)
            for value in self.room.of_batch(
                x, y, lambda x, y: F.cross_entropy(self.suffix(x), y, reduction="sum").item()
            )
        ]
        self.suffix.train()
        return sum(sums) / len(self.data)

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, value in zip(self.parameters, self.kept, strict=False):
            parameter.copy_(value)
