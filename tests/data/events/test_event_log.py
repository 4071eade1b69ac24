from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from foretell.data import EventLog
from foretell.errors import DataError, ParameterError


def small(**arguments) -> EventLog:
    entities = {
        "id": ["b", "a", "c"],
        "t": [3.0, 1.0, 3.0],
        "x": [1, None, 3],
        "c": ["u", None, "v"],
    }
    outcomes = {
        "id": ["a", "a", "b", "b", "c", "a"],
        "kind": ["conversion", "view", "conversion", "conversion", "view", "conversion"],
        "t_outcome": [6.0, 2.0, 9.0, 4.0, 30.0, 8.0],
    }
    return EventLog.from_frames(entities, outcomes, **{"attribution_window": 10, **arguments})


def test_entities_are_in_order_of_time_and_id():
    log = small()
    assert list(log.ids) == ["a", "b", "c"] and log.times.tolist() == [1, 3, 3]
    assert [note.kind for note in log.notes] == ["unsorted", "after_window"]
    assert log.notes[1].count == 1 and log.notes[1].series == "c"
    np.testing.assert_array_equal(log.matrix(), [[np.nan, 0], [1, 1], [3, 2]])
    assert log.feature_names == ("x", "c") and log.categorical_features == ("c",)
    assert log.vocabularies == {"c": ("u", "v")}
    assert log.frame()["c"].to_list() == [None, "u", "v"]
    assert log.positions(["c", "zz", "a"]).tolist() == [2, -1, 0]


def test_the_first_outcome_counts_and_all_can_be_counted():
    log = small()
    np.testing.assert_array_equal(log.delay(), [5, 1, np.inf])
    np.testing.assert_array_equal(log.delay("view"), [1, np.inf, np.inf])
    assert log.count().tolist() == [2, 2, 0] and log.count("view").tolist() == [1, 0, 0]
    assert log.until(6).count().tolist() == [1, 1, 0]
    assert log.label().tolist() == [1, 1, 0]
    assert log.kinds == ("conversion", "view")
    with pytest.raises(ParameterError, match="no outcome of kind 'cart'"):
        log.delay("cart")


def test_an_outcome_at_the_edge_of_the_window_counts_and_one_after_it_does_not():
    t, w = 0.1, 0.2  # 0.1 + 0.2 is not 0.3 in floating point
    log = EventLog.from_frames(
        {"id": [1, 2], "t": [t, t]},
        {"id": [1, 2], "t_outcome": [t + w, np.nextafter(t + w, 1)]},
        attribution_window=w,
    )
    assert log.label().tolist() == [1, 0] and log.delay()[0] <= w
    assert log.with_window(0.3).label().tolist() == [1, 1]


def test_views_see_nothing_later():
    log = small()
    early = log.until(5)
    assert early.label().tolist() == [0, 1, 0] and early.now == 5
    assert early.age().tolist() == [4, 2, 2] and not early.matured.any()
    assert log.until(11).matured.tolist() == [True, False, False]
    assert log.matured.all() and log.age().tolist() == [10, 10, 10]
    assert list(log.until(2.9).ids) == ["a"] and len(log.until(0)) == 0
    assert early.until(100).fingerprint() == early.fingerprint()
    entities, outcomes = early.to_polars()
    assert entities.height == 3 and outcomes["t_outcome"].to_list() == [2, 4]


def test_selections_keep_their_order_and_refuse_repeats():
    log = small()
    chosen = log.select([2, 0])
    assert list(chosen.ids) == ["c", "a"] and chosen.delay().tolist() == [np.inf, 5]
    assert list(chosen.until(2).ids) == ["a"]
    assert list(chosen.emit("wait").ids) == ["a", "c"]
    assert chosen.emit("wait").label.tolist() == [1, 0]
    assert list(log.select(np.array([True, False, True])).select([1]).ids) == ["c"]
    assert list(log.select([-1]).ids) == ["c"]
    assert chosen.matrix([1, 1, 0])[:, 1].tolist() == [0, 0, 2]
    with pytest.raises(ParameterError, match="selected twice"):
        log.select([0, 0])
    with pytest.raises(IndexError):
        log.select([3])


def test_funnel_states():
    log = EventLog.from_frames(
        {"id": [1, 2, 3, 4], "t": [0.0] * 4},
        {
            "id": [1, 1, 2, 3, 4, 4],
            "kind": ["view", "conversion", "view", "conversion", "conversion", "view"],
            "t_outcome": [2.0, 4.0, 3.0, 5.0, 1.0, 6.0],
        },
        attribution_window=10,
    )
    assert log.state(2.5, "view").tolist() == [1, 0, 0, 2]
    assert log.state(9, ("view",)).tolist() == [2, 1, 2, 2]
    assert log.state(9, "view", strict=False).tolist() == [2, 1, 3, 3]
    assert log.state([0, 3, 5, 0.5], "view").tolist() == [0, 1, 2, 0]
    assert log.until(3).state(9, "view").tolist() == [1, 1, 0, 2]
    with pytest.raises(ParameterError, match="engagement must name kinds"):
        log.state(1, "conversion")


