"""Strategies of late labels in the training loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foretell.errors import ParameterError, TrainingError
from foretell.learners.tabular import ResponseNet, Trunk, TwoWindowNet
from foretell.training import TensorExamples, fit
from foretell.training.weighting import (
    BiFakeNegativeLabels,
    ElapsedTimeSampling,
    FakeNegativeLabels,
    FakeNegativeWeighting,
    FunnelWeighting,
    UnbiasedLabelCorrection,
    exact,
)


def _learner(labels: int = 2, kind: type = ResponseNet) -> ResponseNet:
    torch.manual_seed(0)
    trunk = Trunk(1, hidden_sizes=(), batch_norm=False)
    net = kind(trunk) if kind is TwoWindowNet else kind(trunk, labels)
    nn.init.zeros_(net.head.weight)
    return net


def _train(net, batch, strategy, steps=400):
    batch = {"numbers": torch.zeros(len(batch["label"]), 1), **batch}
    fit(
        net, TensorExamples(batch), strategies=(strategy,), max_steps=steps,
        batch_size=len(batch["label"]), optimizer="adam", learning_rate=0.05, weight_decay=0.0,
        schedule="constant", device="cpu", threads=1,
    )  # fmt: skip
    return net(batch).log_probabilities.exp()[0].detach().numpy()


def _stream(p=0.4, s=0.5, n=1000):
    """Expected rows of one kind of entity: label, copied, whether negative at first."""
    early, late = round(n * p * (1 - s)), round(n * p * s)
    label = np.r_[np.ones(early), np.zeros(n - early), np.ones(late)].astype(np.int64)
    copied = np.r_[np.zeros(n), np.ones(late)].astype(np.float32)
    return {
        "label": torch.from_numpy(label),
        "copied": torch.from_numpy(copied),
        "survival": torch.full((len(label), 1), s),
    }


@pytest.mark.parametrize("weights", ["exact", "published"])
@pytest.mark.parametrize("kind", [ElapsedTimeSampling, FakeNegativeLabels])
def test_own_prediction_converges_to_the_probability(kind, weights):
    p = _train(_learner(), _stream(), kind(weights))
    assert p[1] == pytest.approx(0.4, abs=5e-3)


def test_fake_negative_weighting_needs_no_survival():
    batch = {"label": torch.tensor([0] * 1000 + [1] * 400)}
    assert _train(_learner(), batch, FakeNegativeWeighting())[1] == pytest.approx(0.4, abs=5e-3)


def test_auxiliary_columns_take_the_place_of_the_own_prediction():
    batch = _stream()
    rows = len(batch["label"])
    del batch["survival"]
    batch["delayed_positive"] = torch.full((rows,), 0.2)
    batch["real_negative"] = torch.full((rows,), 0.75)
    assert _train(_learner(), batch, ElapsedTimeSampling())[1] == pytest.approx(0.4, abs=5e-3)
    once = {key: value[:1000] for key, value in batch.items()}
    assert _train(_learner(), once, UnbiasedLabelCorrection())[1] == pytest.approx(0.4, abs=5e-3)


def test_two_windows_learn_both_parts():
    p = _train(_learner(kind=TwoWindowNet), _stream(), BiFakeNegativeLabels(), steps=800)
    assert p[1] == pytest.approx(0.2, abs=1e-2)
    assert p[3] == pytest.approx(0.2, abs=1e-2)


def test_self_consistent_funnel_converges():
    final, survival = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.8])
    rows = [0.5 + 0.5 * 0.3, 0.3 + 0.2 * 0.8, 0.2]
    label = np.repeat(np.arange(3), [round(1000 * r) for r in rows])
    batch = {
        "label": torch.from_numpy(label),
        "survival": torch.from_numpy(survival).float().expand(len(label), 2),
    }
    assert _train(_learner(3), batch, FunnelWeighting()) == pytest.approx(final, abs=5e-3)
    c = exact.finality(final, survival)
    del batch["survival"]
    batch["finality"] = torch.tensor([c[0], c[1]]).float().expand(len(label), 2)
    assert _train(_learner(3), batch, FunnelWeighting()) == pytest.approx(final, abs=5e-3)


def test_weights_are_finite_within_bounds_and_counted():
    strategy = ElapsedTimeSampling(clip=10.0, floor=1e-3)
    batch = {"label": torch.tensor([0, 0, 1]), "survival": torch.ones(3, 1)}
    extreme = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    masses = strategy.row_masses(extreme, batch)
    assert masses[0, 0] == pytest.approx(1e-3)
    assert torch.isfinite(masses).all()
    assert masses.max() <= 10
    assert strategy.effective_share == 1
    _train(_learner(), {"label": torch.zeros(50, dtype=torch.int64), "survival": torch.ones(50, 1)},
           strategy, steps=3)  # fmt: skip
    assert strategy.rows == 150
    assert strategy.effective_share == pytest.approx(1, abs=1e-2)


def test_wrong_use_says_so():
    with pytest.raises(ParameterError, match="exact"):
        ElapsedTimeSampling("precise")
    with pytest.raises(ParameterError, match="floor"):
        ElapsedTimeSampling(floor=11.0)
    with pytest.raises(TrainingError, match="survival"):
        _train(_learner(), {"label": torch.tensor([0, 1])}, ElapsedTimeSampling())
