"""What scores tell before labels come."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from foretell.decisions.abstention import ScoreMonitor, expected_performance
from foretell.errors import DataError, ParameterError


def period(seed, stays=300, shift=0.0):
    """Hours whose scores hang together in a stay; some have none."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(stays), rng.integers(5, 40, stays))
    z = rng.normal(-3 + shift, 1, stays)[owner] + rng.normal(0, 0.3, len(owner))
    return np.where(rng.random(len(owner)) < 0.05, np.nan, expit(z)), owner


def test_moved_scores_are_named_and_others_left_in_peace():
    monitor = ScoreMonitor.fit(*period(0, 600))
    calm = [monitor.compare(*period(s)).drifted for s in range(1, 101)]
    assert sum(calm) <= 5, "one in a hundred, and the reference itself is drawn"
    moved = monitor.compare(*period(1, shift=0.7))
    assert moved.drifted and moved.stability_index > 0.25
    assert moved.distance_p < 1e-6 and moved.discrepancy_p < 1e-6
    again = ScoreMonitor.from_dict(json.loads(json.dumps(monitor.to_dict())))
    assert again.compare(*period(3)) == monitor.compare(*period(3))
    # It holds no score of a patient but quantiles of many.
    assert max(len(v) for v in monitor.to_dict().values() if isinstance(v, list)) <= 200


def test_names_of_stays_count_as_numbers_do():
    scores, owner = period(5, 50)
    names = np.array([f"s{i}" for i in owner], object)
    monitor = ScoreMonitor.fit(scores, owner)
    told, same = monitor.compare(scores, names), monitor.compare(scores, owner)
    assert told == pytest.approx(same, abs=1e-12)


def test_expected_performance_is_what_labels_show_on_average():
    scores, _ = period(7, 4000)
    told = expected_performance(scores, 0.1)
    p = scores[~np.isnan(scores)]
    label = np.random.default_rng(1).random(len(p)) < p
    high = p >= 0.1
    assert told.rate == pytest.approx(label.mean(), rel=0.03)
    assert told.sensitivity == pytest.approx(high[label].mean(), abs=0.02)
    assert told.specificity == pytest.approx((~high)[~label].mean(), abs=0.01)
    assert told.ppv == pytest.approx(label[high].mean(), abs=0.02)
    assert told.auroc == pytest.approx(roc_auc_score(label, p), abs=0.01)


def test_hours_are_judged_by_the_threshold_that_holds_in_them():
    p = np.array([0.1, 0.3, np.nan, 0.1, 0.3])
    told = expected_performance(p, [0.2, 0.2, 0.0, 0.05, 0.05])
    assert told.sensitivity == pytest.approx(0.7 / 0.8) and told.ppv == pytest.approx(0.7 / 3)
    assert told.specificity == pytest.approx(0.9 / 3.2)
    same, plain = expected_performance(p, np.full(5, 0.2)), expected_performance(p, 0.2)
    assert same == plain and told.auroc == plain.auroc
    for wrong in ([0.2, 0.2], [[0.2] * 5], np.nan, [0.2, np.nan, 0.2, 0.2, 0.2]):
        with pytest.raises(DataError, match="thresholds must be finite"):
            expected_performance(p, wrong)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=12))
def test_expected_auroc_by_pairs(values):
    p = np.array(values)
    right = sum(a * (1 - b) * ((a > b) + 0.5 * (a == b)) for a in p for b in p)
    pairs = p.sum() * (1 - p).sum()
    found = expected_performance(p, 0.3).auroc
    if pairs == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(right / pairs)


def test_bad_input_is_refused():
    monitor = ScoreMonitor.fit(*period(0, 20))
    with pytest.raises(DataError, match="within"):
        monitor.compare([0.2, 1.2], [1, 1])
    with pytest.raises(DataError, match="names of stays"):
        monitor.compare([0.2, 0.3], [1])
    with pytest.raises(DataError, match="no score was issued"):
        expected_performance([np.nan], 0.5)
    with pytest.raises(ParameterError, match="level"):
        monitor.compare([0.2], [1], level=0)
    with pytest.raises(DataError, match="no score monitor"):
        ScoreMonitor.from_dict({"embedding": {"mean": [1.0]}})
