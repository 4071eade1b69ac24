from __future__ import annotations

import builtins
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panel_strategies import assert_same, panels

from foretell.data.frames import static_to_polars, to_polars
from foretell.data.gluonts import from_gluonts, to_gluonts
from foretell.data.panel import Panel
from foretell.data.readers import read_panel, read_table
from foretell.data.simulators import shop
from foretell.data.writers import to_arrow, to_csv, to_pandas, to_parquet
from foretell.errors import DataError, ParameterError

EVENTS = ["easter", "black_friday", "christmas"]
COLUMNS = {
    "past": ["page_views"],
    "known": ["price", "promotion"],
    "events": EVENTS,
    "censored": "censored",
}


@pytest.fixture(scope="module")
def sales() -> Panel:
    return shop(items=6, stores=2, weeks=40, horizon=4)[0]


@pytest.fixture
def table() -> pl.DataFrame:
    days = np.datetime64("2024-01-05") + 7 * np.arange(12)
    return pl.DataFrame({"unique_id": ["a"] * 12, "ds": days, "y": np.arange(12.0)})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_come_back_as_the_same_panel(sales, tmp_path, kind):
    files = {"csv": to_csv, "parquet": to_parquet}[kind](sales, tmp_path / f"sales.{kind}")
    assert set(files) == {"history", "future", "static"}
    again = read_panel(files["history"], future=files["future"], static=files["static"], **COLUMNS)
    assert_same(again, sales)


@given(panels())
def test_tables_in_memory_come_back_as_the_same_panel(panel):
    from foretell.data.frames import future_to_polars

    for convert in (to_pandas, to_arrow, to_polars, lambda p: to_polars(p).lazy()):
        again = read_panel(
            convert(panel),
            past=["views"],
            known=["price"],
            events=["sale"],
            censored="censored",
            future=future_to_polars(panel).to_pandas(),
            static=static_to_polars(panel).to_arrow(),
            frequency=panel.frequency,
        )
        assert_same(again, panel)


def test_other_column_names(table, tmp_path):
    renamed = table.rename({"unique_id": "sku", "ds": "week", "y": "units"})
    names = {"id_column": "sku", "time_column": "week", "target_column": "units"}
    panel = read_panel(renamed, **names)
    assert panel.fingerprint() == read_panel(table).fingerprint()
    files = to_csv(panel, tmp_path / "out.csv", **names)
    assert read_panel(files["history"], **names).fingerprint() == panel.fingerprint()


def test_a_panel_is_handed_back(sales):
    assert read_panel(sales) is sales


def test_pandas_tables_may_carry_the_id_in_the_index_and_periods(table):
    frame = table.to_pandas().set_index("unique_id")
    assert read_panel(frame).fingerprint() == read_panel(table).fingerprint()
    monthly = pd.DataFrame(
        {"unique_id": "a", "ds": pd.period_range("2024-01", periods=5, freq="M"), "y": range(5)}
    )
    assert read_panel(monthly).frequency.alias == "MS"


def test_mixed_time_zones_in_pandas_are_refused(table):
    frame = table.to_pandas()
    zones = ["Europe/Berlin", "UTC"]
    frame["ds"] = pd.Series(
        [t.tz_localize(zones[i % 2]) for i, t in enumerate(frame["ds"])], dtype=object
    )
    with pytest.raises(DataError, match="zones are mixed") as caught:
        read_panel(frame)
    assert (caught.value.column, caught.value.row) == ("ds", 1)


def test_text_among_numbers_in_pandas_is_refused(table):
    frame = table.to_pandas()
    frame["y"] = frame["y"].astype(object)
    frame.loc[4, "y"] = "many"
    with pytest.raises(DataError, match="'many'") as caught:
        read_panel(frame)
    assert caught.value.row == 4


# ------------------------------------------------------------------ CSV


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(table, tmp_path, separator):
    path = tmp_path / "sales.csv"
    table.write_csv(path, separator=separator)
    assert read_panel(path).fingerprint() == read_panel(table).fingerprint()


def test_a_wrong_delimiter_is_explained(table, tmp_path):
    path = tmp_path / "sales.csv"
    table.write_csv(path, separator=";")
    with pytest.raises(DataError, match="delimiter") as caught:
        read_panel(path, separator=",")
    assert caught.value.file == str(path)


def test_decimal_commas(tmp_path):
    path = tmp_path / "sales.csv"
    path.write_text("unique_id;ds;y\na;2024-01-01;1,5\na;2024-01-02;2,25\n")
    with pytest.raises(DataError, match="'1,5'"):
        read_panel(path)
    assert read_panel(path, decimal_comma=True).series(0).tolist() == [1.5, 2.25]


