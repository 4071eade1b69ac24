"""``foretell feedback``: emit, train, evaluate, audit."""

from __future__ import annotations

import polars as pl
import pytest
from tiny_runs import call

from foretell.data.events import read_events
from foretell.estimators.feedback import DelayedFeedbackClassifier


@pytest.fixture
def log(event_files) -> list[object]:
    """The options that name a log."""
    entities, outcomes = event_files
    return ["--log", entities, "--outcomes", outcomes, "--window", "24h", "--unit", "h"]


def test_emitted_rows_are_those_of_the_log(log, event_files, tmp_path):
    out = tmp_path / "rows" / "rows.parquet"
    result = call(
        "feedback", "emit", *log, "--protocol", "funnel", "--engagement", "view", "--wait", "1h",
        "--until", "60", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    events = read_events(*event_files, attribution_window="24h", unit="h")
    rows = events.emit("funnel", 1.0, until=60.0, engagement="view").to_polars()
    assert pl.read_parquet(out).equals(rows)


def test_a_model_is_trained_and_saved(log, event_files, tmp_path):
    result = call(
        "feedback", "train", *log, "--engagement", "view", "--wait", "1h", "--until", "100",
        "--out", tmp_path / "model",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "whose labels were not final" in result.stderr
    model = DelayedFeedbackClassifier.load(tmp_path / "model")
    events = read_events(*event_files, attribution_window="24h", unit="h")
    assert model.predict_proba(events).shape == (len(events), 2)
    assert model.updates_ == 1


def test_methods_are_compared_on_the_past(log, tmp_path):
    result = call(
        "feedback", "evaluate", *log, "--start", "60", "--end", "84", "--bucket", "12h",
        "--methods", "fnw", "--wait", "1h", "--out", tmp_path / "table.parquet",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    for name in ("pretrain", "vanilla", "wait", "oracle", "fnw"):
        assert name in result.stdout
    assert set(pl.read_parquet(tmp_path / "table.parquet")["method"]) >= {"fnw", "vanilla"}


def test_an_audit_prints_its_tables(log):
    result = call("feedback", "audit", *log, "--engagement", "view", "--now", "100")
    assert result.exit_code == 0, result.stderr
    for part in ("have arrived", "will convert", "corrections"):
        assert part in result.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["emit", "--log", "nowhere.parquet", "--window", "1h", "--out", "r"], ["nowhere"]),
        (["audit", "--log", "funnel_strem"], ["did you mean 'funnel_stream'"]),
        (["audit", "--log", "demand.csv"], ["attribution_window"]),
    ],
)
def test_wrong_calls(tmp_path, monkeypatch, command, parts):
    monkeypatch.chdir(tmp_path)
    result = call("feedback", *command)
    assert result.exit_code == 2
    for part in parts:
        assert part in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_protocol(log, tmp_path):
    result = call("feedback", "emit", *log, "--protocol", "esdmf", "--out", tmp_path / "r.parquet")
    assert result.exit_code == 2
    assert "esdfm" in result.stderr


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["--conversion", "purchase"], "the kinds here are ['conversion', 'view']"),
        (["--window", "0.001h"], "Lengthen --window"),
        (["--since", "50", "--until", "10"], "--since 50 is not before --until 10"),
    ],
)
def test_slips_that_would_leave_no_rows_or_no_label(log, tmp_path, changes, part):
    result = call("feedback", "emit", *log, *changes, "--out", tmp_path / "rows.parquet")
    assert result.exit_code == 2
    assert part in result.stderr
    assert not (tmp_path / "rows.parquet").exists()


def test_outcomes_are_asked_for(log, tmp_path):
    alone = [*log[:2], *log[4:]]
    result = call("feedback", "emit", *alone, "--out", tmp_path / "rows.parquet")
    assert result.exit_code == 2
    assert "--outcomes" in result.stderr
