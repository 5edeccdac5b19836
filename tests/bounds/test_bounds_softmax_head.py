"""The head's bound: never violated by the exact Hessian, attained at two equal classes."""

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape.bounds import softmax_head


def exact_norm(x, p):
    return np.linalg.norm(np.kron(np.outer(x, x), np.diag(p) - np.outer(p, p)), 2)


def test_never_violated_and_attained():
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(500):
        x, z = rng.normal(size=3) * np.exp(rng.normal()), rng.normal(size=rng.integers(2, 5)) * np.exp(2 * rng.normal())
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        ratios.append(exact_norm(np.append(x, 1.0), p) / softmax_head(x[None]).item())
    assert max(ratios) <= 1 + 1e-12
    x = rng.normal(size=3)
    assert exact_norm(x, np.array([0.5, 0.5])) == pytest.approx(softmax_head(x[None], has_bias=False).item())


def test_differences_of_samples():
    rng = np.random.default_rng(1)
    x, p = rng.normal(size=(6, 3)), rng.dirichlet(np.ones(3) / 2, 6)
    h = np.array([np.kron(np.outer(a, a), np.diag(b) - np.outer(b, b)) for a, b in zip(x, p, strict=True)])
    gaps = [np.linalg.norm(h[k] - h[:k].mean(0), 2) for k in range(1, 6)]
    assert max(gaps) <= softmax_head(x, has_bias=False).max()


@pytest.mark.parametrize("features", [[1.0, 2.0], [[np.nan]]])
def test_bad_features(features):
    with pytest.raises(InputError, match="features has shape"):
        softmax_head(features)
