from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import DataError, ParameterError
from foretell.evaluation.clinical import (
    both_conventions,
    snoozed_confusion,
    snoozed_curve,
    snoozed_ranking,
    threshold_alarms,
)


def by_loop(scores, labels, masks, threshold, horizon, snooze):
    cells = dict.fromkeys(("tp", "fp", "fn", "tn"), 0)
    patients = found = 0
    for score, label, mask in zip(scores, labels, masks, strict=True):
        wait, hit = 0, False
        for t in range(len(score)):
            if wait > 0:
                wait -= 1
                continue
            if not mask[t]:
                continue
            alarm, near = score[t] >= threshold, any(label[t : t + horizon + 1])
            if near and alarm:
                cells["tp"] += 1
                hit = True
            elif alarm:
                cells["fp"] += 1
            elif label[t]:
                cells["fn"] += 1
            else:
                cells["tn"] += 1
            if alarm:
                wait = snooze
        patients += any(label)
        found += hit and any(label)
    return {**cells, "patients": patients, "patients_found": found}


hours = st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(0, 1))
stays = st.lists(st.lists(hours, min_size=1, max_size=25), min_size=1, max_size=6)


@given(stays, st.integers(0, 8), st.integers(0, 9), st.integers(0, 6))
def test_judgements_equal_the_loop(found, horizon, snooze, threshold):
    scores, labels, masks = ([[h[k] for h in stay] for stay in found] for k in range(3))
    result = snoozed_confusion(
        np.concatenate(scores), np.concatenate(labels), [len(s) for s in scores], threshold,
        mask=np.concatenate(masks), horizon=horizon, snooze=snooze,
    )  # fmt: skip
    assert vars(result) == by_loop(scores, labels, masks, threshold, horizon, snooze)


@given(stays, st.integers(0, 6))
def test_without_snoozing_alarms_are_threshold_crossings(found, threshold):
    score = np.array([h[0] for stay in found for h in stay])
    mask = np.array([h[2] for stay in found for h in stay])
    lengths = [len(s) for s in found]
    alarms = threshold_alarms(score, lengths, threshold, mask=mask)
    np.testing.assert_array_equal(alarms, (score >= threshold) & (mask > 0))


@given(stays, st.integers(0, 6), st.integers(0, 10))
def test_longer_snoozing_never_gives_more_alarms(found, threshold, snooze):
    score = np.array([h[0] for stay in found for h in stay])
    lengths = [len(s) for s in found]
    counts = [
        threshold_alarms(score, lengths, threshold, snooze=s).sum() for s in (snooze, snooze + 1)
    ]
    assert counts[1] <= counts[0]


def test_a_curve_of_a_perfect_and_of_a_constant_score():
    label = np.array([0] * 30 + [0] * 10 + [1] * 5)
    perfect = snoozed_curve(label * 1.0, label, [30, 15], horizon=0, snooze=0)
    assert perfect.auroc == 1 and perfect.auprc == 1
    flat = snoozed_curve(np.full(45, 0.3), label, [30, 15], horizon=0, snooze=0)
    assert flat.auroc == 0.5 and flat.auprc == pytest.approx(5 / 45)


def test_areas_have_intervals_over_patients():
    rng = np.random.default_rng(3)
    lengths = np.repeat(rng.integers(8, 40, 60), 4)
    septic = np.repeat(rng.random(60) < 0.4, 4)
    pairs = zip(lengths, septic, strict=True)
    label = np.concatenate([[0] * (n - 6) + [int(sick)] * 6 for n, sick in pairs])
    # Every patient has four stays alike.
    one = [rng.random(n) + 0.3 * s for n, s in zip(lengths[::4], septic[::4], strict=True)]
    scores = np.concatenate([x for x in one for _ in range(4)])
    patients = np.repeat([f"p{i}" for i in range(60)], 4).astype(object)
    mask = (scores < 1.1).astype(int)
    told = {"mask": mask, "n_thresholds": 60}
    found = snoozed_ranking(scores, label, lengths, patients, resamples=300, **told)
    curve = snoozed_curve(scores, label, lengths, **told)
    assert found.auroc.estimate == pytest.approx(curve.auroc, abs=1e-12)
    assert found.auprc.estimate == pytest.approx(curve.auprc, abs=1e-12)
    assert found.auroc.lower < found.auroc.estimate < found.auroc.upper
    apart = snoozed_ranking(scores, label, lengths, np.arange(240), resamples=300, **told)
    width = found.auroc.upper - found.auroc.lower
    assert width > 1.5 * (apart.auroc.upper - apart.auroc.lower), "four alike tell what one does"
    with pytest.raises(DataError, match="patients has shape"):
        snoozed_ranking(scores, label, lengths, patients[:3])


