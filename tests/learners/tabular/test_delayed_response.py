from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from foretell.learners.tabular import Trunk
from foretell.learners.tabular.delayed_response import (
    DelayedResponseNet,
    delay_cdf,
    delayed_feedback_loss,
    within_window,
)

probabilities = st.floats(0.02, 0.98)
hazards = st.floats(0.05, 30.0)


def _double(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


@given(probabilities, hazards, st.floats(0.0, 0.999), st.booleans())
def test_equations(p: float, rate: float, elapsed: float, truncated: bool) -> None:
    logit, hazard, time = _double(np.log(p / (1 - p)), rate, elapsed)
    mass = 1 - np.exp(-rate) if truncated else 1.0
    density = rate * np.exp(-rate * elapsed) / mass
    survival = (np.exp(-rate * elapsed) - (np.exp(-rate) if truncated else 0.0)) / mass
    one, zero = torch.ones(1), torch.zeros(1)
    seen = delayed_feedback_loss(logit, hazard, one, time, truncated=truncated)
    unseen = delayed_feedback_loss(logit, hazard, zero, time, truncated=truncated)
    assert float(seen) == pytest.approx(-np.log(p * density), abs=1e-9)
    assert float(unseen) == pytest.approx(-np.log(1 - p + p * survival), abs=1e-9)


@given(probabilities, hazards, st.floats(0.01, 0.99))
def test_the_law_is_complete(p: float, rate: float, age: float) -> None:
    # Seen by the age, at some delay, or not seen: these are all there is.
    times = torch.linspace(0, age, 20_001, dtype=torch.float64)
    logit, hazard, end = _double(np.log(p / (1 - p)), rate, age)
    n = len(times)
    for truncated in (True, False):
        density = torch.exp(
            -delayed_feedback_loss(
                logit.expand(n), hazard.expand(n), torch.ones(n), times, truncated=truncated
            )
        )
        unseen = delayed_feedback_loss(logit, hazard, torch.zeros(1), end, truncated=truncated)
        total = torch.trapezoid(density, times) + torch.exp(-unseen)[0]
        assert float(total) == pytest.approx(1, abs=1e-4)


@given(probabilities, hazards)
def test_within_the_window(p: float, rate: float) -> None:
    logit, hazard, end = _double(np.log(p / (1 - p)), rate, 1.0)
    inside = p * -np.expm1(-rate)
    assert float(within_window(logit, hazard).sigmoid()) == pytest.approx(inside, abs=1e-12)
    # A row of full age without conversion is a plain negative of what is served.
    zero = torch.zeros(1)
    full = delayed_feedback_loss(logit, hazard, zero, end, truncated=False)
    assert float(full) == pytest.approx(-np.log1p(-inside), abs=1e-9)
    full = delayed_feedback_loss(logit, hazard, zero, end, truncated=True)
    assert float(full) == pytest.approx(float(F.softplus(logit)), abs=1e-9)


def test_raw_units_make_every_unseen_row_a_real_negative() -> None:
    # A fresh head has a hazard of about 1 per unit of time. After six of 96 hours, in seconds, the
    # chance that a conversion is still to come is exp(-21600): the fake negative counts as a real
    # one. In windows the same row hardly counts against p.
    logit, hazard = torch.tensor([0.0]), torch.tensor([0.7])
    zero = torch.zeros(1)
    raw = delayed_feedback_loss(logit, hazard, zero, torch.tensor([21600.0]), truncated=False)
    scaled = delayed_feedback_loss(logit, hazard, zero, torch.tensor([6 / 96]), truncated=False)
    assert float(raw) == pytest.approx(float(F.softplus(logit)), abs=1e-6)
    assert float(scaled) < 0.05 * float(raw)
    seen = delayed_feedback_loss(
        logit, hazard, torch.ones(1), torch.tensor([21600.0]), truncated=False
    )
    assert float(seen) > 10_000


def test_gradients_are_finite_at_the_ends() -> None:
    logit = torch.tensor([-30.0, 30.0, 0.0, 0.0], requires_grad=True)
    hazard = torch.tensor([1e-6, 50.0, 1e-3, 5.0], requires_grad=True)
    for label in (0.0, 1.0):
        for elapsed in (0.0, 1.0):
            for truncated in (True, False):
                loss = delayed_feedback_loss(
                    logit, hazard, torch.full((4,), label), torch.full((4,), elapsed),
                    truncated=truncated,
                )  # fmt: skip
                gradients = torch.autograd.grad(loss.sum(), (logit, hazard))
                assert torch.isfinite(loss).all()
                assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("truncated", [True, False])
def test_learns_from_censored_rows(truncated: bool) -> None:
    # One x, p = .4 within the window, delays exponential and cut at it; ages uniform.
    rng = np.random.default_rng(0)
    n, rate = 20_000, 2.0
    delay = -np.log1p(-rng.random(n) * -np.expm1(-rate)) / rate
    delay = np.where(rng.random(n) < 0.4, delay, np.inf)
    age = rng.uniform(0, 1, n)
    label = delay <= age
    batch = {
        "numbers": torch.zeros(n, 1),
        "label": torch.from_numpy(label.astype(np.int64)),
        "elapsed": torch.from_numpy(np.where(label, delay, age).astype(np.float32)),
    }
    assert label.mean() < 0.3
    net = DelayedResponseNet(Trunk(1, (), (4,), batch_norm=False), truncated=truncated)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = net.loss(batch).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        output = net({"numbers": torch.zeros(1, 1)})
    assert float(output.log_probabilities.exp()[0, 1]) == pytest.approx(0.4, abs=0.02)
    assert float(output.hazard) == pytest.approx(rate, abs=0.25)
    assert float(delay_cdf(output.hazard, 1.0)) == pytest.approx(1)
    assert float(delay_cdf(output.hazard, 0.0)) == pytest.approx(0)


def test_labels_without_times_are_final() -> None:
    net = DelayedResponseNet(Trunk(2, (), (4,), batch_norm=False))
    batch = {
        "numbers": torch.randn(6, 2),
        "label": torch.tensor([0, 1, 0, 1, 0, 1]),
        "elapsed": torch.full((6,), -1.0),
    }
    output = net(batch)
    expected = -output.log_probabilities.gather(1, batch["label"][:, None])[:, 0]
    torch.testing.assert_close(net.score(output, batch), expected)
