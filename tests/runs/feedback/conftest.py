"""Runs about late labels, small enough for a test."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from tiny_runs import call

RECIPE = """
task = "feedback"
title = "A short stream"
baseline = "naive"

[data]
source = "funnel_stream"
options = {stream = "short_window", days = 9, rate = 20}

[snapshots.early]
now = 120
since = 96
test = [120, 144]

[snapshots.late]
now = 132
since = 96
history = [0, 96]
test = [144, 168]

[estimator]
kind = "HistGradientBoostingClassifier"
max_iter = 8

[models.naive]
method = "naive"

[models.fsiw]
method = "fsiw"

[models.funnel]
method = "funnel"
engagement = ["view"]

[models.oracle]
method = "oracle"

[decision]
snapshot = "early"
model = "funnel"
hold_out = [120, 144]
known = 168
test = [168, 192]
min_precision = 0.25
members = 3
n_levels = 2

[report]
resamples = 100
ages = 6
"""

STREAM = """
task = "feedback"
title = "A stream"

[data]
source = "funnel_stream"
options = {stream = "short_window", days = 5, rate = 8}

[stream]
start = 60
end = 84
bucket = "12h"
truth = true

[stream.models.funnel]
method = "funnel"
engagement = ["view"]
waiting_time = 1
hidden_sizes = [8]
epochs = 1
"""


@pytest.fixture(scope="session")
def feedback_recipe(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "short.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="session")
def stream_recipe(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "stream.toml"
    file.write_text(STREAM)
    return file


@pytest.fixture(scope="session")
def corrected(feedback_recipe, tmp_path_factory) -> Path:
    """Folder of a complete run; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "corrected"
    result = call("run", feedback_recipe, "--out", folder)
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def event_files(tmp_path_factory) -> tuple[Path, Path]:
    """Entities and outcomes of a stream as a user has them."""
    from foretell.data.simulators import funnel_stream

    home = tmp_path_factory.mktemp("events")
    log, _ = funnel_stream("short_window", days=5, rate=8, seed=3)
    entities, outcomes = log.to_polars()
    entities.write_parquet(home / "events.parquet")
    outcomes.write_csv(home / "outcomes.csv")
    assert isinstance(outcomes, pl.DataFrame)
    return home / "events.parquet", home / "outcomes.csv"
