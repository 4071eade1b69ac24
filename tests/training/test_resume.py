from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretell.errors import TrainingError
from foretell.training import (
    L2ToReference,
    Strategy,
    TensorExamples,
    TrainingInterrupted,
    WeightAveraging,
    fit,
    load_checkpoint,
    save_checkpoint,
)
from foretell.training.checkpoint import FILE

# The run that is killed: dropout, mixed lengths, micro-batches, one cycle, averages, a penalty,
# a strategy with a module, patience and best weights. Every process is forked from one that has
# imported all, and kills itself (or is killed from outside) without warning.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np, torch
from torch import nn
from foretell.learners.contract import Learner
from foretell.training import *
from foretell.training import checkpoint as files

class Pool(Learner):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3))
        self.head = nn.Linear(16, 1)
    def encode(self, batch):
        mask = batch["mask"][..., None]
        return self.net((batch["x"] * mask).sum(1) / mask.sum(1))
    def decode(self, encoding, batch):
        return self.head(encoding)[:, 0]
    def score(self, output, batch):
        return (output - batch["y"]) ** 2

class Helper(Strategy):
    def __init__(self):
        torch.manual_seed(6)
        self.module, self.moments, self.kill_at = nn.Linear(16, 1), np.zeros(2), None
    def weigh(self, scores, batch, context):
        return torch.rand(len(scores)) + scores / (1 + scores)
    def penalty(self, learner, encoding, output, batch, context):
        return 0.1 * ((self.module(encoding)[:, 0] - output) ** 2).mean()
    def after_step(self, context):
        self.moments += context.rng.normal(size=2)
        if context.step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    def state_dict(self):
        return {"moments": self.moments}
    def load_state_dict(self, state):
        self.moments = state["moments"]

rng = np.random.default_rng(0)
rows = []
for _ in range(90):
    x = rng.normal(size=(rng.integers(1, 6), 2)).astype(np.float32)
    rows.append({"x": x, "y": np.float32(x.mean())})
class Noisy(TensorExamples):
    def batch(self, indices, rng):
        batch = super().batch(indices, rng)
        noise = torch.as_tensor(rng.normal(size=batch["x"].shape)).float()
        return {**batch, "x": batch["x"] + 0.1 * noise}

def train(folder, kill_at=None):
    learner, helper = Pool(), Helper()
    helper.kill_at = kill_at
    average = WeightAveraging(0.9)
    result = fit(learner, Noisy(rows[:70]), validation=TensorExamples(rows[70:]), max_steps=60,
        strategies=[helper, average, L2ToReference(0.01)], batch_size=16, accumulate=2,
        validate_every=5, patience=9, checkpoint=folder, checkpoint_every=4, resume=True, threads=1)
    return learner.state_dict(), average.average, helper.moments, result

def equal(one, other):
    same = all(torch.equal(one[0][k], other[0][k]) for k in one[0])
    same = same and all(torch.equal(one[1][k], other[1][k]) for k in one[1])
    strip = lambda r: [{k: v for k, v in e.items() if k != "seconds"} for e in r.history]
    return same and (one[2] == other[2]).all() and strip(one[3]) == strip(other[3]) and (
        one[3].best_step, one[3].best_score, one[3].stopped) == (
        other[3].best_step, other[3].best_score, other[3].stopped)

def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid

base, chance = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
whole = train(base / "whole")
assert 20 <= whole[3].steps <= 60, whole[3].steps
killed = 0
for case in range(4):  # at a step of its own choice, several times in one run
    folder = base / f"step{case}"
    for kill_at in sorted(chance.sample(range(1, whole[3].steps), 2)):
        _, status = os.waitpid(child(lambda: train(folder, kill_at)), 0)
        killed += os.WIFSIGNALED(status)
    assert equal(train(folder), whole), f"killed at a step, case {case}"
def replace(*paths):  # in the middle of writing a checkpoint
    replace.count = getattr(replace, "count", 0) + 1
    if replace.count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    original(*paths)
original = os.replace
def torn():
    files.os.replace = replace
    train(base / "torn")
_, status = os.waitpid(child(torn), 0)
killed += os.WIFSIGNALED(status)
assert equal(train(base / "torn"), whole), "killed while writing"
for case in range(3):  # from outside, at any moment
    folder = base / f"time{case}"
    pid = child(lambda: train(folder))
    time.sleep(chance.uniform(0.02, 0.25))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert equal(train(folder), whole), f"killed from outside, case {case}"
print("killed", killed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_runs_resume_to_the_very_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    seed = str(int.from_bytes(os.urandom(2), "big"))  # printed when it fails: any step must do
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), seed],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}\n{done.stderr}"
    assert done.stdout.split() == ["killed", "9"]


def start(linear: Any, examples: Any, folder: Path, **options: Any) -> Any:
    return fit(linear(), examples, **{"max_steps": 12, "checkpoint": folder, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"batch_size": 32}, "batch_size was 128 and is 32"),
        ({"max_steps": 24}, "max_steps was 12 and is 24"),
        ({"learning_rate": 0.1}, "learning_rate was 0.001 and is 0.1"),
        ({"optimizer": "sgd"}, "optimizer was 'adamw' and is 'sgd'"),
        ({"strategies": [WeightAveraging(0.9)]}, "strategies was"),
    ],
)
def test_another_run_is_not_resumed(linear, examples, tmp_path, options, message) -> None:
    start(linear, examples, tmp_path)
    with pytest.raises(TrainingError, match=message):
        start(linear, examples, tmp_path, resume=True, **options)


