"""Runs about language models: privacy side by side, kept models, reports."""

from __future__ import annotations

import json
import random
from pathlib import Path

import polars as pl
import pytest
from tiny_runs import call, record

from foretell.errors import RecipeError
from foretell.runs import recipe as recipes

pytest.importorskip("dp_accounting", reason="needs the extra 'private'")

RECIPE = """
task = "language"
title = "Phrases"

[data]
source = "{file}"

[defaults]
embedding = 8
hidden = 8
batch_size = 60
max_steps = 8
learning_rate = 1e-2

[models.plain]
kind = "NLU"

[models.exact]
privacy = {{ epsilon = 8.0, options = {{ accountant = "rdp" }} }}

[models.clip_only]
privacy = {{ way = "clip_only" }}

[models.honest.privacy]
way = "microbatch"
epsilon = 8.0
options = {{ microbatch_size = 10, accountant = "rdp" }}

[models.naive.privacy]
way = "microbatch"
epsilon = 8.0
accounting = "naive"
options = {{ microbatch_size = 10, accountant = "rdp" }}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("language")
    rng = random.Random(0)
    rows = []
    for i in range(500):
        if i % 2:
            rows.append(
                (f"play some {rng.choice(['jazz', 'folk', 'soul'])}", "O O B-genre", "play")
            )
        else:
            rows.append((f"wake me at {rng.choice(['nine', 'noon'])}", "O O O B-time", "alarm"))
    table = pl.DataFrame(rows, schema=["tokens", "slots", "intent"], orient="row")
    table.write_csv(home / "phrases.csv")
    (home / "phrases.toml").write_text(RECIPE.format(file=home / "phrases.csv"))
    return home / "phrases.toml"


@pytest.fixture(scope="module")
def trained(recipe_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    result = call("run", recipe_file, "--out", folder)
    assert result.exit_code == 0, result.stderr
    assert "add_remove_example" in result.stderr
    return folder


def test_what_is_claimed_stands_beside_what_is_true(trained):
    run = record(trained)
    scores = {name: found["test"] for name, found in run["metrics"].items()}
    assert scores["plain"]["epsilon"] is None and scores["plain"]["delta"] is None
    assert scores["clip_only"]["epsilon"] is None and scores["clip_only"]["delta"] is not None
    for name in ("exact", "honest"):
        assert 7.9 < scores[name]["epsilon"] == scores[name]["claimed_epsilon"] <= 8
    assert scores["naive"]["claimed_epsilon"] == 8 and scores["naive"]["epsilon"] > 20
    assert run["statements"]["naive"]["sensitivity_factor"] == 2
    assert run["best"] in ("exact", "honest")
    assert (trained / "model" / "model.json").is_file()
    assert pl.read_parquet(trained / "trainings.parquet").height == 5
    page = (trained / "report.html").read_text()
    assert "it guarantees" in page and "True epsilon" in page and "no guarantee" in page


def test_the_kept_model_reads_new_texts(trained, tmp_path):
    (tmp_path / "new.txt").write_text("play some jazz\n\nwake me at noon\n")
    result = call("predict", trained, "--data", tmp_path / "new.txt", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    found = pl.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert found.height == 2 and {"tokens", "intent", "slots"} <= set(found.columns)
    assert call("report", trained).exit_code == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ("models.exact.kind=NLO", "did you mean 'NLU'"),
        ("models.exact.options.embeding=3", "did you mean 'embedding'"),
        ("models.naive.privacy.options.microbatch_sizes=3", "did you mean 'microbatch_size'"),
        ("models.exact.privacy.accounting=naive", "a claim about micro-batches"),
        ("models.clip_only.privacy.epsilon=3", "has no noise"),
        ("models.exact.privacy.noise_multiplier=3", "give epsilon or noise_multiplier"),
        ("final.model=exakt", "no model 'exakt'"),
    ],
    ids=["kind", "option", "privacy", "naive", "clip", "both", "final"],
)
def test_mistakes_are_named_before_training(recipe_file, tmp_path, change, message):
    result = call("run", recipe_file, "--set", change, "--out", tmp_path / "run")
    assert result.exit_code == 2 and message in result.stderr.replace("\n", " ")


def test_models_can_be_chosen():
    recipe = recipes.load("private-nlu").only(["plain", "exact_3"])
    assert list(recipe.models) == ["plain", "exact_3"] and recipe.final.model == "best"
    with pytest.raises(RecipeError, match="no model 'exact_9'"):
        recipe.only(["exact_9"])


def test_a_guarantee_is_never_a_bare_number():
    told = call("dp", "epsilon", "--noise", "1.1", "--q", "0.0042666667", "--steps", "14062",
                "--delta", "1e-5", "--accountant", "rdp")  # fmt: skip
    assert told.exit_code == 0
    assert "(epsilon 2.597, delta 1e-05)" in told.stdout and "add_remove_example" in told.stdout
    assert "assumes" in told.stdout and "poisson" in told.stdout
    twice = call("dp", "epsilon", "--noise", "2.2", "--q", "0.0042666667", "--steps", "14062",
                 "--delta", "1e-5", "--accountant", "rdp", "--microbatch", "16",
                 "--json")  # fmt: skip
    found = json.loads(twice.stdout)
    assert found["epsilon"] == pytest.approx(2.5966, rel=1e-3)
    assert found["sensitivity_factor"] == 2


def test_noise_comes_with_its_guarantee():
    told = call("dp", "noise", "--epsilon", "4", "--q", "0.05", "--steps", "200", "--delta", "1e-5",
                "--accountant", "rdp", "--json")  # fmt: skip
    found = json.loads(told.stdout)
    assert found["noise"] == pytest.approx(1.163, rel=2e-3) and found["epsilon"] <= 4
    decaying = call("dp", "noise", "--epsilon", "4", "--q", "0.05", "--steps", "200", "--delta",
                    "1e-5", "--accountant", "rdp", "--decay", "0.95", "--json")  # fmt: skip
    first = json.loads(decaying.stdout)
    assert first["noise"] > found["noise"] and len(first["steps"]) == 10
    wrong = call("dp", "noise", "--epsilon", "-1", "--q", "0.05", "--steps", "2", "--delta", "1e-5")
    assert wrong.exit_code == 2 and "must be positive" in wrong.stderr
    wrong = call("dp", "epsilon", "--noise", "1", "--q", "1.5", "--steps", "2", "--delta", "1e-5")
    assert wrong.exit_code == 2 and "sample rate" in wrong.stderr