def test_dates_become_numbers_once():
    day = datetime(2024, 3, 1)
    log = EventLog.from_frames(
        pd.DataFrame({"id": [1, 2], "t": [day, day + timedelta(hours=6)]}),
        pa.table({"id": [1], "t_outcome": [day + timedelta(hours=30)]}),
        attribution_window=timedelta(days=2),
    )
    assert log.unit == "s" and log.window == 172_800 and log.calendar
    assert log.delay()[0] == 30 * 3600 and log.times[0] == day.replace(tzinfo=UTC).timestamp()
    assert log.until("2024-03-01 03:00").ids.tolist() == [1]
    assert log.until(np.datetime64("2024-03-01")).ids.tolist() == [1]
    assert log.until(datetime(2024, 3, 1, 2, tzinfo=UTC)).ids.tolist() == [1]
    assert log.duration("6h") == 21_600 and log.moment(day) == log.times[0]
    assert log.to_polars()[0]["t"].to_list()[0] == day
    hours = EventLog.from_frames(
        {"id": ["a"], "t": ["2024-03-01 12:00"]}, attribution_window="2d", unit="hours"
    )
    assert hours.window == 48 and hours.unit == "h"
    assert EventLog.from_frames(*hours.to_polars(), attribution_window="48h", unit="h").times == (
        hours.times
    )


@pytest.mark.parametrize(
    ("window", "unit", "expected"),
    [("96h", "h", 96.0), ("4d", "h", 96.0), ("90 min", "h", 1.5), (7, None, 7.0), ("1w", "d", 7.0)],
)
def test_windows(window, unit, expected):
    log = EventLog.from_frames({"id": [1], "t": [0]}, attribution_window=window, unit=unit)
    assert log.window == expected


@pytest.mark.parametrize(
    ("window", "unit", "message"),
    [
        ("96h", None, "names a unit"),
        ("soon", "h", "not a duration"),
        (0, "h", "must be positive"),
        (-3.0, None, "must be positive"),
        (float("inf"), None, "must be finite"),
        ("3 fortnights", "h", "not one of"),
        (True, None, "must be a number"),
    ],
)
def test_impossible_windows(window, unit, message):
    with pytest.raises(ParameterError, match=message):
        EventLog.from_frames({"id": [1], "t": [0]}, attribution_window=window, unit=unit)


def test_repeated_ids_are_named():
    with pytest.raises(DataError, match=r"2 ids name several entities: 'p', 'q' \(rows 0, 3") as e:
        EventLog.from_frames(
            {"id": ["p", "q", "r", "p", "q"], "t": [1, 2, 3, 4, 5]}, attribution_window=1
        )
    assert e.value.series == "p" and e.value.row == 3


def test_conversions_before_exposure_are_dropped_counted_and_warned_of():
    n = 200
    entities = {"id": list(range(n)), "t": [10.0] * n}
    outcomes = {"id": list(range(n)), "t_outcome": [9.0, 9.0] + [11.0] * (n - 2)}
    with pytest.warns(UserWarning, match=r"2 of 200 outcomes 'conversion' lie before"):
        log = EventLog.from_frames(entities, outcomes, attribution_window=5)
    note = next(note for note in log.notes if note.kind == "early_outcome")
    assert note.count == 2 and note.series == "0" and log.label().sum() == n - 2
    outcomes["t_outcome"][2] = 9.0
    with pytest.raises(DataError, match=r"3 of 200 .* more than 0.01 of them") as e:
        EventLog.from_frames(entities, outcomes, attribution_window=5)
    assert e.value.row == 0 and "max_early" in str(e.value)
    with pytest.warns(UserWarning):
        EventLog.from_frames(entities, outcomes, attribution_window=5, max_early=0.5)


def test_outcomes_of_unknown_entities_are_counted():
    log = EventLog.from_frames(
        {"id": ["a"], "t": [0.0]},
        {"id": ["a", "zz"], "t_outcome": [1.0, 1.0]},
        attribution_window=5,
    )
    assert log.notes[0].kind == "unknown_entity" and log.notes[0].series == "zz"


