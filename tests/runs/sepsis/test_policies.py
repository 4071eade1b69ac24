"""Policies of alarms judged on stays: a run's scores or a table's, under another policy."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from foretell.cli import app
from foretell.data.clinical.storage import write_stays
from foretell.data.simulators.hospitals import hospitals
from foretell.decisions.alarms import AlarmPolicy
from foretell.errors import DataError, ParameterError
from foretell.evaluation.clinical import alarm_metrics, threshold_alarms
from foretell.runs.sepsis.policies import evaluate_policy, read_policy, scores_of_table


@pytest.fixture(scope="module")
def stays():
    return hospitals(stays=60, sites=1, hours=(12, 30), seed=5)[0]


@pytest.fixture(scope="module")
def scores(stays):
    rng = np.random.default_rng(1)
    near = stays.labels().astype(float)
    return np.clip(0.2 + 0.5 * near + 0.2 * rng.normal(size=stays.n_rows), 0, 1)


def test_what_is_said_is_what_the_metrics_say(stays, scores):
    issued = np.random.default_rng(2).random(stays.n_rows) < 0.9
    policy = AlarmPolicy(0.5, snooze=6)
    told = evaluate_policy(stays, policy, scores, issued, horizon=24, by=("sex",), resamples=50)
    alarms = threshold_alarms(scores, stays.lengths, 0.5, snooze=6, mask=issued)
    wanted = alarm_metrics(stays, alarms, horizon=24, predicted=issued).values()
    found = {r["metric"]: r["value"] for r in told["metrics"]}
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value) or (found[name] is None and value != value)
    assert told["alarms"] == alarms.sum() and told["withheld"] == (~issued).sum()
    assert told["utility"]["threshold"] > told["utility"]["clock_rule"] - 1
    assert 0.5 < told["ranking"]["auroc"]["estimate"] <= 1
    assert told["ranking"]["horizon"] == 24
    assert {r["group"] for r in told["by"]["sex"]} == set(stays.names("sex").tolist())
    calm = evaluate_policy(stays, AlarmPolicy(0.5, snooze=24), scores, issued, resamples=10)
    assert calm["alarms"] < told["alarms"]
    with pytest.raises(DataError, match="no 'shoe'"):
        evaluate_policy(stays, policy, scores, issued, by=("shoe",))


def test_policies_come_from_files(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text('snooze = 9\npersistence = [2, 3]\n[[tiers]]\nname = "a"\nthreshold = 0.2\n'
                    '[[tiers]]\nname = "b"\nthreshold = 0.6\nunits = { ICU = 0.7 }\n')  # fmt: skip
    policy = read_policy(file)
    assert (policy.snooze, policy.persistence) == (9, (2, 3)) and policy.tiers[1].of("ICU") == 0.7
    for text, told in (("snoze = 1", "unknown key 'snoze'"), ("threshold = -", "cannot be read"),
                       ("threshold = 0.5\nsnooze = -1", "negative")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ParameterError, match=told):
            read_policy(file)


def test_the_command_line_judges_a_table_of_scores(stays, scores, tmp_path):
    ids = np.repeat(stays.ids, stays.lengths).astype(str)
    table = pl.DataFrame({"id": ids, "hour": stays.hours(), "score": scores})
    table.slice(3).write_parquet(tmp_path / "scores.parquet")
    values, issued = scores_of_table(stays, tmp_path / "scores.parquet")
    assert issued.sum() == stays.n_rows - 3 and values[5] == scores[5]
    table.vstack(table.head(1)).write_parquet(tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="there twice"):
        scores_of_table(stays, tmp_path / "twice.parquet")
    write_stays(stays, tmp_path / "stays")
    (tmp_path / "p.toml").write_text("threshold = 0.5\n")
    args = ["evaluate", str(tmp_path / "stays"), "--scores", str(tmp_path / "scores.parquet"),
            "--policy", str(tmp_path / "p.toml"), "--resamples", "20"]  # fmt: skip
    run = CliRunner()
    told = run.invoke(app, [*args, "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["withheld"] == 3
    shown = run.invoke(app, [*args, "--by", "sex"])
    assert "patient_sensitivity" in shown.stdout and "female" in shown.stdout
    assert "auroc of hours, onset within 48 h" in shown.stdout
    assert run.invoke(app, ["evaluate", str(tmp_path / "stays")]).exit_code == 2
    # Somebody who falls ill unscored is missed, and it is said.
    silent = str(stays.ids[np.flatnonzero(stays.onset > 3)[0]])
    table.filter(pl.col("id") != silent).write_parquet(tmp_path / "scores.parquet")
    fewer = json.loads(run.invoke(app, [*args, "--json"]).stdout)
    assert fewer["onset_before_prediction"] == fewer["without_prediction"] == 1
    assert fewer["septic"] == json.loads(told.stdout)["septic"]
    shown = " ".join(run.invoke(app, args).stdout.split())
    assert "1 septic stays without a score before the onset, counted as missed" in shown
