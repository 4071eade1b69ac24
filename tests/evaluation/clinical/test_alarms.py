from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from foretell.data.clinical import target
from foretell.errors import DataError, ParameterError
from foretell.evaluation.clinical import (
    METRICS,
    alarm_metrics,
    ranking_metrics,
    threshold_alarms,
)

from .conftest import ward


def alarms_at(stays, *hours):
    alarm = np.zeros(stays.n_rows, bool)
    for i, mine in enumerate(hours):
        for hour in mine:
            alarm[stays.offsets[i] + hour - stays.starts[i]] = True
    return alarm


def test_alarms_are_judged_by_hand():
    # Onset at 30 within 40 h; at 20; none; none; before the record; beyond it.
    stays = ward(
        [30, 20, np.nan, np.nan, 3, 25], [40, 40, 50, 10, 20, 20], starts=[1, 1, 1, 1, 4, 1]
    )
    alarm = alarms_at(stays, [5, 18, 24, 30, 35], [4], [7, 8], [], [6], [20])
    found = alarm_metrics(stays, alarm, horizon=12, references={"drug": [20, 1, 1, 1, 1, np.nan]})
    # True: 18 and 24 (12 and 6 h ahead) and 20; false: 5, 4, 7, 8; 30 is the onset: not early.
    assert found.after_onset == 3 and found.onset_before_record == 1
    assert found.onset_after_record == 1 and found.without_prediction == 0
    values = found.values()
    assert values["patient_sensitivity"] == pytest.approx(2 / 3)
    assert values["patient_specificity"] == 1 / 2
    assert values["patient_ppv"] == 2 / 4
    assert values["patient_npv"] == 1 / 2
    assert values["patient_odds_ratio"] == 2 * 1 / (1 * 1)
    assert values["ppv"] == 3 / 7 and values["alarms_per_true_alarm"] == pytest.approx(7 / 3)
    hours = 29 + 19 + 50 + 10 + 0 + 20
    assert values["false_alarms_per_patient_hour"] == 4 / hours
    assert values["alarms_per_bed_day"] == pytest.approx(7 / (hours / 24))
    np.testing.assert_array_equal(found.lead, [12, np.nan, np.nan, np.nan, np.nan, 5])
    assert (values["lead_q25"], values["lead_median"], values["lead_q75"]) == (5, 5, 12)
    assert values["found_before_drug"] == 1 and values["median_lead_to_drug"] == 2


@given(st.integers(0, 5000))
def test_false_alarms_an_hour_times_hours_are_the_false_alarms(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 12))
    lengths = rng.integers(1, 60, size)
    onset = np.where(rng.random(size) < 0.5, rng.integers(1, 70, size), np.nan).astype(float)
    stays = ward(onset, lengths)
    alarm = rng.random(stays.n_rows) < 0.1
    horizon = float(rng.integers(1, 50))
    found = alarm_metrics(stays, alarm, horizon=horizon)
    true = false = hours = 0
    for i in range(size):
        for t in range(1, lengths[i] + 1):
            if not t >= onset[i]:
                hours += 1
                hit = onset[i] <= t + horizon
                true += hit and alarm[stays.offsets[i] + t - 1]
                false += (not hit) and alarm[stays.offsets[i] + t - 1]
    sums = found.counts.sum(axis=0)
    assert (sums[5], sums[6], sums[7]) == (true, false, hours)
    if hours:
        rate = found.values()["false_alarms_per_patient_hour"]
        assert rate * hours == pytest.approx(false)
    assert (np.isfinite(found.lead) == (found.counts[:, 1] > 0)).all()
    known = found.lead[np.isfinite(found.lead)]
    if len(known):
        median = np.quantile(known, 0.5, method="inverted_cdf")
        assert found.values()["lead_median"] == median
        assert known.min() > 0 and known.max() <= horizon


def test_intervals_resample_whole_patients():
    rng = np.random.default_rng(0)
    size = 400
    patients = [f"p{i // 4}" for i in range(size)]
    sick = np.repeat(rng.random(100) < 0.5, 4)
    stays = ward(np.where(sick, 30.0, np.nan), np.full(size, 40), patients=patients)
    seen = np.repeat(rng.random(100) < 0.6, 4)  # all stays of a patient are alike
    alarm = alarms_at(stays, *([20] if s else [] for s in seen))
    found = alarm_metrics(stays, alarm)
    table = {r["metric"]: r for r in found.table(resamples=2000).iter_rows(named=True)}
    assert list(table) == list(METRICS)
    row = table["patient_sensitivity"]
    p, n = row["value"], sick.sum() / 4
    width = 2 * 1.96 * np.sqrt(p * (1 - p) / n)
    assert row["upper"] - row["lower"] == pytest.approx(width, rel=0.15), "four stays are one"
    assert table["lead_median"]["value"] == 10
    again = found.table(resamples=2000)
    assert again.equals(found.table(resamples=2000)), "the seed decides"
    groups = np.where(np.arange(size) < 200, "f", "m")
    by = found.by(groups, resamples=50)
    assert by["group"].unique(maintain_order=True).to_list() == ["f", "m"]
    part = by.filter((by["group"] == "m") & (by["metric"] == "patient_sensitivity"))
    mine = sick & (groups == "m")
    assert part["value"].item() == pytest.approx((mine & seen).sum() / mine.sum())
    assert part["septic"].item() == mine.sum()


