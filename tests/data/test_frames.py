from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panel_strategies import assert_same, panels

from foretell.data.covariates import fill_known
from foretell.data.frames import from_polars, future_to_polars, static_to_polars, to_polars
from foretell.data.quality import problems
from foretell.errors import DataError


def weekly(n: int = 12, name: str = "a", first: str = "2024-01-05") -> pl.DataFrame:
    days = np.datetime64(first) + 7 * np.arange(n)
    return pl.DataFrame({"unique_id": [name] * n, "ds": days, "y": np.arange(n, dtype=float) + 1})


def refused(table: pl.DataFrame, match: str, **arguments) -> DataError:
    with pytest.raises(DataError, match=match) as caught:
        from_polars(table, source="sales.csv", **arguments)
    assert caught.value.file in ("sales.csv", "future table", "static table")
    assert caught.value.hint
    return caught.value


@given(panels())
def test_three_tables_make_the_same_panel_again(panel):
    again = from_polars(
        to_polars(panel),
        past=["views"],
        known=["price"],
        events=["sale"],
        censored="censored",
        future=future_to_polars(panel),
        static=static_to_polars(panel),
        frequency=panel.frequency,
    )
    assert_same(again, panel)


@given(panels(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(panel, random):
    table = to_polars(panel)
    rows = list(range(table.height))
    random.shuffle(rows)
    arguments = {"past": ["views"], "known": ["price", "sale"], "frequency": panel.frequency}
    shuffled = from_polars(table[rows], **arguments)
    back = np.array([shuffled.positions[i] for i in panel.ids])
    straight = from_polars(table, **arguments)
    assert shuffled.select(back).fingerprint() == straight.fingerprint()


def test_gaps_are_not_observed_and_noted():
    panel = from_polars(weekly().filter(pl.col("y") != 4), frequency="W-FRI")
    assert panel.lengths[0] == 12 and np.isnan(panel.series(0)[3])
    note = next(n for n in panel.notes if n.kind == "gap")
    assert note.count == 1 and note.series == "a"


def test_missing_targets_are_not_observed_and_noted():
    panel = from_polars(weekly().with_columns(pl.col("y").replace(4.0, None)))
    assert np.isnan(panel.series(0)[3])
    assert [n.count for n in panel.notes if n.kind == "missing_target"] == [1]


def test_missing_columns_are_named_with_those_there():
    error = refused(weekly().rename({"y": "sales"}), r"\['y'\] are missing")
    assert "'sales'" in str(error)


def test_a_whole_line_in_one_column_means_a_wrong_delimiter():
    table = pl.DataFrame({"unique_id;ds;y": ["a;2024-01-01;3"]})
    assert "separator=';'" in refused(table, "missing").hint


def test_no_rows():
    refused(weekly(0), "no rows")


def test_text_in_numbers_is_named_with_row_and_series():
    table = pl.concat([weekly(name="a"), weekly(name="b")]).with_columns(
        pl.col("y").cast(pl.String)
    )
    table[17, "y"] = "n/a"
    error = refused(table, "'n/a'")
    assert (error.row, error.series, error.column) == (17, "b", "y")


def test_numbers_written_as_text_are_refused_too():
    assert refused(weekly().with_columns(pl.col("y").cast(pl.String)), "text").row == 0


def test_decimal_commas_are_explained():
    table = weekly().with_columns(pl.lit("1,5").alias("y"))
    assert "decimal_comma" in refused(table, "1,5").hint


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_values_are_refused(value):
    table = weekly()
    table[5, "y"] = value
    error = refused(table, "infinite")
    assert (error.row, error.series) == (5, "a")


def test_values_beyond_single_precision_are_refused():
    table = weekly()
    table[5, "y"] = 1e39
    assert refused(table, "beyond single precision").row == 5


def test_a_column_of_nothing_is_nothing_observed():
    for dtype in (pl.String, pl.Null, pl.Int64):
        panel = from_polars(weekly().with_columns(pl.lit(None, dtype).alias("y")))
        assert np.isnan(panel.series(0)).all()


def test_duplicates_are_refused_with_their_row():
    table = pl.concat([weekly(name="a"), weekly(name="b"), weekly(name="b")[3:5]])
    error = refused(table, "2 rows repeat a date")
    assert (error.series, error.row) == ("b", 24)


def test_off_grid_dates_are_refused():
    table = weekly()
    table[6, "ds"] = table[6, "ds"] + timedelta(days=1)
    error = refused(table, "1 dates lie off the grid 'W-FRI'")
    assert (error.series, error.row) == ("a", 6)
    error = refused(weekly(), "12 dates lie off the grid 'W-SUN'", frequency="W-SUN")


def test_mixed_frequencies_are_refused():
    days = pl.DataFrame(
        {
            "unique_id": ["daily"] * 80,
            "ds": np.datetime64("2024-01-05") + np.arange(80),
            "y": np.ones(80),
        }
    )
    error = refused(pl.concat([days, weekly(name="slow")]), "a value every 7 periods")
    assert error.series == "slow"


def test_a_frequency_much_too_fine_is_refused():
    refused(weekly(), "every 7 periods", frequency="D")
    seconds = weekly(300).with_columns(
        pl.col("ds").cast(pl.Datetime("us")).dt.timestamp("ms") // 1000
    )
    refused(seconds, "periods for 300 rows")


def test_dates_under_an_integer_frequency_and_the_reverse_are_refused():
    refused(weekly(), "holds dates", frequency="integer")
    refused(weekly().with_columns(pl.int_range(12).alias("ds")), "holds integers", frequency="D")


@pytest.mark.parametrize(
    ("numbers", "what"),
    [
        ([202410, 202411, 202412, 202501], "months"),
        ([20240130, 20240131, 20240201, 20240202], "days"),
    ],
)
def test_dates_written_as_numbers_are_refused(numbers, what):
    table = weekly(4).with_columns(pl.Series("ds", numbers))
    refused(table, f"are {what} written as numbers")


def test_plain_period_numbers_are_fine():
    for numbers in ([1, 2, 3, 5], [2021, 2022, 2023, 2024], [202490, 202491, 202492, 202493]):
        panel = from_polars(weekly(4).with_columns(pl.Series("ds", numbers)))
        assert panel.starts[0] == numbers[0]


def test_months_dated_within_the_month_are_explained():
    days = [f"2024-{m:02d}-15" for m in range(1, 13)]
    with pytest.raises(DataError, match="neither first nor last days") as caught:
        from_polars(weekly().with_columns(pl.Series("ds", days)))
    assert "first day" in caught.value.hint


def test_one_observation_needs_a_frequency():
    with pytest.raises(DataError, match="cannot be inferred"):
        from_polars(weekly(1))
    panel = from_polars(weekly(1), frequency="W-FRI")
    assert [n.kind for n in panel.notes] == ["single"]


def test_series_without_name_and_rows_without_date_are_refused():
    table = weekly().with_columns(
        pl.when(pl.col("y") == 3).then(None).otherwise(pl.col("unique_id")).alias("unique_id")
    )
    assert refused(table, "no name").row == 2
    table = weekly().with_columns(
        pl.when(pl.col("y") == 3).then(None).otherwise(pl.col("ds")).alias("ds")
    )
    assert refused(table, "date is missing").row == 2


def test_wrong_types_are_refused():
    refused(weekly().with_columns(pl.col("y").alias("ds")), "not a date")
    refused(weekly(), "used for two things", past=["y"])
    table = weekly().with_columns(pl.Series("stockout", ["no"] * 11 + ["maybe"]))
    assert refused(table, "'maybe' is neither", censored="stockout").row == 11


@pytest.mark.parametrize(
    "values", [[True, False], [1, 0], ["yes", "no"], ["TRUE", "false"], [1, None]]
)
def test_flags_are_read_in_any_usual_form(values):
    table = weekly(2).with_columns(pl.Series("stockout", values))
    panel = from_polars(table, censored="stockout", frequency="W-FRI")
    assert panel.censored.tolist() == [True, False]


# ------------------------------------------------------------------ dates


@pytest.mark.parametrize(
    "texts",
    [
        ["2024-01-05", "2024-01-12"],
        ["2024/01/05", "2024/01/12"],
        ["2024-01-05 00:00", "2024-01-12T00:00:00"],
        ["2024-01-05T00:00:00Z", "2024-01-12T00:00:00Z"],
        ["2024-01-05 00:00:00+02:00", "2024-01-12 00:00:00+02:00"],
    ],
)
def test_dates_as_iso_text(texts):
    panel = from_polars(weekly(2).with_columns(pl.Series("ds", texts)))
    assert panel.frequency.alias == "W-FRI"
    assert str(panel.frequency.time(panel.starts)[0])[:10] == "2024-01-05"


@pytest.mark.parametrize("text", ["05.01.2024", "1/5/2024", "soon", "2024-13-01", "2024-02-30"])
def test_other_texts_are_no_dates(text):
    table = weekly(2).with_columns(pl.Series("ds", ["2024-01-05", text]))
    error = refused(table, "is not a date")
    assert error.row == 1 and "ISO 8601" in error.hint


def test_mixed_time_zones_are_refused():
    texts = ["2024-01-05 00:00+01:00", "2024-01-12 00:00+02:00"]
    assert refused(weekly(2).with_columns(pl.Series("ds", texts)), "zones are mixed").row == 1
    texts = ["2024-01-05 00:00", "2024-01-12 00:00Z"]
    assert refused(weekly(2).with_columns(pl.Series("ds", texts)), "zones are mixed").row == 1


def zoned(first: datetime, step: timedelta, n: int, zone: str) -> pl.DataFrame:
    moments = [(first + i * step) for i in range(n)]
    return pl.DataFrame(
        {"unique_id": ["a"] * n, "ds": moments, "y": np.arange(n, dtype=float)},
        schema_overrides={"ds": pl.Datetime("us", zone)},
    )


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "Australia/Melbourne", "UTC"]
)
@pytest.mark.parametrize("month", [3, 4, 10, 11])
def test_hours_run_through_clock_changes(zone, month):
    first = datetime(2024, month, 1, tzinfo=UTC)
    panel = from_polars(zoned(first, timedelta(hours=1), 24 * 31, zone))
    assert panel.frequency.alias == "h" and not panel.notes
    assert panel.lengths[0] == 24 * 31 and not np.isnan(panel.series(0)).any()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Melbourne"])
