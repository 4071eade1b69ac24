from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from foretell.data.clinical import (
    Sepsis3Labeler,
    apply_onsets,
    bin_observations,
    challenge_label,
    hours_to_onset,
    onset_from_label,
    septic_at_start,
    sofa_components,
    sofa_scores,
    target,
)
from foretell.errors import DataError, ParameterError

from .conftest import make_stays


def test_onset_is_six_hours_after_the_first_positive_row():
    label = np.array([0, 0, 1, 1, 0, 0, 1], np.int8)
    onset = onset_from_label(label, np.array([5, 1, 1]), np.array([4, 2, 1]))
    assert onset[0] == 7 + 6 and np.isnan(onset[1]) and onset[2] == 1 + 6
    with pytest.raises(DataError, match=r"falls back.*row 1 "):
        onset_from_label(np.array([1, 0], np.int8), np.array([1]), np.array([2]))
    with pytest.raises(DataError, match="neither 0 nor 1"):
        onset_from_label(np.array([0, 3], np.int8), np.array([1]), np.array([2]))
    # Not within a stay but between two: no fall.
    assert onset_from_label(np.array([1, 0], np.int8), np.ones(2), np.ones(2, int))[0] == 7


def test_targets_by_hand():
    stays = make_stays(0, 2, longest=40)
    object.__setattr__(stays, "lengths", np.array([8, 3]))
    object.__setattr__(stays, "starts", np.array([3, 1]))
    object.__setattr__(stays, "onset", np.array([8.0, np.nan]))
    # Hours 3..10, onset at 8: 4..7 are within four hours, 8 and later are not at risk.
    found = target(stays, 4)
    assert found.label.tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert found.at_risk.tolist() == [True] * 5 + [False] * 3 + [True] * 3
    assert hours_to_onset(stays)[:8].tolist() == [5, 4, 3, 2, 1, 0, -1, -2]
    assert challenge_label(stays).tolist() == [1] * 8 + [0] * 3
    assert septic_at_start(stays).tolist() == [True, False]
    with pytest.raises(ParameterError, match="positive"):
        target(stays, 0)


@pytest.mark.real_data
def test_the_label_of_the_challenge_follows_from_its_onset(challenge):
    np.testing.assert_array_equal(challenge_label(challenge), challenge.labels())


def events(antibiotics=(), cultures=(), sofa=(), hours=100.0):
    def table(rows, names):
        return pl.DataFrame(
            {
                "id": ["x"] * len(rows),
                **{n: [float(r[i]) for r in rows] for i, n in enumerate(names)},
            },
            schema={"id": pl.String, **dict.fromkeys(names, pl.Float64)},
        )

    return {
        "antibiotics": table(antibiotics, ("start", "end")),
        "cultures": table([(c,) for c in cultures], ("time",)),
        "sofa": table(sofa, ("time", "sofa")),
        "stays": pl.DataFrame({"id": ["x"], "hours": [hours]}),
    }


RISE = ((10, 0), (30, 2))


def onset(labeler=None, **given):
    return (labeler or Sepsis3Labeler()).fit_transform(events(**given)).row(0, named=True)


@pytest.mark.parametrize(
    ("antibiotics", "culture", "suspicion"),
    [
        ((30, 102), 54.0, 30),  # antibiotics first: culture within 24 h
        ((30, 102), 54.1, None),
        ((30, 102), 30.0, 30),
        ((40, 112), 20.0, 20),  # culture first: antibiotics within 72 h
        ((92, 164), 20.0, 20),
        ((92.1, 164), 20.0, None),
    ],
)
def test_suspicion_pairs_antibiotics_and_cultures(antibiotics, culture, suspicion):
    found = onset(antibiotics=[antibiotics], cultures=[culture], sofa=RISE)
    assert found["t_suspicion"] == suspicion
    assert (found["reason"] == "no suspicion of infection") == (suspicion is None)