def test_a_ward_where_nothing_happens_has_no_numbers_but_no_error():
    stays = ward([np.nan, np.nan], [5, 5])
    table = alarm_metrics(stays, np.zeros(10)).table(resamples=20)
    values = dict(zip(table["metric"], table["value"], strict=True))
    assert values["patient_specificity"] == 1 and values["false_alarms_per_patient_hour"] == 0
    assert values["patient_sensitivity"] is None and values["lead_median"] is None


def test_abstention_is_counted_and_cannot_alarm():
    stays = ward([np.nan, 5], [5, 5])
    issued = np.array([0] * 5 + [1] * 5)
    assert alarm_metrics(stays, np.zeros(10), predicted=issued).without_prediction == 1
    # The first score comes with the onset at hour 5: missed, not left out, and counted.
    late = alarm_metrics(ward([5, 5], [8, 8]), np.zeros(16), predicted=[0] * 4 + [1] * 4 + [1] * 8)
    assert late.onset_before_prediction == 1 and late.onset_before_record == 0
    assert late.counts[:, 0].sum() == 2 and late.values()["patient_sensitivity"] == 0
    with pytest.raises(DataError, match=r"without a prediction.*row 2"):
        alarm_metrics(stays, np.arange(10) == 2, predicted=issued)
    with pytest.raises(DataError, match=r"alarm is .*2"):
        alarm_metrics(stays, np.full(10, 2))
    with pytest.raises(ParameterError, match="horizon"):
        alarm_metrics(stays, np.zeros(10), horizon=0)
    with pytest.raises(DataError, match="'drug'"):
        alarm_metrics(stays, np.zeros(10), references={"drug": [1]})


@given(st.integers(0, 5000))
def test_areas_equal_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    label = rng.random(120) < 0.2
    label[:2] = [True, False]
    scores = np.round(rng.normal(size=120) + label, int(rng.integers(0, 3)))
    found = ranking_metrics(scores, label, np.arange(120) // 5, resamples=5)
    assert found.auroc.estimate == pytest.approx(roc_auc_score(label, scores))
    assert found.auprc.estimate == pytest.approx(average_precision_score(label, scores))


def test_intervals_of_areas_see_that_hours_of_a_patient_go_together():
    rng = np.random.default_rng(0)
    level = np.repeat(rng.normal(size=60), 50)
    label = np.repeat(rng.random(60) < 0.3, 50)
    scores = level + label + 0.1 * rng.normal(size=3000)
    together = ranking_metrics(scores, label, np.arange(3000) // 50, resamples=300)
    apart = ranking_metrics(scores, label, np.arange(3000), resamples=300)
    width = [m.auroc.upper - m.auroc.lower for m in (together, apart)]
    assert width[0] > 3 * width[1]
    assert together.auroc.lower < together.auroc.estimate < together.auroc.upper
    assert np.isnan(ranking_metrics(scores, label, np.arange(3000), resamples=0).auroc.lower)
    with pytest.raises(DataError, match="same label"):
        ranking_metrics(scores, np.ones(3000), np.arange(3000))


@pytest.mark.real_data
def test_the_clock_ranks_hours_as_published(challenge):
    published = {"A": 0.625, "B": 0.607}
    for hospital, stays in challenge.by("hospital").items():
        wanted = target(stays, 4)
        found = ranking_metrics(
            stays.hours().astype(float), wanted.label, stays.stay_of_row(),
            rows=wanted.at_risk, resamples=10,
        )  # fmt: skip
        assert found.auroc.estimate == pytest.approx(published[hospital], abs=6e-4)


@pytest.mark.real_data
def test_the_whole_challenge_is_scored(challenge):
    alarm = threshold_alarms(challenge.hours(), challenge.lengths, 48, snooze=6)
    found = alarm_metrics(challenge, alarm)
    assert found.counts[:, 0].sum() + found.onset_before_record == 2932
    values = found.values()
    assert 0 < values["ppv"] < 0.3 and values["lead_median"] > 0
