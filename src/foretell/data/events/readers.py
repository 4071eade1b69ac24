"""One way in for logs of every kind: ``read_events(entities, outcomes, ...)``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foretell.data.events.event_log import EventLog
from foretell.data.events.storage import is_stored_events, open_events
from foretell.data.readers import read_table
from foretell.errors import ParameterError


def read_events(
    entities: Any,
    outcomes: Any = None,
    *,
    attribution_window: Any = None,
    id: str = "id",
    time: str = "t",
    kind: str | None = "kind",
    outcome_time: str = "t_outcome",
    unit: str | None = None,
    features: Sequence[str] | None = None,
    conversion: str = "conversion",
    revocation: str | None = None,
    deadline: str | None = None,
    kinds: Sequence[str] = (),
    max_early: float = 0.01,
    separator: str | None = None,
    encoding: str = "utf8",
    decimal_comma: bool = False,
) -> EventLog:
    """Reads a log from nearly anything that holds two tables.

    ``entities`` and ``outcomes`` may each be a polars, pandas or pyarrow table, a dict of columns,
    or the path of a CSV, Parquet or Arrow file, of a folder of Parquet files or a glob. A folder
    written by :func:`~foretell.data.events.storage.write_events`, or a log, is handed back as it
    is.

    Args:
        entities: see above.
        outcomes: see above; None where nothing happened yet.
        attribution_window: W; required, unless ``entities`` is a stored log, whose window it then
            replaces.
        id: see :meth:`EventLog.from_frames
            <foretell.data.events.event_log.EventLog.from_frames>` for this and what follows.
        time: column of exposure times.
        kind: column of outcome kinds.
        outcome_time: column of outcome times.
        unit: of numeric times.
        features: columns of features; all others where None.
        conversion: the kind that is the label.
        revocation: the kind that takes it back.
        deadline: column of moments after which no outcome counts.
        kinds: further kinds that may not have occurred yet.
        max_early: share of outcomes that may lie before exposure.
        separator: delimiter of CSV files; found from the first line when None.
        encoding: of CSV files.
        decimal_comma: whether CSV files write 1,5 for one and a half.

    Raises:
        DataError: a source cannot be read or its content cannot be used; says where and why.
    """
    stored = isinstance(entities, str | Path) and is_stored_events(Path(entities))
    if stored or isinstance(entities, EventLog):
        if outcomes is not None:
            raise ParameterError("a stored log holds its outcomes: pass no second table")
        log = open_events(entities) if stored else entities
        return log if attribution_window is None else log.with_window(attribution_window)
    if attribution_window is None:
        raise ParameterError("attribution_window is needed: how long after exposure outcomes count")

    def table(source: Any) -> Any:
        if not isinstance(source, str | Path):
            return source
        return read_table(
            source, separator=separator, encoding=encoding, decimal_comma=decimal_comma
        )

    return EventLog.from_frames(
        table(entities),
        None if outcomes is None else table(outcomes),
        attribution_window=attribution_window,
        id=id,
        time=time,
        kind=kind,
        outcome_time=outcome_time,
        unit=unit,
        features=features,
        conversion=conversion,
        revocation=revocation,
        deadline=deadline,
        kinds=kinds,
        max_early=max_early,
        source=str(entities) if isinstance(entities, str | Path) else None,
        outcome_source=str(outcomes) if isinstance(outcomes, str | Path) else None,
    )
