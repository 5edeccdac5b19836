import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score, roc_curve

from stillscape._errors import InputError
from stillscape.training import METRICS, metrics, per_class_recall


def draw(n, classes, seed, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    scores = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    p = np.exp(scores)
    p /= p.sum(axis=1, keepdims=True)
    weights = rng.integers(0, 4, n).astype(float)
    return labels, np.round(p, 1) if ties else p, weights


def peers(labels, p, weights):
    predicted = p.argmax(1)
    classes = p.shape[1]
    areas = [
        roc_auc_score(labels == c, p[:, c], sample_weight=weights) for c in ([1] if classes == 2 else range(classes))
    ]
    there = weights > 0  # scikit-learn counts a class as there even if all its weights are zero
    return {
        "accuracy": np.average(predicted == labels, weights=weights),
        "balanced_accuracy": balanced_accuracy_score(labels[there], predicted[there], sample_weight=weights[there]),
        "macro_f1": f1_score(labels[there], predicted[there], average="macro", sample_weight=weights[there]),
        "auroc": np.mean(areas),
    }


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("ties", [True, False])
def test_against_scikit_learn(classes, weighted, ties):
    labels, p, weights = draw(150, classes, seed=classes, ties=ties)
    weights = weights if weighted else np.ones(150)
    for name, expected in peers(labels, p, weights).items():
        assert METRICS[name](labels, p, weights if weighted else None) == pytest.approx(expected, abs=1e-12), name


def test_whole_weights_are_copies_of_images():
    labels, p, weights = draw(60, 3, seed=1)
    copies = np.repeat(np.arange(60), weights.astype(int))
    for name, metric in METRICS.items():
        if name != "sensitivity_at_95_specificity":
            assert metric(labels, p, weights) == pytest.approx(metric(labels[copies], p[copies], None)), name


def test_everything_right_is_one():
    labels = np.array([0, 1, 0, 1])
    p = np.eye(2)[labels]
    for name, metric in METRICS.items():
        assert metric(labels, p, None) == 1.0, name
    assert metrics(labels, p)["calibration_error"] == 0.0


def test_sensitivity_by_hand():
    # 20 images of class 0: one may be called wrong. Above the second highest of them are 3 of 4 of class 1.
    negative = np.concatenate([np.linspace(0.0, 0.5, 19), [0.95]])
    positive = np.array([0.4, 0.6, 0.7, 0.8])
    second = np.concatenate([negative, positive])
    labels = np.repeat([0, 1], [20, 4])
    p = np.stack([1 - second, second], axis=1)
    assert METRICS["sensitivity_at_95_specificity"](labels, p, None) == 0.75
    false_positive, sensitivity, _ = roc_curve(labels, second)
    assert sensitivity[false_positive <= 0.0501].max() == 0.75


def test_calibration_by_hand():
    # Two images at confidence 0.6 (one right), two at 0.9 (both right): (2 * 0.1 + 2 * 0.1) / 4.
    p = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.1, 0.9]])
    assert metrics(np.array([0, 1, 0, 1]), p)["calibration_error"] == pytest.approx(0.1)


def test_confidence_at_the_edge_of_a_bin_counts_below():
    # 0.4 = 6/15 ends a bin: its gap -0.4 must not be balanced by the right image at 0.42 in the next one.
    p = np.array([[0.4, 0.3, 0.3], [0.42, 0.29, 0.29]])
    assert metrics(np.array([1, 0]), p)["calibration_error"] == pytest.approx((0.4 + 0.58) / 2)


def test_absent_class_gives_none_not_nan():
    labels, p, _ = draw(40, 3, seed=2)
    labels[labels == 2] = 1
    values = metrics(labels, p)
    assert values["auroc"] is None
    assert all(np.isfinite(v) for name, v in values.items() if name != "auroc")
    one_class = metrics(np.zeros(3, int), np.array([[0.7, 0.3]] * 3))
    assert one_class["sensitivity_at_95_specificity"] is None
    assert np.isnan(METRICS["auroc"](np.zeros(3, int), np.array([[0.7, 0.3]] * 3), None))


def test_sensitivity_is_there_for_two_classes_only():
    assert "sensitivity_at_95_specificity" in metrics(*draw(40, 2, seed=0)[:2])
    assert set(metrics(*draw(40, 3, seed=0)[:2])) == {*METRICS, "calibration_error"} - {"sensitivity_at_95_specificity"}


def test_each_group_counts_once():
    labels = np.array([0, 0, 0, 1])
    p = np.array([[0.9, 0.1]] * 4)
    assert metrics(labels, p)["accuracy"] == 0.75
    assert metrics(labels, p, groups=np.array([7, 7, 7, 9]))["accuracy"] == 0.5


def test_recall_of_each_class():
    assert per_class_recall(np.array([2, 2, 0]), np.array([2, 1, 0]), 4) == [1.0, None, 0.5, None]


@pytest.mark.parametrize(
    ("labels", "p", "message"),
    [
        (np.array([], int), np.zeros((0, 2)), "n at least 1"),
        (np.array([0]), np.zeros((2, 2)), "must be"),
        (np.array([0]), np.array([[np.nan, 1.0]]), "finite"),
        (np.array([2]), np.array([[0.5, 0.5]]), "2 classes"),
    ],
)
def test_bad_input_is_refused(labels, p, message):
    with pytest.raises(InputError, match=message):
        metrics(labels, p)
