"""What would be if: the short way gives what the whole net gives."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.estimators.risk import FeedForwardRisk
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


def test_a_model_with_a_memory_is_asked_hour_by_hour():
    class Remembering:
        def advance(self, memory, features):
            return float(memory["sum"] + features.sum()), memory

    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = what_if(Remembering())({"sum": 10.0}, table[0], table)
    assert found.tolist() == [11.0, 15.0, 19.0]
