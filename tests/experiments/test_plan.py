"""Plans: every bad field is named in one line, and a plan survives its way through TOML."""

import pytest

from stillscape._errors import InputError
from stillscape.experiments.plan import demo_plan, make_plan


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sizes": [100, 50]}, "sizes"),
        ({"sizes": [100]}, "sizes"),
        ({"sizes": 1}, "sizes"),
        ({"sizes": [0, 10]}, "sizes"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"adapt": ["lora"]}, "adapt"),
        ({"adapt": []}, "adapt"),
        ({"metric": "beauty"}, "metric is 'beauty'"),
        ({"level": 1.5}, "level"),
        ({"repeats": 0}, "repeats"),
        ({"size": [1, 2]}, "size is not a field"),
        ({"recipes": {"lora": {"step": 3}}}, "step"),
        ({"recipes": {"laura": {}}}, "recipes"),
        ({"folds": 1}, "folds"),
    ],
)
def test_a_bad_field_is_named(changes, named):
    with pytest.raises(InputError, match=named) as caught:
        make_plan(data="digits", **changes)
    assert "\n" not in str(caught.value)


def test_data_is_needed():
    with pytest.raises(InputError, match="data is missing"):
        make_plan()


def test_files_that_are_no_plans(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        make_plan(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("data = ")
    with pytest.raises(InputError, match="not valid TOML"):
        make_plan(tmp_path / "bad.toml")


def test_a_plan_survives_toml_and_flags_change_it(tmp_path):
    plan = make_plan(
        data="d", groups="(p[0-9]+)", window=(0, 4095), sizes=[5, 10], recipes={"lora": {"steps": 7}}, target=0.9
    )
    (tmp_path / "plan.toml").write_text(plan.to_toml())
    assert make_plan(tmp_path / "plan.toml") == plan
    assert make_plan(tmp_path / "plan.toml", sizes=[5, 20], target=None).sizes == (5, 20)


def test_recipes_are_defaults_with_changes():
    plan = make_plan(data="digits", adapt=["lora:2"], recipes={"lora": {"steps": 7}})
    assert plan.recipe("lora:2").steps == 7
    assert plan.recipe("lora:2").batch == make_plan(data="digits").recipe("lora:2").batch


def test_the_question_may_change_within_a_folder_and_the_method_may_not():
    plan = make_plan(data="digits")
    asked_again = plan.model_copy(update={"epsilon": 0.5, "sizes": (10, 20), "repeats": 9, "adapt": ("full",)})
    assert asked_again.without_revisable() == plan.without_revisable()
    for change in ({"folds": 3}, {"model": "other"}, {"recipes": {"lora": {"steps": 1}}}, {"threads": 2}):
        assert plan.model_copy(update=change).without_revisable() != plan.without_revisable()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epsilon": 0.02, "target": 0.9}, "epsilon and target are given together"),
        ({"epsilon": 0.01, "target": 0.9}, "epsilon and target are given together"),
        ({"target": 0.9, "cost_per_image": 1.0, "value_per_point": 9.0}, "target and cost with value are given"),
        ({"cost_per_image": 1.0}, "cost_per_image is given without value_per_point"),
        ({"value_per_point": 1.0}, "value_per_point is given without cost_per_image"),
        ({"cost_per_image": 0.0, "value_per_point": 1.0}, "cost_per_image"),
    ],
)
def test_a_plan_asks_one_question(changes, said):
    with pytest.raises(InputError, match=said) as caught:
        make_plan(data="digits", **changes)
    assert "\n" not in str(caught.value)


def test_a_new_question_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(make_plan(data="digits", epsilon=0.03).to_toml())
    priced = make_plan(path, cost_per_image=2.0, value_per_point=100.0)
    assert (priced.cost_per_image, priced.epsilon) == (2.0, 0.01)
    path.write_text(priced.to_toml())
    assert make_plan(path) == priced
    assert make_plan(path, target=0.9).cost_per_image is None
    path.write_text('data = "digits"\nepsilon = 0.05\ntarget = 0.9\n')
    with pytest.raises(InputError, match="epsilon and target ask different questions"):
        make_plan(path)


def test_the_demo_has_the_three_adaptations():
    assert demo_plan().adapt == ("head", "last-layers:1", "lora:4")
