"""Looked at fifty times, the rule stops wrongly no more often than it says; one that forgets the looks does."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import ndtr

from stillscape._errors import InputError
from stillscape.sufficiency import anytime_gain, training_variances

ALPHA, LOOKS, BATCH = 0.1, 50, 20
NORMAL_90 = 1.2816  # one-sided


def differences(rng, gains, moving=0.1):
    """Draw +1, -1 and 0 with the wanted mean; `moving` is the share of images that change sides."""
    gains = np.asarray(gains)
    up, down = (moving + gains) / 2, (moving - gains) / 2
    uniform = rng.random(gains.shape)
    return np.where(uniform < up, 1.0, np.where(uniform < up + down, -1.0, 0.0))


def first_naive_stop(values, epsilon):
    """Test the mean of all differences so far at the fixed level, at every look."""
    n = BATCH * np.arange(1, len(values) + 1)
    mean = np.cumsum(values.sum(axis=1)) / n
    spread = np.sqrt(np.maximum(np.cumsum((values**2).sum(axis=1)) / n - mean**2, 1e-9) / n)
    stops = np.flatnonzero(mean + NORMAL_90 * spread < epsilon)
    return stops[0] if stops.size else math.inf


def first_stop(values, epsilon, **given):
    at = anytime_gain(list(values), epsilon=epsilon, level=1 - ALPHA, **given).stopped_at
    return math.inf if at is None else at


def wrong_stops(gain_at_look, epsilon, simulations, seed=0):
    """Return how often each rule ever stops while the gain is at least epsilon: ours, then the naive one."""
    rng = np.random.default_rng(seed)
    path = np.repeat(np.asarray(gain_at_look)[:, None], BATCH, axis=1)
    true_until = np.count_nonzero(np.asarray(gain_at_look) >= epsilon)  # gains don't grow
    ours = naive = 0
    for _ in range(simulations):
        values = differences(rng, path)
        ours += first_stop(values, epsilon) < true_until
        naive += first_naive_stop(values, epsilon) < true_until
    return ours / simulations, naive / simulations


def at_most(share, simulations):
    """Return `share` and three standard errors of a simulation."""
    return share + 3 * math.sqrt(share * (1 - share) / simulations)


NULLS = {
    "just at the tolerance": np.full(LOOKS, 0.03),
    "falling to the tolerance": 0.03 + 0.06 * 0.8 ** np.arange(LOOKS),
    "under it from look 25 on": np.where(np.arange(LOOKS) < 25, 0.03, 0.0),
}


@pytest.mark.parametrize("gains", NULLS.values(), ids=NULLS)
def test_fifty_looks_stop_wrongly_no_more_often_than_alpha(gains):
    simulations = 200
    ours, _ = wrong_stops(gains, 0.03, simulations)
    assert ours <= at_most(ALPHA, simulations)


@pytest.mark.slow
@pytest.mark.parametrize("gains", NULLS.values(), ids=NULLS)
def test_over_many_simulations_too_and_a_fixed_level_does_not_hold(gains):
    simulations = 1000
    ours, naive = wrong_stops(gains, 0.03, simulations, seed=1)
    assert ours <= ALPHA
    assert naive > 2 * ALPHA


def test_a_fixed_level_looked_at_fifty_times_exceeds_alpha():
    rng = np.random.default_rng(2)
    path = np.full((LOOKS, BATCH), 0.03)
    stops = [first_naive_stop(differences(rng, path), 0.03) for _ in range(400)]
    assert np.mean(np.isfinite(stops)) > 2 * ALPHA
    assert np.mean(np.array(stops) == LOOKS // 2) < ALPHA  # while at any one look it is what it says


def collected(rng, dimension=40, distance=2.0, repeats=3):
    """Collect two Gaussian classes in batches and train a nearest-mean classifier at each look, as a watch does.

    Returns each look's differences, and the true gain of doubling the data that were there, over many halves.
    """
    start = np.zeros(dimension)
    start[0] = distance / 2
    sign = np.array([1.0, -1.0])

    def draw(n):
        y = sign[np.arange(n) % 2]
        return np.outer(y, start) + rng.normal(size=(n, dimension)), y

    def direction(x, y):
        return (x * y[:, None]).mean(axis=0)

    def accuracy(w):
        return ndtr(w @ start / np.linalg.norm(w))

    def halves(x, y, count):
        orders = [rng.permutation(len(x))[: len(x) // 2] for _ in range(count)]
        return np.array([direction(x[rows], y[rows]) for rows in orders])

    x, y = draw(BATCH)
    found, gains = [], []
    for _ in range(LOOKS):
        new, labels = draw(BATCH)
        half, full = halves(x, y, 40), direction(x, y)
        hits = (new @ full * labels > 0)[None] - 1.0 * (new @ half[:repeats].T * labels[:, None] > 0).T
        found.append(hits)
        gains.append(accuracy(full) - np.mean([accuracy(w) for w in half]))
        x, y = np.concatenate([x, new]), np.concatenate([y, labels])
    return found, np.array(gains)


@pytest.mark.slow
def test_models_trained_on_data_as_they_arrive_stop_wrongly_no_more_often_than_alpha():
    """The gain falls under the tolerance at last; to stop before, while it is above in truth, is to stop wrongly."""
    rng, epsilon, simulations = np.random.default_rng(8), 0.03, 150
    wrong = stopped = 0
    for _ in range(simulations):
        tables, gains = collected(rng)
        means = [table.mean(axis=0) for table in tables]
        at = first_stop(means, epsilon, training_variance=training_variances(tables))
        stopped += np.isfinite(at)
        wrong += np.isfinite(at) and gains[int(at)] > epsilon
    assert wrong / simulations <= ALPHA
    assert stopped / simulations > 0.5


OUTCOMES, PROBABILITIES = (-1.0, 0.0, 1.0), (0.2, 0.5, 0.3)  # a gain of 0.1


@pytest.mark.parametrize("shape", [(1,), (2,), (1, 1), (2, 1, 1), (1, 3), (1, 1, 1, 1)])
def test_capital_is_one_on_average_just_at_the_tolerance(shape):
    """Exact: the sum over all outcomes of the differences, after the last look."""
    total = 0.0
    for outcome in itertools.product(range(3), repeat=sum(shape)):
        values = np.split(np.array(OUTCOMES)[list(outcome)], np.cumsum(shape)[:-1])
        chance = math.prod(PROBABILITIES[i] for i in outcome)
        total += chance * math.exp(anytime_gain(values, epsilon=0.1).evidence[-1])
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("allowed", [True, False])
def test_models_that_scatter_are_allowed_for(allowed):
    """The gain of a look's models is 0.1 plus a normal error; without the allowance capital grows under the null."""
    scatter, units = 0.05, 40
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    total = 0.0
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        up = np.clip(0.1 + scatter * node, 0.0, 1.0)  # differences of 1 or 0
        counts = np.arange(units + 1)
        chances = [math.comb(units, c) * up**c * (1 - up) ** (units - c) for c in counts]
        capital = [
            math.exp(
                anytime_gain(
                    [np.repeat([1.0, 0.0], [c, units - c])],
                    epsilon=0.1,
                    training_variance=[scatter**2 if allowed else 0.0],
                ).evidence[-1]
            )
            for c in counts
        ]
        total += weight * float(np.dot(chances, capital))
    assert (total <= 1.0) == allowed


