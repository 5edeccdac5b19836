"""How good class probabilities are, with weights for images, so that a bootstrap can draw them again and again."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import roc_curve

from stillscape._errors import InputError

Labels = Int[np.ndarray, " n"]
Probabilities = Float[np.ndarray, "n C"]
Weights = Float[np.ndarray, " n"]
_BINS = 15
_SPECIFICITY = 0.95

# Counting is done by hand, not by scikit-learn, which checks its arguments anew at every call: a bootstrap calls
# these some 10^5 times. The tests hold them against scikit-learn.


def accuracy(labels: Labels, probabilities: Probabilities, weights: Weights | None = None) -> float:
    """Share of images whose most probable class is the right one; the first of equals counts.

    >>> accuracy(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]]))
    0.5
    """
    return float(np.average(probabilities.argmax(axis=1) == labels, weights=weights))


def balanced_accuracy(labels: Labels, probabilities: Probabilities, weights: Weights | None = None) -> float:
    """Mean recall of the classes that are there."""
    table = _confusion(labels, probabilities, weights)
    count = table.sum(axis=1)
    there = count > 0
    return float((np.diag(table)[there] / count[there]).mean())


def macro_f1(labels: Labels, probabilities: Probabilities, weights: Weights | None = None) -> float:
    """Mean F1 of the classes that are there or were predicted."""
    table = _confusion(labels, probabilities, weights)
    total = table.sum(axis=0) + table.sum(axis=1)
    there = total > 0
    return float((2 * np.diag(table)[there] / total[there]).mean())


def auroc(labels: Labels, probabilities: Probabilities, weights: Weights | None = None) -> float:
    """Area under the ROC curve: of class 1 where there are two classes, else the mean of one class against the rest.

    It is the weighted share of (class, rest) pairs in the right order, ties counting half; nan if a class is absent.
    """
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return float(np.mean([_area(probabilities[:, c], labels == c, weights) for c in classes]))


def sensitivity_at_95_specificity(
    labels: Labels, probabilities: Probabilities, weights: Weights | None = None
) -> float:
    """Largest recall of class 1 over thresholds that leave class 0 a recall of at least 95 %; two classes only.

    nan if a class is absent or there are more than two.
    """
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    present = [weights[labels == c].sum() > 0 for c in (0, 1)]
    if probabilities.shape[1] != 2 or not all(present):
        return float("nan")
    false_positive, sensitivity, _ = roc_curve(labels, probabilities[:, 1], sample_weight=weights)
    # Round-off in 1 - 0.95 must not shut out a threshold that is exactly there.
    return float(sensitivity[false_positive <= 1 - _SPECIFICITY + 1e-12].max())


METRICS: dict[str, Callable[[Labels, Probabilities, Weights | None], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "auroc": auroc,
    "sensitivity_at_95_specificity": sensitivity_at_95_specificity,
}
"""Metrics in [0, 1] for which higher is better, each a function of labels, probabilities and image weights."""


def calibration_error(labels: Labels, probabilities: Probabilities, weights: Weights | None = None) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over 15 equal bins of the top confidence.

    Source: Guo et al., On calibration of modern neural networks, 2017, Eq. 3. Lower is better.
    """
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    confidence = probabilities.max(axis=1).astype(np.float64)
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    # Bins are open on the left, (j/15, (j+1)/15], as in the source.
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    return float(np.abs(np.bincount(bins, weights=weights * gap, minlength=_BINS)).sum() / weights.sum())


def metrics(
    labels: Labels, probabilities: Probabilities, *, groups: Int[np.ndarray, " n"] | None = None
) -> dict[str, float | None]:
    """Compute all metrics and the calibration error.

    Args:
        labels: class numbers.
        probabilities: of the classes; rows sum to one.
        groups: if given, each group (a patient, say) counts as one image does: an image weighs one over its group's
            size.

    Returns:
        by name; None where a metric is not defined for these labels (a class is absent). The sensitivity is there for
        two classes only.

    Raises:
        InputError: no images, shapes that don't match, probabilities that are not finite, or a label without a column.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if probabilities.ndim != 2 or not len(labels) or labels.shape != probabilities.shape[:1]:
        raise InputError(
            f"labels has shape {labels.shape} and probabilities {probabilities.shape}; they must be (n,) and (n, C), "
            "with n at least 1."
        )
    if not np.isfinite(probabilities).all():
        raise InputError("probabilities must be finite. Leave failed runs out.")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise InputError(
            f"labels go from {labels.min()} to {labels.max()}; there are {probabilities.shape[1]} classes."
        )
    weights = None
    if groups is not None:
        _, code, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        weights = 1.0 / sizes[code]
    values = {name: metric(labels, probabilities, weights) for name, metric in METRICS.items()}
    if probabilities.shape[1] != 2:
        del values["sensitivity_at_95_specificity"]
    values["calibration_error"] = calibration_error(labels, probabilities, weights)
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def weighted_metric(
    name: str, labels: Labels, probabilities: Sequence[Sequence[Probabilities]] | Float[np.ndarray, "R K n C"]
) -> Callable[[Weights], Float[np.ndarray, "R K"]]:
    """Return the metric as a function of image weights, of every repeat and size: what a bootstrap needs.

    >>> score = weighted_metric("accuracy", np.array([0, 1]), [[np.array([[0.9, 0.1], [0.6, 0.4]])]])
    >>> score(np.array([3.0, 1.0])).tolist()
    [[0.75]]
    """
    metric = METRICS[name]

    def score(weights: Weights) -> Float[np.ndarray, "R K"]:
        return np.array([[metric(labels, p, weights) for p in row] for row in probabilities], dtype=np.float64)

    return score


def most_frequent_baseline(name: str, labels: Labels, num_classes: int) -> float | None:
    """Return the metric of always naming the most frequent class; None where it isn't defined.

    >>> most_frequent_baseline("accuracy", np.array([0, 1, 1]), 2)
    0.6666666666666666
    """
    guess = np.zeros((len(labels), num_classes))
    guess[:, np.bincount(labels).argmax()] = 1.0
    value = METRICS[name](labels, guess, None)
    return None if np.isnan(value) else value


def per_class_recall(labels: Labels, predictions: Labels, num_classes: int) -> list[float | None]:
    """Compute the share of each class's images that were recognized; None for a class without images.

    >>> per_class_recall(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    [0.5, 1.0, None]
    """
    count = np.bincount(labels, minlength=num_classes)
    hits = np.bincount(np.asarray(labels)[np.equal(labels, predictions)], minlength=num_classes)
    return [float(hit / n) if n else None for hit, n in zip(hits, count, strict=True)]


def _confusion(labels: Labels, probabilities: Probabilities, weights: Weights | None) -> Float[np.ndarray, "C C"]:
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(cells, weights=weights, minlength=classes**2).reshape(classes, classes)


def _area(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    _, place = np.unique(scores, return_inverse=True)
    above = np.bincount(place, weights=weights * positive)
    below = np.bincount(place, weights=weights * ~positive)
    pairs = above.sum() * below.sum()
    if pairs == 0:
        return float("nan")
    return float((above * (np.cumsum(below) - 0.5 * below)).sum() / pairs)
