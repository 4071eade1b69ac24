"""Trees that only read the clock are told apart, and so are those that do not travel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foretell.data.clinical import Stays, StaySplit, split_by_patient, target
from foretell.data.simulators import hospitals
from foretell.errors import DataError, ParameterError
from foretell.evaluation.clinical import (
    EVERYWHERE,
    BoostedStudy,
    clock_rule,
    hospital_names,
    leave_hospital_out,
    ranking_by_hospital,
    ranking_metrics,
    time_blind_check,
    utility_by_hospital,
    utility_table,
)

SMALL = {
    "trees": 30, "learning_rate": 0.2, "leaf_rows": 30, "l2": 1.0, "well_share": 1.0,
    "feature_share": 1.0, "extra": False,
}  # fmt: skip
VITALS = {"HR": (85, 8), "Resp": (18, 3), "MAP": (80, 8), "SBP": (120, 12), "Temp": (37, 0.4)}


def made(shift: dict[str, str], seed: int = 0, early: tuple[str, ...] = ()) -> Stays:
    """Two hospitals whose onsets come at hours 50 to 56, or early; septic stays are the long ones.

    Vital signs are noise, but for the channel ``shift[hospital]``, which rises over the 12 hours
    before the onset.
    """
    stays, _ = hospitals(stays=110, sites=2, hours=(40, 70), seed=seed)
    rng = np.random.default_rng(seed)
    hour, stay, lengths = stays.hours(), stays.stay_of_row(), stays.lengths
    onset = np.where(lengths >= 58, rng.integers(50, 57, len(stays)), np.nan).astype(float)
    onset -= 32 * np.isin(hospital_names(stays), early)
    near = np.clip((hour - onset[stay] + 12) / 6, 0, 1)
    where = hospital_names(stays)[stay]
    columns = {n: np.full(stays.n_rows, np.nan, np.float32) for n in stays.channels}
    for name, (level, spread) in VITALS.items():
        rises = np.isin(where, [h for h, channel in shift.items() if channel == name])
        effect = np.where(rises, 1.5 * np.nan_to_num(near), 0)
        columns[name] = (level + spread * (rng.normal(size=len(hour)) + effect)).astype(np.float32)
    label = (hour >= onset[stay] - 6).astype(np.int8)
    return replace(stays, channels=columns, onset=onset, label=label)


def study(stays: Stays) -> BoostedStudy:
    return BoostedStudy(split_by_patient(stays, test_size=0.35, validation_size=0.2), SMALL)


@pytest.fixture(scope="module")
def clock() -> BoostedStudy:
    return study(made({}))


@pytest.fixture(scope="module")
def bodies() -> BoostedStudy:
    return study(made({"A": "HR", "B": "HR"}))


def test_trees_that_only_read_the_clock_miss_the_bar(clock):
    rows = time_blind_check(clock, resamples=20)
    assert [row["hospital"] for row in rows] == ["A", "B", EVERYWHERE]
    for row in rows:
        assert row["auroc"] > 0.85, "with the hour all is known"
        assert row["reached"] is False and row["blind_auroc"] < 0.7
        assert row["blind_lower"] <= row["blind_auroc"] <= row["blind_upper"]
        assert row["blind_utility"] < row["utility"]


def test_trees_that_read_patients_reach_it(bodies):
    for row in time_blind_check(bodies, resamples=20):
        assert row["reached"] is True and row["blind_auroc"] > 0.85


def test_the_bar_is_what_is_asked_for(bodies):
    (row, *_) = time_blind_check(bodies, bar=0.999, resamples=10)
    assert row["reached"] is False
    with pytest.raises(ParameterError, match="bar"):
        time_blind_check(bodies, bar=72)


def test_what_holds_at_all_hospitals_beats_the_clock_there(bodies):
    rows = leave_hospital_out(bodies, resamples=50)
    assert [(row["trained_at"], row["judged_at"]) for row in rows] == [(["B"], "A"), (["A"], "B")]
    for row in rows:
        assert row["margin"] == pytest.approx(row["utility"] - row["clock"])
        assert row["margin_lower"] <= row["margin"] <= row["margin_upper"]
        assert row["beats_clock"] is True and row["auroc"] > 0.85
        assert row["known_auroc"] > 0.85 and row["known_utility"] > row["clock"]


def test_what_holds_at_one_hospital_is_worse_than_a_clock_at_the_next():
    rows = leave_hospital_out(study(made({}, early=("A",))), resamples=20, known=False)
    away = next(row for row in rows if row["judged_at"] == "B")
    assert away["clock"] > 0.5, "onsets come after the clock's hour"
    assert away["beats_clock"] is False and away["margin"] < -0.02
    assert away["auroc"] < 0.6 and "known_auroc" not in away


def test_nothing_of_the_hospital_left_out_is_learned_from(bodies):
    split = bodies.split

    def thinned(stays: Stays) -> Stays:
        gone = np.flatnonzero(hospital_names(stays) == "B")[::2]
        return stays.select(np.setdiff1d(np.arange(len(stays)), gone))

    other = BoostedStudy(
        StaySplit(thinned(split.train), thinned(split.validation), split.test), SMALL
    )
    mine, same = (leave_hospital_out(s, resamples=20, known=False)[1] for s in (bodies, other))
    assert mine["judged_at"] == "B" and mine == same


def test_the_test_part_is_for_judging_alone(bodies):
    train, validation, test = bodies.split
    blank = replace(test, label=np.zeros(test.n_rows, np.int8), onset=np.full(len(test), np.nan))
    blank = replace(blank, channels={n: c * 0 + 1 for n, c in test.channels.items()})
    other = BoostedStudy(StaySplit(train, validation, blank), SMALL)
    for at in (None, ["A"]):
        one, two = bodies.fit("onset", at=at), other.fit("onset", at=at)
        kept = one.trees_.to_arrays()
        for name, array in two.trees_.to_arrays().items():
            np.testing.assert_array_equal(array, kept[name])
        assert bodies.threshold(one, at) == other.threshold(two, at)


def test_figures_of_a_hospital_are_those_of_its_stays(bodies):
    test = bodies.split.test
    scores = np.random.default_rng(1).random(test.n_rows) + 0.2 * test.labels()
    ranks, utility = ranking_by_hospital(scores, test), utility_by_hospital(scores > 0.9, test)
    assert list(ranks) == list(utility) == ["A", "B", EVERYWHERE]
    for name in ranks:
        mine = test if name == EVERYWHERE else test.of("hospital", name)
        part = (
            scores
            if name == EVERYWHERE
            else scores[np.repeat(hospital_names(test) == name, test.lengths)]
        )
        wanted = target(mine, 4)
        direct = ranking_metrics(
            part, wanted.label, mine.stay_of_row(), rows=wanted.at_risk, resamples=0
        )
        assert ranks[name].auroc.estimate == direct.auroc.estimate
        table = utility_table(mine, {"x": part > 0.9, "clock": clock_rule(mine)}, resamples=5)
        assert utility[name]["utility"] == table["utility"][1]
        assert utility[name]["clock"] == table["utility"][2]


def test_what_cannot_be_checked_says_so(bodies):
    alone = study(made({}).of("hospital", "A"))
    with pytest.raises(DataError, match="one hospital"):
        leave_hospital_out(alone)
    (row,) = time_blind_check(alone, resamples=5)
    assert row["hospital"] == "A"
    nowhere = replace(bodies.split.test, categories={})
    with pytest.raises(DataError, match="no category 'hospital'"):
        hospital_names(nowhere)
    well = bodies.split.test.select(np.isnan(bodies.split.test.onset))
    assert ranking_by_hospital(np.zeros(well.n_rows), well)["A"] is None
    with pytest.raises(DataError, match="no stay at C"):
        bodies.fit(at=["C"])
