"""Logs on disk: a folder of Arrow files that is mapped into memory, not read.

A folder holds ``events.json`` (format, clock, window, names) and one Arrow IPC file a column, each
with a single uncompressed record batch. Opening checks names, types, sizes and bytes, and costs the
same for ten entities and ten million. No file name is ever taken from ``events.json``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foretell.data.events.clock import checked_unit
from foretell.data.events.columns import EventColumns, Feature, OutcomeTimes
from foretell.data.events.event_log import EventLog
from foretell.data.panel import Categorical, DataNote
from foretell.errors import DataError, ForetellError

FORMAT, VERSION = "foretell.events", 1
_HEADER = "events.json"


def is_stored_events(folder: Path) -> bool:
    """Whether a folder was written by :func:`write_events`."""
    return (folder / _HEADER).is_file()


def write_events(log: EventLog, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a log to a folder for :func:`open_events`.

    What is written is what is seen: of a view neither entities nor outcomes after its ``now``. The
    folder appears when it is complete; a failure leaves none.

    Raises:
        DataError: the folder exists and ``overwrite`` is not set, or holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (overwrite and is_stored_events(folder)):
        raise DataError(
            "the folder exists already",
            file=str(folder),
            hint="Name another one, or pass overwrite=True to replace a stored log",
        )
    order = None
    if not log._sorted:
        # Storage keeps the order of (time, id), on which views rely.
        order = np.argsort(np.asarray(log.rows))
        log = log.select(order)
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        _write(partial / "ids.arrow", log._arrow_ids)
        _write(partial / "times.arrow", log.times)
        if log._columns.deadlines is not None:
            _write(partial / "deadlines.arrow", log._columns.deadlines[log.rows])
        features: list[dict[str, Any]] = []
        for i, (name, values) in enumerate(log._columns.features.items()):
            if isinstance(values, Categorical):
                features.append({"name": name, "vocabulary": list(values.vocabulary)})
                _write(partial / f"feature_{i}.arrow", values.codes[log.rows].astype(np.int32))
            else:
                features.append({"name": name, "type": str(values.dtype)})
                _write(partial / f"feature_{i}.arrow", values[log.rows])
        for i, kind in enumerate(log.kinds):
            owner, times = log._visible(kind)
            outcomes = OutcomeTimes.from_rows(owner, times, len(log))
            _write(partial / f"outcome_{i}_begins.arrow", outcomes.begins)
            _write(partial / f"outcome_{i}_times.arrow", outcomes.times)
            _write(partial / f"outcome_{i}_first.arrow", outcomes.first)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "entities": len(log),
            "window": log.window,
            "unit": log.unit,
            "calendar": log.calendar,
            "conversion": log.conversion,
            "revocation": log.revocation,
            "now": None if np.isinf(log.now) else log.now,
            "kinds": list(log.kinds),
            "deadlines": log._columns.deadlines is not None,
            "features": features,
            "notes": [vars(note) for note in log.notes],
            "bytes": {f.name: f.stat().st_size for f in sorted(partial.iterdir())},
        }
        text = json.dumps(header, indent=1, ensure_ascii=False)
        (partial / _HEADER).write_text(text, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def open_events(folder: str | Path) -> EventLog:
    """Opens a folder of :func:`write_events` without reading its columns.

    Raises:
        DataError: the folder is missing, damaged, incomplete or newer than this library.
    """
    folder = Path(folder)
    header = _header(folder)
    try:
        size = int(header["entities"])
        window, unit = float(header["window"]), header["unit"]
        now = np.inf if header["now"] is None else float(header["now"])
        kinds = [str(k) for k in header["kinds"]]
        features = [dict(f) for f in header["features"]]
        sizes = {str(k): int(v) for k, v in header["bytes"].items()}
        notes = tuple(DataNote(**note) for note in header["notes"])
        conversion, revocation = header["conversion"], header["revocation"]
        if not 0 < window < np.inf or checked_unit(unit) != unit or kinds[0] != conversion:
            raise ValueError("the window, the unit or the kinds are not possible")
        if not isinstance(conversion, str) or not isinstance(revocation, str | None):
            raise TypeError("a kind is not text")
        names = [f["name"] for f in features]
        vocabularies = [w for f in features for w in f.get("vocabulary", ())]
        if len(set(names)) != len(names) or not all(
            isinstance(w, str) for w in [*names, *vocabularies]
        ):
            raise TypeError("the names of features are not different texts")
        calendar, given = bool(header["calendar"]), bool(header["deadlines"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ForetellError) as error:
        raise _damaged(folder / _HEADER, f"{type(error).__name__}: {error}") from error

    def column(file: str, count: int | None, *types: pa.DataType) -> pa.Array:
        return _column(folder / f"{file}.arrow", sizes, count, types)

    def numbers(file: str, kind: pa.DataType, count: int | None = size) -> NDArray:
        return column(file, count, kind).to_numpy(zero_copy_only=True)

    columns: dict[str, Feature] = {}
    for i, described in enumerate(features):
        if "vocabulary" in described:
            codes = numbers(f"feature_{i}", pa.int32())
            columns[described["name"]] = Categorical(codes, tuple(described["vocabulary"]))
        else:
            kind = pa.float32() if described.get("type") == "float32" else pa.float64()
            columns[described["name"]] = numbers(f"feature_{i}", kind)
    outcomes = {}
    for i, name in enumerate(kinds):
        begins = numbers(f"outcome_{i}_begins", pa.int64(), size + 1)
        times = numbers(f"outcome_{i}_times", pa.float64(), None)
        if begins[0] != 0 or begins[-1] != len(times):
            raise _damaged(folder / f"outcome_{i}_begins.arrow", "it does not fit the times")
        outcomes[name] = OutcomeTimes(begins, times, numbers(f"outcome_{i}_first", pa.float64()))
    arrays = EventColumns(
        column("ids", size, pa.int64(), pa.large_string()),
        numbers("times", pa.float64()),
        numbers("deadlines", pa.float64()) if given else None,
        columns,
        outcomes,
    )
    return EventLog(arrays, window, conversion, unit, calendar, revocation, now, notes=notes)


def _write(path: Path, values: NDArray | pa.Array) -> None:
    array = values if isinstance(values, pa.Array) else pa.array(np.ascontiguousarray(values))
    batch = pa.record_batch([array], names=["value"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _column(
    path: Path, sizes: dict[str, int], count: int | None, types: tuple[pa.DataType, ...]
) -> pa.Array:
    if not path.is_file():
        raise _damaged(path, "the file is missing")
    size = path.stat().st_size
    if sizes.get(path.name) != size:
        raise _damaged(path, f"it has {size:,} bytes where {sizes.get(path.name)} were written")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
        if reader.num_record_batches != 1:
            raise _damaged(path, f"it holds {reader.num_record_batches} batches, not 1")
        batch = reader.get_batch(0)
        batch.validate()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(path, str(error).splitlines()[0][:200]) from error
    if batch.num_columns != 1 or batch.schema.field(0).type not in types:
        raise _damaged(path, f"it should hold values of type {types[0]}")
    array = batch.column(0)
    if array.null_count or (count is not None and len(array) != count):
        raise _damaged(path, f"it holds {len(array):,} values, or a missing one, not {count}")
    return array


def _header(folder: Path) -> dict[str, Any]:
    path = folder / _HEADER
    if not path.is_file():
        raise DataError(
            "the folder holds no stored log",
            file=str(folder),
            hint="Name a folder written by write_events",
        )
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _damaged(path, f"its format is not {FORMAT!r}")
    version = header.get("version")
    if not isinstance(version, int) or version < 1:
        raise _damaged(path, f"its version is {version!r}")
    if version > VERSION:
        raise DataError(
            f"the log has format version {version}; this library reads up to {VERSION}",
            file=str(path),
            hint="Update foretell",
        )
    return header


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"the stored log is damaged: {reason}", file=str(path), hint="Write it again")
