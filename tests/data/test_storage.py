from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panel_strategies import assert_same, panels

from foretell.data.convert import convert_parquet
from foretell.data.frames import future_to_polars, static_to_polars, to_polars
from foretell.data.quality import problems
from foretell.data.readers import read_panel
from foretell.data.simulators import shop
from foretell.data.storage import PanelWriter, is_stored_panel, open_panel, write_panel
from foretell.errors import DataError

COLUMNS = {"past": ["views"], "known": ["price"], "events": ["sale"], "censored": "censored"}


@given(panel=panels())
def test_a_stored_panel_comes_back(tmp_path_factory, panel):
    folder = write_panel(panel, tmp_path_factory.mktemp("p") / "panel")
    again = open_panel(folder)
    assert_same(again, panel)
    assert again.notes == panel.notes
    assert_same(read_panel(folder), panel)
    backwards = np.arange(len(panel))[::-1]
    assert again.select(backwards).fingerprint() == panel.select(backwards).fingerprint()


@given(panel=panels(), back=st.integers(1, 9))
def test_cuts_and_selections_are_stored_as_they_are_seen(tmp_path_factory, panel, back):
    seen = panel.cut(back).select(np.arange(len(panel))[::-1])
    again = open_panel(write_panel(seen, tmp_path_factory.mktemp("p") / "panel"))
    assert_same(again, seen)
    assert again.target.size == seen.lengths.sum()


def test_windows_of_a_mapped_panel_are_those_in_memory(tmp_path):
    panel, _ = shop(items=10)
    mapped = open_panel(write_panel(panel, tmp_path / "panel"))
    rng = np.random.default_rng(0)
    rows, stops = rng.integers(len(panel), size=200), rng.integers(0, 160, 200)
    np.testing.assert_array_equal(mapped.windows(rows, stops, 52), panel.windows(rows, stops, 52))
    args = ("price", rows, stops + 13, 60)
    np.testing.assert_array_equal(mapped.known_windows(*args), panel.known_windows(*args))
    mapped.require_known(13)
    assert problems(mapped).equals(problems(panel))


def test_a_mapped_panel_is_not_read_into_memory(tmp_path):
    steps = 4_000_000
    from foretell.data.panel import Panel

    values = np.arange(steps, dtype=np.float32).reshape(1000, -1)
    write_panel(Panel.from_arrays(values), tmp_path / "panel")
    tracemalloc.start()
    panel = open_panel(tmp_path / "panel")
    panel.windows(np.arange(1000), np.full(1000, 300), 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 8
    assert not panel.target.flags.writeable and not panel.target.flags.owndata


def test_existing_folders_are_kept_unless_overwritten(tmp_path):
    panel, _ = shop(items=2, stores=1)
    folder = write_panel(panel, tmp_path / "panel")
    with pytest.raises(DataError, match="exists already"):
        write_panel(panel, folder)
    write_panel(panel.cut(3), folder, overwrite=True)
    assert open_panel(folder).lengths.max() == panel.lengths.max() - 3
    other = tmp_path / "holiday photos"
    other.mkdir()
    with pytest.raises(DataError, match="exists already"):
        write_panel(panel, other, overwrite=True)


def test_a_failure_leaves_no_folder(tmp_path):
    panel, _ = shop(items=2, stores=1)
    with pytest.raises(RuntimeError), PanelWriter(tmp_path / "panel") as writer:
        writer.append(panel)
        raise RuntimeError("power cut")
    assert list(tmp_path.iterdir()) == []


def test_parts_must_fit_together(tmp_path):
    panel, _ = shop(items=2, stores=1)
    from dataclasses import replace

    with pytest.raises(DataError, match="the ones before"), PanelWriter(tmp_path / "p") as writer:
        writer.append(panel)
        writer.append(replace(panel, past={}))
    with pytest.raises(DataError, match="no series"), PanelWriter(tmp_path / "p"):
        pass


# ------------------------------------------------------------------ damaged folders


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_panel(shop(items=3, stores=1)[0], tmp_path / "panel")


def test_every_file_may_be_missing_or_cut(folder):
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        file.unlink()
        with pytest.raises(DataError):
            open_panel(folder)
        for size in (0, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:size])
            with pytest.raises(DataError, match=r"damaged|no stored panel"):
                open_panel(folder)
        file.write_bytes(data)
    open_panel(folder)


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_never_crash(folder, seed):
    rng = np.random.default_rng(seed)
    file = sorted(folder.iterdir())[seed % len(list(folder.iterdir()))]
    data = bytearray(file.read_bytes())
    edges = np.r_[np.arange(min(600, len(data))), np.arange(max(0, len(data) - 600), len(data))]
    for place in rng.choice(edges, 20):
        data[place] = rng.integers(256)
    file.write_bytes(bytes(data))
    try:
        panel = open_panel(folder)
        panel.windows(np.arange(len(panel)), panel.lengths, 5)
    except DataError:
        pass


