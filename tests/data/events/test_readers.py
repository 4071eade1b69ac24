from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from foretell.data import EventLog, read_events, write_events
from foretell.errors import DataError, ParameterError

ENTITIES = pl.DataFrame(
    {
        "offer": ["b", "a", "c"],
        "sent": ["2024-01-02 00:00", "2024-01-01 06:00", "2024-01-03 00:00"],
        "price": [1.5, None, 2.0],
        "shop": ["x", "y", "x"],
    }
)
OUTCOMES = pl.DataFrame(
    {
        "offer": ["a", "b", "b"],
        "what": ["click", "click", "buy"],
        "at": ["2024-01-01 08:00", "2024-01-02 02:00", "2024-01-05 00:00"],
    }
)
NAMES = {
    "id": "offer",
    "time": "sent",
    "kind": "what",
    "outcome_time": "at",
    "conversion": "buy",
    "attribution_window": "4d",
}


def sources(folder):
    ENTITIES.write_csv(folder / "e.csv", separator=";")
    OUTCOMES.write_csv(folder / "o.csv", separator=";")
    ENTITIES.write_parquet(folder / "e.parquet")
    OUTCOMES.write_parquet(folder / "o.parquet")
    ENTITIES.write_ipc(folder / "e.arrow")
    OUTCOMES.write_ipc(folder / "o.arrow")
    return {
        "polars": (ENTITIES, OUTCOMES),
        "lazy": (ENTITIES.lazy(), OUTCOMES.lazy()),
        "pandas": (ENTITIES.to_pandas(), OUTCOMES.to_pandas()),
        "pyarrow": (ENTITIES.to_arrow(), OUTCOMES.to_arrow()),
        "batch": (pa.record_batch(ENTITIES.to_arrow().to_batches()[0]), OUTCOMES.to_arrow()),
        "dict": (ENTITIES.to_dict(as_series=False), OUTCOMES.to_dict(as_series=False)),
        "csv": (folder / "e.csv", str(folder / "o.csv")),
        "parquet": (folder / "e.parquet", folder / "o.parquet"),
        "arrow": (folder / "e.arrow", folder / "o.arrow"),
    }


def test_every_kind_of_source_gives_the_same_log(tmp_path):
    prints = set()
    for name, (entities, outcomes) in sources(tmp_path).items():
        log = read_events(entities, outcomes, **NAMES)
        assert list(log.ids) == ["a", "b", "c"] and log.kinds == ("buy", "click"), name
        assert log.delay()[1] == 3 * 86_400 and log.categorical_features == ("shop",), name
        prints.add(log.fingerprint())
    assert len(prints) == 1


def test_stored_logs_are_opened(tmp_path):
    log = read_events(ENTITIES, OUTCOMES, **NAMES)
    write_events(log, tmp_path / "log")
    assert read_events(tmp_path / "log").fingerprint() == log.fingerprint()
    assert read_events(log) is log
    assert read_events(tmp_path / "log", attribution_window="1d").window == 86_400
    with pytest.raises(ParameterError, match="holds its outcomes"):
        read_events(tmp_path / "log", OUTCOMES)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ParameterError, match="attribution_window is needed"):
        read_events(ENTITIES, OUTCOMES)
    with pytest.raises(DataError, match=r"no\.csv"):
        read_events(tmp_path / "no.csv", **NAMES)
    ENTITIES.write_csv(tmp_path / "e.csv")
    OUTCOMES.with_columns(at=pl.lit("soon")).write_csv(tmp_path / "o.csv")
    with pytest.raises(DataError, match="'soon' is not a date") as caught:
        read_events(tmp_path / "e.csv", tmp_path / "o.csv", **NAMES)
    assert caught.value.file == str(tmp_path / "o.csv")
    assert isinstance(read_events(tmp_path / "e.csv", **NAMES), EventLog)


def test_a_table_of_nothing_but_a_header(tmp_path):
    ENTITIES.clear().write_csv(tmp_path / "e.csv")
    with pytest.raises(DataError, match=r"no rows.*e\.csv"):
        read_events(tmp_path / "e.csv", OUTCOMES, **NAMES)


def test_a_word_among_numbers_is_told():
    entities = {"id": [*range(30)], "t": [0.0] * 30, "price": [*map(str, range(29)), "n/a"]}
    log = EventLog.from_frames(entities, None, attribution_window=1.0)
    (note,) = [note for note in log.notes if note.kind == "numbers_as_text"]
    assert "'n/a' in row 29" in note.message
    codes = {**entities, "price": ["1", "2"] * 14 + ["1", "n/a"]}
    assert not EventLog.from_frames(codes, None, attribution_window=1.0).notes


def test_the_word_among_numeric_times_is_named():
    entities = {"id": [1, 2, 3], "t": ["0.5", "yesterday", "2"]}
    with pytest.raises(DataError, match=r"'yesterday' is no number.*row 1 "):
        EventLog.from_frames(entities, None, attribution_window=1.0, unit="h")
