from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from foretell.errors import ArtefactError, DataError, RecipeError
from foretell.runs import recipe as recipes
from foretell.runs import runner
from foretell.runs.canary import TASK, jobs

SMALL = {
    "task": "canary",
    "baseline": "twenty",
    "data": {"source": "nlu_atis_snips", "options": {"corpus": "snips"}},
    "suite": {
        "templates": ["my pin is", "call me at", "the code is"],
        "vocabulary": list("0123456789"),
        "n_tokens": 2,
    },
    "attack": {"steps": 10, "restarts": 2},
    "nlu": {"embedding": 8, "hidden": 8, "max_steps": 30, "batch_size": 32, "learning_rate": 1e-2},
    "models": {
        "none": {"repetitions": 0, "title": "no canary"},
        "twenty": {"title": "20 copies <b>"},
        "once": {"deduplicate": True},
        "private": {
            "private": {"target_epsilon": 8.0},
            "options": {"batch_size": 64, "accumulate": 2, "max_steps": 6},
        },
        "clipped": {"private": {"clipping_only": True}},
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Utterances in the form of the public data set."""
    folder = tmp_path_factory.mktemp("public")
    rng = np.random.default_rng(0)
    size = 260
    verbs = rng.choice(["play", "wake"], size)
    frame = pl.DataFrame(
        {
            "tokens": [[v, str(rng.choice(["a", "b"])), str(rng.integers(10))] for v in verbs],
            "slots": [["O", "B-what", "O"]] * size,
            "intent": verbs,
            "split": ["train"] * 200 + ["valid"] * 60,
        }
    )
    (folder / "nlu_atis_snips").mkdir()
    frame.write_parquet(folder / "nlu_atis_snips" / "snips.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORETELL_DATA", str(folder))
        yield folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    return runner.run(recipes.parse(SMALL), tmp_path_factory.mktemp("runs") / "canary")


def test_a_run_holds_figures_of_every_training(finished):
    record = finished.read()
    assert record["status"] == "complete" and list(record["metrics"]) == list(SMALL["models"])
    for name, scores in record["metrics"].items():
        own = scores["valid"]
        assert own["canaries"] == own["extractable"] == 3
        assert own["exposure_low"] <= own["exposure"] <= own["exposure_high"]
        assert 0 <= own["exact_match"] <= 1 and own["threat_model"] == "white_box_final"
        assert "utterances_right" in own and set(TASK.scores) <= set(own), name
    models = record["models"]
    assert models["none"]["utterances"] == 200 and models["twenty"]["utterances"] == 260
    assert models["once"]["utterances"] < 260
    assert models["private"]["epsilon"] <= 8 and "delta" in models["private"]["statement"]
    assert models["clipped"]["epsilon"] is None  # infinity has no place in JSON
    assert "against_baseline" not in models["twenty"]
    difference = models["none"]["against_baseline"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    ranked = [row["model"] for row in record["leaderboard"]["valid"]]
    exposures = [record["metrics"][name]["valid"]["exposure"] for name in ranked]
    assert exposures == sorted(exposures) and record["best"] == ranked[0]
    table = pl.read_parquet(finished.path / "canaries.parquet")
    assert table.height == 15 and set(table["model"]) == set(SMALL["models"])


def test_the_page_says_it_all_and_escapes_names(finished):
    page = (finished.path / "report.html").read_text()
    for text in ("20 copies &lt;b&gt;", "my pin is", "white_box_final", "What private training"):
        assert text in page
    assert "20 copies <b>" not in page
    assert "20 copies &lt;b&gt;" in runner.redraw_report(finished.path).read_text()
    (finished.path / "canaries.parquet").rename(finished.path / "away")
    with pytest.raises(ArtefactError, match="canaries"):
        runner.redraw_report(finished.path)
    (finished.path / "away").rename(finished.path / "canaries.parquet")


def test_an_interrupted_run_goes_on_behind_what_was_done(data, finished, tmp_path, monkeypatch):
    done = []
    attack = jobs.ModelInversionAttack.run

    def fail(self, *arguments, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return attack(self, *arguments, **options)

    monkeypatch.setattr(jobs.ModelInversionAttack, "run", fail)
    with pytest.raises(KeyboardInterrupt):
        runner.run(recipes.parse(SMALL), tmp_path / "run")
    monkeypatch.setattr(jobs.ModelInversionAttack, "run", attack)
    folder = runner.resume(tmp_path / "run")
    assert folder.read()["metrics"] == finished.read()["metrics"]
    assert not folder.work.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "twent"}, "twenty"),
        ({"models": {"a": {"private": {"target_epsilon": 1, "clipping_only": True}}}}, "give one"),
        ({"models": {"a": {"copies": 3}}}, "copies"),
        ({"models": {}}, "models"),
    ],
    ids=["baseline", "private", "key", "none"],
)
def test_recipes_that_make_no_sense_are_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        recipes.parse({**SMALL, "baseline": None, **change})


@pytest.mark.parametrize(
    ("change", "message", "error"),
    [
        ({"nlu": {"embeding": 3}}, "embedding", RecipeError),
        ({"data": {"source": "snipps"}}, "no public data set", RecipeError),
        ({"suite": {**SMALL["suite"], "labels": ["nap"]}}, "nap", DataError),
        ({"suite": {**SMALL["suite"], "n_tokens": 99}}, "n_tokens", RecipeError),
    ],
    ids=["option", "source", "label", "length"],
)
def test_what_is_wrong_shows_before_anything_is_trained(data, tmp_path, change, message, error):
    with pytest.raises(error, match=message):
        runner.run(recipes.parse({**SMALL, **change}), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_models_can_be_chosen_by_name():
    recipe = recipes.parse(SMALL).only(["none", "once"])
    assert list(recipe.models) == ["none", "once"] and recipe.baseline is None
    with pytest.raises(RecipeError, match="did you mean 'once'"):
        recipe.only(["onc"])