def damage(folder: Path, **changes) -> None:
    header = json.loads((folder / "panel.json").read_text())
    (folder / "panel.json").write_text(json.dumps({**header, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "something.else"},
        {"version": "one"},
        {"version": 0},
        {"frequency": {"kind": "fixed", "step": 0}},
        {"frequency": {"kind": "lunar", "step": 1}},
        {"frequency": 7},
        {"past": ["../../etc/passwd", "page_views"]},
        {"known": "price"},
        {"events": ["ramadan"]},
        {"vocabularies": {"item": []}},
        {"vocabularies": {"item": [1, 2, 3]}},
        {"vocabularies": []},
        {"notes": [{"kind": "x", "wrong": 1}]},
        {"bytes": {}},
        {"real": ["regular_price", "more"]},
    ],
)
def test_a_forged_header_is_refused(folder, changes):
    damage(folder, **changes)
    with pytest.raises(DataError, match="damaged"):
        open_panel(folder)


def test_a_newer_format_is_refused(folder):
    damage(folder, version=2)
    with pytest.raises(DataError, match=r"reads up to 1.*Update"):
        open_panel(folder)


def test_forged_lengths_are_refused(folder):
    import pyarrow as pa

    from foretell.data.arrow_folder import write_batch

    path = folder / "series.arrow"
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().to_pydict()
    for lengths in ([-5, 5, 5], [2**62, 2**62, 2**62], [10**6] * 3):
        columns = {k: pa.array(v) for k, v in table.items()}
        columns["length"] = pa.array(lengths, pa.int64())
        for name in columns:
            if name.startswith("category"):
                columns[name] = columns[name].cast(pa.int32())
            if name.startswith("real"):
                columns[name] = columns[name].cast(pa.float32())
        path.unlink()
        write_batch(path, columns)
        header = json.loads((folder / "panel.json").read_text())
        damage(folder, bytes={**header["bytes"], "series.arrow": path.stat().st_size})
        with pytest.raises(DataError, match="damaged"):
            open_panel(folder)


def test_a_folder_of_something_else(tmp_path):
    assert not is_stored_panel(tmp_path)
    with pytest.raises(DataError, match="no stored panel"):
        open_panel(tmp_path)


# ------------------------------------------------------------------ conversion


@given(panel=panels(), rows=st.integers(1, 20), groups=st.integers(1, 7))
def test_conversion_in_pieces_gives_the_same_panel(tmp_path_factory, panel, rows, groups):
    folder = tmp_path_factory.mktemp("c")
    table = to_polars(panel)
    table.write_parquet(folder / "sales.parquet", row_group_size=groups)
    convert_parquet(
        folder / "sales.parquet",
        folder / "panel",
        **COLUMNS,
        future=future_to_polars(panel),
        static=static_to_polars(panel),
        frequency=panel.frequency,
        rows=rows,
    )
    again = open_panel(folder / "panel")
    assert_same(again, panel)
    count = {n.kind: n.count for n in again.notes}
    assert count.get("missing_target", 0) == int(np.isnan(panel.target).sum())