def test_local_days_run_through_clock_changes(zone):
    days = [datetime(2024, 1, 1) + timedelta(days=i) for i in range(366)]
    table = pl.DataFrame({"unique_id": "a", "ds": days, "y": 1.0})
    table = table.with_columns(pl.col("ds").dt.replace_time_zone(zone))
    panel = from_polars(table)
    assert panel.frequency.alias == "D" and panel.lengths[0] == 366
    assert str(panel.frequency.time(panel.starts)[0])[:10] == "2024-01-01"


def test_a_future_of_one_midnight_is_read_on_the_panels_hourly_grid():
    zone = "Europe/Berlin"
    midnight = datetime(2024, 6, 2, tzinfo=ZoneInfo(zone))
    table = zoned(midnight - timedelta(hours=48), timedelta(hours=1), 48, zone)
    table = table.with_columns(pl.lit(2.0).alias("price"))
    future = zoned(midnight, timedelta(hours=1), 1, zone).select(
        "unique_id", "ds", pl.lit(3.0).alias("price")
    )
    panel = from_polars(table, known=["price"], future=future)
    assert panel.known_lengths[0] == 49 and panel.known["price"][-1] == 3


# ------------------------------------------------------------------ known and static


def test_a_future_for_all_series_fills_gaps_and_what_is_ahead():
    table = pl.concat([weekly(name="a"), weekly(6, "b", "2024-02-02")]).filter(pl.col("y") != 3)
    calendar = pl.DataFrame(
        {
            "ds": np.datetime64("2023-12-29") + 7 * np.arange(20),
            "holiday": np.arange(20) % 5 == 0,
        }
    )
    panel = from_polars(table, events=["holiday"], future=calendar, frequency="W-FRI")
    panel.require_known(3)
    for i in range(2):
        own = panel.known["holiday"][panel.known_begins[i] :][: panel.known_lengths[i]]
        offset = int(panel.starts[i] - panel.starts[0]) + 1
        np.testing.assert_array_equal(own, (np.arange(len(own)) + offset) % 5 == 0)


