"""Weibull-Cox likelihood and risk, survival times, and the challenge's baseline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import weibull_min

from foretell.data import registry
from foretell.data.clinical import Schema, Stays, target
from foretell.errors import DataError, ParameterError
from foretell.learners.risk import (
    ChallengeBaseline,
    DeepAISELearner,
    DeepAISEShape,
    LinearWeibullLearner,
    SurvivalExamples,
    SurvivalInputs,
    negative_log_likelihood,
    risk_within,
    survival_times,
)
from foretell.learners.risk.ranking import auroc


@pytest.fixture
def stays():
    """Twelve stays of 1 to 30 hours, a third septic, some from their start, some after the end."""
    rng = np.random.default_rng(0)
    schema = Schema.default().channels("vitals")
    lengths = np.r_[1, rng.integers(2, 30, 11)]
    names = np.array([f"s{i}" for i in range(12)], object)
    onset = np.where(np.arange(12) % 3 == 1, lengths + rng.integers(-4, 8, 12), np.nan)
    columns = {n: np.full(lengths.sum(), 1, np.float32) for n in schema.names}
    begins = np.cumsum(lengths) - lengths
    return Stays(names, names, begins, lengths, np.ones(12, np.int64), columns, schema, None, onset)


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.5])
def test_likelihood_is_scipys(shape):
    scale, eta = 20.0, 0.3
    time = torch.tensor([0.7, 4.0, 11.0])
    # Proportional hazards move the scale of a Weibull distribution.
    law = weibull_min(shape, scale=scale * np.exp(-eta / shape))
    args = torch.tensor(eta), time
    end = torch.tensor(scale), torch.tensor(shape)
    seen = negative_log_likelihood(*args, torch.ones(3), *end)
    np.testing.assert_allclose(seen.numpy(), -law.logpdf(time.numpy()), rtol=1e-5)
    censored = negative_log_likelihood(*args, torch.zeros(3), *end)
    np.testing.assert_allclose(censored.numpy(), -law.logsf(time.numpy()), rtol=1e-5)
    risk = risk_within(eta, time.numpy(), scale, shape)
    np.testing.assert_allclose(risk, law.cdf(time.numpy()), rtol=1e-5)


def test_risk_refuses_the_past():
    with pytest.raises(ParameterError, match="positive"):
        risk_within(0.0, [4, 0], 10, 1)


def test_survival_times(stays):
    times = survival_times(stays, 12)
    for i in range(12):
        rows = stays.stay_of_row() == i
        hours, onset = stays.hours()[rows], stays.onset[i]
        last = hours[-1]
        for t, time, event, risk in zip(
            hours, times.time[rows], times.event[rows], times.at_risk[rows], strict=True
        ):
            assert risk == (np.isnan(onset) or t < onset)
            if risk:
                assert event == (not np.isnan(onset) and onset - t <= 12)
                if event:
                    assert time == onset - t
                elif np.isnan(onset):
                    assert time == min(12, last - t)
                else:
                    assert time == 12
    assert not times.event[~times.at_risk].any()


def examples(rng, lengths, width=3):
    n = int(sum(lengths))
    X = rng.normal(size=(n, width)).astype(np.float32)
    time = rng.uniform(0, 12, n).astype(np.float32)
    return SurvivalExamples(
        X, time, rng.random(n) < 0.3, lengths, SurvivalInputs.learn(X, [0, 2], 4)
    )


@pytest.mark.parametrize("kind", ["recurrent", "linear"])
def test_padding_and_neighbours_do_not_reach_the_score(kind):
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    data = examples(rng, [1, 9, 30])
    width = data.inputs.width(3)
    learner = (
        DeepAISELearner(DeepAISEShape(width, hidden=5, layers=2))
        if kind == "recurrent"
        else LinearWeibullLearner(width)
    ).eval()
    together = learner.loss(data.batch(np.arange(3)))
    alone = torch.cat([learner.loss(data.batch(np.array([i]))) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert torch.isfinite(together).all()


def test_parameters_stay_within_their_bounds():
    learner = LinearWeibullLearner(2)
    with torch.no_grad():
        learner.log_scale.fill_(50)
        learner.log_shape.fill_(-50)
        learner.head.bias.fill_(1e4)
    out = learner({"x": torch.zeros(1, 1, 2)})
    assert float(out.scale[0]) == pytest.approx(500) and float(out.shape[0]) == pytest.approx(0.3)
    assert float(out.predictor[0, 0]) == 6.0


def test_long_stays_are_cut_at_their_end():
    data = examples(np.random.default_rng(0), [50])
    data.longest = 10
    assert data.batch(np.array([0]))["x"].shape[1] == 10


def test_a_stay_without_an_hour_is_refused():
    with pytest.raises(DataError, match="no hour at risk"):
        examples(np.random.default_rng(0), [5, 0])


@pytest.mark.real_data
@pytest.mark.slow
def test_challenge_baseline_has_its_published_figures(data_root):
    from foretell.data.public import physionet2019
    from foretell.evaluation.clinical import challenge_utility

    if not (data_root / "physionet2019_sepsis").is_dir():
        pytest.skip("real data: 'physionet2019_sepsis' is not among the data sets here")
    challenge = physionet2019(data_root / registry.find("physionet2019").name)

    known = {"A": (0.241, 0.698), "B": (0.096, 0.685)}
    for hospital, stays in challenge.by("hospital").items():
        model, wanted = ChallengeBaseline(), target(stays)
        utility = challenge_utility(model.predict(stays), stays.labels(), stays.lengths)
        risk = model.predict_proba(stays)[:, 1]
        found = auroc(risk[wanted.at_risk], wanted.label[wanted.at_risk])
        assert utility.normalised == pytest.approx(known[hospital][0], abs=1e-3)
        assert found == pytest.approx(known[hospital][1], abs=1e-3)