def sorted_sales(tmp_path: Path, table: pl.DataFrame, **kwargs) -> Path:
    table.write_parquet(tmp_path / "sales.parquet", row_group_size=20)
    return convert_parquet(tmp_path / "sales.parquet", tmp_path / "panel", rows=30, **kwargs)


@pytest.fixture
def long_table() -> pl.DataFrame:
    panel, _ = shop(items=5, stores=2, weeks=40, horizon=0, new_share=0)
    return to_polars(panel).select("unique_id", "ds", "y", "price", "christmas")


def test_conversion_of_several_files_and_a_calendar(tmp_path, long_table):
    parts = tmp_path / "parts"
    parts.mkdir()
    for i, a in enumerate(range(0, 400, 130)):  # series run across files
        long_table[a : a + 130].write_parquet(parts / f"{i}.parquet")
    last = long_table["ds"].max()
    calendar = pl.DataFrame({"ds": [last], "christmas": [0.0]}).with_columns(
        pl.col("ds").dt.offset_by("2w")
    )
    convert_parquet(parts, tmp_path / "panel", events=["christmas"], future=calendar, rows=50)
    panel = open_panel(tmp_path / "panel")
    assert panel.lengths.tolist() == [40] * 10 and panel.known_lengths.tolist() == [42] * 10
    np.testing.assert_array_equal(panel.target, long_table["y"].to_numpy().astype(np.float32))


def test_series_that_are_not_together_are_refused(tmp_path, long_table):
    table = pl.concat([long_table[5:], long_table[:5]])
    with pytest.raises(DataError, match=r"do not stand together.*Sort") as caught:
        sorted_sales(tmp_path, table)
    assert caught.value.series == long_table["unique_id"][0] and caught.value.row == 395
    assert not (tmp_path / "panel").exists()


def test_rows_in_errors_are_those_of_the_file(tmp_path, long_table):
    table = long_table.with_columns(
        pl.when(pl.int_range(pl.len()) == 333).then(np.inf).otherwise(pl.col("y")).alias("y")
    )
    with pytest.raises(DataError, match="infinite") as caught:
        sorted_sales(tmp_path, table)
    assert caught.value.row == 333 and caught.value.series == table["unique_id"][333]
    assert list(tmp_path.iterdir()) == [tmp_path / "sales.parquet"]


def test_wrong_parquet_files_are_refused(tmp_path, long_table):
    with pytest.raises(DataError, match="are missing"):
        sorted_sales(tmp_path, long_table.rename({"y": "units"}))
    with pytest.raises(DataError, match="are missing"):
        sorted_sales(tmp_path, long_table.rename({"unique_id": "sku"}))
    path = tmp_path / "sales.parquet"
    long_table.write_parquet(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="damaged or cut off"):
        convert_parquet(path, tmp_path / "panel")
    with pytest.raises(DataError, match="no such file"):
        convert_parquet(tmp_path / "none.parquet", tmp_path / "panel")
    with pytest.raises(DataError, match="no series"):
        sorted_sales(tmp_path, long_table[:0])
    with pytest.raises(DataError, match="missing from the static table"):
        sorted_sales(tmp_path, long_table, static=pl.DataFrame({"unique_id": ["x"], "a": [1]}))


def test_gaps_are_filled_on_the_way_where_asked(tmp_path, long_table):
    table = long_table.with_row_index("i").filter(pl.col("i") % 40 != 7).drop("i")
    sorted_sales(tmp_path, table, known=["price"], impute="forward")
    panel = open_panel(tmp_path / "panel")
    panel.cut(1).require_known(1)
    count = {n.kind: n.count for n in panel.notes}
    assert count["gap"] == 10 and count["filled_known"] == 10


def test_names_that_are_no_text_are_refused(folder):
    """A flipped bit in the name of a column: an error of the library, not of the codec."""
    path = folder / "target.arrow"
    path.write_bytes(path.read_bytes().replace(b"value", b"\xffalue"))
    with pytest.raises(DataError, match="damaged"):
        open_panel(folder).target.sum()