@pytest.mark.parametrize(
    ("rise", "sepsis"),
    [(26, 26), (25.9, None), (50, 50), (60, 50), (62, 50), (62.1, None)],
)
def test_sofa_must_rise_near_the_suspicion(rise, sepsis):
    # Suspicion at 50: the window is [26, 62]; the onset is the earlier of both.
    found = onset(
        antibiotics=[(50, 130)], cultures=[51], sofa=[(rise - 1, 1), (rise, 3)], hours=200
    )
    assert found["t_sepsis"] == sepsis
    assert found["reason"] == ("sepsis" if sepsis else "no increase of SOFA near the suspicion")


def test_sofa_rises_over_the_lowest_score_of_a_day():
    at = {"antibiotics": [(30, 110)], "cultures": [30]}
    assert onset(**at, sofa=[(1, 5), (29, 5), (31, 6)])["t_sofa"] is None, "5 all along is no rise"
    assert onset(**at, sofa=[(5, 0), (29.5, 2)])["t_sofa"] is None, "the low is 24.5 h ago"
    assert onset(**at, sofa=[(5.5, 0), (29.5, 2)])["t_sofa"] == 29.5
    assert onset(**at, sofa=[(10, 0), (20, 1), (25, 2), (28, 4)])["t_sofa"] == 25, "stepwise"
    zero = Sepsis3Labeler(baseline="zero")
    assert onset(zero, **at, sofa=[(29, 2)])["t_sofa"] == 29, "over nothing known before"
    assert onset(**at, sofa=[(29, 2)])["t_sofa"] is None
    # A rise that goes on is one rise, at its beginning; after a fall comes another.
    again = onset(**at, sofa=[(1, 0), (3, 2), (10, 3), (12, 0), (28, 2)])
    assert again["t_sofa"] == 28


def test_sofa_that_rose_before_can_rise_again():
    at = {"antibiotics": [(40, 120)], "cultures": [41]}
    found = onset(**at, sofa=[(1, 0), (10, 2), (20, 2), (30, 6)])
    assert found["t_sofa"] == 30, "the rise at 10 came too early, that at 30 is one of its own"
    assert onset(**at, sofa=[(1, 0), (10, 2), (20, 2), (30, 3)])["t_sofa"] is None, "it goes on"


def test_the_causal_form_does_not_wait_for_the_duration_of_antibiotics():
    short = {"antibiotics": [(30, 40)], "cultures": [31], "sofa": RISE}
    causal, challenge = Sepsis3Labeler(), Sepsis3Labeler.challenge()
    assert causal.is_causal and not challenge.is_causal
    assert onset(causal, **short)["t_sepsis"] == 30
    assert onset(causal, **short)["known_at"] == 31
    assert onset(challenge, **short)["reason"] == "no suspicion of infection"
    long = {**short, "antibiotics": [(30, 102)]}
    assert onset(challenge, **long)["t_sepsis"] == 30
    assert onset(challenge, **long)["known_at"] == 102, "72 hours must have passed"
    doses = {**short, "antibiotics": [(30, 31), (54, 55), (78, 79), (102, 103)]}
    assert onset(challenge, **doses)["t_sepsis"] == 30, "doses a day apart are one course"
    assert (
        onset(challenge, **{**doses, "antibiotics": [(30, 31), (60, 130)]})["t_suspicion"] is None
    )


def test_a_causal_label_never_depends_on_what_comes_after_it_is_known():
    rng = np.random.default_rng(0)
    labeler = Sepsis3Labeler(min_hours=0)
    septic = 0
    for _ in range(150):
        abx = sorted((t, t + 1) for t in rng.uniform(0, 90, rng.integers(0, 4)))
        cultures = sorted(rng.uniform(0, 90, rng.integers(0, 4)))
        sofa = sorted(zip(rng.uniform(0, 90, 12), rng.integers(0, 6, 12), strict=True))
        found = onset(labeler, antibiotics=abx, cultures=cultures, sofa=sofa)
        if found["known_at"] is None:
            continue
        now = found["known_at"]
        past = onset(
            labeler,
            antibiotics=[a for a in abx if a[0] <= now],
            cultures=[c for c in cultures if c <= now],
            sofa=[s for s in sofa if s[0] <= now],
        )
        # Cut at that moment the onset is there already; only an earlier suspicion whose pair
        # comes later can move it, never what follows both.
        assert past["reason"] in ("sepsis", "onset too early")
        septic += found["reason"] == "sepsis"
    assert septic > 20


