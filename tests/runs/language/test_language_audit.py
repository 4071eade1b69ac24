from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from tiny_runs import call

RECIPE = """
task = "language"
title = "Small talk"

[data]
source = "{source}"

[defaults]
embedding = 8
hidden = 8
batch_size = 20
max_steps = 8

[models.plain]
kind = "NLU"

[models.private]
kind = "NLU"
privacy = {{ noise_multiplier = 2.0 }}

[final]
model = "plain"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("dp_accounting")
    home = tmp_path_factory.mktemp("language")
    rng = np.random.default_rng(0)
    words = np.array(["play", "stop", "jazz", "rock", "now", "please"])
    tokens = [rng.choice(words, 3).tolist() for _ in range(300)]
    table = pl.DataFrame(
        {
            "tokens": tokens,
            "slots": [["B-word" if w == "jazz" else "O" for w in row] for row in tokens],
            "intent": [row[0] for row in tokens],
            "split": ["train"] * 240 + ["test"] * 60,
        }
    )
    table.write_parquet(home / "talk.parquet")
    (home / "talk.toml").write_text(RECIPE.format(source=home / "talk.parquet"))
    result = call("run", home / "talk.toml", "--out", home / "run")
    assert result.exit_code == 0, result.stderr
    return home / "run"


def test_utterances_are_audited_with_the_privacy_of_the_run(run):
    result = call("audit", run, "--model", "private", "--shadows", 2)
    assert result.exit_code == 0, result.stderr
    document = json.loads((run / "audit.json").read_text())
    assert document["examples"] == 240
    assert document["statement"]["noise_multipliers"] == [2.0]
    assert document["blind"]["invalid"] is False
    assert any("twin of equal content" in note for note in document["notes"])
    assert "add_remove_example" in (run / "audit.html").read_text()


def test_the_kept_model_is_audited_by_default(run):
    result = call("audit", run, "--shadows", 1)
    assert result.exit_code == 0, result.stderr
    assert (run / "audit" / "plain" / "model0001" / "model.json").is_file()
    assert json.loads((run / "audit.json").read_text())["statement"] is None
