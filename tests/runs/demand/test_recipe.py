from __future__ import annotations

import pytest

from foretell.errors import RecipeError
from foretell.learners.demand import Span
from foretell.runs import recipe as recipes
from foretell.runs.demand.models import make_model
from foretell.runs.demand.recipe import ProtocolSection

SMALL = {"models": {"legacy": {"kind": "LegacyForecaster"}}}


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
        ({"data": {"season_length": 0}}, "data.season_length"),
        ({"protocols": {"a": {"horizon": 14}}}, "longer than data.horizon 13"),
        ({"protocols": {"a": {"back": [3, 3]}}}, "names an origin twice"),
        ({"protocols": {"../a": {}}}, "should match pattern"),
        ({"models": {"x": {"kind": "MQCNN", "max_steps": 1.5}}}, "valid integer, not 1.5"),
        ({"models": {"x": {"kind": "MQCNN", "calibrate": "cq"}}}, "'cqr' or 'engine', not 'cq'"),
        (
            {"models": {"x": {"kind": "LegacyForecaster", "engine": {"methd": "pool"}}}},
            "DistributionEngine has no key 'methd'",
        ),
        (
            {"models": {"x": {"kind": "LegacyForecaster", "models": {"new": [{"kind": "Nai"}]}}}},
            "point model 'Nai' is not one of",
        ),
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
    assert set(recipe.models) == {"forest", "mq_dnn", "mq_cnn", "ensemble"}
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


def test_tables_stand_for_the_objects_that_a_model_takes():
    models = {
        "a": {
            "kind": "LegacyForecaster",
            "seasonal": False,
            "engine": {"lam": 5.0},
            "models": {"smooth": [{"kind": "Croston", "alpha": 0.2}]},
        },
        "b": {"kind": "MQCNN", "span_targets": [[0, 3]], "n_forks": "all"},
    }
    document = recipes.parse({"models": models}).models
    legacy = make_model("a", "LegacyForecaster", document["a"].parameters)
    assert legacy.seasonal is None
    assert legacy.engine.lam == 5
    assert legacy.models["smooth"][0].alpha == 0.2
    assert legacy.events == "default"
    network = make_model("b", "MQCNN", document["b"].parameters, seed=3, threads=1)
    assert network.span_targets == [Span(0, 3)]
    assert (network.name, network.seed) == ("b", 3)


@pytest.mark.parametrize(
    ("section", "fits"),
    [
        ({}, [(13,)]),
        ({"windows": 3, "step": 2}, [(17, 15, 13)]),
        ({"windows": 3, "step": 2, "refit": True}, [(17,), (15,), (13,)]),
        ({"windows": 3, "step": 2, "refit": 2}, [(17, 15), (13,)]),
        ({"back": [1, 9, 4], "refit": True}, [(9,), (4,), (1,)]),
        ({"horizon": 4, "windows": 2}, [(8, 4)]),
    ],
)
def test_fits_of_a_protocol(section, fits):
    assert ProtocolSection(**section).fits(13) == fits


def test_only_lets_the_best_replace_a_final_model_that_is_left_out():
    recipe = recipes.load("demand", settings=["final.model=legacy"]).only(["forest"])
    assert list(recipe.models) == ["forest"]
    assert recipe.final.model == "best"