@pytest.mark.parametrize(
    ("entities", "outcomes", "message"),
    [
        ({"id": ["a"]}, None, "columns .'t'. are missing"),
        ({"id": ["a", None], "t": [1, 2]}, None, "id is missing"),
        ({"id": ["a", "b"], "t": [1.0, None]}, None, "time is missing"),
        ({"id": ["a", "b"], "t": [1.0, float("nan")]}, None, "time is nan"),
        ({"id": ["a", "b"], "t": [1.0, float("inf")]}, None, "time is inf"),
        ({"id": [1.5], "t": [1.0]}, None, "not integers or text"),
        ({"id": ["a"], "t": ["yesterday"]}, None, "is not a date"),
        ({"id": ["a"], "t": [1.0], "x": [[1]]}, None, "neither numbers nor text"),
        ({"id": ["a"], "t": [1.0]}, {"id": [1], "t_outcome": [2.0]}, "ids of outcomes are Int64"),
        (
            {"id": ["a"], "t": [1.0]},
            {"id": ["a"], "t_outcome": ["2024-01-01"]},
            "are numbers, these",
        ),
        (
            {"id": ["a"], "t": [1.0]},
            {"id": ["a"], "kind": [None], "t_outcome": [2.0]},
            "kind of an",
        ),
        ({"id": ["a"], "t": [1.0]}, {"id": ["a"], "t_outcome": [None]}, "missing|is None"),
        ({"id": ["a"], "t": [1.0]}, {"id": ["a"]}, "columns .'t_outcome'. are missing"),
    ],
)
def test_wrong_tables_say_where(entities, outcomes, message):
    with pytest.raises(DataError, match=message):
        EventLog.from_frames(entities, outcomes, attribution_window=5, source="events.csv")


def test_a_deadline_before_exposure_is_an_error():
    with pytest.raises(DataError, match="deadline lies before exposure in 1 rows"):
        EventLog.from_frames(
            {"id": [1, 2], "t": [5.0, 5.0], "end": [6.0, 4.0]}, attribution_window=9, deadline="end"
        )


def test_deadlines_shorten_windows():
    log = EventLog.from_frames(
        {"id": [1, 2], "t": [0.0, 0.0], "end": [4.0, 90.0]},
        {"id": [1, 2], "t_outcome": [5.0, 5.0]},
        attribution_window=10,
        deadline="end",
    )
    assert log.windows.tolist() == [4, 10] and log.label().tolist() == [0, 1]
    assert log.until(6).age().tolist() == [4, 6]
    assert log.until(6).matured.tolist() == [True, False]
    assert log.feature_names == ()


def test_labels_that_can_be_taken_back():
    log = EventLog.from_frames(
        {"id": [1, 2, 3], "t": [0.0] * 3},
        {
            "id": [1, 1, 2, 2, 3],
            "kind": ["conversion", "refund", "conversion", "refund", "conversion"],
            "t_outcome": [2.0, 5.0, 2.0, 15.0, 3.0],
        },
        attribution_window=10,
        revocation="refund",
    )
    assert log.revocable
    assert log.until(4).label().tolist() == [1, 1, 1]
    assert log.until(6).label().tolist() == [0, 1, 1]
    assert log.label().tolist() == [0, 1, 1], "a refund after the window does not count"
    for protocol in ("esdfm", "vanilla", "fnw", "defer", "defuse"):
        with pytest.raises(ParameterError, match="labels that only rise"):
            log.emit(protocol, 1)
    with pytest.raises(ParameterError, match="needs labels that only rise"):
        log.require_monotone("the exact weight")
    assert log.emit("wait", 1).label.tolist() == [0, 1, 1]
    assert log.emit("ulc", 4).label.tolist() == [1, 1, 1]
    small().require_monotone("the exact weight")


def test_missing_values_pass_untouched():
    log = EventLog.from_frames(
        {"id": [1, 2], "t": [0, 1], "x": [np.nan, 1.0], "flag": [True, None], "n": [None, 3]},
        attribution_window=1,
    )
    np.testing.assert_array_equal(log.matrix(), [[np.nan, 1, np.nan], [1, np.nan, 3]])
    assert (
        EventLog.from_frames(
            pl.DataFrame({"id": [1], "t": [0], "x": pl.Series([0.5], dtype=pl.Float32)}),
            attribution_window=1,
        )
        ._columns.features["x"]
        .dtype
        == np.float32
    )


def test_fingerprint_tells_what_is_seen():
    log = small()
    assert log.fingerprint() == small().fingerprint() != log.until(5).fingerprint()
    assert log.fingerprint() != log.with_window(9).fingerprint()
    assert log.select([0, 1]).fingerprint() != log.select([1, 2]).fingerprint()
    moved = small(max_early=0.5)
    assert moved.fingerprint() == log.fingerprint()


def test_other_inputs_are_refused():
    with pytest.raises(ParameterError, match="must be a polars, pandas or pyarrow table"):
        EventLog.from_frames([1, 2], attribution_window=1)
    with pytest.raises(ParameterError, match="both 'conversion'"):
        small(revocation="conversion")
    log = small()
    with pytest.raises(ParameterError, match="times of this log are numbers"):
        log.until("2024-01-01")
    with pytest.raises(ParameterError, match="is NaN"):
        log.until(float("nan"))
