from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretell.learners.tabular import Trunk
from foretell.learners.tabular.signal_response import (
    SignalResponseNet,
    divergence,
    observed_data_loss,
    signal_log_likelihood,
)


@given(st.floats(0.05, 0.95), st.integers(0, 100))
def test_the_truth_is_the_optimum_of_the_expected_loss(p: float, seed: int) -> None:
    # Two ages, two signals, any law: in expectation over the signals, the loss is stationary at p.
    torch.manual_seed(seed)
    law = torch.rand(2, 2, 2, dtype=torch.float64) * 0.9 + 0.05  # of a 1, given y, by age and kind
    weight = torch.rand(1, 2, 2, dtype=torch.float64)
    logit = torch.tensor(p, dtype=torch.float64).logit().requires_grad_()
    both = torch.stack([-logit, logit])[None]
    total = torch.zeros((), dtype=torch.float64)
    for bits in itertools.product((0, 1), repeat=4):
        signals = torch.tensor(bits, dtype=torch.float64).view(1, 2, 2)
        chance = torch.where(signals > 0, law, 1 - law).prod(2).prod(1)  # (2,) given y
        mass = (1 - p) * chance[0] + p * chance[1]
        likelihood = signal_log_likelihood(law[None], signals)
        loss = observed_data_loss(torch.nn.functional.logsigmoid(both), likelihood, weight)
        total = total + mass * loss[0]
    (gradient,) = torch.autograd.grad(total, logit)
    assert abs(float(gradient)) < 1e-9


def test_signals_not_seen_yet_do_not_count() -> None:
    both = torch.log(torch.tensor([[0.7, 0.3]]))
    likelihood = torch.log(torch.rand(1, 2, 3, 1))
    weight = torch.tensor([[[1.0], [0.5], [0.0]]])
    loss = observed_data_loss(both, likelihood, weight)
    other = likelihood.clone()
    other[:, :, 2] = -3.0
    torch.testing.assert_close(observed_data_loss(both, other, weight), loss)


def test_certain_signals_are_labels() -> None:
    # P(1 | y = 0) = 0: a conversion that was seen is a positive, at the price of its likelihood.
    law = torch.tensor([[[[0.0]], [[0.25]]]])
    both = torch.log(torch.tensor([[0.7, 0.3]]))
    seen = observed_data_loss(
        both, signal_log_likelihood(law, torch.ones(1, 1, 1)), torch.ones(1, 1, 1)
    )
    assert float(seen) == pytest.approx(-torch.log(torch.tensor(0.3 * 0.25)).item(), rel=1e-5)
    unseen = observed_data_loss(
        both, signal_log_likelihood(law, torch.zeros(1, 1, 1)), torch.ones(1, 1, 1)
    )
    assert float(unseen) == pytest.approx(
        -torch.log(torch.tensor(0.7 + 0.3 * 0.75)).item(), rel=1e-5
    )


def test_divergence_is_zero_at_the_reference_and_regularizes() -> None:
    p = torch.tensor([0.2, 0.9])
    own = torch.log(torch.stack([1 - p, p], 1))
    torch.testing.assert_close(divergence(p, own), torch.zeros(2), atol=1e-6, rtol=0)
    assert (divergence(torch.tensor([0.5, 0.5]), own) > 0).all()
    net = SignalResponseNet(Trunk(1, (), (4,), batch_norm=False), regularization=2.0)
    batch = {
        "numbers": torch.zeros(1, 1),
        "label": torch.zeros(1, dtype=torch.int64),
        "signals": torch.zeros(1, 1, 1),
        "signal_weight": torch.zeros(1, 1, 1),
        "signal_probability": torch.full((1, 2, 1, 1), 0.5),
        "reference": torch.tensor([0.9]),
    }
    output = net(batch)
    expected = 2 * divergence(batch["reference"], output.log_probabilities)
    torch.testing.assert_close(net.score(output, batch), expected)
    plain = net.score(output, {"label": batch["label"]})
    torch.testing.assert_close(plain, -output.log_probabilities[:, 0])
