from __future__ import annotations

import pytest

from foretell.errors import RecipeError
from foretell.runs import recipe as recipes

SMALL = {"models": {"legacy": {"kind": "LegacyForecaster"}}}


@pytest.mark.parametrize("name", recipes.shipped())
def test_shipped_recipes_are_valid(name):
    assert recipes.load(name).models


def test_the_default_recipe_is_shipped():
    assert "demand" in recipes.shipped()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"horizn": 3}}, r"unknown key 'horizn' in \[data\]; did you mean 'horizon'"),
        ({"protocol": {}}, "unknown key 'protocol'; did you mean 'protocols'"),
        ({"protocols": {"a": {"window": 2}}}, r"unknown key 'window'.*did you mean 'windows'"),
        ({"orders": {"lead_tme": 2}}, r"unknown key 'lead_tme' in \[orders\].*'lead_time'"),
        ({"models": {"x": {"kind": "MQCN"}}}, "kind 'MQCN' is not known; did you mean 'MQCNN'"),
        (
            {"models": {"x": {"kind": "MQCNN", "max_step": 3}}},
            "models.x has no key 'max_step'; did you mean 'max_steps'",
        ),
        ({"baseline": "legcy"}, "baseline 'legcy' is no model; did you mean 'legacy'"),
        ({"data": {"horizon": 0}}, "data.horizon"),
        ({"seeds": []}, "seeds"),
        ({"models": {"e": {"kind": "QuantileEnsemble", "members": ["a"]}}}, "at least two"),
    ],
)
def test_a_wrong_recipe_says_what_would_be_right(change, message):
    with pytest.raises(RecipeError, match=message):
        recipes.parse({**SMALL, **change})


def test_members_of_an_ensemble_must_exist():
    models = {
        "a": {"kind": "MQCNN"},
        "b": {"kind": "MQRNN"},
        "e": {"kind": "QuantileEnsemble", "members": ["a", "c"]},
    }
    with pytest.raises(RecipeError, match="'c' is no model"):
        recipes.parse({"models": models})


def test_settings_change_keys_by_dotted_names():
    settings = ["data.horizon=5", "models.mq_cnn.max_steps=7", "seeds=[3, 4]", "title=A title"]
    recipe = recipes.load("demand", settings=settings)
    assert recipe.data.horizon == 5
    assert recipe.models["mq_cnn"].parameters["max_steps"] == 7
    assert recipe.seeds == [3, 4]
    assert recipe.title == "A title"


@pytest.mark.parametrize("setting", ["horizon", "=3", "title.x=3", "data.horizn=3"])
def test_wrong_settings_are_refused(setting):
    with pytest.raises(RecipeError):
        recipes.load("demand", settings=[setting])


def test_other_data_drop_the_columns_and_keep_the_horizon():
    recipe = recipes.load("walmart", data="sales.csv")
    assert recipe.data.source == "sales.csv"
    assert recipe.data.horizon == 39
    assert recipe.data.options == {}
    assert "Walmart" not in recipe.title + recipe.description


def test_only_keeps_members_of_an_ensemble():
    recipe = recipes.load("walmart").only(["ensemble"])
    assert list(recipe.models) == ["forest", "mq_dnn", "mq_cnn", "ensemble"]
    assert recipe.baseline is None


def test_a_file_that_is_no_toml(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("models = [")
    with pytest.raises(RecipeError, match="not readable as TOML"):
        recipes.load(file)
    with pytest.raises(RecipeError, match="did you mean 'walmart'"):
        recipes.load("wallmart")


def test_a_recipe_survives_json():
    recipe = recipes.load("walmart")
    assert recipes.parse(recipe.model_dump(mode="json")) == recipe
