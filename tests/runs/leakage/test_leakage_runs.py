from __future__ import annotations

import json
import pickle

import numpy as np
import polars as pl
import pytest
from tiny_runs import call

from foretell.runs import recipe as recipes
from foretell.runs.leakage.training import Training, _load

SETTINGS = (
    "data.features=256", "private.steps=6", "private.sample_rate=0.2", "plain.epochs=20",
    "attack.n_models=5", "attack.targets=2", "attack.canaries=40",
)  # fmt: skip


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    """A folder of data sets with a few made-up posts in place of 20 Newsgroups."""
    home = tmp_path_factory.mktemp("data")
    folder = home / "newsgroups20"
    folder.mkdir()
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(400)])
    for part, count in (("train", 120), ("test", 60)):
        groups = rng.integers(0, 3, count)
        texts = [
            f"From: a@b.c\nSubject: topic{g}\n\n" + " ".join(rng.choice(words, 12)) for g in groups
        ]
        table = pl.DataFrame(
            {
                "group": pl.Series([f"group{g}" for g in groups], dtype=pl.Categorical),
                "doc_id": pl.Series(range(count), dtype=pl.Int32),
                "text": texts,
            }
        )
        table.write_parquet(folder / f"bydate_{part}.parquet")
    return home


@pytest.fixture(scope="module")
def study(posts, tmp_path_factory):
    pytest.importorskip("dp_accounting")
    _load.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORETELL_DATA", str(posts))
        folder = tmp_path_factory.mktemp("runs") / "study"
        sets = [option for setting in SETTINGS for option in ("--set", setting)]
        models = ("--models", "epsilon_1,clipped,plain")
        result = call("run", "leakage-study", *models, *sets, "--out", folder)
        assert result.exit_code == 0, result.stderr
        yield folder, result
    _load.cache_clear()


def test_every_training_has_its_attacks_statement_and_bound(study):
    folder, _ = study
    record = json.loads((folder / "run.json").read_text())
    assert list(record["models"]) == ["epsilon_1", "clipped", "plain"]
    private, clipped, plain = record["models"].values()
    assert private["statement"].startswith("(epsilon ") and clipped["statement"] is None
    assert "idf" in private["statement"] and "add_remove_example" in private["statement"]
    assert private["noise"] > 1 and clipped["noise"] == 0 and plain["noise"] is None
    bound = private["audit"]["dp_bound"]
    assert bound["points"] > 100 and bound["violations"] == 0
    assert bound["epsilon"] <= 1.0
    assert private["violation"] is None and private["bound"]["epsilon"] <= 1.0
    scores = {name: value["membership"] for name, value in record["metrics"].items()}
    assert scores["plain"]["lira_auc"] > scores["epsilon_1"]["lira_auc"]
    assert {"loss_auc", "lira_nig_auc", "rmia_offline_auc"} <= set(scores["plain"])
    assert record["attack"]["threat_model"] == "black_box_score"
    assert record["leaderboard"]["membership"][-1]["model"] == "plain"
    assert "lipping without noise" in record["lesson"]


def test_the_page_says_what_the_attacker_sees_and_can_be_drawn_anew(study):
    folder, result = study
    page = (folder / "report.html").read_text()
    for text in ("black_box_score", "white_box_final", "clipping without noise", "LiRA online"):
        assert text in page
    assert "LiRA AUC" in result.stdout
    (folder / "report.html").unlink()
    again = call("report", folder)
    assert again.exit_code == 0, again.stderr
    assert (folder / "report.html").is_file()


def test_a_study_is_no_model_to_audit(study):
    result = call("audit", study[0])
    assert result.exit_code == 2 and "leave no trained model" in result.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("models.clipped.target_epsilon=3", "drop target_epsilon"),
        ("models.epsilon_2.target_epsilon=2", "there is no model 'epsilon_2'"),
        ("attack.targets=40", "cannot be more than attack.n_models"),
        ("seeds=[0, 1]", "one seed"),
        ("data.source=nothing", "there is no public data set"),
    ],
    ids=["both", "unknown", "targets", "seeds", "source"],
)
def test_recipes_that_make_no_sense_are_refused(tmp_path, setting, message):
    result = call("run", "leakage-study", "--set", setting, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_training_can_be_sent_to_another_machine(tmp_path):
    training = Training(recipes.load("leakage-study"), "plain", tmp_path)
    assert pickle.loads(pickle.dumps(training)) == training
