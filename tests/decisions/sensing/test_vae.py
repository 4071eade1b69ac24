from __future__ import annotations

import numpy as np
import pytest
import torch

from foretell.decisions.sensing import Panel, VAEDonors
from foretell.errors import DataError, ParameterError
from foretell.learners.risk.partial_vae import HiddenValues, PartialVAELearner

PANEL = Panel("b", (1, 2), 1.0)


def line(size, seed=0):
    """All three features are one number, hardly blurred."""
    rng = np.random.default_rng(seed)
    one = rng.normal(size=(size, 1))
    X = one * [1.0, 2.0, -1.0] + [0.0, 5.0, 0.0]
    return X + 0.05 * rng.normal(size=(size, 3))


@pytest.fixture(scope="module")
def donors():
    X = line(600)
    seen = np.random.default_rng(1).random(X.shape) < 0.8
    return VAEDonors(np.where(seen, X, np.nan), seen, size=48, code=2, hidden=32, max_steps=1500,
                     batch_size=128, learning_rate=5e-3, threads=1)  # fmt: skip


def test_one_number_behind_all_features_is_found(donors):
    """Given the first feature the others are known; given none they are anywhere."""
    asked = np.array([[-1.0, 0, 0], [0.0, 0, 0], [1.5, 0, 0]])
    seen = np.zeros((3, 3), bool)
    seen[:, 0] = True
    shown, there = donors.draw(np.where(seen, asked, np.nan), seen, PANEL)
    assert shown.shape == (3, 48, 2) and there.all()
    expected = asked[:, :1] * [2.0, -1.0] + [5.0, 0.0]
    np.testing.assert_allclose(shown.mean(1), expected, atol=0.35)
    assert shown.std(1).max() < 0.8
    nothing, _ = donors.draw(np.full((1, 3), np.nan), np.zeros((1, 3), bool), PANEL)
    assert np.isfinite(nothing).all()
    np.testing.assert_allclose(nothing.mean(1)[0], [5.0, 0.0], atol=0.5)
    np.testing.assert_allclose(nothing.std(1)[0], [2.0, 1.0], rtol=0.3)
    # Features of one draw belong together: both come from one code.
    assert np.corrcoef(nothing[0].T)[0, 1] < -0.8


def test_draws_are_the_same_in_each_call_and_for_each_patient_alone(donors):
    X = line(30, seed=4)
    seen = np.zeros(X.shape, bool)
    seen[:, 0] = True
    first, again = donors.draw(X, seen, PANEL)[0], donors.draw(X, seen, PANEL)[0]
    np.testing.assert_array_equal(first, again)
    alone = donors.draw(X[3:4], seen[3:4], PANEL)[0]
    np.testing.assert_allclose(alone, first[3:4], atol=1e-5)


def test_the_code_does_not_see_what_was_not_seen_nor_in_which_order():
    torch.manual_seed(0)
    learner = PartialVAELearner(4, code=2, identity=3, hidden=8)
    x, seen = torch.randn(5, 4), torch.tensor([[1, 0, 1, 0]] * 5)
    other = x + torch.tensor([0.0, 9.0, 0.0, -7.0])
    torch.testing.assert_close(
        learner.encode({"x": x, "seen": seen}), learner.encode({"x": other, "seen": seen})
    )
    # Features renamed with their identities are the same set.
    turned = PartialVAELearner(4, code=2, identity=3, hidden=8)
    turned.load_state_dict(learner.state_dict())
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        turned.identity.copy_(learner.identity[order])
    torch.testing.assert_close(
        learner.encode({"x": x, "seen": seen}),
        turned.encode({"x": x[:, order], "seen": seen[:, order]}),
    )


def test_the_score_is_minus_the_evidence_lower_bound_of_what_was_seen():
    torch.manual_seed(0)
    learner = PartialVAELearner(3, code=2, identity=3, hidden=8).double()
    batch = {
        "x": torch.randn(4, 3, dtype=torch.float64),
        "seen": torch.tensor([[1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]),
        "noise": torch.randn(4, 2, dtype=torch.float64),
    }
    told = learner(batch)
    code = torch.distributions.Normal(told.code_mean, (told.code_log_variance / 2).exp())
    gap = torch.distributions.kl_divergence(code, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    z = told.code_mean + batch["noise"] * (told.code_log_variance / 2).exp()
    shown = torch.distributions.Normal(learner.features(z), (told.log_variance / 2).exp())
    density = (shown.log_prob(batch["x"]) * batch["seen"]).sum(-1)
    torch.testing.assert_close(learner.score(told, batch), gap - density)
    # Of a patient of whom nothing was seen there is nothing to explain.
    assert learner.score(told, batch)[3] == gap[3]


def test_values_are_hidden_and_none_is_made_up():
    X = np.arange(12.0).reshape(4, 3)
    seen = np.ones((4, 3), bool)
    seen[0] = False
    X[0] = np.nan
    examples = HiddenValues(X, seen, code=2)
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        batch = examples.batch(np.arange(4), rng)
        assert not batch["seen"][0].any() and batch["noise"].shape == (4, 2)
        assert torch.isfinite(batch["x"]).all()
        shares.append(batch["seen"][1:].float().mean())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(DataError, match="not finite"):
        HiddenValues(X, np.ones((4, 3), bool), code=2)


def test_training_leaves_the_random_numbers_of_the_caller_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    VAEDonors(line(20), np.ones((20, 3), bool), max_steps=2, threads=1)
    torch.testing.assert_close(torch.rand(2), expected)


def test_what_is_wrong_is_said():
    with pytest.raises(DataError, match="5 patients are too few for a net"):
        VAEDonors(line(5), np.ones((5, 3), bool))
    for wrong in ({"code": 0}, {"hidden": 0}, {"max_steps": 0}, {"size": 1}):
        with pytest.raises(ParameterError):
            VAEDonors(line(20), np.ones((20, 3), bool), **wrong)
    with pytest.raises(ParameterError, match="sizes must be positive"):
        PartialVAELearner(0)
