from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical import (
    HourlyBinner,
    Observation,
    Schema,
    as_row,
    bin_observations,
    hour_of,
)
from foretell.errors import DataError, ParameterError


def observations(*rows):
    names = ("id", "channel", "value", "time", "arrival")
    return pl.DataFrame(
        [dict(zip(names, r, strict=True)) for r in rows],
        schema={"id": pl.String, "channel": pl.String, **dict.fromkeys(names[2:], pl.Float64)},
    )


def binned(*rows, hours=6, **given):
    stays = pl.DataFrame({"id": ["x"], "hours": [hours]})
    return bin_observations(observations(*rows), stays, **given)


@pytest.mark.parametrize(
    ("time", "hour"), [(0, 1), (0.01, 1), (1, 1), (1.01, 2), (2, 2), (-0.5, 0), (-1, -1)]
)
def test_an_hour_holds_what_is_known_at_its_end(time, hour):
    assert hour_of(time) == hour


def test_several_values_become_their_median_and_repeats_count_once():
    stays = binned(
        ("x", "HR", 80, 0.2, 0.2),
        ("x", "HR", 90, 0.3, 0.3),
        ("x", "HR", 90, 0.3, 0.9),
        ("x", "heart_rate", 70, 1.0, 1.0),
        ("x", "HR", 60, 2.5, 2.5),
    )
    np.testing.assert_array_equal(
        stays.column("HR"), np.float32([80, np.nan, 60, np.nan, np.nan, np.nan])
    )
    assert {n.kind: n.count for n in stays.notes} == {"duplicate": 1}


def test_predictions_go_by_arrival_and_looking_back_by_specimen():
    late = ("x", "Lactate", 4.0, 1.5, 4.2)
    assert np.flatnonzero(~np.isnan(binned(late).column("Lactate"))).tolist() == [4]
    back = binned(late, clock="specimen")
    assert np.flatnonzero(~np.isnan(back.column("Lactate"))).tolist() == [1]
    with pytest.raises(ParameterError, match="clock"):
        binned(late, clock="wall")


def test_an_old_specimen_says_nothing_of_now():
    rows = [
        ("x", "Lactate", 4.0, 1.0, 49.0),
        ("x", "Lactate", 5.0, 1.5, 49.6),
        # Known in time, and told again.
        ("x", "HR", 80.0, 1.0, 2.0),
        ("x", "HR", 80.0, 1.0, 55.0),
    ]
    stays = binned(*rows, hours=56)
    assert {n.kind: n.count for n in stays.notes} == {"duplicate": 1, "old_specimen": 1}
    lactate = stays.column("Lactate")
    assert lactate[48] == 4 and np.isfinite(lactate).sum() == 1 and stays.column("HR")[1] == 80
    assert binned(*rows, hours=56, max_age=None).column("Lactate")[49] == 5
    assert binned(*rows, hours=56, clock="specimen").column("Lactate")[1] == 5
    schema = Schema.default().channels("p19")
    live = HourlyBinner(schema)
    assert live.add(Observation("Lactate", 4.0, 1.0, 49.0))
    assert not live.add(Observation("Lactate", 5.0, 1.5, 49.6)) and live.stale == 1
    for hour in range(1, 57):
        np.testing.assert_array_equal(live.close(hour)[schema.names.index("Lactate")],
                                      lactate[hour - 1])  # fmt: skip
    # Its sender says that it was known at once; here it became known after hour 56.
    assert not live.add(Observation("Lactate", 6.0, 2.0)) and live.stale == 2


def test_what_is_left_out_is_counted():
    stays = binned(
        ("x", "HR", 80, 3, 2),
        ("x", "HR", np.nan, 3, 3),
        ("x", "HR", 80, -5, -4),
        ("x", "HR", 80, 7, 7),
        ("y", "HR", 80, 1, 1),
        ("x", "mood", 3, 1, 1),
        ("x", "HR", 81, 0, 0),
    )
    assert {n.kind: n.count for n in stays.notes} == dict.fromkeys(
        ("before_specimen", "not_finite", "before_start", "after_end", "unknown_stay",
         "unknown_channel"), 1,
    )  # fmt: skip
    assert stays.column("HR")[0] == 81, "admission itself belongs to the first hour"


def test_units_are_converted_on_the_way():
    frame = observations(("x", "Temp", 98.6, 1, 1), ("x", "Temp", 99, 2, 2)).with_columns(
        pl.Series("unit", ["F", "parsec"])
    )
    stays = bin_observations(frame, pl.DataFrame({"id": ["x"]}))
    np.testing.assert_allclose(stays.column("Temp"), [37], rtol=1e-6)
    assert stays.notes[0].kind == "unknown_channel" and "parsec" in stays.notes[0].message