def test_exclusions_say_why():
    given = {"antibiotics": [(3, 80)], "cultures": [3], "sofa": [(1, 0), (2, 2)]}
    assert onset(**given)["reason"] == "onset too early" and onset(**given)["t_sepsis"] is None
    assert onset(**given, hours=7.9)["reason"] == "stay too short"
    assert onset(hours=20)["reason"] == "no suspicion of infection"


def test_minutes_are_kept_and_hours_follow_at_the_end():
    found = Sepsis3Labeler().transform(
        events(antibiotics=[(30.4, 110)], cultures=[30.5], sofa=[(29, 0), (30.25, 2)])
    )
    assert found["t_sepsis"].to_list() == [30.25]
    stays = bin_observations(
        pl.DataFrame({"id": ["x"], "channel": ["HR"], "value": [80.0], "time": [1.0]}),
        pl.DataFrame({"id": ["x"], "hours": [40]}),
    )
    labelled = apply_onsets(stays, found)
    assert labelled.onset.tolist() == [31], "within hour 31, which ends after it"
    assert target(labelled).label.nonzero()[0].tolist() == [26, 27, 28, 29]
    with pytest.raises(DataError, match="'x'"):
        apply_onsets(stays, found.filter(pl.lit(False)))


def test_bad_tables_are_named():
    good = events()
    with pytest.raises(DataError, match="'cultures' is missing"):
        Sepsis3Labeler().transform({k: v for k, v in good.items() if k != "cultures"})
    with pytest.raises(DataError, match="'start'"):
        Sepsis3Labeler().transform({**good, "antibiotics": pl.DataFrame({"id": ["x"]})})
    with pytest.raises(DataError, match=r"end before they start.*row 0"):
        Sepsis3Labeler().transform(events(antibiotics=[(5, 4)]))
    with pytest.raises(DataError, match="'cultures', row 1"):
        Sepsis3Labeler().transform(events(cultures=[1, np.nan]))
    with pytest.raises(ParameterError, match="baseline"):
        Sepsis3Labeler(baseline="median")


@pytest.mark.parametrize(
    ("name", "values", "points"),
    [
        ("respiration", {"PaO2": [400, 399, 299, 199, 199, 99], "FiO2": [1.0] * 6,
                         "ventilated": [1, 1, 1, 0, 1, 1]}, [0, 1, 2, 2, 3, 4]),
        ("coagulation", {"Platelets": [150, 149, 99, 49, 19]}, [0, 1, 2, 3, 4]),
        ("liver", {"Bilirubin_total": [1.1, 1.2, 2.0, 6.0, 12.0]}, [0, 1, 2, 3, 4]),
        ("cardiovascular", {"MAP": [70, 69, 80, 80, 80, 80],
                            "dopamine": [0, 0, 5, 6, 16, 0],
                            "norepinephrine": [0, 0, 0, 0, 0, 0.1]}, [0, 1, 2, 3, 4, 3]),
        ("cardiovascular", {"epinephrine": [0.11], "dobutamine": [1]}, [4]),
        ("cardiovascular", {"dobutamine": [1, np.nan]}, [2, np.nan]),
        ("nervous", {"GCS": [15, 14, 13, 12, 10, 9, 6, 5]}, [0, 1, 1, 2, 2, 3, 3, 4]),
        ("renal", {"Creatinine": [1.1, 1.2, 2.0, 3.5, 5.0, 1.0, np.nan],
                   "urine_24h": [900, 900, 900, 900, 900, 499, 199]}, [0, 1, 2, 3, 4, 3, 4]),
    ],
)  # fmt: skip
def test_sofa_points_are_those_of_the_published_table(name, values, points):
    np.testing.assert_array_equal(sofa_components(values)[name], points)