def test_encodings(tmp_path):
    path = tmp_path / "sales.csv"
    path.write_bytes("unique_id,ds,y\nmilk,2024-01-01,1\ncafé,2024-01-01,2\n".encode("latin-1"))
    with pytest.raises(DataError, match="not utf8 text \\(line 3") as caught:
        read_panel(path, frequency="D")
    assert "latin-1" in caught.value.hint
    assert list(read_panel(path, frequency="D", encoding="latin-1").ids) == ["milk", "café"]
    with pytest.raises(DataError, match="not klingon text"):
        read_panel(path, encoding="klingon")
    path.write_bytes(b"\xef\xbb\xbfunique_id,ds,y\r\na,2024-01-01,1\r\na,2024-01-02,2\r\n")
    assert read_panel(path).lengths.tolist() == [2]


def test_lines_that_end_in_cr_alone(tmp_path):
    path = tmp_path / "old.csv"
    path.write_bytes(b"unique_id,ds,y\ra,2024-01-01,1\ra,2024-01-02,2\r")
    assert read_panel(path).lengths.tolist() == [2]


def test_a_ragged_csv_is_refused(tmp_path):
    path = tmp_path / "sales.csv"
    path.write_text("unique_id,ds,y\na,2024-01-01,1,7,7\na,2024-01-02,2\n")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_panel(path)


def test_text_late_in_a_long_csv_is_found(tmp_path):
    path = tmp_path / "sales.csv"
    days = np.datetime64("1990-01-01") + np.arange(9000)
    lines = [f"a,{d},{i}" for i, d in enumerate(days)]
    lines[8500] = f"a,{days[8500]},closed"
    path.write_text("unique_id,ds,y\n" + "\n".join(lines))
    with pytest.raises(DataError, match="'closed'") as caught:
        read_panel(path)
    assert (caught.value.row, caught.value.file) == (8500, str(path))


@pytest.mark.parametrize("name", ["e.csv", "e.parquet", "e.arrow", "e.duckdb"])
def test_empty_files_are_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match="the file is empty"):
        read_panel(tmp_path / name)


def test_a_csv_of_a_header_alone_has_no_rows(tmp_path):
    path = tmp_path / "sales.csv"
    path.write_text("unique_id,ds,y\n")
    with pytest.raises(DataError, match="no rows"):
        read_panel(path)


# ------------------------------------------------------------------ Parquet, Arrow


def test_folders_and_globs_of_parquet(table, tmp_path):
    for i, part in enumerate((table[:5], table[5:])):
        (tmp_path / f"year={i}").mkdir()
        part.write_parquet(tmp_path / f"year={i}" / "part.parquet")
    expected = read_panel(table).fingerprint()
    assert read_panel(tmp_path).fingerprint() == expected
    assert read_panel(str(tmp_path / "*" / "*.parquet")).fingerprint() == expected
    with pytest.raises(DataError, match="no Parquet file"):
        read_panel(str(tmp_path / "*.nothing"))


def test_files_of_a_folder_must_fit_together(table, tmp_path):
    table.write_parquet(tmp_path / "a.parquet")
    table.rename({"y": "units"}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="other columns") as caught:
        read_panel(tmp_path)
    assert caught.value.file.endswith("b.parquet")
    table.with_columns(pl.lit("x").alias("y")).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="the column is String here and Float64") as caught:
        read_panel(tmp_path)
    assert caught.value.column == "y"


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.999])
def test_a_parquet_cut_off_is_refused(sales, tmp_path, share):
    path = tmp_path / "sales.parquet"
    to_parquet(sales, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match="damaged or cut off") as caught:
        read_panel(path)
    assert caught.value.file == str(path)


def test_arrow_files(table, tmp_path):
    path = tmp_path / "sales.arrow"
    table.write_ipc(path)
    assert read_panel(path).fingerprint() == read_panel(table).fingerprint()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="Arrow file cannot be read"):
        read_panel(path)


