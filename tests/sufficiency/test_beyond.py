"""The forecast that the report shows: the next doubling, and when doublings stop paying."""

import numpy as np
import pytest

from stillscape._errors import InputError
from stillscape.sufficiency.beyond import outlook_beyond, settling_size

SIZES = np.array([25, 50, 100, 200, 400, 800])
QUESTION = {"level": 0.9, "epsilon": 0.01, "target": None}


def _accuracy(k: np.ndarray, repeats: int = 4, noise: float = 0.002, floor: float = 0.02) -> np.ndarray:
    generator = np.random.default_rng(0)
    return 1 - floor - 1.5 * k**-0.5 + noise * generator.standard_normal((repeats, k.size))


def test_the_next_doubling_holds_what_comes():
    scores = _accuracy(SIZES)
    found, curves = outlook_beyond("accuracy", SIZES, scores, QUESTION)
    truth = 1.5 * (800**-0.5 - 1600**-0.5)
    step = found["next_doubling"]
    assert (step["from"], step["to"]) == (800, 1600)
    assert step["low"] < truth < step["high"]
    assert abs(step["mean"] - truth) < 0.006
    curve = curves["accuracy_forecast"]
    assert curve.kind == "forecast"
    assert (curve.k[0], curve.k[-1]) == (800, 6400)
    assert "By forecast, the next doubling, to 1600 images, would change accuracy by +" in found["sentence"]


def test_losses_fall_and_are_told_as_falls():
    losses = 0.1 + 4.0 * SIZES**-0.5 * np.ones((3, 1))
    found, _ = outlook_beyond("heldout_loss", SIZES, losses, QUESTION)
    assert found["next_doubling"]["mean"] > 0
    assert "would change the held-out loss by -" in found["sentence"]


def test_settling_is_where_the_law_says():
    # 1.5 (k^-1/2 - (2k)^-1/2) = 0.4393 k^-1/2 falls to 0.05 at k = 77.
    found = settling_size(SIZES, _accuracy(SIZES).T, epsilon=0.05, kind="score")
    assert found.status == "reached"
    assert 50 <= found.value <= 110
    # and to 0.012 at k = 1340
    beyond = settling_size(SIZES, _accuracy(SIZES).T, epsilon=0.012, kind="score")
    assert beyond.low < 1340
    assert beyond.high is None or beyond.high > 1340


@pytest.mark.parametrize("noise", [0.001, 0.02])
def test_settling_never_grows_with_the_tolerance(noise: float):
    scores = _accuracy(SIZES, noise=noise).T
    values = [settling_size(SIZES, scores, epsilon=e, kind="score").value or np.inf for e in np.geomspace(0.1, 1e-3, 9)]
    assert np.all(np.diff(np.log(np.minimum(values, 1e9))) >= 0)


def test_a_target_is_answered():
    found, _ = outlook_beyond("accuracy", SIZES, _accuracy(SIZES), QUESTION | {"target": 0.95})
    truth = (1.5 / 0.03) ** 2
    assert found["required"]["low"] < truth
    assert found["required"]["status"] in ("beyond", "cannot_tell")
    assert "95 % in accuracy" in found["sentence"]
    out_of_reach, _ = outlook_beyond("accuracy", SIZES, _accuracy(SIZES, floor=0.2), QUESTION | {"target": 0.999})
    assert out_of_reach["required"]["status"] == "unreachable"
    assert "would not reach" in out_of_reach["sentence"]


def test_too_few_sizes_give_no_forecast():
    assert outlook_beyond("accuracy", SIZES[:2], _accuracy(SIZES)[:, :2], QUESTION) is None
    with pytest.raises(InputError, match="epsilon"):
        settling_size(SIZES, _accuracy(SIZES).T, epsilon=0.0, kind="score")


def test_a_rest_on_the_way_is_not_the_end():
    resting = np.array([0.50, 0.60, 0.61, 0.615, 0.72, 0.82])  # 50 to 200 gain little, and then it goes on
    found = settling_size(SIZES, np.tile(resting, (3, 1)).T, epsilon=0.05, kind="score")
    assert found.low > 150
