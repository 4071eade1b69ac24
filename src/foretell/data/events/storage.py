"""Logs on disk: a folder of Arrow files that is mapped into memory, not read.

A folder holds ``events.json`` (format, clock, window, names) and one Arrow IPC file a column, each
with a single uncompressed record batch. Opening checks names, types, sizes and bytes, and costs the
same for ten entities and ten million. No file name is ever taken from ``events.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foretell.data.arrow_folder import ArrowFolder, write_column
from foretell.data.events.clock import checked_unit
from foretell.data.events.columns import EventColumns, Feature, OutcomeTimes
from foretell.data.events.event_log import EventLog
from foretell.data.panel import Categorical, DataNote
from foretell.errors import ForetellError

_FOLDER = ArrowFolder("foretell.events", 1, "events.json", "log", "write_events")


def is_stored_events(folder: Path) -> bool:
    """Whether a folder was written by :func:`write_events`."""
    return _FOLDER.is_here(folder)


def write_events(log: EventLog, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a log to a folder for :func:`open_events`.

    What is written is what is seen: of a view neither entities nor outcomes after its ``now``. The
    folder appears when it is complete; a failure leaves none.

    Raises:
        DataError: the folder exists and ``overwrite`` is not set, or holds something else.
    """
    folder = Path(folder)
    order = None
    if not log._sorted:
        # Storage keeps the order of (time, id), on which views rely.
        order = np.argsort(np.asarray(log.rows))
        log = log.select(order)
    with _FOLDER.writing(folder, overwrite=overwrite) as partial:
        write_column(partial / "ids.arrow", log._arrow_ids)
        write_column(partial / "times.arrow", log.times)
        if log._columns.deadlines is not None:
            write_column(partial / "deadlines.arrow", log._columns.deadlines[log.rows])
        features: list[dict[str, Any]] = []
        for i, (name, values) in enumerate(log._columns.features.items()):
            if isinstance(values, Categorical):
                features.append({"name": name, "vocabulary": list(values.vocabulary)})
                write_column(
                    partial / f"feature_{i}.arrow", values.codes[log.rows].astype(np.int32)
                )
            else:
                features.append({"name": name, "type": str(values.dtype)})
                write_column(partial / f"feature_{i}.arrow", values[log.rows])
        for i, kind in enumerate(log.kinds):
            owner, times = log._visible(kind)
            outcomes = OutcomeTimes.from_rows(owner, times, len(log))
            write_column(partial / f"outcome_{i}_begins.arrow", outcomes.begins)
            write_column(partial / f"outcome_{i}_times.arrow", outcomes.times)
            write_column(partial / f"outcome_{i}_first.arrow", outcomes.first)
        content = {
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
        }
        _FOLDER.finish(partial, folder, content)
    return folder


def open_events(folder: str | Path) -> EventLog:
    """Opens a folder of :func:`write_events` without reading its columns.

    Raises:
        DataError: the folder is missing, damaged, incomplete or newer than this library.
    """
    folder = Path(folder)
    header = _FOLDER.read_header(folder)
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
        raise _FOLDER.damaged(
            folder / _FOLDER.header, f"{type(error).__name__}: {error}"
        ) from error

    def column(file: str, count: int | None, *types: pa.DataType) -> pa.Array:
        return _FOLDER.read_column(folder / f"{file}.arrow", sizes, count, *types)

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
            raise _FOLDER.damaged(folder / f"outcome_{i}_begins.arrow", "it does not fit the times")
        outcomes[name] = OutcomeTimes(begins, times, numbers(f"outcome_{i}_first", pa.float64()))
    arrays = EventColumns(
        column("ids", size, pa.int64(), pa.large_string()),
        numbers("times", pa.float64()),
        numbers("deadlines", pa.float64()) if given else None,
        columns,
        outcomes,
    )
    return EventLog(arrays, window, conversion, unit, calendar, revocation, now, notes=notes)
