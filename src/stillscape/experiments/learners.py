"""What `DataSufficiency` can train: scikit-learn estimators, and models that transformers' Trainer trains."""

import copy
import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from stillscape._errors import InputError

Rows = Int[np.ndarray, " rows"]


@dataclass(frozen=True)
class EstimatorLearner:
    """A scikit-learn classifier on the rows of X, cloned and fitted anew for each cell.

    Attributes:
        estimator: never fitted itself.
        X: rows that scikit-learn can index: array, sparse matrix, data frame.
        codes: class numbers, (n,).
        num_classes: how many there are.
    """

    estimator: Any
    X: Any
    codes: Rows
    num_classes: int

    @property
    def name(self) -> str:
        """What is trained."""
        return type(self.estimator).__name__

    @property
    def gives_probabilities(self) -> bool:
        """Whether losses are known."""
        return hasattr(self.estimator, "predict_proba")

    def probabilities(self, train: Rows, score: Rows, seed: int) -> Float[np.ndarray, "rows C"]:
        """Fit on `train` and return class probabilities of `score`; certainties where there are only predictions."""
        from sklearn.base import clone
        from sklearn.utils import _safe_indexing

        model = clone(self.estimator)
        states = [name for name in model.get_params(deep=True) if name.split("__")[-1] == "random_state"]
        model.set_params(**dict.fromkeys(states, seed % 2**32))
        model.fit(_safe_indexing(self.X, train), self.codes[train])
        inputs = _safe_indexing(self.X, score)
        found = np.zeros((len(score), self.num_classes))
        if self.gives_probabilities:
            found[:, np.asarray(model.classes_, dtype=np.int64)] = model.predict_proba(inputs)
        else:
            found[np.arange(len(score)), np.asarray(model.predict(inputs), dtype=np.int64)] = 1.0
        return found


@dataclass(frozen=True)
class TrainerLearner:
    """A model that transformers' Trainer trains, made anew by `model_init` for each cell.

    Attributes:
        model_init: returns a model with fresh weights, as for `Trainer`.
        dataset: a `datasets.Dataset` or a map-style torch dataset, whose items hold the labels.
        args: `TrainingArguments`, or None for the Trainer's own without checkpoints and bars.
        options: further arguments of `Trainer`, such as a data collator.
        num_classes: how many there are.
        name: of the model's class.
    """

    model_init: Callable[[], Any]
    dataset: Any
    args: Any
    options: dict[str, Any]
    num_classes: int
    name: str
    gives_probabilities: bool = True

    def probabilities(self, train: Rows, score: Rows, seed: int) -> Float[np.ndarray, "rows C"]:
        """Train on `train` from fresh weights and return class probabilities of `score`."""
        from scipy.special import softmax
        from transformers import Trainer

        with random_states_left_alone(), tempfile.TemporaryDirectory(prefix="stillscape-") as folder:
            trainer = Trainer(
                model_init=self.model_init,
                args=_arguments(self.args, folder, seed),
                train_dataset=_subset(self.dataset, train),
                **self.options,
            )
            trainer.train()
            output = trainer.predict(_subset(self.dataset, score)).predictions
        logits = np.asarray(output[0] if isinstance(output, tuple) else output, dtype=np.float64)
        if logits.shape != (len(score), self.num_classes):
            raise InputError(
                f"the model gives outputs of shape {logits.shape}; they must be ({len(score)}, {self.num_classes}), a "
                "score for each class. Set num_labels in model_init."
            )
        return softmax(logits, axis=1)


def trainer_learner(
    model_init: Any, dataset: Any, args: Any, options: dict[str, Any], num_classes: int
) -> TrainerLearner:
    """Return the learner, named after the class of what `model_init` makes."""
    from torch.nn import Module

    if not callable(model_init) or isinstance(model_init, Module):
        raise InputError(f"model_init is a {type(model_init).__name__}; it must be a callable that returns a model.")
    taken = {"model", "model_init", "args", "train_dataset"} & set(options)
    if taken:
        raise InputError(f"trainer_options has {', '.join(sorted(taken))}, which each training sets itself.")
    with random_states_left_alone():
        name = type(model_init()).__name__
    return TrainerLearner(model_init, dataset, args, options, num_classes, name)


def labels_of(dataset: Any) -> np.ndarray:
    """Return the labels of a dataset: its column "labels" or "label", or the items' own."""
    columns = getattr(dataset, "column_names", None)
    for name in ("labels", "label"):
        if columns is not None and name in columns:
            return np.asarray(dataset[name])
    if columns is not None:
        raise InputError(f"the dataset has the columns {', '.join(columns)}; name the labels' labels, or give y.")
    found = [_label(dataset[row], row) for row in range(len(dataset))]
    return np.asarray(found)


def _label(item: Any, row: int) -> Any:
    if isinstance(item, tuple | list) and len(item) == 2:
        return np.asarray(item[1]).item()
    for name in ("labels", "label"):
        if isinstance(item, dict) and name in item:
            return np.asarray(item[name]).item()
    raise InputError(f"item {row} of the dataset holds no labels; give y, a class for each item.")


def _subset(dataset: Any, rows: Rows) -> Any:
    if hasattr(dataset, "select"):
        return dataset.select(rows.tolist())
    from torch.utils.data import Subset

    return Subset(dataset, rows.tolist())


def _arguments(given: Any, folder: str, seed: int) -> Any:
    """Return the arguments of one cell: the caller's, with a seed and a folder that is thrown away; nothing else."""
    from transformers import TrainingArguments

    if given is None:
        args = TrainingArguments(output_dir=folder, save_strategy="no", logging_strategy="no", disable_tqdm=True)
    else:
        args = copy.copy(given)
        args.output_dir = folder
    args.seed = args.data_seed = seed % 2**31
    return args


@contextmanager
def cheap_collections() -> Iterator[None]:
    """Leave what is there already out of garbage collection inside this block.

    The Trainer collects after each training, and walks through all that torch and transformers made at import: 0.4 s.
    """
    frozen_before = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not frozen_before:
            gc.unfreeze()


@contextmanager
def random_states_left_alone() -> Iterator[None]:
    """Put the global random states back afterwards: the Trainer seeds them all."""
    import random

    import torch

    kept, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(kept)
            np.random.set_state(numpy_state)  # noqa: NPY002
