"""The feed-forward risk net and its examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foretell.data.clinical import PiecewiseLinearEncoder
from foretell.errors import DataError, ParameterError
from foretell.learners.risk import (
    FeedForwardRiskLearner,
    FeedForwardShape,
    HourExamples,
    StayExamples,
)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)).astype(np.float32)
    return X, (X[:, 0] > 0.8).astype(np.int8)


def test_encode_is_the_first_layer(rows):
    torch.manual_seed(0)
    learner = FeedForwardRiskLearner(FeedForwardShape(3, (8, 4))).eval()
    batch = HourExamples(*rows).batch(np.arange(5))
    h1 = torch.relu(batch["x"] @ learner.first.weight.T + learner.first.bias)
    assert torch.equal(learner.encode(batch), h1)
    assert torch.equal(learner(batch).logit, learner.upper(h1)[:, 0])
    assert learner.loss(batch).shape == (5,)


def test_padding_does_not_reach_the_score(rows):
    torch.manual_seed(0)
    learner = FeedForwardRiskLearner(FeedForwardShape(3, (8, 4))).eval()
    stays = StayExamples(*rows, [1, 20, 39])
    together = learner.loss(stays.batch(np.arange(3)))
    alone = torch.cat([learner.loss(stays.batch(np.array([i]))) for i in range(3)])
    torch.testing.assert_close(together, alone)
    batch = stays.batch(np.arange(3))
    batch["x"] = torch.where(batch["mask"][..., None], batch["x"], torch.tensor(float("inf")))
    torch.testing.assert_close(learner.loss(batch), alone)


def test_a_stay_is_the_mean_of_its_hours(rows):
    torch.manual_seed(0)
    learner = FeedForwardRiskLearner(FeedForwardShape(3, (8,))).eval()
    hours = learner.loss(HourExamples(*rows).batch(np.arange(60)))
    stays = learner.loss(StayExamples(*rows, [10, 50]).batch(np.arange(2)))
    torch.testing.assert_close(stays, torch.stack([hours[:10].mean(), hours[10:].mean()]))


def test_long_stays_keep_their_last_hours(rows):
    stays = StayExamples(*rows, [60], longest=7)
    assert torch.equal(stays.batch(np.array([0]))["x"][0], torch.from_numpy(rows[0][-7:]))


def test_positives_are_drawn_at_their_share(rows):
    examples = HourExamples(*rows, positives=0.25)
    assert examples.sampling_weights is not None
    assert examples.sampling_weights[rows[1] == 1].sum() == pytest.approx(0.25)
    assert examples.sampling_weights.sum() == pytest.approx(1)


def test_batches_are_encoded(rows):
    encoder = PiecewiseLinearEncoder().fit(rows[0])
    found = HourExamples(*rows, encoder).batch(np.array([4, 2]))["x"].numpy()
    np.testing.assert_array_equal(found, encoder.transform(rows[0][[4, 2]]))


def test_refusals(rows):
    X, y = rows
    with pytest.raises(DataError, match="0 of 60"):
        HourExamples(X, np.zeros(60), positives=0.1)
    with pytest.raises(ParameterError, match="inside"):
        HourExamples(X, y, positives=1.0)
    bad = X.copy()
    bad[7, 1] = np.nan
    with pytest.raises(DataError, match="row 7"):
        HourExamples(bad, y)
    with pytest.raises(DataError, match="a label is"):
        HourExamples(X, y + 1)
    with pytest.raises(DataError, match="lengths"):
        StayExamples(X, y, [10, 10])
    with pytest.raises(DataError, match="lengths"):
        StayExamples(X, y, [60, 0])
    with pytest.raises(ParameterError, match="dropout"):
        FeedForwardShape(3, (4,), 1.0)
    with pytest.raises(ParameterError, match="hidden"):
        FeedForwardShape(3, ())