def test_other_data_and_other_shapes_are_refused(linear, regression, examples, tmp_path) -> None:
    start(linear, examples, tmp_path)
    fewer = TensorExamples({key: value[:150] for key, value in regression.items()})
    with pytest.raises(TrainingError, match="number of examples was 200 and is 150"):
        start(linear, fewer, tmp_path, resume=True)
    fewer = TensorExamples({**regression, "x": regression["x"][:, :2]})
    with pytest.raises(TrainingError, match=r"learner was .*\[1, 3\].* and is .*\[1, 2\]"):
        start(lambda: linear(inputs=2), fewer, tmp_path, resume=True)
    other = TensorExamples(regression, sampling_weights=np.ones(200))
    with pytest.raises(TrainingError, match="sampling weights"):
        start(linear, other, tmp_path, resume=True)


def test_strategies_of_other_strength_are_refused(linear, examples, tmp_path) -> None:
    start(linear, examples, tmp_path, strategies=[L2ToReference(1.0)])
    with pytest.raises(TrainingError, match="strategies was"):
        start(linear, examples, tmp_path, strategies=[L2ToReference(2.0)], resume=True)


def test_a_constant_rate_can_be_trained_on(linear, examples, tmp_path) -> None:
    options: dict[str, Any] = {"schedule": "constant", "validate_every": 4}
    start(linear, examples, tmp_path / "a", **options)
    longer, whole = linear(), linear()
    fit(longer, examples, max_steps=20, checkpoint=tmp_path / "a", resume=True, **options)
    fit(whole, examples, max_steps=20, **options)
    assert torch.equal(longer.layer.weight, whole.layer.weight)


def test_a_finished_run_is_returned_as_it_was(linear, examples, tmp_path) -> None:
    first = start(linear, examples, tmp_path, validation=examples)
    again = start(linear, examples, tmp_path, validation=examples, resume=True)
    assert again == first


def test_resume_without_a_checkpoint_starts(linear, examples, tmp_path) -> None:
    assert start(linear, examples, tmp_path / "new", resume=True).steps == 12


@pytest.mark.parametrize("spoil", ["cut", "text", "empty"])
def test_a_damaged_checkpoint_is_refused(linear, examples, tmp_path, spoil: str) -> None:
    start(linear, examples, tmp_path)
    path = tmp_path / FILE
    content = path.read_bytes()
    path.write_bytes(
        {"cut": content[: len(content) // 2], "text": b"hello" * 9, "empty": b""}[spoil]
    )
    with pytest.raises(TrainingError, match="damaged"):
        start(linear, examples, tmp_path, resume=True)


def test_a_state_goes_round_and_nothing_else_lies_in_the_folder(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    state = {
        "tied": [shared, shared],
        "array": np.arange(3),
        "numbers": {1: 0.1, 2: {"x": torch.ones(2, dtype=torch.bfloat16)}},
        "plain": [None, True, "text", 3, float("inf")],
        "__tensor__": {"__tensor__": "not a marker"},
        "empty": torch.zeros(0, 3),
    }
    save_checkpoint(tmp_path, state)
    back = load_checkpoint(tmp_path)
    assert back is not None
    assert torch.equal(back["tied"][1], shared)
    assert isinstance(back["array"], np.ndarray) and back["array"].tolist() == [0, 1, 2]
    assert back["numbers"][1] == 0.1
    assert back["numbers"][2]["x"].dtype == torch.bfloat16
    assert back["plain"] == state["plain"]
    assert back["__tensor__"] == state["__tensor__"]
    assert back["empty"].shape == (0, 3)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="'/a/b' is a object"):
        save_checkpoint(tmp_path, {"a": {"b": object()}})


class Press(Strategy):
    """Presses Ctrl-C in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def adjust_gradient(self, context: Any) -> None:
        if context.step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_finishes_the_step_and_can_be_resumed(linear, examples, tmp_path) -> None:
    before = signal.getsignal(signal.SIGINT)
    stopped, whole = linear(dropout=0.3), linear(dropout=0.3)
    options = {"max_steps": 20, "checkpoint": tmp_path, "checkpoint_every": 1000}
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(stopped, examples, strategies=[Press(6)], **options)
    error = caught.value
    assert isinstance(error, TrainingInterrupted)
    assert (error.result.stopped, error.result.steps) == ("interrupted", 7)
    assert error.checkpoint == tmp_path / FILE
    assert "after 7 steps: resume from" in str(error)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = linear(dropout=0.3)
    result = fit(resumed, examples, strategies=[Press(6)], resume=True, **options)
    assert (result.stopped, result.steps) == ("max_steps", 20)
    fit(whole, examples, max_steps=20)
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


def test_ctrl_c_in_the_last_step_is_not_swallowed(linear, examples, tmp_path) -> None:
    options = {"max_steps": 20, "checkpoint": tmp_path}
    with pytest.raises(TrainingInterrupted) as caught:
        fit(linear(), examples, strategies=[Press(19)], **options)
    assert caught.value.result.steps == 20
    resumed = linear()
    result = fit(resumed, examples, strategies=[Press(19)], resume=True, **options)
    assert (result.stopped, result.steps) == ("max_steps", 20)


def test_ctrl_c_without_a_folder(linear, examples) -> None:
    with pytest.raises(TrainingInterrupted, match="no checkpoint folder") as caught:
        fit(linear(), examples, strategies=[Press(2)])
    assert caught.value.checkpoint is None
