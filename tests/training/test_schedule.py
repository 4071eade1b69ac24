from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretell.training.schedule import SCHEDULES, get_schedule


def rates(scheduler: object, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()  # type: ignore[attr-defined]
    return found


def sgd(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize("steps", [10, 37, 1000])
def test_one_cycle_is_torchs(steps: int) -> None:
    optimizer = sgd(0.1)
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=steps, cycle_momentum=False
    )
    ours = [0.1 * SCHEDULES["one_cycle"](step, steps) for step in range(steps)]
    assert ours == pytest.approx(rates(torchs, optimizer, steps), rel=1e-6, abs=1e-12)


def test_cosine_is_torchs() -> None:
    optimizer = sgd(1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    ours = [SCHEDULES["cosine"](step, 50) for step in range(50)]
    assert ours == pytest.approx(rates(torchs, optimizer, 50), abs=1e-9)


def test_warmup_cosine_rises_then_falls() -> None:
    ours = [SCHEDULES["warmup_cosine"](step, 100) for step in range(100)]
    assert ours[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert ours[5] == 1.0
    assert ours[52] == pytest.approx(0.5 * (1 + math.cos(math.pi * 47 / 95)))


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 300), st.integers(0, 299))
def test_every_factor_is_between_0_and_1(name: str, steps: int, step: int) -> None:
    assert 0 <= SCHEDULES[name](min(step, steps - 1), steps) <= 1 + 1e-12


def test_a_function_is_a_schedule(linear, examples) -> None:
    from foretell.training import fit

    result = fit(
        linear(), examples, max_steps=4, validate_every=1, learning_rate=0.5,
        schedule=lambda step, steps: step / steps,
    )  # fmt: skip
    assert [entry["lr"] for entry in result.history] == [0, 0.125, 0.25, 0.375]
    assert get_schedule("constant")[0] == "constant"
