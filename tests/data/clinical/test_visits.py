"""Which stays a patient had, told in any way that hospitals tell it."""

from __future__ import annotations

import numpy as np

from foretell.data.clinical.feed import Measurement, VisitChange, stays_from_feed
from foretell.data.clinical.presence import admission

H = 3600.0


def result(value: float, hour: float, visit: str | None = None, *, patient: str = "p",
           code: str = "8867-4", taken: float | None = None, status: str = "final",
           issued: float | None = None, group: str | None = None) -> Measurement:  # fmt: skip
    group = f"{code}{hour}{value}" if group is None else group
    time = (hour if taken is None else taken) * H
    return Measurement("S", patient, visit, (("LN", code),), value, "/min", time,
                       (hour if issued is None else issued) * H, status, group)  # fmt: skip


def visit(kind: str, hour: float, name: str | None = None, *, patient: str = "p", **told):
    return VisitChange("S", patient, name, kind, hour * H, **told)


def read(*records, **options):
    first = stays_from_feed(records, **options)
    again = stays_from_feed(records[::-1], **options)
    np.testing.assert_array_equal(first.matrix(), again.matrix())
    return first


def notes(stays) -> dict[str, int]:
    return {n.kind: n.count for n in stays.notes}


def test_who_comes_back_has_another_stay():
    stays = read(
        visit("admit", 0, "V1", admitted=0.0, unit="MICU", age=60.0, sex="female"),
        result(80, 1, "V1"), result(81, 4, "V1"),
        visit("discharge", 5, "V1"),
        result(99, 6), result(98, 7, "V1"),
        visit("admit", 100, "V2", admitted=99 * H, unit="SICU", age=60.0),
        result(70, 101, "V2"), result(97, 101, "V1"),
        visit("update", 102, "V2", age=61.0),
        visit("discharge", 103, "V2"),
    )  # fmt: skip
    assert stays.ids.tolist() == ["S/p", "S/p~2"]
    assert stays.patients.tolist() == ["S/p", "S/p"]
    assert stays.lengths.tolist() == [5, 4]
    assert stays.names("unit").tolist() == ["MICU", "SICU"]
    assert stays.number("age").tolist() == [60.0, 61.0]
    assert stays.names("sex").tolist() == ["female", "female"]
    heart = stays.column("HR")
    np.testing.assert_array_equal(
        heart, np.float32([80, np.nan, np.nan, 81, np.nan, np.nan, 70, np.nan, np.nan])
    )
    # After the discharge twice, and for a visit that is over.
    assert notes(stays) == {"outside_stays": 3}


def test_admissions_without_numbers_need_a_discharge_between_them():
    stays = read(visit("admit", 0), result(80, 1), visit("admit", 2), result(81, 3),
                 visit("discharge", 4), visit("admit", 9), result(82, 10))  # fmt: skip
    assert stays.lengths.tolist() == [4, 1]
    assert stays.column("HR")[[0, 2, 4]].tolist() == [80, 81, 82]


def test_another_visit_ends_the_one_before():
    stays = read(visit("admit", 0, "V1"), result(80, 1, "V1"), visit("admit", 8, "V2"),
                 result(81, 9, "V2"), visit("discharge", 8.5, "V1"))  # fmt: skip
    assert stays.lengths.tolist() == [8, 1]


def test_nobody_said_that_they_came_back():
    told = [visit("admit", 0, "V1"), result(80, 1, "V1"), visit("discharge", 2, "V1")]
    stays = read(*told, result(81, 30.5, "V2"), result(82, 32, "V2"))
    assert stays.lengths.tolist() == [2, 2]
    # The first hour holds both ends; the next one what came an hour and a half later.
    assert stays.column("HR")[2:].tolist() == [81, 82]
    assert len(read(*told, result(81, 30))) == 1


def test_silence_for_days_ends_a_stay_if_another_admission_follows():
    told = [visit("admit", 0), result(80, 1), result(81, 90)]
    # Heard of again without an admission: they were there all the time.
    assert read(*told).lengths.tolist() == [90]
    stays = read(told[0], told[1], visit("admit", 80), told[2])
    assert stays.lengths.tolist() == [73, 10]
    assert read(told[0], told[1], visit("admit", 80), told[2], idle=100).lengths.tolist() == [90]
    assert read(told[0], told[1], until=50 * H).lengths.tolist() == [50]
    assert read(told[0], told[1], until=500 * H).lengths.tolist() == [73]


