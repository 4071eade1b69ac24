from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from foretell.data.simulators.panels import N_CONTEXT, panel_patients, panel_risk
from foretell.errors import ArtefactError, DataError, NotFittedError
from foretell.estimators.risk import SubsetRisk

PANELS = [[N_CONTEXT + j] for j in range(6)]


@pytest.fixture(scope="module")
def model():
    patients = panel_patients(8000, seed=1)
    seen = np.ones((8000, 9), bool)
    options = {"members": 2, "max_steps": 600, "threads": 1}
    return SubsetRisk(PANELS, **options).fit(patients.values, seen, patients.label)


def test_risk_is_near_the_truth_for_any_subset(model):
    test = panel_patients(4000, seed=2)
    rng = np.random.default_rng(0)
    for share in (0.0, 0.5, 1.0):
        seen = rng.random((4000, 9)) < share
        seen[:, :N_CONTEXT] = True
        ours = log_loss(test.label, model.predict_proba(test.values, seen)[:, 1])
        truth = log_loss(test.label, panel_risk(test.values, seen))
        assert ours < truth + 0.035, share


def test_what_was_not_seen_does_not_matter(model):
    test = panel_patients(50, seed=3)
    seen = np.ones((50, 9), bool)
    seen[:, 5] = False
    other = test.values.copy()
    other[:, 5] = np.nan
    np.testing.assert_array_equal(
        model.predict_members(other, seen), model.predict_members(test.values, seen)
    )


def test_the_gradient_is_that_of_finite_differences(model):
    values = panel_patients(5, seed=4).values
    seen = np.ones((5, 9), bool)
    got = model.gradient(values, seen)
    for feature in (0, 4):
        step = np.zeros(9)
        step[feature] = 0.02
        high, low = (model.predict_proba(values + s, seen)[:, 1] for s in (step, -step))
        np.testing.assert_allclose(got[:, feature], (high - low) / 0.04, atol=0.02)


def test_saved_and_loaded_it_says_the_same(model, tmp_path):
    model.save(tmp_path / "m")
    test = panel_patients(20, seed=5)
    seen = np.ones((20, 9), bool)
    again = SubsetRisk.load(tmp_path / "m")
    np.testing.assert_array_equal(
        again.predict_members(test.values, seen), model.predict_members(test.values, seen)
    )
    (tmp_path / "m" / "arrays.safetensors").write_bytes(b"")
    with pytest.raises(ArtefactError):
        SubsetRisk.load(tmp_path / "m")


def test_bad_input_is_refused(model):
    with pytest.raises(NotFittedError):
        SubsetRisk().predict_proba(np.zeros((1, 9)), np.ones((1, 9), bool))
    with pytest.raises(DataError, match="must be"):
        model.predict_proba(np.zeros((2, 4)), np.ones((2, 4), bool))
    with pytest.raises(DataError, match="not finite"):
        SubsetRisk(PANELS).fit(np.full((4, 9), np.nan), np.ones((4, 9), bool), [0, 1, 0, 1])
    with pytest.raises(DataError, match="labels"):
        SubsetRisk(PANELS).fit(np.zeros((4, 9)), np.ones((4, 9), bool), [0, 1, 2, 1])
