from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.frequency import Frequency
from foretell.errors import DataError, ParameterError

ALIASES = [
    "us", "ms", "s", "5s", "min", "15min", "30min", "h", "4h", "D", "2D", "W", "2W", "13W",
    *[f"W-{day}" for day in ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")],
    "2W-FRI", "MS", "ME", "2MS", "6MS", "QS", "QE", "QS-FEB", "QE-NOV",
    "YS", "YE", "YS-APR", "YE-JUN",
]  # fmt: skip
DATES = st.datetimes(pd.Timestamp("1900-01-01"), pd.Timestamp("2199-12-31"))


@given(st.sampled_from([*ALIASES, "integer"]), st.lists(st.integers(-3000, 3000), min_size=1))
def test_time_and_index_are_inverse(alias, periods):
    frequency = Frequency.parse(alias)
    index = np.array(periods)
    times = frequency.time(index)
    np.testing.assert_array_equal(frequency.index(times), index)
    assert frequency.aligned(times).all()


@given(st.sampled_from(ALIASES), DATES)
def test_a_date_falls_into_the_period_that_begins_before_it(alias, moment):
    frequency = Frequency.parse(alias)
    if frequency.month_end:  # a date at the end of its period names the period before it
        return
    date = np.array([moment], "datetime64[us]")
    index = frequency.index(date)
    assert frequency.time(index) <= date
    assert frequency.time(index + 1) > date


@pytest.mark.parametrize("alias", ALIASES)
def test_grids_are_those_of_pandas(alias):
    # 60 periods across leap years, year ends and weeks 53.
    dates = pd.date_range("2015-11-11 00:00", periods=60, freq=alias).values
    frequency = Frequency.parse(alias, example=dates[0].astype("datetime64[us]"))
    assert frequency.aligned(dates).all()
    np.testing.assert_array_equal(np.diff(frequency.index(dates)), 1)
    rebuilt = Frequency.parse(frequency.alias, example=dates[7].astype("datetime64[us]"))
    assert rebuilt == frequency


@pytest.mark.parametrize("alias", [a for a in ALIASES if a not in ("us", "ms")])
def test_the_frequency_is_found_from_dates_with_gaps(alias):
    dates = pd.date_range("2015-01-31", periods=50, freq=alias).values.astype("datetime64[us]")
    kept = np.delete(dates, [3, 4, 20])
    found = Frequency.infer(kept, np.zeros(len(kept), np.int64))
    assert found == Frequency.parse(alias, example=dates[0])


def test_weeks_run_through_leap_weeks_and_years():
    frequency = Frequency.parse("W-SUN")
    sundays = np.array(["2015-12-27", "2016-01-03", "2020-12-27", "2021-01-03"], "datetime64[us]")
    index = frequency.index(sundays)
    assert index[1] - index[0] == 1 and index[3] - index[2] == 1
    assert frequency.aligned(sundays).all()


def test_month_ends_follow_february():
    frequency = Frequency.parse("ME")
    index = frequency.index(np.array(["2020-01-31"], "datetime64[us]"))
    ends = frequency.time(index[0] + np.arange(14)).astype("datetime64[D]").astype(str)
    assert ends[1] == "2020-02-29" and ends[13] == "2021-02-28"


def test_an_anchor_wins_over_the_example():
    sunday = np.datetime64("2024-03-31")
    assert Frequency.parse("W-FRI", example=sunday).alias == "W-FRI"
    assert Frequency.parse("W", example=sunday).alias == "W-SUN"
    assert Frequency.parse("W", example=np.datetime64("2024-04-02")).alias == "W-TUE"
    assert Frequency.parse("QE-NOV", example=np.datetime64("2024-03-31")).alias == "QE-FEB"


@pytest.mark.parametrize(
    ("alias", "season"),
    [
        ("h", 24), ("30min", 48), ("15min", 96), ("min", 60), ("s", 60), ("5s", 12), ("ms", 1000),
        ("4h", 6), ("D", 7), ("2D", 1), ("W", 52), ("2W", 26), ("13W", 4), ("MS", 12), ("QE", 4),
        ("YS", 1), ("6MS", 2), ("integer", 1),
    ],
)  # fmt: skip
def test_season(alias, season):
    assert Frequency.parse(alias).season == season


@pytest.mark.parametrize(
    "alias", ["", "fortnight", "W-XYZ", "D-MON", "QE-FOO", "ME-JAN", "-3D", "0D", "00MS"]
)
def test_unknown_aliases_are_refused(alias):
    with pytest.raises(ParameterError, match="is not known; known are"):
        Frequency.parse(alias)


def test_business_days_are_explained():
    with pytest.raises(ParameterError, match="business days"):
        Frequency.parse("B")


def test_single_dates_have_no_frequency():
    with pytest.raises(DataError, match="cannot be inferred"):
        Frequency.infer(np.array(["2024-01-01"] * 2, "datetime64[us]"), np.array([0, 1]))


@given(st.sampled_from([*ALIASES, "integer"]))
def test_json_round_trip(alias):
    frequency = Frequency.parse(alias)
    assert Frequency(**frequency.to_dict()) == frequency


def test_a_step_below_one_is_refused():
    with pytest.raises(ParameterError):
        Frequency("fixed", 0)
