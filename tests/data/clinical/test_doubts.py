"""Doubts of feeds: old specimens, and what cannot be true of one patient."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical.doubts import (
    CONTRADICTORY_AGE,
    CONTRADICTORY_SEX,
    DOUBTS,
    IMPOSSIBLE_AGE,
    Described,
    age_at,
    contradictions,
    is_old,
)

YEAR = 365.2425 * 86400
NOW = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
births = st.floats(0, 119).map(lambda years: NOW - years * YEAR)


def test_a_specimen_is_old_after_two_days():
    assert not is_old(NOW, NOW + 48 * 3600)
    assert is_old(NOW, NOW + 48 * 3600 + 1)
    assert not is_old(NOW, NOW + 60 * 3600, max_age=72)


def test_ages_nobody_has_are_told():
    assert age_at(NOW - 67.9 * YEAR, NOW) == (67.0, None)
    assert age_at(NOW - 101 * YEAR, NOW) == (90.0, None)
    assert age_at(NOW - 121.1 * YEAR, NOW) == (None, IMPOSSIBLE_AGE)
    assert age_at(NOW + 40 * YEAR, NOW) == (None, IMPOSSIBLE_AGE)
    # A newborn in a hospital west of where dates begin.
    assert age_at(NOW + 3600 * 9, NOW) == (0.0, None)
    assert age_at(None, NOW) == age_at(NOW, None) == (None, None)
    assert all(text for text in DOUBTS.values())


@given(births, st.floats(-10, 10), st.sampled_from(["male", "female", None]))
def test_one_patient_never_contradicts_themselves(born, later, sex):
    first = age_at(born, NOW)[0]
    moment = NOW + later * YEAR
    then = age_at(born, moment)[0]
    before = Described(first, NOW, sex)
    assert contradictions(before, Described(then, moment, sex)) == []
    assert contradictions(before, Described()) == []
    assert contradictions(Described(), before) == []


@given(births, births, st.floats(-10, 10))
def test_patients_born_years_apart_do(one, other, later):
    moment = NOW + later * YEAR
    first, then = age_at(one, NOW)[0], age_at(other, moment)[0]
    if first is None or then is None or max(first, then) >= 90:
        return
    found = contradictions(Described(first, NOW), Described(then, moment))
    if abs(one - other) > 2.6 * YEAR:
        assert found == [CONTRADICTORY_AGE]
    elif abs(one - other) < 0.4 * YEAR:
        assert found == []


def test_what_is_told_of_whom():
    known = Described(67, NOW, "male")
    assert contradictions(known, Described(69, NOW, None)) == [CONTRADICTORY_AGE]
    assert contradictions(known, Described(68, NOW + YEAR / 2, None)) == []
    assert contradictions(known, Described(None, None, "female")) == [CONTRADICTORY_SEX]
    # From 90 on nobody knows more than that.
    old = Described(90, NOW, None)
    assert contradictions(old, Described(90, NOW + 8 * YEAR, None)) == []
    assert contradictions(old, Described(80, NOW, None)) == [CONTRADICTORY_AGE]
    assert contradictions(Described(80, NOW), old) == [CONTRADICTORY_AGE]
    assert known.then(Described(None, NOW + 9, "female")) == (67, NOW, "female")
    assert known.then(Described(70, NOW + 9, None)) == (70, NOW + 9, "male")
