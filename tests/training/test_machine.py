from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foretell.training import use_threads, useful_threads


def test_threads_are_at_most_what_the_process_may_use_and_are_restored() -> None:
    before = torch.get_num_threads()
    assert 1 <= useful_threads() <= (os.cpu_count() or 1)
    with use_threads(None):
        assert torch.get_num_threads() <= min(before, useful_threads())
    with pytest.raises(RuntimeError), use_threads(2):
        assert torch.get_num_threads() == 2
        raise RuntimeError
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities")
def test_affinity_limits_threads() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert useful_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


PARALLEL = """
import sys
from pathlib import Path
import torch
from torch import nn
from foretell.errors import TrainingError
from foretell.learners.contract import Learner
from foretell.training import *

class Line(Learner):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.unused = nn.Linear(3, 1), nn.Linear(2, 2)
    def encode(self, batch): return batch["x"]
    def decode(self, encoding, batch): return self.layer(encoding)[:, 0]
    def score(self, output, batch): return (output - batch["y"]) ** 2

class Boom(Strategy):
    def adjust_gradient(self, context):
        if context.step == 3:
            raise TrainingError("step 3: boom")

if __name__ == "__main__":
    torch.manual_seed(2)
    x, w = torch.randn(101, 3), torch.rand(101) ** 3
    data = TensorExamples({"x": x, "y": x.sum(1), "weight": w})
    learners, results, averages = [], [], []
    for devices in (1, 2):
        learner, average = Line(), WeightAveraging(0.9)
        results.append(fit(learner, data, strategies=[average, L2ToReference(0.1)], validation=data,
            max_steps=30, batch_size=21, accumulate=2, validate_every=10, learning_rate=0.05,
            device="cpu", devices=devices, checkpoint=Path(sys.argv[1]) / str(devices)))
        learners.append(learner)
        averages.append(average.average)
    for one, two in zip(learners[0].state_dict().values(), learners[1].state_dict().values()):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    for name in averages[0]:
        torch.testing.assert_close(averages[0][name], averages[1][name], atol=1e-5, rtol=1e-4)
    for one, two in zip(results[0].history, results[1].history, strict=True):
        assert abs(one["loss"] - two["loss"]) < 1e-4 and one["step"] == two["step"]
        assert abs(one["validation"] - two["validation"]) < 1e-4
    try:
        fit(Line(), data, strategies=[Boom()], max_steps=9, device="cpu", devices=2)
    except TrainingError as error:
        print(error)
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("step 3: boom")