def test_stays_without_measurements_remain():
    stays = bin_observations(
        observations(), pl.DataFrame({"id": ["a", "b"], "hours": [3, 0], "age": [50, None]})
    )
    assert stays.lengths.tolist() == [3, 0] and np.isnan(stays.column("HR")).all()
    with pytest.raises(DataError, match=r"twice.*'a'"):
        bin_observations(observations(), pl.DataFrame({"id": ["a", "a"]}))
    with pytest.raises(DataError, match="'value'"):
        bin_observations(observations().drop("value"), pl.DataFrame({"id": ["a"]}))


times = st.floats(0, 6, width=32)
readings = st.lists(
    st.tuples(
        st.sampled_from(["HR", "Temp", "Lactate"]),
        st.floats(10, 200, width=32),
        times,
        st.floats(0, 3, width=32),
    ),
    max_size=30,
)


@given(readings, st.randoms())
def test_the_live_binner_gives_the_same_hours_as_the_table(found, random):
    rows = [
        ("x", channel, value, time, min(time + late, 6)) for channel, value, time, late in found
    ]
    rows = [r for r in rows if r[4] >= r[3]]
    expected = binned(*rows)
    live = HourlyBinner(Schema.default().channels("p19"))
    arriving = sorted(rows, key=lambda r: r[4])
    for hour in range(1, 7):
        now = [r for r in arriving if hour_of(r[4]) == hour]
        random.shuffle(now)  # within an hour order does not matter
        for _, channel, value, time, arrival in now:
            live.add(Observation(channel, value, time, arrival))
            assert not live.add(Observation(channel, value, time, arrival)), "a redelivery"
        np.testing.assert_array_equal(live.close(hour), expected.matrix()[hour - 1])


def test_the_live_binner_refuses_nonsense_and_puts_stragglers_into_the_open_hour():
    schema = Schema.default().channels("vitals")
    live = HourlyBinner(schema)
    live.close(1)
    live.add(Observation("HR", 90.0, 0.5))
    assert live.close(2)[0] == 90, "it arrived after hour 1 was closed, whatever it claims"
    assert not live.add(Observation("HR", 1.0, -2.0)), "before the admission"
    for bad, match in (
        (Observation("mood", 1.0, 1.0), "mood"),
        (Observation("HR", np.nan, 1.0), "finite"),
        (Observation("HR", 80.0, 5.0, 4.0), "before its specimen"),
    ):
        with pytest.raises(DataError, match=match):
            live.add(bad)
    with pytest.raises(ParameterError, match="hour 5"):
        live.close(5)
    assert as_row({"Temp": 37}, schema)[2] == 37
    with pytest.raises(ParameterError, match="mood"):
        as_row({"mood": 1}, schema)


@pytest.mark.parametrize(
    ("stays", "time", "message"),
    [
        ({"id": ["a", "b"], "hours": [3, None]}, "1.5", "hours of a stay are None.*'b'"),
        ({"id": ["a", "b"], "hours": [3.0, float("nan")]}, "1.5", "hours of a stay are nan.*'b'"),
        ({"id": ["a", "b"], "hours": ["3", "three"]}, "1.5", "hours of a stay are 'three'"),
        ({"id": ["a", "b"], "hours": [3, 10**12]}, "1.5", "a stay spans.*'b'"),
        # Seconds where hours belong would take the memory of the machine.
        ({"id": ["a", "b"]}, "1700000000", "a stay spans 1,700,000,000 hours.*'a'"),
        ({"id": ["a"]}, "1e300", "a stay spans.*'a'"),
        ({"id": ["a", None]}, "1.5", "a stay has no id.*row 1"),
        ({"id": ["a"], "age": [[1]]}, "1.5", "age must hold numbers"),
    ],
)
def test_what_is_said_of_a_stay_is_refused_with_its_place(stays, time, message):
    table = pl.DataFrame({"id": ["a"], "channel": ["HR"], "value": [80.0], "time": [time]})
    with pytest.raises(DataError, match=message):
        bin_observations(table, pl.DataFrame(stays))


def test_times_that_are_words_are_left_out_and_ages_that_are_bounds_read():
    table = pl.DataFrame({
        "id": "a",
        "channel": "HR",
        "value": [80.0, 81.0, 82.0],
        "time": ["0.5", "noon", "1.5"],
        "arrival": ["0.5", "1", "later"],
    })  # fmt: skip
    told = pl.DataFrame({"id": ["a", "b"], "age": ["> 89", "old"], "onset": ["7", None]})
    stays = bin_observations(table, told)
    assert stays.column("HR").tolist()[0] == 80 and stays.lengths.tolist() == [1, 1]
    np.testing.assert_array_equal(stays.number("age"), [89, np.nan])
    np.testing.assert_array_equal(stays.onset, [7, np.nan])
    kinds = {note.kind: note.count for note in stays.notes}
    assert kinds == {"not_finite": 2, "comparator": 1, "text": 1}
