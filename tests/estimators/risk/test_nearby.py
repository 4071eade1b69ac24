"""What would be if: the short way gives what the whole net gives."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.data.simulators import hospitals
from foretell.estimators.risk import AdditiveRisk, FeedForwardRisk
from foretell.estimators.risk.nearby import what_if


@pytest.fixture(scope="module")
def hours():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 12)).astype(np.float32)
    y = (X[:, 0] + rng.normal(size=400) > 0.5).astype(int)
    return X, y


@pytest.mark.parametrize("n_knots", [0, 5])
@pytest.mark.parametrize("hidden", [(16,), (16, 8)])
def test_changed_hours_have_the_risks_of_the_whole_net(hours, hidden, n_knots):
    X, y = hours
    model = FeedForwardRisk(hidden=hidden, n_knots=n_knots, max_steps=40, threads=1)
    model.fit(X, y)
    table = np.repeat(X[:1], 30, axis=0)
    for k in range(24):
        table[k, k % 12] += 0.5 if k < 12 else -3.0
    table[24:28] = X[1:5]  # nothing stays as it was
    # The last two rows stay as they are.
    found = what_if(model)({}, X[0], table)
    assert np.abs(found - model.predict_proba(table)[:, 1]).max() < 1e-6
    assert np.ptp(found[:24]) > 1e-3
    assert found[28] == found[29]
    assert what_if(model)({}, X[0], table[:0]).shape == (0,)


@pytest.mark.parametrize("kind", ["additive", "weight"])
def test_where_values_fade_what_might_be_measured_is_new(kind):
    """An old or missing value says little; that is no reason not to measure it."""
    stays = hospitals(stays=40, sites=1, hours=(12, 24), seed=3)[0]
    told = {"max_steps": 20, "validation_size": 0, "threads": 1}
    model = (
        AdditiveRisk(hidden=(4,), **told) if kind == "additive"
        else FeedForwardRisk(hidden=(8,), n_knots=0, time_since="weight", **told)
    ).fit(stays)  # fmt: skip
    builder = model.features_
    (last,), (since,) = (builder.columns(block=b, channel="Lactate") for b in ("last", "since"))
    hour = builder.transform(stays.select([0]))[0]
    hour[last], hour[since] = 0.0, 1.0
    table = np.repeat(hour[None], 3, axis=0)
    table[0, last], table[1, last] = 1.0, -1.0
    new = table.copy()
    new[:2, since] = 0.0
    found = what_if(model)({}, hour, table)
    assert np.abs(found - model.predict_proba(new)[:, 1]).max() < 1e-9
    assert abs(found[0] - found[1]) > 1e-5
    assert table[0, since] == 1, "what was given stays as it is"


def test_a_model_with_a_memory_is_asked_hour_by_hour():
    class Remembering:
        def advance(self, memory, features):
            return float(memory["sum"] + features.sum()), memory

    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = what_if(Remembering())({"sum": 10.0}, table[0], table)
    assert found.tolist() == [11.0, 15.0, 19.0]
