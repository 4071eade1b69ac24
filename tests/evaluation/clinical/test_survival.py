from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import DataError, ParameterError
from foretell.evaluation.clinical import concordance_index, integrated_brier_score

row = st.tuples(st.integers(1, 6), st.booleans(), st.integers(0, 4), st.integers(0, 5))


def by_pairs(rows):
    """Harrell's definition, pair by pair."""
    right = pairs = 0.0
    for time, event, risk, _ in rows:
        for later, seen, other, _ in rows:
            if event and (later > time or (later == time and not seen)):
                pairs += 1
                right += float(risk > other) + 0.5 * (risk == other)
    return right / pairs if pairs else None


@given(st.lists(row, min_size=1, max_size=25))
def test_concordance_is_its_definition(rows):
    time, event, risk, patient = (np.array(c) for c in zip(*rows, strict=True))
    expected = by_pairs(rows)
    if expected is None:
        with pytest.raises(DataError, match="comparable"):
            concordance_index(risk, time, event, patient, resamples=0)
        return
    found = concordance_index(risk, time, event, patient, resamples=0)
    assert found.estimate == pytest.approx(expected, abs=1e-12)
    assert np.isnan(found.lower)
    turned = concordance_index(-risk, time, event, patient, resamples=0)
    assert turned.estimate == pytest.approx(1 - expected, abs=1e-12)


def test_resampled_patients_are_whole_copies_of_their_rows():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 5)
    time, event = rng.integers(1, 13, 200), rng.random(200) < 0.4
    risk = -time + 4 * rng.standard_normal(200)
    found = concordance_index(risk, time, event, patient, resamples=300)
    assert 0.5 < found.lower < found.estimate < found.upper < 1
    one = concordance_index(risk, time, event, np.arange(200), resamples=300)
    assert one.estimate == found.estimate
    # A row that is drawn twice is no pair with its copy of another kind: as by rows that are there.
    weights = np.array([[2.0, 0.0, 1.0]])
    from foretell.evaluation.clinical.kernels import concordant

    three = (np.array([1, 2, 3]), np.array([True, True, False]), np.array([5.0, 9.0, 7.0]))
    order = np.argsort(-three[2])
    (drawn,) = concordant(np.ones(3, bool), three[0][order] - 1, three[1][order], order, 3, weights)
    assert drawn == by_pairs([(1, True, 5, 0), (1, True, 5, 0), (3, False, 7, 0)]) == 0


def test_brier_scores_see_through_censoring():
    rng = np.random.default_rng(1)
    size = 40_000
    hazard = rng.gamma(2, 0.05, size)
    onset = np.ceil(rng.exponential(1 / hazard))
    censored = rng.integers(2, 13, size)
    time, event = np.minimum(onset, censored), onset <= censored
    leads = np.array([2.0, 4.0, 8.0])
    risk = 1 - np.exp(-hazard[:, None] * leads)
    whole = np.minimum(onset, 13)
    args = (leads, whole, onset <= 12, np.arange(size))
    known = integrated_brier_score(risk, *args, resamples=50)
    by_hand = [((onset <= h) - risk[:, k]) ** 2 for k, h in enumerate(leads)]
    expected = np.trapezoid(np.mean(by_hand, axis=1), leads) / 6
    assert known.estimate == pytest.approx(expected, abs=1e-12)
    found = integrated_brier_score(risk, leads, time, event, np.arange(size), resamples=50)
    assert found.lower < expected < found.upper
    # To count only who is seen to the end would not do.
    seen = event | (time >= 8)
    biased = integrated_brier_score(
        risk, leads, time, event, np.arange(size), rows=seen, resamples=5
    )
    assert abs(biased.estimate - expected) > 10 * abs(found.estimate - expected)
    flat = np.broadcast_to(0.5, risk.shape)
    assert integrated_brier_score(flat, *args, resamples=5).estimate == pytest.approx(0.25)


def test_weights_by_hand():
    # Five rows, one censored at 1: whoever is seen beyond stands for 5/4 rows.
    time, event = np.array([1, 1, 2, 3, 3]), np.array([True, False, True, False, False])
    risk = np.array([0.9, 0.5, 0.6, 0.2, 0.1])
    found = integrated_brier_score(risk, 2, time, event, np.arange(5), resamples=5)
    weight = 4 / 3
    expected = (0.1**2 + weight * (0.4**2 + 0.2**2 + 0.1**2)) / 5
    assert found.estimate == pytest.approx(expected)


def test_bad_input_is_refused():
    time, event, who = np.array([1.0, 2.0]), np.array([True, False]), np.arange(2)
    with pytest.raises(DataError, match=r"within \[0, 1\] \(row 1"):
        integrated_brier_score([0.2, 1.2], 1, time, event, who)
    with pytest.raises(DataError, match="shape"):
        integrated_brier_score([0.2], 1, time, event, who)
    with pytest.raises(DataError, match="until hour 3"):
        integrated_brier_score([0.2, 0.3], 3, time, event, who)
    with pytest.raises(ParameterError, match="ascend"):
        integrated_brier_score(np.zeros((2, 2)), [4, 2], time, event, who)
    with pytest.raises(ParameterError, match="confidence"):
        concordance_index([1, 2], time, event, who, confidence=1)
    with pytest.raises(DataError, match="risk is nan"):
        concordance_index([np.nan, 2], time, event, who)
    with pytest.raises(DataError, match="no row counts"):
        concordance_index([1, 2], time, event, who, rows=[0, 0])
