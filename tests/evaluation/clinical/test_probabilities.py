from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from foretell.errors import DataError, ParameterError
from foretell.evaluation.bootstrap import cluster_weights
from foretell.evaluation.clinical import calibration, decision_curve


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    z = rng.normal(-1.5, 1.5, 20_000)
    return expit(z), rng.random(20_000) < expit(z), np.arange(20_000) // 10


def test_honest_probabilities_are_calibrated(drawn):
    p, y, patients = drawn
    found = calibration(p, y, patients, resamples=100)
    assert found.error.estimate < 0.015 and found.table.height == 10
    assert found.slope == pytest.approx(1, abs=0.05)
    assert found.intercept == pytest.approx(0, abs=0.06)
    assert found.table["n"].to_list() == [2000] * 10


def test_distortions_are_found_by_slope_and_intercept(drawn):
    p, y, patients = drawn
    extreme = expit(2 * logit(p))
    assert calibration(extreme, y, patients, resamples=10).slope == pytest.approx(0.5, abs=0.03)
    low = expit(logit(p) - 1)
    found = calibration(low, y, patients, resamples=100)
    assert found.intercept == pytest.approx(1, abs=0.06)
    assert found.error.lower > 0.05
    model = LogisticRegression(C=np.inf).fit(logit(low)[:, None], y)
    assert found.slope == pytest.approx(model.coef_[0, 0], rel=1e-3)


def test_intervals_of_slope_and_intercept_are_those_of_patients_drawn_anew():
    rng = np.random.default_rng(1)
    z = rng.normal(-1, 1.5, 800)
    y = rng.random(800) < expit(0.8 * z - 0.3)
    p, truth, patients = (np.repeat(v, 5) for v in (expit(z), y, np.arange(800)))
    found = calibration(p, truth, patients, resamples=200)
    assert found.slope_interval.lower < 0.8 < found.slope_interval.upper < 1
    assert found.intercept_interval.upper < 0
    assert found.slope_interval.estimate == pytest.approx(found.slope)
    # By fitting every resample from the beginning.
    slopes = [
        LogisticRegression(C=np.inf).fit(z[:, None], y, sample_weight=w).coef_[0, 0]
        for weights in cluster_weights(800, 200, 0) for w in weights
    ]  # fmt: skip
    expected = np.quantile(slopes, [0.025, 0.975])
    np.testing.assert_allclose(
        [found.slope_interval.lower, found.slope_interval.upper],
        expected,
        atol=0.1 * np.ptp(expected),
    )
    apart = calibration(p, truth, np.arange(4000), resamples=200)
    for one, other in ((found.slope_interval, apart.slope_interval),
                       (found.intercept_interval, apart.intercept_interval)):  # fmt: skip
        assert one.upper - one.lower > 1.8 * (other.upper - other.lower)


def test_the_error_by_hand_and_with_ties():
    p, y = np.array([0.1] * 4 + [0.6] * 4), np.array([0, 0, 0, 1, 1, 1, 0, 1])
    found = calibration(p, y, np.arange(8), bins=2, resamples=20)
    assert found.error.estimate == pytest.approx((0.15 + 0.15) / 2)
    assert found.table["rate"].to_list() == [0.25, 0.75]
    flat = calibration(np.full(8, 0.5), y, np.arange(8), resamples=20)
    assert flat.table.height == 1 and np.isnan(flat.slope)
    assert np.isnan(flat.slope_interval.upper) and not np.isnan(flat.intercept_interval.upper)
    assert np.isnan(calibration([0.0, 1.0], [0, 0], [1, 2], resamples=5).intercept)


def test_net_benefit_by_hand():
    p, y = np.array([0.9, 0.8, 0.3, 0.2]), np.array([1, 0, 1, 0])
    found = decision_curve(p, y, np.arange(4), [0.25, 0.5], resamples=50)
    assert found["net_benefit"].to_list() == pytest.approx([2 / 4 - 1 / 4 / 3, 1 / 4 - 1 / 4])
    assert found["all"].to_list() == pytest.approx([2 / 4 - 2 / 4 / 3, 0])
    assert found["gain"].to_list() == pytest.approx([1 / 12, 0])
    assert (found["lower"] <= found["net_benefit"]).all()


def test_acting_on_honest_probabilities_never_harms(drawn):
    p, y, patients = drawn
    found = decision_curve(p, y, patients, np.linspace(0.02, 0.9, 15), resamples=20)
    assert (found["gain"] > -0.002).all() and found["gain"].max() > 0.02


def test_bad_probabilities_are_refused():
    with pytest.raises(DataError, match=r"1\.2.*row 1"):
        calibration([0.1, 1.2], [0, 1], [0, 1])
    with pytest.raises(DataError, match=r"nan.*row 0"):
        decision_curve([np.nan, 0.2], [0, 1], [0, 1], [0.5])
    assert calibration([np.nan, 0.2], [0, 1], [0, 1], rows=[0, 1], resamples=2).table.height == 1
    with pytest.raises(DataError, match="no row"):
        calibration([0.1], [0], [0], rows=[0])
    for wrong in ([0.0], [1.0], []):
        with pytest.raises(ParameterError, match="inside"):
            decision_curve([0.1], [0], [0], wrong)