def test_missing_files_and_unknown_kinds(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_panel(tmp_path / "nowhere.csv")
    (tmp_path / "sales.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"'\.xlsx' are not known"):
        read_panel(tmp_path / "sales.xlsx")
    with pytest.raises(DataError, match="a int is not a table"):
        read_panel(7)


# ------------------------------------------------------------------ DuckDB


def test_duckdb_files_queries_and_relations(table, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "shop.duckdb"
    expected = read_panel(table).fingerprint()
    with duckdb.connect(str(path)) as database:
        database.register("frame", table)
        database.execute("CREATE TABLE sales AS SELECT * FROM frame")
        assert read_panel(database.sql("SELECT * FROM sales")).fingerprint() == expected
    assert read_panel(path).fingerprint() == expected
    panel = read_panel(path, query="SELECT unique_id, ds, y * 2 AS y FROM sales")
    assert panel.series(0)[3] == 6
    with pytest.raises(DataError, match="query or the database failed"):
        read_panel(path, query="SELECT nothing FROM nowhere")
    with duckdb.connect(str(path)) as database:
        database.execute("CREATE TABLE other AS SELECT 1 AS x")
    with pytest.raises(DataError, match="holds 2 tables"):
        read_panel(path)
    (tmp_path / "no.duckdb").write_bytes(b"this is no database" * 99)
    with pytest.raises(DataError, match="failed"):
        read_panel(tmp_path / "no.duckdb")
    with pytest.raises(ParameterError, match="DuckDB files"):
        read_panel(table, query="SELECT 1")


def test_without_duckdb_the_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "shop.duckdb"
    path.write_bytes(b"x")
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "duckdb":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DataError, match=r"foretell\[duckdb\]"):
        read_panel(path)


def test_tables_alone(table):
    assert read_table({"a": [1, 2]}).shape == (2, 1)
    assert read_table(pa.table({"a": [1, 2]})).shape == (2, 1)
    assert read_table(table.to_pandas()).shape == table.shape


# ------------------------------------------------------------------ GluonTS


@given(panels(aliases=("integer", "h", "30min", "D", "W-FRI", "W-SUN", "MS", "QS", "YS", "QS-FEB")))
def test_gluonts_dicts_come_back_as_the_same_series(panel):
    again = read_panel(list(to_gluonts(panel)))
    assert again.frequency == panel.frequency
    assert list(again.ids) == list(panel.ids)
    np.testing.assert_array_equal(again.starts, panel.starts)
    np.testing.assert_array_equal(again.target, panel.target)
    np.testing.assert_array_equal(again.known["known_0"], panel.known["price"])
    np.testing.assert_array_equal(again.known_lengths, panel.known_lengths)
    np.testing.assert_array_equal(again.past["past_0"], panel.past["views"])
    np.testing.assert_array_equal(again.static_real["static_real_0"], panel.static_real["size"])
    codes = [int(v) for v in again.static_categorical["static_cat_0"].values]
    assert codes == panel.static_categorical["colour"].codes.tolist()


@given(panels(aliases=("ME", "QE", "YE-JUN", "QE-NOV"), full=False))
def test_gluonts_periods_keep_month_ends_when_the_frequency_is_given(panel):
    again = from_gluonts(to_gluonts(panel), frequency=panel.frequency)
    assert_same(again, panel)


def entry(**changes):
    return {"item_id": "a", "start": pd.Period("2024-01-05", "D"), "target": [1.0, 2.0], **changes}


@pytest.mark.parametrize(
    "start", [pd.Timestamp("2024-01-05"), "2024-01-05", datetime(2024, 1, 5),
              np.datetime64("2024-01-05"), pd.Timestamp("2024-01-05", tz="Europe/Berlin"),
              datetime(2024, 1, 5, tzinfo=UTC)]
)  # fmt: skip
def test_gluonts_starts_in_any_form(start):
    panel = read_panel([entry(start=start)], frequency="D")
    assert panel.fingerprint() == read_panel([entry()]).fingerprint()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"start": "soon"}, "not a date"),
        ({"target": [1.0, np.inf]}, "infinite"),
        ({"target": ["x", "y"]}, "not numbers"),
        ({"target": [[1.0, 2.0]]}, "2 dimensions"),
        ({"feat_dynamic_real": [[1.0]]}, "ends too early"),
        ({"past_feat_dynamic_real": [[1.0]]}, "1 steps, the target 2"),
        ({"start": "2024-01-05 07:30"}, "off the grid"),
        ({"start": 3}, "not a date|off the grid"),
    ],
)
def test_wrong_gluonts_entries_name_the_series(changes, match):
    with pytest.raises(DataError, match=match) as caught:
        read_panel([entry(**changes)], frequency="D")
    assert caught.value.series == "a"


def test_wrong_gluonts_lists_are_refused():
    with pytest.raises(DataError, match="no series"):
        from_gluonts([])
    with pytest.raises(DataError, match="no 'target'"):
        from_gluonts([{"start": "2024-01-01"}])
    with pytest.raises(DataError, match="twice"):
        from_gluonts([entry(), entry()])
    with pytest.raises(DataError, match="does not tell the frequency"):
        from_gluonts([entry(start="2024-01-01")])
    known = entry(item_id="b", feat_dynamic_real=[[1.0, 2.0]])
    with pytest.raises(DataError, match="this one has"):
        from_gluonts([entry(), known])
    with pytest.raises(DataError, match="has no feat_dynamic_real"):
        from_gluonts([known, entry()])
    with pytest.raises(DataError, match="has 1 values, the first series 2"):
        from_gluonts([entry(feat_static_cat=[1, 2]), entry(item_id="b", feat_static_cat=[1])])


@given(st.integers(1, 30))
def test_a_generator_of_dicts_is_read(n):
    panel = read_panel(entry(item_id=str(i)) for i in range(n))
    assert len(panel) == n
