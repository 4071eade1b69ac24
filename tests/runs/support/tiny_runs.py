"""Inputs small enough for a run in a test, and the command line in this process."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from click.testing import Result
from typer.testing import CliRunner

from foretell.cli import app

RECIPE = """
title = "Ten series"
seeds = [0, 1]
baseline = "legacy"

[data]
source = "shop"
horizon = 4
options = {items = 5, stores = 2, weeks = 60}

[protocols.holdout]
windows = 2
step = 4
refit = true

[models.legacy]
kind = "LegacyForecaster"
origins = 2
models = {smooth = [{kind = "StatsForecastModel", model = "HistoricAverage"}]}

[models.forest]
kind = "QRFForecaster"
n_rows = 300
n_estimators = 3

[models.mq_cnn]
kind = "MQCNN"
max_steps = 5
n_forks = 4
batch_size = 8
span_targets = [[0, 3]]

[models.ensemble]
kind = "QuantileEnsemble"
members = ["legacy", "mq_cnn"]

[final]
model = "ensemble"

[orders]
underage = 4.0
overage = 1.0
lead_time = 2

[report]
series = 5
"""

LEGACY = """
[data]
horizon = 4

[models.legacy]
kind = "LegacyForecaster"
origins = 2

[report]
series = 5
"""


def call(*arguments: object) -> Result:
    """The command line with these arguments."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def record(folder: Path) -> dict[str, Any]:
    """``run.json``, which must be JSON in the strict sense."""

    def refuse(name: str) -> None:
        raise AssertionError(f"run.json holds {name}")

    text = (folder / "run.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse)


def sales(weeks: int = 60, ids: tuple[str, ...] = ("a", "b", "c"), **columns: Any) -> pl.DataFrame:
    """Long table of weekly sales; further columns are repeated for each series."""
    rng = np.random.default_rng(0)
    days = [date(2023, 1, 1) + timedelta(weeks=k) for k in range(weeks)]
    parts = [
        pl.DataFrame({"unique_id": [i] * weeks, "ds": days, "y": rng.poisson(20.0, weeks) * 1.0})
        for i in ids
    ]
    return pl.concat(parts).with_columns(**{k: pl.lit(v) for k, v in columns.items()})
