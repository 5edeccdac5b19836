"""The bench on which all cells of a run are measured: data read once, held-out part fixed once, activations cached."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from stillscape._errors import InputError
from stillscape._files import no_room_is_said
from stillscape._folders import Folder, cache_folder
from stillscape.data import (
    ImageSet,
    fingerprint,
    folds,
    holdout,
    keep,
    leak_free_groups,
    nested_order,
    open_images,
    prefix,
    scan,
)
from stillscape.experiments.activations import is_whole, write_activations
from stillscape.experiments.devices import available
from stillscape.experiments.lock import one_at_a_time
from stillscape.experiments.plan import Plan
from stillscape.experiments.progress import Progress
from stillscape.experiments.store import content_key
from stillscape.experiments.threads import plans_settings
from stillscape.models import Pretrained, Split, load_pretrained, parse_adaptation, split_model
from stillscape.training import check_precision

SMALL = 2000  # under this many images each one is scored out of fold, so that none of the precision is given away
TRUSTED = (
    "trust_remote_code: Python code that comes with model {model!r} is run on this machine, with all that you may do "
    "here; Stillscape has not looked at it."
)
METHOD = 1  # raise when the numbers of a cell change for the same plan, so that old records are not taken for new ones


@dataclass(frozen=True)
class Cell:
    """One measurement: this adaptation, trained on the first k images of this order, from this seed."""

    adapt: str
    k: int
    permutation: int
    seed: int


@dataclass(frozen=True)
class Bench:
    """What every cell of a run shares; small enough to be sent to a worker, which opens the caches itself.

    Attributes:
        plan: the plan.
        cache: folder of memory-mapped arrays.
        classes: names, in the order of the labels.
        labels: (n,) class numbers.
        groups: (n,) codes of what is never split: the data's own groups, joined wherever they share a copied image.
        has_groups: whether the data came with groups.
        fold: (n,) the fold in which an image is held out; -1 for one that is never held out.
        sizes: the grid of k.
        data_fingerprint: of pixels, labels and groups.
        model_fingerprint: of weights and configuration.
        notes: what the reader of the report should know about the data.
    """

    plan: Plan
    cache: Path
    classes: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    has_groups: bool
    fold: np.ndarray
    sizes: tuple[int, ...]
    data_fingerprint: str
    model_fingerprint: str
    notes: tuple[str, ...]

    def __getstate__(self) -> dict[str, Any]:
        # Workers open model and caches themselves; only what decides the numbers travels.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def with_plan(self, plan: Plan) -> "Bench":
        """Return a bench of the same data, folds and model for a plan that asks for other cells of it."""
        sizes = grid(plan.sizes, _smallest_pool(self.fold), len(self.classes))
        other = replace(self, plan=plan, sizes=sizes)
        other.__dict__["pretrained"] = self.pretrained
        return other

    @property
    def cross_fitted(self) -> bool:
        """Whether every image is held out in one of the folds."""
        return bool((self.fold >= 0).all())

    @property
    def fold_numbers(self) -> range:
        """The folds that are trained, each on the images outside it."""
        return range(int(self.fold.max()) + 1)

    @cached_property
    def scored(self) -> np.ndarray:
        """Rows of the images that are held out once."""
        return np.flatnonzero(self.fold >= 0)

    @cached_property
    def pretrained(self) -> Pretrained:
        """The model, loaded on first use, where the plan computes."""
        return _on_device(self.plan)

    def cells(self) -> list[Cell]:
        """Return all cells of the plan."""
        return [
            Cell(adapt, k, permutation, seed)
            for adapt in self.plan.adapt
            for k in self.sizes
            for permutation in range(self.plan.repeats)
            for seed in range(self.plan.seeds)
        ]

    def key(self, cell: Cell) -> str:
        """Return the content hash of everything that decides the numbers of a cell, and of nothing else."""
        plan = self.plan
        evaluation = ["folds", plan.folds] if self.cross_fitted else ["held out", plan.held_out]
        return content_key(
            {
                "method": METHOD,
                "data": self.data_fingerprint,
                "model": self.model_fingerprint,
                "evaluation": [*evaluation, plan.split_seed],
                "recipe": plan.recipe(cell.adapt).model_dump(mode="json"),
                "threads": plan.threads,
                **plan.arithmetic(),
                "cell": [cell.adapt, cell.k, cell.permutation, cell.seed],
            }
        )

    def training_rows(self, k: int, permutation: int, fold: int) -> np.ndarray:
        """Return the rows of the first k images, in this order, of those that this fold may train on."""
        pool = np.flatnonzero(self.fold != fold)
        order = nested_order(self.labels, self.groups, pool, self._seed("order", permutation, fold))
        return prefix(order, self.groups, k)

    def held_out_rows(self, fold: int) -> np.ndarray:
        """Return the rows that this fold scores and never trains on."""
        return np.flatnonzero(self.fold == fold)

    def training_seed(self, cell: Cell, fold: int) -> int:
        """Return the seed of the classifier's start, the adapter's start, and the order of batches."""
        return self._seed("training", cell.permutation, cell.seed, fold)

    def split(self, adapt: str, seed: int = 0) -> Split:
        """Return a freshly started model of this adaptation, cut at the frozen boundary."""
        return split_model(self.pretrained, parse_adaptation(adapt), len(self.classes), seed)

    def inputs(self, adapt: str) -> np.ndarray:
        """Return the memory-mapped activations that cells of this adaptation train from."""
        return np.load(self.input_path(adapt), mmap_mode="r")

    def cache_inputs(self, adapts: Iterable[str], images: ImageSet, progress: Progress) -> None:
        """Keep what the frozen parts give for every image, unless that is there; each image is read only once.

        Raises:
            InputError: if that takes more of the disk than is free, or than the plan's `cache_gib`.
        """
        with plans_settings(self.plan):
            splits = {self.input_path(adapt): self.split(adapt) for adapt in adapts}
            if all(is_whole(path) for path in splits):
                return
            with no_room_is_said(self.cache), one_at_a_time(self.cache):
                # Another shard may have written them while this one waited.
                missing = {path: split for path, split in splits.items() if not is_whole(path)}
                for path in (path for path in missing if path.is_file()):
                    progress.say(f"{path.name} in the cache is damaged and is computed again")
                if missing:
                    most = None if self.plan.cache_gib is None else self.plan.cache_gib * 2**30
                    write_activations(missing, images, self.pretrained, progress, most)

    @cached_property
    def _boundaries(self) -> dict[str, str]:
        return {}

    def input_path(self, adapt: str) -> Path:
        """Return where the activations that cells of this adaptation train from are kept."""
        if adapt not in self._boundaries:
            self._boundaries[adapt] = self.split(adapt).boundary
        content = [METHOD, self.data_fingerprint, self.model_fingerprint, self._boundaries[adapt], self.plan.threads]
        device = [] if self.plan.device_type == "cpu" else [self.plan.device_type]
        return self.cache / f"{content_key([*content, *device])}.npy"

    def _seed(self, purpose: str, *numbers: int) -> int:
        entropy = [self.plan.split_seed, sum(purpose.encode()), *numbers]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def set_up(plan: Plan, folder: Folder, progress: Progress) -> tuple[Bench, ImageSet]:
    """Return the bench of a plan and the images to fill its caches from.

    Raises:
        InputError: if the data, the model or the sizes can't be used; nothing has been trained by then.
    """
    check_precision(plan.precision, available(plan.device))
    images, digests, notes = readable_images(plan, progress)
    pretrained = model_of(plan, progress)
    groups = leak_free_groups(images.groups, digests)
    copies = len(digests) - len(set(digests))
    if copies:
        notes.append(f"{copies} images are exact copies of others; copies always stay on one side of every split.")
    fold = _held_out_parts(plan, images.labels, groups)
    bench = Bench(
        plan=plan,
        cache=cache_folder(folder),
        classes=images.classes,
        labels=images.labels,
        groups=groups,
        has_groups=images.groups is not None,
        fold=fold,
        sizes=grid(plan.sizes, _smallest_pool(fold), len(images.classes)),
        data_fingerprint=fingerprint(images, digests),
        model_fingerprint=pretrained.fingerprint,
        notes=tuple(notes),
    )
    bench.__dict__["pretrained"] = pretrained  # what the cached property would load a second time
    return bench, images


def model_of(plan: Plan, progress: Progress) -> Pretrained:
    """Return the plan's model; where code that comes with it may be run, that is said before it is."""
    if plan.trust_remote_code:
        progress.say(TRUSTED.format(model=plan.model))
    return _on_device(plan)


