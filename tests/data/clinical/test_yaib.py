"""Cohorts in the layout of YAIB."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from foretell.data.clinical import read_yaib, target
from foretell.errors import DataError


def write(folder, *, time=lambda t: float(t), label=True):
    rows = []
    for stay, hours in ((30001.0, 20), (30002.0, 9)):
        for t in range(hours):
            rows.append({
                "stay_id": stay, "time": time(t), "hr": 80.0 + t, "o2sat": None, "temp": 37.0,
                "fio2": 40.0 if t % 2 else 0.5, "crea": 1.2, "lact": float("nan"), "bun": 20.0,
                "cai": 1.1,
            })  # fmt: skip
    dynamic = pl.DataFrame(rows)
    dynamic.write_parquet(folder / "dyn.parquet")
    pl.DataFrame(
        {
            "stay_id": [30002.0, 30001.0], "age": [51, 70], "sex": ["Female", "Male"],
            "height": [160.0, None], "weight": [60.0, 80.0],
        }
    ).write_parquet(folder / "sta.parquet")  # fmt: skip
    if label:
        # Hours 4 to 16 of the first stay are positive: its onset is at time 10.
        on = (pl.col("stay_id") == 30001.0) & (pl.col("hr") >= 84) & (pl.col("hr") <= 96)
        dynamic.select("stay_id", "time", on.cast(pl.Int64).alias("label")).write_parquet(
            folder / "outc.parquet"
        )


@pytest.mark.parametrize("kind", ["float", "int", "duration", "text"])
def test_reads_the_three_files(tmp_path, kind):
    times = {"float": float, "int": int, "duration": lambda t: timedelta(hours=t), "text": str}
    write(tmp_path, time=times[kind])
    stays = read_yaib(tmp_path, hospital="eicu")
    assert stays.ids.tolist() == ["eicu/30001", "eicu/30002"]
    assert stays.lengths.tolist() == [20, 9] and stays.starts.tolist() == [1, 1]
    assert stays.column("HR")[:3].tolist() == [80, 81, 82]
    np.testing.assert_allclose(stays.column("FiO2")[:4], [0.5, 0.4, 0.5, 0.4])
    assert np.isnan(stays.column("Lactate")).all()
    assert stays.names("sex").tolist() == ["male", "female"]
    assert stays.number("age").tolist() == [70, 51]
    assert np.isnan(stays.number("height")[0])
    # Time 4 is known at hour 5; six hours later is the onset.
    assert stays.onset[0] == 11 and np.isnan(stays.onset[1])
    assert stays.labels()[:20].tolist() == [0] * 4 + [1] * 13 + [0] * 3
    wanted = target(stays, 4)
    assert np.flatnonzero(wanted.label).tolist() == [6, 7, 8, 9]
    assert any(n.kind == "unknown_column" and "cai" in str(n) for n in stays.notes)


def test_an_age_that_is_a_bound_is_read(tmp_path):
    write(tmp_path)
    told = pl.read_parquet(tmp_path / "sta.parquet").with_columns(age=pl.Series(["> 89", "old"]))
    told.write_parquet(tmp_path / "sta.parquet")
    stays = read_yaib(tmp_path)
    np.testing.assert_array_equal(stays.number("age"), [np.nan, 89])
    assert {"comparator", "text"} <= {note.kind for note in stays.notes}


def test_outcomes_of_whole_stays(tmp_path):
    write(tmp_path, label=False)
    pl.DataFrame({"stay_id": [30001, 30002], "label": [1, 0]}).write_parquet(
        tmp_path / "outc.parquet"
    )
    stays = read_yaib(tmp_path)
    assert stays.number("outcome").tolist() == [1, 0] and np.isnan(stays.onset).all()
    (tmp_path / "outc.parquet").unlink()
    assert len(read_yaib(tmp_path)) == 2


def test_refusals(tmp_path):
    with pytest.raises(DataError, match=r"dyn\.parquet"):
        read_yaib(tmp_path)
    write(tmp_path)
    (tmp_path / "sta.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="no readable Parquet"):
        read_yaib(tmp_path)
    pl.DataFrame({"stay_id": [1, 1], "age": [3, 4]}).write_parquet(tmp_path / "sta.parquet")
    with pytest.raises(DataError, match="twice"):
        read_yaib(tmp_path)
    pl.DataFrame({"stay": [1]}).write_parquet(tmp_path / "dyn.parquet")
    with pytest.raises(DataError, match="stay_id"):
        read_yaib(tmp_path)


def test_times_must_be_numbers(tmp_path):
    write(tmp_path, time=lambda t: "noon" if t == 3 else str(t))
    with pytest.raises(DataError, match="no number of hours"):
        read_yaib(tmp_path)
