from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_runs import call, record

from foretell.data.simulators import evidence_cells
from foretell.decisions.thresholds import DecisionSurface
from foretell.errors import RecipeError
from foretell.runs import recipe as recipes

RECIPE = """
task = "thresholds"
title = "Few cells"
seeds = [0, 1]

[data]
source = "evidence_cells"
options = {cells = 3000}

[models.posterior]
kind = "given"

[decision]
min_precision = 0.5
compare = [0.4, 0.5]
methods = ["mist"]
n_levels = 2

[report]
resamples = 50
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "cells.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="module")
def decided(recipe_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "decided"
    result = call("run", recipe_file, "--out", folder)
    assert result.exit_code == 0, result.stderr
    return folder


def test_the_run_folder_holds_everything(decided):
    names = {file.name for file in decided.iterdir()}
    assert {
        "run.json", "decisions.parquet", "surface.json", "surface-surface.json",
        "surface-single.json", "matched.parquet", "deployed.parquet", "quality.parquet",
        "report.html",
    } <= names  # fmt: skip
    assert "work" not in names


def test_the_record_is_what_the_surface_does(decided):
    run = record(decided)
    table = pl.read_parquet(decided / "decisions.parquet")
    surface = DecisionSurface.from_json(decided / "surface.json")
    own = surface.predict(table["score"].to_numpy(), table["uncertainty"].to_numpy())
    assert own.tolist() == table["guaranteed"].to_list()
    scores = run["metrics"]["posterior"]["test"]
    called = table.filter(guaranteed=1)
    assert scores["precision"] == pytest.approx(called["y"].mean())
    assert scores["recall"] == pytest.approx(called["y"].sum() / table["y"].sum())
    assert run["data"]["holdout_rows"] == 9000
    assert {row["seeds"] for row in run["tables"]["matched"]} <= {1, 2}
    page = (decided / "report.html").read_text()
    assert "Recall at equal precision" in page
    assert "Is an uncertain score worth less?" in page


def test_the_report_is_drawn_anew(decided):
    before = (decided / "report.html").read_text()
    assert call("report", decided).exit_code == 0
    assert len((decided / "report.html").read_text()) == pytest.approx(len(before), rel=0.01)
    assert "recall" in call("list", decided.parent).stdout
    result = call("predict", decided, "--data", "x.csv", "--out", "nowhere")
    assert result.exit_code == 2
    assert "no model for new data" in result.stderr


def test_scores_of_somebody_elses_model(recipe_file, tmp_path):
    hold_out, _ = evidence_cells(cells=2000, seed=3)
    table = pl.DataFrame(
        {"risk": hold_out.score, "spread": hold_out.uncertainty, "outcome": hold_out.y}
    )
    table.write_csv(tmp_path / "scored.csv")
    columns = {"score": "risk", "uncertainty": "spread", "label": "outcome"}
    named = [a for k, v in columns.items() for a in ("--set", f"data.{k}_column={v}")]
    more = ["--data", tmp_path / "scored.csv", "--set", "seeds=[0]"]
    result = call("run", recipe_file, *more, *named, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert record(tmp_path / "out")["data"]["test_rows"] == 3000
    result = call("run", recipe_file, *more, "--out", tmp_path / "failed")
    assert result.exit_code == 2
    assert "are missing" in result.stderr
    assert record(tmp_path / "failed")["status"] == "failed"
    table.with_columns(outcome=2).write_csv(tmp_path / "scored.csv")
    result = call("run", recipe_file, *more, *named, "--out", tmp_path / "labels")
    assert result.exit_code == 2
    assert "neither 0 nor 1" in result.stderr


def test_an_interrupted_run_goes_on(recipe_file, decided, tmp_path, monkeypatch):
    from foretell.runs.thresholds import trip

    real, calls = trip.run_job, []

    def stop_at_the_second(job):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(trip, "run_job", stop_at_the_second)
    out = tmp_path / "out"
    assert call("run", recipe_file, "--out", out).exit_code == 130
    assert record(out)["status"] == "interrupted"
    monkeypatch.setattr(trip, "run_job", real)
    result = call("run", "--resume", "--out", out)
    assert result.exit_code == 0, result.stderr
    mine, other = record(out), record(decided)
    assert mine["tables"] == other["tables"]
    assert mine["decision"] == other["decision"]
    assert np.array_equal(
        *(pl.read_parquet(f / "decisions.parquet")["score"] for f in (out, decided))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decision": {"min_precison": 0.5}}, "unknown key 'min_precison'.*'min_precision'"),
        ({"models": {"x": {"kind": "ensembel"}}}, "models.x.kind"),
        ({"models": {"x": {"kind": "ensemble"}}}, "holds scores already"),
        ({"data": {"source": "movielens_100k"}}, "holds none"),
        ({"decision": {"min_precision": 1.5}}, "decision.min_precision"),
    ],
)
def test_a_wrong_recipe_says_what_would_be_right(change, message):
    small = {"task": "thresholds", "models": {"given": {"kind": "given"}}}
    with pytest.raises(RecipeError, match=message):
        recipes.parse({**small, **change})


@pytest.mark.parametrize(
    ("setting", "part"),
    [("data.options.cels=3", "'cells'"), ("data.source=evidence_cell", "'evidence_cells'")],
)
def test_a_run_that_fails_says_why(recipe_file, tmp_path, setting, part):
    result = call("run", recipe_file, "--set", setting, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert part in result.stderr
