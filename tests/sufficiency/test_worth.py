"""Whether going on pays: by hand, and that it is the gain criterion with a tolerance that grows with the size."""

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape.sufficiency import (
    adaptation_verdict,
    break_even_gain,
    gain_criterion,
    gains,
    worth_criterion,
    worth_table,
)

SIZES = [50, 100, 200, 400]
CURVE = np.array([0.70, 0.78, 0.80, 0.805])
REST = {"level": 0.9, "higher_is_better": True, "repeats_known": True}


def noisy(sd=0.0, mean=CURVE):
    return np.asarray(mean) + np.random.default_rng(0).normal(0, sd, (2000, len(mean)))


def worth(cost, value, sd=0.0, mean=CURVE, **changes):
    given = REST | changes
    return worth_criterion(
        "accuracy_worth", SIZES, noisy(sd, mean), mean, cost_per_image=cost, value_per_point=value, **given
    )


def test_break_even_by_hand():
    # 200 images at 3 are 600, which is what 2 points are worth at 300
    assert break_even_gain([200], cost_per_image=3.0, value_per_point=300.0)[0] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("cost", "value", "k_star"),
    [
        (1.0, 50.0, 100),  # 8 points for 50 images pay: 400 > 50; 2 points for 100 just don't: 100 <= 100
        (1.0, 51.0, 200),  # now they do; half a point for 200 images doesn't: 25.5 <= 200
        (1.0, 1.0, 50),  # nothing pays
        (1.0, 1000.0, None),  # everything does: 500 > 200
    ],
)
def test_the_size_at_which_going_on_no_longer_pays(cost, value, k_star):
    found = worth(cost, value)
    assert found.k_star == k_star
    assert found.status == ("reached" if k_star else "not_reached")


def test_one_doubling_is_the_gain_criterion_at_its_break_even():
    for sd in (0.001, 0.01, 0.05):
        for value in (50.0, 200.0, 400.0, 1000.0):
            found = worth(1.0, value, sd, mean=CURVE)
            plain = gain_criterion("accuracy", SIZES, noisy(sd), CURVE, epsilon=2.0 / value, **REST)
            last = noisy(sd) @ np.array([0, 0, -1, 1]) <= 2.0 / value
            assert (found.status == "not_reached") == (np.mean(last) < 0.05) == (plain.status == "not_reached")


def test_a_dearer_image_never_asks_for_more():
    found = [worth(cost, 100.0, 0.004) for cost in (0.1, 0.3, 1.0, 3.0, 10.0)]
    sizes = [np.inf if each.k_star is None else each.k_star for each in found]
    assert sizes == sorted(sizes, reverse=True)


def test_noise_and_single_repeats_cannot_tell():
    assert worth(1.0, 400.0, 0.02).status == "cannot_tell"
    assert worth(1.0, 1.0, repeats_known=False).status == "cannot_tell"
    assert worth(1.0, 100.0, resolution=0.1).status == "cannot_tell"


def test_the_price_is_told():
    criterion = worth(1.0, 50.0, 0.001)
    steps = gains(SIZES, noisy(0.001), CURVE, 0.9, True)
    question = {"metric": "accuracy", "epsilon": 0.01, "level": 0.9, "cost_per_image": 1.0, "value_per_point": 50.0}
    plain = gain_criterion("accuracy", SIZES, noisy(0.001), CURVE, epsilon=0.01, **REST)
    said = adaptation_verdict("head", {"accuracy": plain, "accuracy_worth": criterion}, steps, question)["sentence"]
    assert "was worth its price" in said
    assert "and cost 200" in said
    assert "more than 1 point" not in said  # of the tolerance that nobody asked about
    going = worth(1.0, 1000.0)
    assert "which was worth it" in going.reason
    assert "The next doubling costs 400 and pays if it gains more than 0.4 points" in going.advice


def test_the_table_is_in_the_unit_of_the_cost():
    rows = worth_table(gains(SIZES, noisy(), CURVE, 0.9, True), cost_per_image=2.0, value_per_point=10.0)
    assert [row["price"] for row in rows] == [100.0, 200.0, 400.0]
    np.testing.assert_allclose([row["worth"] for row in rows], [80.0, 20.0, 5.0])


def test_bad_prices_are_named():
    for given in ({"cost_per_image": 0.0, "value_per_point": 1.0}, {"cost_per_image": 1.0, "value_per_point": -1.0}):
        with pytest.raises(InputError, match="_per_"):
            break_even_gain([10], **given)
