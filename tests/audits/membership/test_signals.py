from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretell.audits.membership import (
    clamp,
    language_signal,
    learner_losses,
    logit_confidence,
    loss_confidence,
    probability_confidence,
    sequence_confidence,
    token_log_likelihoods,
)
from foretell.errors import DataError, ParameterError
from foretell.learners.contract import Learner
from foretell.training import TensorExamples


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@given(st.integers(2, 6), st.integers(0, 100))
def test_phi_is_the_log_odds_of_the_true_class(classes, seed):
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(7, classes)) * 3, rng.integers(0, classes, 7)
    p = softmax(z)[np.arange(7), y]
    assert logit_confidence(z, y) == pytest.approx(np.log(p) - np.log1p(-p))
    assert logit_confidence(z + 100, y) == pytest.approx(logit_confidence(z, y))
    assert probability_confidence(softmax(z), y) == pytest.approx(logit_confidence(z, y), abs=1e-6)
    assert loss_confidence(-np.log(p)) == pytest.approx(logit_confidence(z, y), abs=1e-6)


def test_phi_keeps_what_a_rounded_probability_has_lost():
    logits = torch.tensor([[60.0, 0.0], [80.0, 0.0]])
    assert softmax(logits.numpy())[:, 0].tolist() == [1.0, 1.0]
    assert logit_confidence(logits, torch.tensor([0, 0])).tolist() == [60.0, 80.0]
    assert loss_confidence([1e-20, 800.0]) == pytest.approx([46.0517, -800.0])


def test_labels_and_shapes_are_checked():
    with pytest.raises(DataError, match="not a class"):
        logit_confidence(np.zeros((2, 3)), [0, 3])
    with pytest.raises(DataError, match="go together"):
        logit_confidence(np.zeros((2, 3)), [0])
    with pytest.raises(DataError, match="two classes"):
        logit_confidence(np.zeros((2, 1)), [0, 0])
    with pytest.raises(DataError, match="negative"):
        loss_confidence([-0.1])


def test_sequences_reduce_their_tokens_and_add_the_intent():
    rng = np.random.default_rng(0)
    z, tags = rng.normal(size=(2, 3, 4)), np.array([[0, 1, -100], [3, -100, -100]])
    phi = logit_confidence(z, np.maximum(tags, 0))
    intent, y = rng.normal(size=(2, 5)), np.array([1, 4])
    assert sequence_confidence(z, tags) == pytest.approx([phi[0, :2].mean(), phi[1, 0]])
    assert sequence_confidence(z, tags, reduction="sum")[0] == pytest.approx(phi[0, :2].sum())
    assert sequence_confidence(z, tags, reduction="min")[0] == pytest.approx(phi[0, :2].min())
    both = sequence_confidence(z, tags, intent, y)
    assert both == pytest.approx(sequence_confidence(z, tags) + logit_confidence(intent, y))
    nothing = sequence_confidence(z, np.full_like(tags, -100), intent, y)
    assert nothing == pytest.approx(logit_confidence(intent, y))
    with pytest.raises(ParameterError, match="reduction"):
        sequence_confidence(z, tags, reduction="max")


def test_texts_are_told_by_their_mean_or_their_least_likely_tokens():
    z = np.random.default_rng(0).normal(size=(1, 5, 7))
    tokens = np.array([[1, 2, 3, 4, -100]])
    log_p = token_log_likelihoods(z, tokens)
    assert np.isnan(log_p[0, 4])
    expected = np.log(softmax(z))[0, np.arange(4), [1, 2, 3, 4]]
    assert log_p[0, :4] == pytest.approx(expected)
    assert language_signal(log_p) == pytest.approx([expected.mean()])
    assert language_signal(log_p, share=0.5) == pytest.approx([np.sort(expected)[:2].mean()])
    with pytest.raises(DataError, match="no token"):
        language_signal([[np.nan, np.nan]])
    with pytest.raises(ParameterError, match="share"):
        language_signal(log_p, share=0)


def test_values_that_are_not_finite_are_held_and_counted():
    with pytest.warns(UserWarning, match="3 of 4 signals"):
        values, count = clamp([np.inf, -np.inf, np.nan, 2e3])
    assert values.tolist() == [1e3, -1e3, 0.0, 1e3] and count == 3


class Slope(Learner):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(2.0))
        self.noise = torch.nn.Dropout(0.5)

    def encode(self, batch):
        return self.noise(self.slope * batch["x"])

    def decode(self, encoding, batch):
        return encoding

    def score(self, output, batch):
        return (output - batch["y"]) ** 2


def test_any_learner_has_scores_and_keeps_its_mode():
    learner = Slope().train()
    x = torch.arange(5.0)
    losses = learner_losses(learner, TensorExamples({"x": x, "y": x}), batch_size=2)
    assert losses.tolist() == [0.0, 1.0, 4.0, 9.0, 16.0]
    assert losses.dtype == np.float64 and learner.training