def test_sofa_holds_values_and_sums_what_is_known():
    frame = pl.DataFrame({
        "id": ["x"] * 5,
        "time": [1.0, 2.5, 20.0, 26.0, 30.0],
        "channel": ["Platelets", "GCS", "Bilirubin_total", "hat size", "GCS"],
        "value": [90.0, 9.0, 2.5, 60.0, 15.0],
    })  # fmt: skip
    found = sofa_scores(frame)
    assert found["time"].to_list() == [1.0, 2.5, 20.0, 30.0]
    assert found["sofa"].to_list() == [2, 5, 7, 2], "platelets are forgotten after 24 hours"
    assert found["renal"].null_count() == 4
    assert sofa_scores(frame, hold=None)["sofa"].to_list() == [2, 5, 7, 4]
    with pytest.raises(DataError, match="hat"):
        sofa_components({"hat": 1})


def test_oxygen_in_per_cent_is_not_taken_for_a_fraction():
    with pytest.raises(DataError, match=r"FiO2 is 50.*row 1.*fraction"):
        sofa_components({"PaO2": [80.0, 80.0], "FiO2": [0.5, 50.0]})
    told = pl.DataFrame(
        {"id": ["a", "b"], "time": [1.0, 1.0], "channel": "FiO2", "value": [0.5, 0.0]}
    )
    with pytest.raises(DataError, match=r"FiO2 is 0 .*'b'.*fraction"):
        sofa_scores(told)
    points = sofa_components({"PaO2": [80.0, 80.0], "FiO2": [0.5, np.nan]})["respiration"]
    np.testing.assert_array_equal(points, [2, np.nan])


@pytest.mark.parametrize("hours", [[None], [float("nan")], ["many"]])
def test_stays_without_hours_are_refused_by_the_labeller(hours):
    events = {
        "antibiotics": pl.DataFrame({"id": ["a"], "start": [10.0]}),
        "cultures": pl.DataFrame({"id": ["a"], "time": [11.0]}),
        "sofa": pl.DataFrame({"id": ["a", "a"], "time": [5.0, 12.0], "sofa": [0, 2]}),
    }
    with pytest.raises(DataError, match=r"hours of a stay are no number.*row 0"):
        Sepsis3Labeler().transform(
            {**events, "stays": pl.DataFrame({"id": ["a"], "hours": hours}, strict=False)}
        )
    with pytest.raises(DataError, match="more than one row"):
        Sepsis3Labeler().transform(
            {**events, "stays": pl.DataFrame({"id": ["a", "a"], "hours": [9.0, 20.0]})}
        )
    with pytest.raises(DataError, match="a time or score is missing"):
        Sepsis3Labeler().transform(
            {**events, "antibiotics": pl.DataFrame({"id": ["a"], "start": ["noon"]})}
        )


def test_onsets_are_hours_or_none():
    stays = make_stays(0, 2)
    ids = stays.ids.tolist()
    given = apply_onsets(stays, pl.DataFrame({"id": ids, "t_sepsis": [5 + 1 / 3, float("nan")]}))
    np.testing.assert_array_equal(given.onset, [6, np.nan])
    for bad in (["noon", "1"], [1.0, float("inf")]):
        with pytest.raises(DataError, match="no hour"):
            apply_onsets(stays, pl.DataFrame({"id": ids, "t_sepsis": bad}))
    with pytest.raises(DataError, match="t_sepsis"):
        apply_onsets(stays, pl.DataFrame({"id": ids}))


def test_sofa_takes_finite_numbers_at_known_times():
    told = pl.DataFrame({"id": "a", "time": ["2", "1"], "channel": "MAP", "value": ["60", "inf"]})
    assert sofa_scores(told)["sofa"].to_list() == [1] and sofa_scores(told)["time"].to_list() == [2]
    with pytest.raises(DataError, match=r"time is missing.*'a'"):
        sofa_scores(told.with_columns(time=pl.Series([None, "noon"])))