def test_what_is_cancelled():
    stays = read(visit("admit", 0, "V"), result(80, 1, "V"), visit("discharge", 2, "V"),
                 visit("cancel_discharge", 3, "V"), result(81, 4, "V"))  # fmt: skip
    assert stays.lengths.tolist() == [4]
    stays = read(visit("admit", 0, "V"), result(80, 1, "V"), visit("cancel_admit", 3, "V"),
                 visit("cancel_discharge", 4, "V"), result(81, 5, "V"))  # fmt: skip
    assert stays.lengths.tolist() == [3] and notes(stays) == {"outside_stays": 1}


def test_a_correction_counts_in_the_stay_that_it_corrects():
    stays = read(
        visit("admit", 0, "V1"), result(80, 1, "V1", group="g"), visit("discharge", 2, "V1"),
        visit("admit", 50, "V2"), result(70, 51, "V2"),
        result(60, 1, "V1", group="g", status="corrected", issued=52),
    )  # fmt: skip
    assert stays.column("HR")[[0, 2]].tolist() == [60, 70] and notes(stays) == {}


def test_merges_end_in_one_patient_and_ids_stay_apart():
    stays = read(
        visit("admit", 0), result(80, 1), visit("discharge", 2), visit("admit", 50), result(81, 51),
        result(70, 52, patient="o"), visit("merge", 53, patient="n", prior="o"),
        visit("merge", 54, prior="n"),
        visit("admit", 0, patient="p~2"), result(60, 1, patient="p~2"),
    )  # fmt: skip
    assert sorted(stays.ids.tolist()) == ["S/p", "S/p~2", "S/p~2~"]
    assert sorted(stays.patients.tolist()) == ["S/p", "S/p", "S/p~2"]
    mine = stays.select(stays.ids == "S/p~2~")
    assert mine.column("HR").tolist()[:2] == [81, 70]
    # A circle of merges ends where it began.
    stays = read(visit("admit", 0, patient="a"), visit("merge", 1, patient="a", prior="b"),
                 visit("merge", 2, patient="b", prior="a"), visit("admit", 0))  # fmt: skip
    assert stays.patients.tolist() == ["S/a", "S/p"]


def test_visits_of_a_retired_identifier_are_of_who_stays():
    known = {"admitted": 0.0, "unit": "MICU", "age": 60.0, "sex": "female"}
    stays = read(
        visit("admit", 0.5, "V", patient="o", **known), result(80, 1, patient="o"),
        # By two merges, of which the second is told of the one that is retired by then.
        visit("merge", 2, patient="n", prior="o"), visit("merge", 3, prior="n"),
        result(81, 4, "V", patient="o"), visit("discharge", 6, "V", patient="n"),
        result(99, 7, patient="n"),
    )  # fmt: skip
    assert stays.ids.tolist() == ["S/p"] and stays.lengths.tolist() == [6]
    assert stays.names("unit").tolist() == ["MICU"] and stays.names("sex").tolist() == ["female"]
    assert stays.number("age").tolist() == [60.0]
    np.testing.assert_array_equal(stays.column("HR")[[0, 3]], np.float32([80, 81]))
    assert notes(stays) == {"outside_stays": 1}


def test_who_is_merged_into_a_stay_that_goes_on_is_to_be_the_same_person():
    stays = read(
        visit("admit", 0, "V", age=60.0, sex="male"), result(80, 1, "V"),
        visit("admit", 0, "W", patient="o", age=70.0, sex="male"), visit("update", 1, patient="o",
        age=70.0), result(81, 2, patient="o"), result(82, 2.5, "W", patient="o"),
        visit("merge", 3, prior="o"), visit("discharge", 5, "V"),
    )  # fmt: skip
    assert stays.lengths.tolist() == [5] and stays.number("age").tolist() == [60.0]
    assert stays.column("HR")[1] == 81
    assert notes(stays) == {"contradictory_age": 1, "outside_stays": 1}


def test_what_cannot_be_true_of_one_patient_is_counted():
    stays = read(
        visit("admit", 0, age=60.0, sex="female"), result(80, 1),
        visit("update", 2, age=75.0, sex="male"), visit("update", 3, doubt="impossible_age"),
    )  # fmt: skip
    assert notes(stays) == {"contradictory_age": 1, "contradictory_sex": 1, "impossible_age": 1}
    assert stays.number("age").tolist() == [75.0] and stays.names("sex").tolist() == ["male"]


def test_an_old_specimen_does_not_count():
    stays = read(visit("admit", 0), result(80, 1), result(90, 60, taken=2))
    assert stays.column("HR")[0] == 80 and np.isfinite(stays.column("HR")).sum() == 1
    assert notes(stays) == {"old_specimen": 1}


def test_mistyped_admissions():
    assert admission(1000.0, None) == 1000.0
    assert admission(1e9, 1e9 - 50 * 86400) == 1e9 - 50 * 86400
    assert admission(1e9, 1e9 - 900 * 86400) == 1e9
    assert admission(1e9, 1e9 + 3 * 86400) == 1e9
