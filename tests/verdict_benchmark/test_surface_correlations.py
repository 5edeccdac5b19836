"""Partial rank correlations against the closed form for one given and against cases known by hand."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from surface import partial_rank_correlation

GENERATOR = np.random.default_rng(0)
X, Y, Z, W = GENERATOR.standard_normal((4, 40))


def test_with_nothing_given_it_is_spearmans():
    assert partial_rank_correlation(X, X + Y) == pytest.approx(spearmanr(X, X + Y).statistic)


def test_given_one_it_is_the_closed_form():
    x, y = X + Z, Y + Z
    xy, xz, yz = (spearmanr(*pair).statistic for pair in ((x, y), (x, Z), (y, Z)))
    closed = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_rank_correlation(x, y, Z) == pytest.approx(closed)


def test_what_is_given_explains_what_it_can():
    x, y = Z + W + 0.1 * X, Z - W + 0.1 * X
    assert abs(partial_rank_correlation(x, y, Z)) > 0.8  # W pulls them apart
    assert partial_rank_correlation(x, y, Z, W) > partial_rank_correlation(x, y, Z) + 0.5
    assert np.isnan(partial_rank_correlation(Z, y, Z, W))  # nothing is left of it
