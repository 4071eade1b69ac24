"""ZIP codes, years of birth, dates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical.deidentify import ELEMENTS, RESTRICTED_ZIPS
from foretell.data.clinical.deidentify.dates import Moved, YearsOnly, year_of
from foretell.data.clinical.deidentify.rules import birth_year, kind_of, three_digits
from foretell.data.clinical.fhir.times import read_instant
from foretell.data.clinical.hl7 import read_time


def test_there_are_eighteen_elements_and_seventeen_beginnings():
    assert len(set(ELEMENTS)) == 18 and len(RESTRICTED_ZIPS) == 17


@pytest.mark.parametrize(
    ("text", "told"),
    [("59901", "599"), ("59901-1234", "599"), ("036", "000"), ("03601", "000"), ("89012", "000"),
     ("10203", "000"), ("1020", None), ("K1A 0B1", None), ("", None), ("599012", None)],
)  # fmt: skip
def test_three_digits_where_enough_people_live(text, told):
    assert three_digits(text) == told
    if told:
        assert three_digits(told) == told


@pytest.mark.parametrize(
    ("year", "event", "now", "told"),
    [(1950, 2026, 2026, 1950), (1937, 2026, 2026, 1937), (1936, 2026, 2026, 1936),
     (1920, 2026, 2026, 1936), (1935, 2010, 2026, None), (1935, None, 2026, None),
     (1936, None, 2025, 1936)],
)  # fmt: skip
def test_no_year_of_birth_tells_an_age_above_89(year, event, now, told):
    assert birth_year(year, event, now) == told
    if told is not None:
        assert birth_year(told, event, now) == told


MOMENTS = st.datetimes(datetime(1950, 1, 1), datetime(2090, 1, 1))


@given(MOMENTS)
def test_safe_harbor_tells_years_alone(moment):
    for text in (f"{moment:%Y%m%d%H%M%S}", f"{moment:%Y%m%d%H%M}-0500", f"{moment:%Y%m%d}"):
        assert YearsOnly().hl7(text) == str(moment.year)
    text = moment.replace(tzinfo=UTC).isoformat()
    assert YearsOnly().fhir(text) == str(moment.year)
    assert YearsOnly().fhir(text, whole=True) == ""


@pytest.mark.parametrize("text", ["", "ZELENKA", "2026ZELENKA", "20261399", "99999999", "2026-1"])
@pytest.mark.parametrize("dates", [YearsOnly(), Moved(3)])
def test_what_is_no_date_is_not_told(text, dates):
    assert dates.hl7(text) == "" and dates.fhir(text) == ""
    assert dates.fhir(None) == "" and dates.fhir(["2026"]) == ""


@given(MOMENTS, st.integers(0, 10**7), st.integers(-400, 400).filter(bool))
def test_intervals_are_kept_through_changes_of_the_clock(moment, gap, days):
    """Seconds between two times of a patient are what they were, in every time zone."""
    zone = ZoneInfo("Europe/Berlin")
    dates, other = Moved(days, zone), moment + timedelta(seconds=gap)
    for a, b in [(f"{moment:%Y%m%d%H%M%S}", f"{other:%Y%m%d%H%M%S}")]:
        before = read_time(b, zone) - read_time(a, zone)
        after = read_time(dates.hl7(b), UTC) - read_time(dates.hl7(a), UTC)
        assert after == pytest.approx(before, abs=2e-3)
        assert read_time(dates.hl7(a), UTC) - read_time(a, zone) == pytest.approx(86400 * days)
    a, b = (t.isoformat() for t in (moment, other))
    before = read_instant(b, zone) - read_instant(a, zone)
    after = read_instant(dates.fhir(b), UTC) - read_instant(dates.fhir(a), UTC)
    assert after == pytest.approx(before, abs=2e-3)


def test_dates_keep_their_precision():
    moved = Moved(20)
    assert moved.hl7("20260214") == "20260306" and moved.fhir("2026-02-14") == "2026-03-06"
    assert moved.hl7("202602") == "202603" and moved.fhir("2026-02") == "2026-03"
    assert moved.hl7("2026") == "2026" and moved.fhir("2026") == "2026"
    assert moved.fhir("2026-02-14", whole=True) == ""
    assert moved.hl7("99991231235959") == ""


def test_years_and_kinds():
    assert year_of("20260214") == 2026 and year_of("2026-02") == 2026 and year_of("x") is None
    assert year_of("12345") is None
    kinds = ["a@b.example", "see www.x.example", "10.0.0.7", "2001:db8:0:0:0:0:0:1",
             "078-05-1120", "(555) 555-0142", "words"]  # fmt: skip
    assert [kind_of(k) for k in kinds] == ["email", "url", "ip", "ip", "ssn", "phone", "free_text"]
