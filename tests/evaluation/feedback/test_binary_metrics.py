from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from foretell.errors import ParameterError
from foretell.evaluation.feedback.binary_metrics import (
    area_under_roc,
    average_precision,
    bernoulli_divergence,
    calibration_bins,
    expected_calibration_error,
    negative_log_likelihood,
)


@given(st.integers(0, 10_000), st.integers(2, 60), st.booleans())
def test_agrees_with_scikit_learn(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    y[:2] = 0, 1
    p = rng.random(n)
    if ties:
        p = np.round(p, 1)
    assert area_under_roc(y, p) == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert average_precision(y, p) == pytest.approx(average_precision_score(y, p), abs=1e-12)
    inner = p.clip(0.01, 0.99)
    assert negative_log_likelihood(y, inner) == pytest.approx(log_loss(y, inner), abs=1e-12)


def test_divergence_is_the_excess_likelihood() -> None:
    truth, p = np.array([0.2, 0.9]), np.array([0.5, 0.6])
    cross = -(truth * np.log(p) + (1 - truth) * np.log(1 - p))
    own = -(truth * np.log(truth) + (1 - truth) * np.log(1 - truth))
    assert bernoulli_divergence(truth, p) == pytest.approx((cross - own).mean(), abs=1e-12)
    assert bernoulli_divergence(truth, truth) == 0


def test_one_class_and_certainty() -> None:
    assert np.isnan(area_under_roc([1, 1], [0.2, 0.3]))
    assert np.isnan(average_precision([0, 0], [0.2, 0.3]))
    assert np.isfinite(negative_log_likelihood([1, 0], [0.0, 1.0]))


def test_calibration_error() -> None:
    sums = calibration_bins([1, 0, 1, 1], [0.1, 0.12, 1.0, 0.9], 10)
    assert sums[:, 0].sum() == 4
    assert sums[1].tolist() == pytest.approx([2, 0.22, 1])
    assert sums[9].tolist() == pytest.approx([2, 1.9, 2])
    assert expected_calibration_error(sums) == pytest.approx((0.78 + 0.1) / 4)


def test_lengths_must_agree() -> None:
    with pytest.raises(ParameterError, match="one length"):
        area_under_roc([1, 0], [0.5])
