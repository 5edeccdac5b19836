"""Approximate leave-one-out, against refits without each sample in turn."""

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape.evidence import SoftmaxHead, leave_one_out_losses, losses_without
from tests.evidence.problems import drawn, fitted, losses


def exact(x, y, penalty):
    found = []
    for i in range(len(y)):
        kept = np.arange(len(y)) != i
        found.append(losses(fitted(x[kept], y[kept], 3, penalty), x[[i]], y[[i]])[0])
    return np.array(found)


@pytest.mark.parametrize(("k", "penalty", "error"), [(60, 1.0, 0.06), (60, 0.1, 0.15), (25, 1.0, 0.15)])
def test_losses_are_those_of_refits(k, penalty, error):
    x, y = drawn(k, 3)
    w = fitted(x, y, 3, penalty)
    approximate, truth, trained = (
        leave_one_out_losses(SoftmaxHead(x, y, w, penalty)),
        exact(x, y, penalty),
        losses(w, x, y),
    )
    away = truth.mean() - trained.mean()
    assert abs(approximate.mean() - truth.mean()) < error * away
    assert np.abs(approximate - truth).max() < 4 * error * np.abs(truth - trained).max()


def test_error_falls_with_the_square_of_the_leverage():
    # One Newton step: what it leaves is of second order in 1/k.
    errors = []
    for k in (40, 160):
        x, y = drawn(k, 4)
        approximate = leave_one_out_losses(SoftmaxHead(x, y, fitted(x, y, 3, 1.0), 1.0))
        errors.append(np.median(np.abs(approximate - exact(x, y, 1.0))[:40]))
    assert errors[1] < errors[0] / 6


def test_leverage_of_one_is_refused():
    with pytest.raises(InputError, match="leverages reach 1"):
        losses_without([[0.0, 0.0]], [0], 3.0 * np.eye(2)[None])


def test_shapes_are_named():
    with pytest.raises(InputError, match=r"leverages is \(1, 2\)"):
        losses_without([[0.0, 0.0]], [0], np.zeros((1, 2)))