def test_a_future_by_series_fills_gaps_and_what_is_ahead_but_history_wins():
    table = weekly().with_columns(pl.lit(1.0).alias("price")).filter(pl.col("y") != 3)
    future = weekly(15).select("unique_id", "ds", pl.lit(9.0).alias("price"))
    stranger = weekly(2, "stranger").select("unique_id", "ds", pl.lit(9.0).alias("price"))
    panel = from_polars(
        table, known=["price"], future=pl.concat([future, stranger]), frequency="W-FRI"
    )
    expected = np.ones(15)
    expected[2] = 9
    expected[12:] = 9
    np.testing.assert_array_equal(panel.known["price"], expected)
    assert "unknown_series" in [n.kind for n in panel.notes]


def test_wrong_futures_are_refused():
    table = weekly().with_columns(pl.lit(1.0).alias("price"))
    good = weekly(15).select("unique_id", "ds", pl.lit(9.0).alias("price"))
    off = good.with_columns(pl.col("ds").dt.offset_by("1d"))
    assert refused(table, "off the panel's grid", known=["price"], future=off).row == 0
    error = refused(table, "repeat a date", known=["price"], future=pl.concat([good, good[3:4]]))
    assert error.row == 15
    text = good.with_columns(pl.lit("?").alias("price"))
    refused(table, "text", known=["price"], future=text)
    refused(weekly(), "missing", known=["price"], future=good.drop("price"))
    integers = good.with_columns(pl.int_range(15).alias("ds"))
    refused(table, "does not match", known=["price"], future=integers)


