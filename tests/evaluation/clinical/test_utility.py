from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical import challenge_utility_rows
from foretell.errors import DataError
from foretell.evaluation.clinical import (
    best_threshold,
    challenge_utility,
    clock_rule,
    utility_of_thresholds,
    utility_table,
)

from .conftest import ward


def by_loop(labels, predictions):
    """One stay, hour by hour, from the challenge's definition."""
    septic = max(labels) > 0
    onset = labels.index(1) + 6 if septic else float("inf")
    total = 0.0
    for t, predicted in enumerate(predictions):
        if septic and t <= onset + 3:
            d = t - onset
            if predicted:
                total += max((d + 12) / 6, -0.05) if d <= -6 else (3 - d) / 9
            elif d > -6:
                total += -2 * (d + 6) / 9
        elif not septic and predicted:
            total -= 0.05
    return total


def best_of(labels):
    septic = max(labels) > 0
    if not septic:
        return [0] * len(labels)
    onset = labels.index(1) + 6
    return [int(onset - 12 <= t <= onset + 3) for t in range(len(labels))]


def test_the_published_example():
    found = challenge_utility([0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [6])
    assert found.observed[0] == pytest.approx(3.388888888888889, abs=1e-12)


stay = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.integers(0, n).map(lambda k: [0] * (n - k) + [1] * k),
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
    )
)


@given(st.lists(stay, min_size=1, max_size=8))
def test_the_arrays_equal_the_loop(stays):
    label = np.concatenate([s for s, _ in stays])
    prediction = np.concatenate([p for _, p in stays])
    lengths = [len(s) for s, _ in stays]
    found = challenge_utility(prediction, label, lengths)
    np.testing.assert_allclose(found.observed, [by_loop(s, p) for s, p in stays], atol=1e-9)
    np.testing.assert_allclose(found.best, [by_loop(s, best_of(s)) for s, _ in stays], atol=1e-9)
    np.testing.assert_allclose(
        found.inaction, [by_loop(s, [0] * len(s)) for s, _ in stays], atol=1e-9
    )
    assert (found.observed <= found.best + 1e-9).all() or min(map(len, lengths)) < 0
    rows = challenge_utility_rows(label, lengths)
    gained = (rows.gain * prediction).sum()
    assert gained == pytest.approx(found.observed.sum() - found.inaction.sum())


def test_thresholds_come_from_one_sorting():
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 60, 50)
    stays = ward(np.where(rng.random(50) < 0.4, lengths - 2.0, np.nan), lengths)
    label = stays.labels()
    scores = rng.integers(0, 30, len(label)) / 30 + 0.3 * label
    thresholds = np.concatenate([np.unique(scores), [-1, 2]])
    found = utility_of_thresholds(scores, thresholds, label, lengths)
    expected = [challenge_utility(scores >= t, label, lengths).normalised for t in thresholds]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    threshold, utility = best_threshold(scores, label, lengths)
    assert utility == pytest.approx(max(expected)) and threshold in thresholds
    assert utility == pytest.approx(
        challenge_utility(scores >= threshold, label, lengths).normalised
    )
    silent = best_threshold(-scores * (1 - label) - 1, np.zeros_like(label), lengths)
    assert silent[0] == np.inf, "silence is best where nobody is septic"


def test_nobody_septic_has_no_utility_and_bad_input_is_named():
    assert np.isnan(challenge_utility([1, 0], [0, 0], [2]).normalised)
    with pytest.raises(DataError, match=r"label is .*-1.*row 1"):
        challenge_utility([0, 0], [0, -1], [2])
    with pytest.raises(DataError, match=r"prediction is .*0.5"):
        challenge_utility([0.5, 0], [0, 0], [2])
    with pytest.raises(DataError, match="add up"):
        challenge_utility([0, 0], [0, 0], [3])
    with pytest.raises(DataError, match=r"score is nan.*row 0"):
        utility_of_thresholds([np.nan, 1], [0.5], [0, 1], [2])


def test_the_table_shows_the_clock_and_the_margin_over_it():
    rng = np.random.default_rng(1)
    lengths = rng.integers(20, 90, 300)
    septic = rng.random(300) < 0.3
    patients = [f"p{i // 2}" for i in range(300)]
    stays = ward(np.where(septic, lengths - 5.0, np.nan), lengths, patients=patients)
    perfect = (stays.labels() > 0) & (rng.random(stays.n_rows) < 0.8)
    table = utility_table(stays, {"oracle": perfect, "clock again": clock_rule(stays)})
    rows = {r["method"]: r for r in table.iter_rows(named=True)}
    assert list(rows) == ["clock 48 h", "oracle", "clock again"]
    assert rows["clock again"]["margin"] == rows["clock again"]["margin_upper"] == 0
    best = rows["oracle"]
    assert best["margin"] == pytest.approx(best["utility"] - rows["clock 48 h"]["utility"])
    assert best["lower"] < best["utility"] < best["upper"] and best["margin_lower"] > 0


@pytest.mark.real_data
def test_the_official_utilities_of_four_rules(challenge):
    def column(name):
        return challenge.column(name).astype(np.float64).round(3)

    pulse, breaths, heat, white = (column(n) for n in ("HR", "Resp", "Temp", "WBC"))
    criteria = (
        (pulse > 90).astype(int)
        + (breaths > 20)
        + ((heat > 38) | (heat < 36))
        + ((white > 12) | (white < 4))
    )
    rules = {
        "all": (np.ones(challenge.n_rows, bool), -0.3105181925, -1.0585185639, -0.5972190722),
        "clock": (clock_rule(challenge), 0.3015925915, 0.2272443818, 0.2730956844),
        "fever": ((pulse >= 110) | (heat >= 38.3), 0.0647246120, 0.0428089647, 0.0563245689),
        "sirs": (criteria >= 2, 0.0815361896, 0.0031646075, 0.0514971650),
    }
    stays = {h: challenge.names("hospital") == h for h in "AB"}
    rows = {h: np.repeat(mine, challenge.lengths) for h, mine in stays.items()}
    label, lengths = challenge.labels(), challenge.lengths
    for name, (alarm, *published) in rules.items():
        found = [
            challenge_utility(alarm[rows[h]], label[rows[h]], lengths[stays[h]]).normalised
            for h in "AB"
        ]
        found.append(challenge_utility(alarm, label, lengths).normalised)
        np.testing.assert_allclose(found, published, atol=2e-9, err_msg=name)
    sums = {"A": (-16396.66667, 12759.16667), "B": (-10245.11111, 7875.44444)}
    for h, (inaction, best) in sums.items():
        score = challenge_utility(alarm[rows[h]], label[rows[h]], lengths[stays[h]])
        assert score.inaction.sum() == pytest.approx(inaction, abs=1e-5)
        assert score.best.sum() == pytest.approx(best, abs=1e-5)