def _on_device(plan: Plan) -> Pretrained:
    found = load_pretrained(plan.model, trust_remote_code=plan.trust_remote_code)
    backbone: nn.Module = found.backbone  # whose own `to` is typed without devices
    backbone.to(available(plan.device))
    return found


def readable_images(plan: Plan, progress: Progress) -> tuple[ImageSet, list[str], list[str]]:
    """Return the images that can be read, a digest of each one's pixels, and notes on what was left out."""
    images = open_images(plan.data, labels=plan.labels, groups=plan.groups, window=plan.window)
    progress.stage("reading images", len(images.labels))
    found = scan(images, progress=lambda done, _total: progress.advance(done))
    if not found.broken:
        return images, list(found.digests), []
    named = "; ".join(f"{images.files[row]}: {reason}" for row, reason in found.broken[:3])
    if not plan.skip_broken:
        raise InputError(
            f"{len(found.broken)} of {len(images.files)} images can't be read ({named}). "
            "Mend or remove them, or leave them out with --skip-broken."
        )
    note = f"{len(found.broken)} of {len(images.files)} images could not be read and were left out ({named})."
    progress.say(note)
    return keep(images, found.usable), list(found.take(found.usable).digests), [note]


def grid(sizes: int | Sequence[int], pool: int, num_classes: int) -> tuple[int, ...]:
    """Return the sizes: as given, or as many as asked for, each half of the next, up to all that may be trained on.

    Raises:
        InputError: if the largest is above `pool`, or the smallest would hold fewer images than there are classes.

    Example:
        >>> grid(3, pool=410, num_classes=10)
        (102, 205, 410)
    """
    chosen = sizes if not isinstance(sizes, int) else [pool // 2**power for power in reversed(range(sizes))]
    if chosen[-1] > pool:
        raise InputError(
            f"sizes reach {chosen[-1]}, but only {pool} images are left to train on; end at {pool} or below."
        )
    if chosen[0] < num_classes:
        raise InputError(
            f"sizes begin at {chosen[0]}, under the number of classes ({num_classes}); begin at {num_classes} or above"
            + (f", with fewer sizes than {sizes}." if isinstance(sizes, int) else ".")
        )
    return tuple(int(k) for k in chosen)


def _held_out_parts(plan: Plan, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    if plan.evaluation == "cross-fit" or (plan.evaluation == "auto" and len(labels) < SMALL):
        return folds(labels, groups, plan.folds, plan.split_seed)
    return np.where(holdout(labels, groups, plan.held_out, plan.split_seed), 0, -1)


def _smallest_pool(fold: np.ndarray) -> int:
    return min(int((fold != f).sum()) for f in range(int(fold.max()) + 1))
