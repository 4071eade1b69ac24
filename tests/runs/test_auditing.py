from __future__ import annotations

import json
import shutil

import pytest
from tiny_runs import call


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A copy of a complete run, which tests may write into."""
    folder = tmp_path_factory.mktemp("audited") / "run"
    shutil.copytree(finished, folder)
    return folder


def test_a_saved_run_is_audited_by_its_own_recipe_and_goes_on(run):
    result = call("audit", run, "--model", "mq_cnn", "--shadows", 2)
    assert result.exit_code == 0, result.stderr
    document = json.loads((run / "audit.json").read_text())
    assert document["threat_model"] == "black_box_score"
    assert document["examples"] == 10 and document["targets"] == [0, 1, 2]
    assert {"LossThreshold", "LiRA online", "RMIA online"} <= {
        attack["attack"] for attack in document["attacks"]
    }
    # Ten series cannot say anything of a thousandth.
    assert all(attack["points"][1]["tpr"] is None for attack in document["attacks"])
    page = (run / "audit.html").read_text()
    assert "black_box_score" in page and "is not private" in page
    models = run / "audit" / "mq_cnn"
    before = {p: p.stat().st_mtime_ns for p in models.glob("model*/model.json")}
    assert len(before) == 3
    again = call("audit", run, "--model", "mq_cnn", "--shadows", 3, "--targets", 1)
    assert again.exit_code == 0, again.stderr
    after = {p: p.stat().st_mtime_ns for p in models.glob("model*/model.json")}
    assert len(after) == 4 and before.items() <= after.items()
    assert json.loads((run / "audit.json").read_text())["targets"] == [0]
    other = call("audit", run, "--model", "mq_cnn", "--shadows", 1, "--seed", 5)
    assert other.exit_code == 2 and "another training" in other.stderr
    anew = call("audit", run, "--model", "mq_cnn", "--shadows", 1, "--seed", 5, "--anew")
    assert anew.exit_code == 0, anew.stderr


def test_without_shadows_only_losses_are_attacked(run):
    result = call("audit", run, "--model", "forest", "--shadows", 0)
    assert result.exit_code == 0, result.stderr
    document = json.loads((run / "audit.json").read_text())
    assert [attack["attack"] for attack in document["attacks"]] == ["LossThreshold"]
    assert any("only the losses" in note for note in document["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "ensemble is an ensemble"),
        (("--model", "legacy"), "fitted to each series by itself"),
        (("--model", "mq_rnn"), "the run has no model 'mq_rnn'"),
        (("--model", "forest", "--shadows", "-1"), "must not be negative"),
    ],
    ids=["ensemble", "local", "unknown", "negative"],
)
def test_what_cannot_be_audited_is_refused(finished, options, message):
    result = call("audit", finished, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_run_that_leaves_no_model_is_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "task": "thresholds"}))
    result = call("audit", tmp_path / "run")
    assert result.exit_code == 2 and "leave no trained model" in result.stderr
