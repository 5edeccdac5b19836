"""How much data is enough, in scikit-learn's way: for any classifier, and for whatever transformers' Trainer trains."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from stillscape import _checks
from stillscape._errors import InputError
from stillscape._folders import Folder, as_folder
from stillscape._notebook import Result, result_html
from stillscape.data import folds, holdout, nested_order, prefix
from stillscape.experiments.analyze import draws_for
from stillscape.experiments.bench import SMALL, grid
from stillscape.experiments.learners import EstimatorLearner, cheap_collections, labels_of, trainer_learner
from stillscape.experiments.plan import make_plan
from stillscape.experiments.store import SCHEMA, write_json
from stillscape.sufficiency import assemble, class_statuses, sentences_beside
from stillscape.training import most_frequent_baseline, weighted_metric

_OF_PROBABILITIES = ("auroc", "sensitivity_at_95_specificity")
_SENTENCES = ("sentence", "reason", "assumes", "said")
_ROUNDING = 1e-12  # a probability of 0 would be a loss without end


class DataSufficiency(BaseEstimator):
    """Train on nested subsets of the data and say how much of it is enough.

    Sizes are nested and stratified, every training begins anew, images or rows are scored out of fold (or on one
    held-out part), and the verdict is that of ``stillscape run``; see docs/method.md. Give either `estimator`, any
    scikit-learn classifier, or `model_init`, a callable that returns a model with fresh weights.

    Args:
        estimator: a scikit-learn classifier; it is cloned, never fitted.
        model_init: as for `transformers.Trainer`.
        args: `transformers.TrainingArguments` for `model_init`; seed and output folder are set for each training.
        trainer_options: further arguments of `transformers.Trainer`, such as a data collator or callbacks.
        sizes: the grid of k, or how many sizes, each half of the next.
        repeats: seeded orders of the data.
        seeds: training seeds for each order.
        folds: of cross-fitting, used under 2,000 rows.
        held_out: share of the rows that is held out otherwise.
        metric: accuracy, balanced_accuracy, macro_f1, auroc or sensitivity_at_95_specificity.
        epsilon: enough is when the next doubling brings at most this; 0.01 where nothing else is asked.
        target: ask for this level of the metric instead.
        cost_per_image: of one more row; with `value_per_point`, enough is when that is not worth it.
        value_per_point: of 0.01 of the metric, in the unit of the cost.
        level: of every interval.
        random_state: decides folds, orders and seeds.
        n_jobs: trainings at a time, for scikit-learn's estimators; as in joblib.

    Attributes:
        status_: "reached", "not_reached" or "cannot_tell".
        k_star_: the sufficient size, or None.
        low_: lower end of its interval, or None.
        high_: upper end, or None.
        sizes_: the grid, (K,).
        scores_: the metric of each repeat and size, (R, K).
        curve_: {"k", "mean", "low", "high", ...} of the metric.
        report_: the verdict in words.
        result_: everything, in the form of result.json; `stillscape.report` draws it.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.naive_bayes import GaussianNB
        >>> X, y = load_digits(return_X_y=True)
        >>> found = DataSufficiency(GaussianNB(), sizes=[100, 200, 400], repeats=3, epsilon=0.05).fit(X[:600], y[:600])
        >>> found.curve_["k"], found.status_ in ("reached", "not_reached", "cannot_tell")
        ([100, 200, 400], True)
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        model_init: Callable[[], Any] | None = None,
        args: Any = None,
        trainer_options: dict[str, Any] | None = None,
        sizes: int | Sequence[int] = 5,
        repeats: int = 3,
        seeds: int = 1,
        folds: int = 5,
        held_out: float = 0.2,
        metric: str = "accuracy",
        epsilon: float | None = None,
        target: float | None = None,
        cost_per_image: float | None = None,
        value_per_point: float | None = None,
        level: float = 0.9,
        random_state: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.model_init = model_init
        self.args = args
        self.trainer_options = trainer_options
        self.sizes = sizes
        self.repeats = repeats
        self.seeds = seeds
        self.folds = folds
        self.held_out = held_out
        self.metric = metric
        self.epsilon = epsilon
        self.target = target
        self.cost_per_image = cost_per_image
        self.value_per_point = value_per_point
        self.level = level
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: ArrayLike | None = None, *, groups: ArrayLike | None = None) -> Self:
        """Measure the curve and judge it.

        Args:
            X: rows for `estimator`; a `datasets.Dataset` or map-style torch dataset for `model_init`.
            y: classes, (n,); for a dataset None reads its labels.
            groups: codes of rows that are never split, (n,).

        Returns:
            self.

        Raises:
            InputError: a parameter, X, y or groups that can't be used.

        Cost: repeats x seeds x sizes x folds trainings.
        """
        question = self._question()
        learner, labels, names = self._learner(X, y)
        _checks.at_least("random_state", self.random_state, 0)
        own = _codes(groups, len(labels))
        codes = np.arange(len(labels)) if own is None else own
        fold = self._held_out_parts(labels, codes)
        pool = min(int((fold != number).sum()) for number in range(int(fold.max()) + 1))
        sizes = grid(self.sizes if isinstance(self.sizes, int) else [int(k) for k in self.sizes], pool, len(names))
        repeats = [(order, seed) for order in range(self.repeats) for seed in range(self.seeds)]
        scored = np.flatnonzero(fold >= 0)
        table = self._measure(learner, labels, codes, fold, sizes, repeats)[:, :, scored]
        result = self._judged(question, learner, labels[scored], names, codes[scored], sizes, repeats, table)
        result["question"] |= {
            "evaluation": f"{fold.max() + 1}-fold cross-fitting"
            if fold.min() >= 0
            else f"held-out set of {scored.size}",
            "num_images": len(labels),
            "num_groups": None if groups is None else int(np.unique(codes).size),
        }
        self.result_ = Result(_of_rows(result))
        entry, verdict = self.result_["results"][0], self.result_["verdict"]
        self.status_, self.k_star_ = verdict["status"], verdict["k_star"]
        self.low_, self.high_ = verdict["low"], verdict["high"]
        self.report_ = verdict["sentence"]
        self.sizes_ = np.array(sizes)
        self.curve_ = entry["curves"][self.metric]
        cells = {(cell["permutation"], cell["seed"], cell["k"]): cell[self.metric] for cell in entry["cells"]}
        self.scores_ = np.array([[cells[(*repeat, k)] for k in sizes] for repeat in repeats])
        return self

    def save(self, folder: str | Folder) -> Folder:
        """Write result.json into a folder, where ``stillscape report`` and ``compare`` find it; return its path."""
        if not hasattr(self, "result_"):
            raise InputError("there is no result yet; call fit first.")
        path = as_folder(folder) / "result.json"
        write_json(path, self.result_)
        return path

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        # Before there is a result, a notebook shows the parameters, as for every estimator of scikit-learn.
        html = result_html(self.result_) if hasattr(self, "result_") else self._repr_html_inner()
        return {"text/plain": repr(self), "text/html": html}

    def _repr_html_(self) -> str:
        return self._repr_mimebundle_()["text/html"]

    def _question(self) -> dict[str, Any]:
        # The plan knows what may be asked together, and says so in the same words.
        plan = make_plan(
            data="given", metric=self.metric, epsilon=self.epsilon, target=self.target, level=self.level,
            cost_per_image=self.cost_per_image, value_per_point=self.value_per_point, repeats=self.repeats,
            seeds=self.seeds, folds=self.folds, held_out=self.held_out,
        )  # fmt: skip
        prices = {"cost_per_image": plan.cost_per_image, "value_per_point": plan.value_per_point}
        return {
            "metric": plan.metric,
            "epsilon": plan.epsilon,
            "epsilon_loss": plan.loss_tolerance,
            "target": plan.target,
            "level": plan.level,
            "repeats": plan.repeats,
            "seeds": plan.seeds,
            **({} if plan.cost_per_image is None else prices),
        }

    def _learner(self, X: Any, y: ArrayLike | None) -> tuple[Any, np.ndarray, list[str]]:
        if (self.estimator is None) == (self.model_init is None):
            given = "both are" if self.estimator is not None else "neither is"
            raise InputError(f"give either estimator or model_init; {given} given.")
        if y is None and self.estimator is not None:
            raise InputError("y is None; an estimator needs a class for each row.")
        classes, labels = np.unique(labels_of(X) if y is None else np.asarray(y), return_inverse=True)
        count = X.shape[0] if hasattr(X, "shape") else len(X)
        if labels.ndim != 1 or len(labels) != count:
            raise InputError(f"y has shape {labels.shape}; X has {count} rows, and each needs one class.")
        if len(classes) < 2:
            raise InputError(f"y holds {len(classes)} class; at least two are needed.")
        names = [str(name) for name in classes]
        if self.estimator is not None:
            chosen = EstimatorLearner(self.estimator, X, labels, len(names))
            if not chosen.gives_probabilities and self.metric in _OF_PROBABILITIES:
                raise InputError(
                    f"metric is {self.metric!r}, but {chosen.name} has no predict_proba; ask for accuracy."
                )
            return chosen, labels, names
        if not np.array_equal(classes, np.arange(len(classes))):
            raise InputError(f"labels are {names[:5]}; a model needs class numbers 0 to {len(classes) - 1}.")
        options = dict(self.trainer_options or {})
        return trainer_learner(self.model_init, X, self.args, options, len(names)), labels, names

    def _held_out_parts(self, labels: np.ndarray, codes: np.ndarray) -> np.ndarray:
        if len(labels) < SMALL:
            return folds(labels, codes, self.folds, self.random_state)
        return np.where(holdout(labels, codes, self.held_out, self.random_state), 0, -1)

    def _measure(
        self,
        learner: Any,
        labels: np.ndarray,
        codes: np.ndarray,
        fold: np.ndarray,
        sizes: Sequence[int],
        repeats: Sequence[tuple[int, int]],
    ) -> np.ndarray:
        """Return class probabilities of every repeat, size and row; rows that are never held out stay empty."""
        places, tasks = [], []
        for number in range(int(fold.max()) + 1):
            held_out, pool = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            for repeat, (order, seed) in enumerate(repeats):
                nested = nested_order(labels, codes, pool, self._seed(0, order, number))
                for at, k in enumerate(sizes):
                    places.append((repeat, at, held_out))
                    tasks.append((prefix(nested, codes, k), held_out, self._seed(1, order, seed, number)))
        jobs = self.n_jobs if isinstance(learner, EstimatorLearner) else None
        with cheap_collections():
            found = Parallel(n_jobs=jobs)(delayed(learner.probabilities)(*task) for task in tasks)
        table = np.full((len(repeats), len(sizes), len(labels), learner.num_classes), np.nan)
        for (repeat, at, held_out), probabilities in zip(places, found, strict=True):
            table[repeat, at, held_out] = probabilities
        return table

    def _seed(self, *numbers: int) -> int:
        return int(np.random.SeedSequence([self.random_state, *numbers]).generate_state(1)[0])

    def _judged(
        self,
        question: dict[str, Any],
        learner: Any,
        labels: np.ndarray,
        names: list[str],
        codes: np.ndarray,
        sizes: Sequence[int],
        repeats: Sequence[tuple[int, int]],
        table: np.ndarray,
    ) -> dict[str, Any]:
        hits = table.argmax(axis=3) == labels
        scores: dict[str, Any] = {"accuracy": hits}
        if self.metric != "accuracy":
            scores[self.metric] = weighted_metric(self.metric, labels, table)
        if learner.gives_probabilities:
            own = np.take_along_axis(table, labels[None, None, :, None], axis=3)[..., 0]
            scores["heldout_loss"] = -np.log(np.clip(own, _ROUNDING, None))
        ids, seeds = [order for order, _ in repeats], [seed for _, seed in repeats]
        shared: dict[str, Any] = {"sizes": sizes, "groups": codes, "permutation_ids": ids, "seed_ids": seeds}
        panel = assemble(
            learner.name, question=question, scores=scores, draws=draws_for(self.metric),
            baseline=most_frequent_baseline(self.metric, labels, len(names)), **shared,
        )  # fmt: skip
        classes = class_statuses(
            hits, labels, names, epsilon=question["epsilon"], level=self.level, **shared
        )  # fmt: skip
        said = sentences_beside(panel.result, classes, question)
        cells = [
            {"k": int(k), "permutation": order, "seed": seed, "status": "ok", "reason": "",
             **{name: float(value[repeat, at]) for name, value in _cell_scores(scores).items()}}
            for repeat, (order, seed) in enumerate(repeats) for at, k in enumerate(sizes)
        ]  # fmt: skip
        entry = {**panel.result, "per_class": classes, "said": said, "cells": cells, "notes": []}
        asked = {
            "data": None, "model": learner.name, **question, "sizes": list(sizes), "adapts": [learner.name],
            "num_scored": len(labels), "num_classes": len(names),
        }  # fmt: skip
        verdict = {**panel.result["verdict"], "adapt": learner.name}
        return {"schema": SCHEMA, "question": asked, "provenance": {}, "verdict": verdict, "results": [entry]}


def _cell_scores(scores: dict[str, Any]) -> dict[str, np.ndarray]:
    count = np.asarray(scores["accuracy"]).shape[2]
    return {
        name: value(np.ones(count)) if callable(value) else np.asarray(value, dtype=np.float64).mean(axis=2)
        for name, value in scores.items()
    }


def _codes(groups: ArrayLike | None, n: int) -> np.ndarray | None:
    if groups is None:
        return None
    array = np.asarray(groups)
    if array.shape != (n,):
        raise InputError(f"groups has shape {array.shape}; there are {n} rows, and each needs one.")
    return np.unique(array, return_inverse=True)[1]


def _of_rows(content: Any, said: bool = False) -> Any:
    """Say "rows" where the sentences of a run say "images"; names from the data stay what they are."""
    if isinstance(content, dict):
        return {key: _of_rows(value, said or key in _SENTENCES) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_of_rows(value, said) for value in content]
    return re.sub(r"\bimage(s?)\b", r"row\1", content) if said and isinstance(content, str) else content