def test_evidence_does_not_depend_on_the_order_within_a_look():
    values = differences(np.random.default_rng(3), np.full(60, 0.02))
    one, other = (anytime_gain([v[:40], values[40:]], epsilon=0.05) for v in (values, values[:40][::-1]))
    np.testing.assert_allclose(one.evidence, other.evidence)


def test_large_gains_at_first_do_not_hide_that_they_have_stopped():
    rng = np.random.default_rng(4)
    early, late = differences(rng, np.full((10, 50), 0.09)), differences(rng, np.zeros((40, 50)))
    found = anytime_gain([*early, *late], epsilon=0.05)
    assert found.stopped_at is not None
    assert 5 <= found.since <= found.stopped_at
    alone = anytime_gain([*late], epsilon=0.05)
    assert alone.stopped_at is not None
    assert found.stopped_at - 10 <= 2 * alone.stopped_at + 2


def test_the_bound_and_the_decision_agree_and_the_forecast_is_of_the_right_size():
    rng = np.random.default_rng(5)
    values = differences(rng, np.full((40, 50), 0.0))
    found = anytime_gain(list(values), epsilon=0.04)
    assert found.stopped_at is not None
    before = anytime_gain(list(values[: found.stopped_at]), epsilon=0.04)
    assert before.stopped_at is None
    assert before.upper > 0.04
    assert anytime_gain(list(values[: found.stopped_at + 1]), epsilon=0.04).upper <= 0.04 + 1e-9
    assert found.to_go == 0
    assert before.to_go is not None
    assert 0 < before.to_go < 50 * 20
    assert anytime_gain([[1.0] * 20], epsilon=0.04).to_go is None


def test_the_bound_covers_at_every_look():
    """The upper bound after each look, together over looks, misses the gain no more often than alpha."""
    rng, misses, simulations = np.random.default_rng(6), 0, 40
    for _ in range(simulations):
        values = differences(rng, np.full((8, 40), 0.02))
        misses += any(anytime_gain(list(values[:n]), epsilon=0.5).upper < 0.02 for n in range(1, 9))
    assert misses / simulations <= at_most(ALPHA, simulations)


def test_variance_of_training_is_told_from_that_of_the_images():
    rng = np.random.default_rng(7)
    images, own = rng.normal(0, 0.3, 4000), rng.normal(0, 0.05, (30, 1))
    table = images + own + rng.normal(0, 0.2, (30, 4000))
    found = training_variances([table, table[:10]])
    assert found[0] == pytest.approx(own.var(ddof=1) / 30, rel=0.02)
    assert found[1] > found[0]
    assert training_variances([np.tile(images, (3, 1))]).tolist() == [0.0]
    few = [rng.normal(0, 0.3, 20) + rng.normal(0, 0.05, (4, 1)) + rng.normal(0, 0.4, (4, 20)) for _ in range(600)]
    assert training_variances(few)[-1] == pytest.approx(0.05**2 / 4, rel=0.4)


@pytest.mark.parametrize(
    ("values", "given", "said"),
    [
        ([], {}, "differences is empty"),
        ([[0.1], []], {}, r"differences\[1\]"),
        ([[1.5]], {}, "1.5; all must lie in -1..1"),
        ([[0.0]], {"epsilon": 0.0}, "epsilon is 0.0"),
        ([[0.0]], {"level": 1.0}, "level is 1.0"),
        ([[0.0]], {"training_variance": [0.1, 0.1]}, "training_variance has shape"),
    ],
)
def test_bad_input_is_named(values, given, said):
    with pytest.raises(InputError, match=said):
        anytime_gain(values, **({"epsilon": 0.05} | given))


def test_one_repeat_has_no_scatter_to_know():
    with pytest.raises(InputError, match="2 repeats"):
        training_variances([np.zeros((1, 5))])
