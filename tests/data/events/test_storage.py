from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from event_strategies import build, protocol_of, rows_of, tables
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.data import EventLog, open_events, write_events
from foretell.errors import DataError


def small() -> EventLog:
    return EventLog.from_frames(
        {"id": ["b", "a", "ü"], "t": [3.0, 1.0, 3.0], "x": [1, None, 3], "c": ["u", None, "v"]},
        {"id": ["a", "b"], "kind": ["conversion", "view"], "t_outcome": [6.0, 9.0]},
        attribution_window="10h",
        unit="h",
    )


@settings(max_examples=25)
@given(tables(), st.integers(0, 40), st.booleans())
def test_what_is_written_is_what_is_seen(tmp_path_factory, given_tables, now, shuffled):
    folder = tmp_path_factory.mktemp("events") / "log"
    log = build(*given_tables).until(now)
    written = log.select(np.arange(len(log))[::-1]) if shuffled else log
    opened = open_events(write_events(written, folder))
    assert opened.fingerprint() == log.fingerprint()
    assert opened.until(99).fingerprint() == log.fingerprint(), "later outcomes are not stored"
    assert opened.notes == log.notes and opened.kinds == log.kinds
    for protocol in ("esdfm", "funnel", "defer"):
        rows = opened.emit(protocol_of(protocol, 2))
        assert rows_of(rows) == rows_of(log.emit(protocol_of(protocol, 2)))


def test_columns_are_mapped_not_read(tmp_path):
    log = open_events(write_events(small(), tmp_path / "log"))
    for values in (
        log._columns.times,
        log._columns.features["x"],
        log._columns.features["c"].codes,
    ):
        assert not values.flags.owndata and not values.flags.writeable
    assert log.until(5).label().tolist() == [0, 0, 0] and list(log.ids) == ["a", "b", "ü"]


def test_a_folder_that_is_there_is_kept(tmp_path):
    folder = write_events(small(), tmp_path / "log")
    with pytest.raises(DataError, match="exists already"):
        write_events(small(), folder)
    write_events(small().until(2), folder, overwrite=True)
    assert len(open_events(folder)) == 1
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(DataError, match="exists already"):
        write_events(small(), other, overwrite=True)
    with pytest.raises(DataError, match="holds no stored log"):
        open_events(other)


def test_damage_is_found(tmp_path):
    good = write_events(small(), tmp_path / "good")
    names = sorted(f.name for f in good.iterdir())
    assert "events.json" in names and "times.arrow" in names
    for name in names:
        folder = tmp_path / f"bad_{name}"
        shutil.copytree(good, folder)
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: len(raw) // 2])
        with pytest.raises(DataError, match=r"damaged|no stored log"):
            open_events(folder)
        (folder / name).unlink()
        with pytest.raises(DataError, match=r"damaged|no stored log"):
            open_events(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format"),
        ({"version": 99}, "Update foretell"),
        ({"version": "1"}, "version"),
        ({"window": -1}, "not possible"),
        ({"unit": "fortnight"}, "fortnight"),
        ({"kinds": []}, "damaged"),
        ({"kinds": ["conversion", "view", "../../x"]}, "missing"),
        ({"entities": 4}, "where 4 should be"),
        ({"features": [{"name": 3, "type": "float64"}]}, "different texts"),
        ({"features": [{"name": "x", "vocabulary": ["u"]}]}, "int32"),
        ({"bytes": {}}, "bytes where None"),
        ({"notes": [{"a": 1}]}, "damaged"),
    ],
)
def test_a_forged_header_is_refused(tmp_path, change, message):
    folder = write_events(small(), tmp_path / "log")
    header = json.loads((folder / "events.json").read_text())
    (folder / "events.json").write_text(json.dumps({**header, **change}))
    with pytest.raises(DataError, match=message):
        open_events(folder)
