"""Audits of trainings: exact clipping keeps its claim, wrongly accounted micro-batches do not."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foretell.audits.dp import (
    ClippingOnly,
    IterateScores,
    WithCanaries,
    audit_clopper_pearson,
    audit_one_run,
    dirac_features,
    flip,
    loss_scores,
    weight_scores,
)
from foretell.audits.dp.scores import _difference, directional
from foretell.data.text import TextSet
from foretell.errors import ParameterError, PrivacyViolation
from foretell.learners.contract import Learner
from foretell.learners.language import (
    BagOfWordsLearner,
    JointLearner,
    JointShape,
    TextExamples,
    TextReader,
)
from foretell.training import TensorExamples, fit
from foretell.training.private import MicroBatchTraining, PrivateTraining

RUNS = 320


class Value(NamedTuple):
    value: Tensor


class Dot(Learner):
    """The loss is linear, so that an example's gradient is the example."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.weights.weight)

    def encode(self, batch):
        return batch["x"]

    def decode(self, encoding, batch):
        return Value(self.weights(encoding)[:, 0])

    def score(self, output, batch):
        return output.value


def one_run(strategy, included: bool, seed: int) -> float:
    """32 examples that all pull one way, and a canary that pulls the other way a hundred times."""
    x = torch.zeros(33, 2)
    x[:32, 0] = 1.0
    x[32, 0] = -100.0 if included else 0.0
    seen = IterateScores(TensorExamples({"x": torch.tensor([[-1.0, 0.0]])}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(
            Dot(), TensorExamples({"x": x}), strategies=[strategy, seen], max_steps=1,
            batch_size=33, optimizer="sgd", learning_rate=0.1, schedule="constant",
            gradient_clip=None, seed=seed, device="cpu", threads=1,
        )  # fmt: skip
    return float(seen.scores[0])


def many_runs(make) -> tuple[np.ndarray, np.ndarray, object]:
    coins = flip(RUNS, 1)
    scores = []
    for seed, included in enumerate(coins):
        strategy = make()
        scores.append(one_run(strategy, bool(included), seed))
    return np.array(scores), coins, strategy.statement(1e-5)


def test_naive_accounting_of_micro_batches_is_caught_in_training():
    scores, coins, true = many_runs(
        lambda: MicroBatchTraining(1.0, microbatch_size=16, layer_scale=None, noise_seed=1)
    )
    _, _, naive = many_runs_of_one_step(PrivateTraining(1.0, noise_seed=0))
    bound = audit_clopper_pearson(
        scores[coins], scores[~coins], 1e-5, curve="gaussian", threat_model="white_box_iterates"
    )
    assert naive.epsilon == pytest.approx(4.377, abs=0.01)
    bound.check(true)
    with pytest.raises(PrivacyViolation, match="white_box_iterates"):
        bound.check(naive)


def many_runs_of_one_step(strategy):
    one_run(strategy, False, 0)
    return None, None, strategy.statement(1e-5)


def test_exact_clipping_keeps_its_claim_in_training():
    scores, coins, claim = many_runs(lambda: PrivateTraining(1.0, noise_seed=0))
    bound = audit_clopper_pearson(
        scores[coins], scores[~coins], 1e-5, curve="gaussian", threat_model="white_box_iterates"
    )
    assert 0 < bound.epsilon
    bound.check(claim)


def bag(count: int = 120, labels: int = 3, features: int = 20):
    rng = np.random.default_rng(0)
    values = rng.random((400, features)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    real = TensorExamples(
        {
            "features": torch.from_numpy(values),
            "intent": torch.from_numpy(rng.integers(labels, size=400)),
        }
    )
    canaries, coins = dirac_features(features, count, labels)
    return real, canaries, coins, WithCanaries(real, canaries, coins)


def train(learner, examples, strategies, steps=60):
    fit(
        learner, examples, strategies=strategies, max_steps=steps, batch_size=100, optimizer="sgd",
        learning_rate=1.0, weight_decay=0.0, schedule="constant", gradient_clip=None, device="cpu",
        threads=1,
    )  # fmt: skip


def test_dirac_canaries_stand_out_without_noise_and_hide_behind_it():
    _, canaries, coins, examples = bag()
    tensors = TensorExamples(canaries)
    bounds = {}
    for name, strategy in (
        ("noise", PrivateTraining(1.5, target_delta=1e-6, noise_seed=0)),
        ("none", ClippingOnly(target_delta=1e-6, noise_seed=0)),
    ):
        learner = BagOfWordsLearner(20 + 120, 3)
        initial = {k: v.clone() for k, v in learner.state_dict().items()}
        seen = IterateScores(tensors)
        train(learner, examples, [strategy, seen])
        statement = strategy.statement()
        for kind, scores in (
            ("weights", weight_scores(learner, initial, tensors)),
            ("iterates", seen.scores),
            ("loss", loss_scores(learner, tensors)),
        ):
            bounds[name, kind] = audit_one_run(scores, coins, 1e-6, method="steinke")
            bounds[name, kind].check(statement)
    assert np.isinf(statement.epsilon)
    for kind in ("weights", "iterates", "loss"):
        assert bounds["none", kind].epsilon > 1.5 > bounds["noise", kind].epsilon


def test_canaries_are_planted_behind_the_real_examples():
    real, canaries, coins, examples = bag(40)
    assert len(examples) == 400 + coins.sum()
    rng = np.random.default_rng(0)
    rows = np.array([401, 3, 400, 7])
    batch = examples.batch(rows, rng)
    assert batch["features"].shape == (4, 60)
    first, second = np.flatnonzero(coins)[:2]
    assert batch["features"][0, 20 + second] == 1 and batch["features"][2, 20 + first] == 1
    own = real.batch(np.array([3, 7]), rng)
    torch.testing.assert_close(batch["features"][[1, 3], :20], own["features"])
    assert batch["features"][[1, 3], 20:].abs().sum() == 0
    assert batch["intent"][0] == canaries["intent"][second]
    for only in (np.array([1, 2]), np.array([400]), np.array([], dtype=np.int64)):
        assert len(examples.batch(only, rng)["intent"]) == len(only)
    assert examples.fingerprint != WithCanaries(real, canaries, ~coins).fingerprint
    with pytest.raises(ParameterError, match="lengths"):
        WithCanaries(real, canaries, coins[:-1])


def test_iterate_scores_change_nothing():
    _, canaries, _, examples = bag(30)
    states = []
    for extra in ([], [IterateScores(TensorExamples(canaries))]):
        learner = BagOfWordsLearner(50, 3)
        train(learner, examples, [PrivateTraining(1.0, noise_seed=0), *extra], steps=5)
        states.append(learner.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


@pytest.mark.parametrize("encoder", ["bilstm", "transformer"])
def test_derivatives_along_a_direction_are_dot_products_of_gradients(encoder):
    text = TextSet.from_texts(
        ["a b c", "b a", "c c a b"], ["x", "y", "x"], ["O O B-k", "O O", "O B-k O O"]
    )
    reader = TextReader.learn(text)
    torch.manual_seed(0)
    learner = JointLearner(
        JointShape(len(reader.words), 2, len(reader.slots), encoder, 8, 8, heads=2)
    ).double()
    examples = TextExamples(text, reader)
    direction = {n: torch.randn_like(p) for n, p in learner.named_parameters()}
    expected, norms = [], []
    for row in range(3):
        loss = learner.loss(examples.batch(np.array([row])))[0]
        gradients = torch.autograd.grad(loss, list(learner.parameters()))
        pairs = zip(gradients, direction.values(), strict=True)
        expected.append(sum(float((g * d).sum()) for g, d in pairs))
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
    found = directional(learner, direction, examples, normalise=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    normal = directional(learner, direction, examples)
    np.testing.assert_allclose(normal, np.array(expected) / norms, rtol=1e-4)


def test_differences_stand_in_where_there_are_no_derivatives():
    weights = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    found = _difference(
        lambda v: (v["w"] ** 2).sum()[None], weights, {"w": torch.tensor([3.0, 1.0]).double()}
    )
    assert found[0] == pytest.approx(2 * (1 * 3 + 2 * 1), rel=1e-6)
    assert _difference(lambda v: v["w"], weights, {"w": torch.zeros(2).double()}).abs().sum() == 0