def test_bad_input_is_refused():
    with pytest.raises(DataError, match=r"score is nan.*row 1"):
        snoozed_confusion([0, np.nan], [0, 1], [2], 0.5)
    assert snoozed_confusion([0, np.nan], [0, 1], [2], 0.5, mask=[1, 0]).tn == 1
    with pytest.raises(DataError, match=r"label is .*2"):
        snoozed_confusion([0, 1], [0, 2], [2], 0.5)
    with pytest.raises(DataError, match="2 rows"):
        snoozed_confusion([0], [0, 1], [2], 0.5)
    with pytest.raises(ParameterError, match="snooze"):
        snoozed_confusion([0], [0], [1], 0.5, snooze=-1)
    with pytest.raises(ParameterError, match="snooze"):
        threshold_alarms([0], [1], 0.5, snooze=-1)
    with pytest.raises(ParameterError, match="n_thresholds"):
        snoozed_curve([0], [0], [1], n_thresholds=1)
    assert np.isnan(snoozed_confusion([0.0], [0], [1], 0.5).sensitivity)


@pytest.mark.real_data
def test_the_authors_demonstration(data_set):
    demo = pl.read_parquet(data_set("composer_demo") / "scores.parquet").sort("stay", "hour")
    lengths = demo.group_by("stay", maintain_order=True).len()["len"].to_numpy()
    given_rows = (demo["score"].to_numpy(), demo["label"].to_numpy(), lengths)
    mask = demo["mask"].to_numpy()
    assert (len(lengths), int(mask.sum())) == (500, 14_196)
    kept = snoozed_confusion(*given_rows, 0.5617759227752686, mask=mask)
    assert (kept.tp, kept.fp, kept.fn, kept.tn, kept.patients) == (201, 767, 60, 8574, 62)
    assert kept.sensitivity == pytest.approx(0.7701149, abs=1e-7)
    assert kept.specificity == pytest.approx(0.9178890, abs=2e-7)
    assert kept.ppv == pytest.approx(0.2076446, abs=1e-7)
    assert kept.npv == pytest.approx(0.9930507, abs=1e-7)
    assert kept.patient_sensitivity == pytest.approx(0.9516129, abs=1e-7)
    assert kept.odds_ratio == pytest.approx(37.44837, abs=1e-5)
    every = snoozed_confusion(*given_rows, 0.5617759227752686)
    assert (every.tp, every.fp, every.fn, every.tn) == (201, 767, 95, 12549)
    assert every.sensitivity == pytest.approx(0.67905, abs=1e-5)
    curve = snoozed_curve(*given_rows, mask=mask)
    assert curve.auroc == pytest.approx(0.94006, abs=5e-4)
    assert curve.auprc == pytest.approx(0.306, abs=0.01)
    assert snoozed_curve(*given_rows).auroc == pytest.approx(0.93439, abs=5e-4)
    # All that the authors' release turns away lies below the threshold: no alarm is changed.
    told = both_conventions(*given_rows, 0.5617759227752686, issued=mask)
    rows = {r["convention"]: r for r in told.iter_rows(named=True)}
    cells = {name: tuple(row[k] for k in ("tp", "fp", "fn", "tn")) for name, row in rows.items()}
    assert cells["excluded"] == (201, 767, 60, 8574)
    assert cells["negative"] == cells["no gate"] == (201, 767, 95, 12549)


def test_both_conventions_by_hand():
    """Two stays; the first is silent when it would have alarmed."""
    scores, label = [0.9, 0.1, 0.1, 0.2, np.nan, 0.9], [0, 0, 1, 0, 0, 0]
    issued = [0, 1, 1, 1, 0, 1]
    told = both_conventions(scores, label, [3, 3], 0.5, issued=issued, snooze=0)
    rows = {r["convention"]: r for r in told.iter_rows(named=True)}
    cells = {name: tuple(row[k] for k in ("tp", "fp", "fn", "tn")) for name, row in rows.items()}
    assert cells == {"no gate": (1, 1, 1, 3), "excluded": (0, 1, 1, 2), "negative": (0, 1, 1, 4)}
    assert rows["negative"]["patient_sensitivity"] == 0
    with pytest.raises(DataError, match="issued"):
        both_conventions(scores, label, [3, 3], 0.5, issued=[2] * 6)
