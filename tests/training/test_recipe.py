import numpy as np
import pytest
from pydantic import ValidationError

from stillscape.models import parse_adaptation
from stillscape.training import EarlyStop, Recipe, default_recipe


@pytest.mark.parametrize(
    ("recipe", "k", "steps"),
    [
        (Recipe(epochs=20, batch=32, min_steps=1), 64, 40),
        (Recipe(epochs=20, batch=32, min_steps=1), 65, 60),
        (Recipe(epochs=0.5, batch=10, min_steps=1), 100, 5),
        (Recipe(epochs=20, batch=32, min_steps=100), 50, 100),
        (Recipe(epochs=20, min_steps=100, steps=7), 5000, 7),
    ],
)
def test_number_of_steps(recipe, k, steps):
    assert recipe.num_steps(k) == steps


def test_schedule_climbs_then_falls_to_almost_nothing():
    recipe = Recipe(learning_rate=0.3, warmup=0.1)
    rates = np.array([recipe.rate(step, 200) for step in range(200)])
    assert rates.argmax() == 19
    assert rates.max() == pytest.approx(0.3)
    assert (np.diff(rates[:20]) > 0).all()
    assert (np.diff(rates[20:]) < 0).all()
    assert 0 < rates[-1] < 1e-4
    np.testing.assert_allclose(rates[110], 0.15)


def test_constant_schedule_and_no_warmup():
    recipe = Recipe(learning_rate=0.3, warmup=0.0, schedule="constant")
    assert {recipe.rate(step, 9) for step in range(9)} == {0.3}
    assert Recipe(warmup=1.0, learning_rate=0.5).rate(4, 5) == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0}, {"batch": 0}, {"learning_rate": -1}, {"learning_rate": float("inf")}, {"warmup": 2},
        {"l2": 0}, {"weight_decay": -1}, {"schedule": "step"}, {"early_stop": {"fraction": 1.0}}, {"momentum": 0.9},
    ],
)  # fmt: skip
def test_bad_recipes_are_refused(changes):
    with pytest.raises(ValidationError):
        Recipe(**changes)


def test_recipes_travel_as_json():
    recipe = Recipe(early_stop=EarlyStop(fraction=0.1, patience_epochs=2))
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("text", ["head", "last-layers:2", "lora:4", "full"])
def test_each_adaptation_has_a_recipe(text):
    assert default_recipe(parse_adaptation(text)).early_stop is None
