"""Demand networks through strategies of the one loop, private training above all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.errors import ParameterError
from foretell.estimators import MQCNN
from foretell.learners.demand.forecaster import Forecaster
from foretell.training import WeightAveraging
from foretell.training.per_sample import example_by_example
from foretell.training.private import ExactClipper, PrivateTraining

H = 3
SMALL = {"h": H, "max_steps": 4, "n_forks": 4, "hidden": 8, "season_length": 6, "threads": 1,
         "batch_size": 40}  # fmt: skip


def sales(n: int = 160, seed: int = 0) -> Panel:
    rng = np.random.default_rng(seed)
    values = [
        (10 + 3 * (i % 5)) * (1 + 0.5 * np.sin(np.arange(24 + i % 6) / 6 * 2 * np.pi))
        * rng.lognormal(0, 0.2, 24 + i % 6)
        for i in range(n)
    ]  # fmt: skip
    shop = Categorical.from_values([f"s{i % 3}" for i in range(n)])
    return Panel.from_arrays(
        values, frequency=Frequency.parse("MS"), static_categorical={"shop": shop}
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"encoder": "lstm"}, {"span_targets": [(0, 2)]}, {"local_hidden": (6,)},
     {"local_hidden": ()}],
)  # fmt: skip
def test_every_weight_is_clipped_by_rule_and_exactly(options):
    panel = sales(12)
    model = MQCNN(**{**SMALL, "max_steps": 1}, **options).fit(panel)
    learner = model.learners_[0].train().double()
    examples = model._make_examples(panel, None)
    batch = examples.batch(np.arange(12), np.random.default_rng(0))
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    weights = batch["weight"]
    clipper = ExactClipper(learner)

    def factors(norms):
        return (norms.median() / norms).clamp(max=1)

    result = clipper(batch, lambda given: (learner.loss(given), weights), factors)
    assert clipper.names() == []
    found = example_by_example(learner, batch, list(learner.parameters()))
    found = {p: torch.einsum("b,b...->b...", weights, g) for p, g in found.items()}
    norms = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
    torch.testing.assert_close(result.norms, norms, rtol=1e-8, atol=0)
    for parameter, gradient in found.items():
        expected = torch.tensordot(factors(norms), gradient, dims=1)
        torch.testing.assert_close(result.gradients[parameter], expected, rtol=1e-7, atol=1e-9)


def test_watching_changes_no_forecast():
    panel = sales(12)
    model = MQCNN(**SMALL).fit(panel)
    learner = model.learners_[0].eval()
    batch = model._make_examples(panel, None).batch(np.arange(12), np.random.default_rng(0))
    plain = learner(batch).quantiles
    handles = [m.register_forward_hook(lambda *_: None) for m in learner.modules()]
    torch.testing.assert_close(learner(batch).quantiles, plain)
    for handle in handles:
        handle.remove()


def test_private_demand_forecasts_and_says_so(tmp_path):
    pytest.importorskip("dp_accounting", reason="needs the extra 'private'")
    panel, strategy = sales(), PrivateTraining(target_epsilon=4, accountant="rdp", noise_seed=0)
    model = MQCNN(**SMALL, validation=H, validate_every=2).fit(panel, strategies=[strategy])
    statement = model.privacy_
    assert strategy.clipper.names() == [] and 3.9 < statement.epsilon <= 4
    assert statement.unit == "series" and statement.sampling == "poisson(0.25)"
    assert "are one series" in str(statement) and "profiles of groups" in str(statement)
    assert np.isfinite(model.predict(panel).values).all()
    model.save(tmp_path)
    again = Forecaster.load(tmp_path)
    assert again.privacy_ == statement
    np.testing.assert_array_equal(again.predict(panel).values, model.predict(panel).values)
    other = MQCNN(**SMALL).fit(panel)
    assert other.privacy_ is None and other.fit(panel, strategies=[WeightAveraging()])


def test_further_trainings_that_a_strategy_would_not_see_are_refused():
    for options in ({"seeds": 2}, {"calibrate": "cqr"}):
        with pytest.raises(ParameterError, match="seeds=1 and calibrate=None"):
            MQCNN(**SMALL, **options).fit(sales(), strategies=[PrivateTraining(1.0, noise_seed=0)])
