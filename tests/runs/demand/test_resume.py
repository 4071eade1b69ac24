"""Runs that are stopped go on and end with the numbers of a run that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny_runs import call, record, sales

from foretell.errors import ArtefactError
from foretell.runs import recipe as recipes
from foretell.runs.folder import RunFolder
from foretell.runs.runner import resume, run

STEPS = 300
RECIPE = f"""
seeds = [0]

[data]
source = "shop"
horizon = 4
options = {{items = 5, stores = 2, weeks = 60}}

[models.forest]
kind = "QRFForecaster"
n_rows = 300
n_estimators = 3

[models.mq_cnn]
kind = "MQCNN"
max_steps = {STEPS}
n_forks = 4
batch_size = 8

[final]
model = "mq_cnn"
refit = false

[report]
series = 5
"""


@pytest.fixture
def two_models(tmp_path) -> Path:
    file = tmp_path / "two.toml"
    file.write_text(RECIPE)
    return file


HELD = """
import os, sys
from foretell.cli import app

where = sys.argv.pop(1)
commands, replace = sys.modules["foretell.cli.app"], os.replace
tell = commands.tell

def hold(text):
    if where in text:
        print("held", file=sys.stderr, flush=True)
        sys.stdin.read()

def held_tell(line):
    tell(line)
    hold(line)

def held_replace(source, target):
    replace(source, target)
    hold(str(target))

commands.tell, os.replace = held_tell, held_replace
app()
"""


def start(where: str, *arguments: object, on_interrupt: Any = signal.SIG_DFL) -> subprocess.Popen:
    """A run in a process of its own, which stands still once it has written or told ``where``.

    It goes on when its input ends: whatever is done to it before cannot come too late. Whether it
    heeds Ctrl-C must not hang on our own parent.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, where, "run", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, on_interrupt),
    )
    assert process.stderr is not None
    words = ""
    while not words.endswith("held\n"):
        line = process.stderr.readline()
        assert line, f"it ended before {where}: {words}"
        words += line
    return process


def test_a_run_that_was_killed_and_interrupted_ends_with_the_same_numbers(two_models, tmp_path):
    out = tmp_path / "out"
    killed = start("net0/training.safetensors", two_models, "--out", out)
    running = call("run", "--resume", "--out", out)
    assert running.exit_code == 2
    assert "another process works on" in running.stderr
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert record(out)["status"] == "running"  # it could not say anything
    assert RunFolder(out).read()["status"] == "interrupted"
    refused = call("report", out)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr

    forest = out / "work" / "holdout" / "forest" / "seed0" / "fit0" / "model.json"
    made = forest.stat().st_mtime_ns
    interrupted = start("[1/2]", "--resume", "--out", out)
    assert forest.stat().st_mtime_ns == made  # what was done is not done again
    interrupted.send_signal(signal.SIGINT)
    _, words = interrupted.communicate()
    assert interrupted.returncode == 130, words
    assert f"foretell run --resume --out {out}" in words
    assert record(out)["status"] == "interrupted"

    last = call("run", "--resume", "--out", out)
    assert last.exit_code == 0, last.stderr
    whole = run(recipes.load(two_models), tmp_path / "whole")
    ours, theirs = record(out), record(whole.path)
    assert ours["metrics"] == theirs["metrics"]
    assert len(ours["resumed"]) == 2
    for name in ("backtest", "predictions"):
        file = f"{name}.parquet"
        assert pl.read_parquet(out / file).equals(pl.read_parquet(whole.path / file))
    assert not (out / "work").exists()


def test_what_a_run_was_made_of_cannot_change_when_it_is_resumed(tmp_path, sales_run):
    folder, table = sales_run
    recipe = recipes.parse(record(folder)["recipe"])
    RunFolder(folder).update(status="interrupted")
    other = recipe.model_copy(update={"seeds": [7]})
    with pytest.raises(ArtefactError, match=r"seeds was \[0\] and is \[7\]"):
        resume(folder, recipe=other)
    content = pl.read_csv(table)
    content.with_columns(pl.col("y") + 1).write_csv(table)
    with pytest.raises(ArtefactError, match="are not what they were when it was started"):
        resume(folder)
    assert record(folder)["status"] == "failed"
    content.write_csv(table)
    assert record(resume(folder, recipe=recipe).path)["status"] == "complete"
    with pytest.raises(ArtefactError, match="nothing to resume"):
        resume(folder)


@pytest.fixture
def sales_run(run_table, tmp_path):
    result, folder = run_table(sales())
    assert result.exit_code == 0, result.stderr
    return folder, tmp_path / "sales.csv"


def test_a_failed_run_goes_on_when_its_cause_is_mended(tmp_path, legacy_file):
    missing = tmp_path / "late.csv"
    failed = call("run", legacy_file, "--data", missing, "--out", tmp_path / "out")
    assert failed.exit_code == 2
    sales().write_csv(missing)
    mended = call("run", "--resume", "--out", tmp_path / "out")
    assert mended.exit_code == 0, mended.stderr
    assert "failure" not in record(tmp_path / "out")


def test_options_do_not_change_a_resumed_run(finished):
    result = call("run", "--resume", "--out", finished, "--set", "seeds=[1]")
    assert result.exit_code == 2
    assert "name one" in result.stderr


def test_a_background_run_that_ignores_ctrl_c_can_be_ended(two_models, tmp_path):
    out, ignore = tmp_path / "out", signal.SIG_IGN
    process = start("net0/training.safetensors", two_models, "--out", out, on_interrupt=ignore)
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate()
    assert process.returncode == 130, words
    assert record(out)["status"] == "interrupted"