def test_covariates_that_end_too_early_are_reported_and_refused():
    table = weekly().with_columns(pl.lit(1.0).alias("price"))
    panel = from_polars(table, known=["price"])
    assert "short_known" in [n.kind for n in panel.notes]
    with pytest.raises(DataError, match="0 of 4 future periods"):
        panel.require_known(4)


def test_gaps_in_known_covariates_are_refused_unless_filled():
    table = (
        weekly()
        .with_columns(pl.col("y").alias("price"), pl.lit(1.0).alias("sale"))
        .filter(~pl.col("y").is_in([4.0, 5.0]))
    )
    panel = from_polars(table, known=["price"], events=["sale"], frequency="W-FRI")
    with pytest.raises(DataError, match="missing value at 2024-01-26"):
        panel.cut(2).require_known(1)
    filled = fill_known(panel)
    filled.cut(2).require_known(1)
    np.testing.assert_array_equal(filled.known["price"], [1, 2, 3, 3, 3, 6, 7, 8, 9, 10, 11, 12])
    np.testing.assert_array_equal(filled.known["sale"], [1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    assert {n.kind: n.count for n in filled.notes}["filled_known"] == 2


@given(panels(), st.data())
def test_filling_takes_the_last_value_of_the_same_series(panel, data):
    price = panel.known["price"].copy()
    holes = data.draw(st.lists(st.integers(0, len(price) - 1), max_size=len(price)))
    price[holes] = np.nan
    broken = panel.__class__(**{**{f: getattr(panel, f) for f in panel.__dataclass_fields__},
                                "known": {**panel.known, "price": price}})  # fmt: skip
    filled = fill_known(broken.select(np.arange(len(panel))[::-1]))
    for i, j in enumerate(np.arange(len(panel))[::-1]):
        own = price[panel.known_begins[j] :][: panel.known_lengths[j]]
        expected, last = [], np.nan
        for value in own:
            last = value if not np.isnan(value) else last
            expected.append(last)
        given_first = own[~np.isnan(own)][:1]
        expected = [given_first[0] if np.isnan(v) and given_first.size else v for v in expected]
        got = filled.known["price"][filled.known_begins[i] :][: filled.known_lengths[i]]
        np.testing.assert_array_equal(got, np.array(expected, np.float32))


def test_static_rows_must_be_there_once():
    static = pl.DataFrame({"unique_id": ["b"], "colour": ["red"]})
    assert refused(weekly(), "1 series are missing", static=static).series == "a"
    static = pl.DataFrame({"unique_id": ["a", "a"], "colour": ["red", "red"]})
    assert refused(weekly(), "twice", static=static).row == 1


def test_static_attributes_may_be_unknown_and_are_noted():
    schema = {"unique_id": pl.String, "colour": pl.String, "size": pl.Float64}
    static = pl.DataFrame({"unique_id": ["a"], "colour": [None], "size": [None]}, schema=schema)
    panel = from_polars(weekly(), static=static)
    assert panel.static_categorical["colour"].codes.tolist() == [0]
    assert np.isnan(panel.static_real["size"]).all()
    assert [n.kind for n in panel.notes] == ["missing_static"] * 2


# ------------------------------------------------------------------ problems


def test_problems_are_counted_with_an_example():
    parts = {
        "zero": weekly(name="zero").with_columns(pl.lit(0.0).alias("y")),
        "flat": weekly(name="flat").with_columns(pl.lit(7.0).alias("y")),
        "back": weekly(name="back").with_columns((pl.col("y") - 3).alias("y")),
        "once": weekly(1, name="once"),
        "none": weekly(name="none").with_columns(pl.lit(None, pl.Float64).alias("y")),
        "gap": weekly(name="gap").filter(pl.col("y") != 5),
    }
    table = problems(from_polars(pl.concat(parts.values()), frequency="W-FRI"))
    found = {row["kind"]: (row["count"], row["series"]) for row in table.to_dicts()}
    assert found == {
        "gap": (1, "gap"),
        "missing_target": (12, None),
        "all_zero": (1, "zero"),
        "constant": (1, "flat"),
        "negative": (2, "back"),
        "single": (1, "once"),
        "unobserved": (1, "none"),
    }


@given(panels())
def test_problems_count_what_is_there(panel):
    found = {row["kind"]: row["count"] for row in problems(panel).to_dicts()}
    assert found.get("negative", 0) == int((panel.target < 0).sum())
    assert found.get("censored", 0) == int(panel.censored.sum())
    observed = np.array([np.sum(~np.isnan(s)) for s in panel])
    assert found.get("single", 0) == int((observed == 1).sum())
    assert problems(panel.cut(20)).filter(pl.col("kind") == "empty")["count"].sum() == len(panel)


def test_a_future_table_without_any_known_column_is_refused():
    table = weekly().with_columns(price=pl.lit(2.0))
    ahead = weekly(4, first="2024-03-29").select("unique_id", "ds", prise="y")
    error = refused(table, "none of the known covariates", known=["price"], future=ahead)
    assert error.file == "future table" and "'prise'" in error.hint


def test_what_is_wrong_with_the_attributes_names_their_table():
    static = pl.DataFrame({"unique_id": ["b"], "brand": ["x"]})
    with pytest.raises(DataError, match="missing from the static table") as caught:
        from_polars(weekly(), static=static, source="sales.csv")
    assert caught.value.file == "static table"


def test_dates_in_messages_have_no_hour_unless_there_is_one():
    twice = pl.concat([weekly(), weekly(1)])
    assert refused(twice, "repeat a date").problem.endswith("first 2024-01-05")
    hour = pl.col("ds").cast(pl.Datetime("us")) + pl.duration(hours=13)
    problem = refused(twice.with_columns(ds=hour), "repeat a date").problem
    assert problem.endswith("first 2024-01-05 13:00:00")
