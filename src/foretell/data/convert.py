"""From a Parquet file larger than memory to a stored panel, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from foretell.data.columns import with_ids
from foretell.data.covariates import fill_known, with_static
from foretell.data.frames import from_polars
from foretell.data.frequency import Frequency
from foretell.data.panel import DataNote
from foretell.data.quality import LIVE_KINDS
from foretell.data.storage import PanelWriter, merge_notes
from foretell.errors import DataError


def convert_parquet(
    source: str | Path | Sequence[str | Path],
    folder: str | Path,
    *,
    id_column: str = "unique_id",
    time_column: str = "ds",
    target_column: str = "y",
    past: Sequence[str] = (),
    known: Sequence[str] = (),
    events: Sequence[str] = (),
    censored: str | None = None,
    future: pl.DataFrame | None = None,
    static: pl.DataFrame | None = None,
    frequency: str | Frequency | None = None,
    impute: Literal["forward"] | None = None,
    rows: int = 1_000_000,
    overwrite: bool = False,
) -> Path:
    """Converts Parquet files in which the rows of a series stand together.

    Memory holds about ``rows`` rows at a time (more when one series is longer), the static and the
    future table, and the names of the series. The checks are those of
    :func:`~foretell.data.frames.from_polars`.

    Args:
        source: a file, a folder of files or several files, read in order.
        folder: where the stored panel goes; open it with
            :func:`~foretell.data.storage.open_panel`.
        id_column: names the series; its rows must be adjacent, in any order of time.
        time_column: a date, datetime or integer column.
        target_column: the numeric target.
        past: numeric columns known only up to the present.
        known: numeric columns known ahead.
        events: those of ``known`` that are event indicators.
        censored: column that is true where a stock-out cut the sales.
        future: further rows of the known columns.
        static: attributes, one row a series.
        frequency: inferred from the first series when ``None``.
        impute: fills missing known covariates, see :func:`~foretell.data.covariates.fill_known`.
        rows: rows held in memory at a time.
        overwrite: whether a stored panel in ``folder`` may be replaced.

    Raises:
        DataError: a file is missing or damaged, a series' rows are not adjacent, or its values
            cannot be used.
    """
    files = _files(source)
    wanted = [id_column, time_column, target_column, *past, *known, *events]
    wanted += [censored] if censored else []
    if future is not None and id_column in future.columns:
        future = with_ids(future, id_column, "future table")
    seen: set[str] = set()
    notes: list[DataNote] = []
    with PanelWriter(folder, overwrite=overwrite) as writer:
        for file, offset, table in _whole_series(files, id_column, wanted, rows):
            names = table[id_column].unique(maintain_order=True)
            again = next((n for n in names if n in seen), None)
            if again is not None:
                first = int((table[id_column] == again).arg_max() or 0)
                raise DataError(
                    "the rows of a series do not stand together",
                    file=file,
                    column=id_column,
                    series=again,
                    row=offset + first,
                    hint=f"Sort the file by {id_column!r} first",
                )
            seen.update(names)
            own = future
            if future is not None and id_column in future.columns:
                own = future.filter(pl.col(id_column).is_in(names.implode()))
            try:
                part = from_polars(
                    table,
                    id_column=id_column,
                    time_column=time_column,
                    target_column=target_column,
                    past=past,
                    known=known,
                    events=events,
                    censored=censored,
                    future=own,
                    frequency=writer.frequency or frequency,
                    source=file,
                )
            except DataError as error:
                raise _moved(error, offset) from error
            if impute is not None:
                part = fill_known(part, impute)
            notes += [n for n in part.notes if n.kind not in LIVE_KINDS]
            writer.append(part)
        if static is not None:
            skeleton = writer.skeleton()
            skeleton = with_static(skeleton, static, id_column, source="static table")
            writer.static(skeleton.static_categorical, skeleton.static_real)
            notes += skeleton.notes
        writer.notes = merge_notes(notes)
    return Path(folder)


def _files(source: str | Path | Sequence[str | Path]) -> list[str]:
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            files = sorted(str(f) for f in path.rglob("*.parquet"))
        else:
            files = [str(path)]
    else:
        files = [str(f) for f in source]
    if not files:
        raise DataError("no Parquet file is there", file=str(source), hint="Name a file or folder")
    for file in files:
        if not Path(file).is_file():
            raise DataError("there is no such file", file=file, hint="Name a Parquet file")
    return files


def _whole_series(
    files: Sequence[str], id_column: str, wanted: Sequence[str], rows: int
) -> Iterator[tuple[str, int, pl.DataFrame]]:
    """Tables of whole series, with the file and row at which each begins."""
    rest: pl.DataFrame | None = None
    where, offset = files[0], 0
    for file in files:
        at = 0
        for batch in _batches(file, id_column, wanted, rows):
            table = with_ids(batch, id_column, file)
            if rest is None:
                where, offset = file, at
            else:
                table = pl.concat([rest, table], how="vertical_relaxed")
            at += batch.height
            last = table[id_column][-1]
            # The last series may go on in the next batch.
            begin = table.height - int((table[id_column] == last).reverse().arg_min() or 0)
            if table[id_column][0] == last and (table[id_column] == last).all():
                rest = table
                continue
            yield where, offset, table[:begin]
            where, offset = file, at - (table.height - begin)
            rest = table[begin:]
    if rest is not None and rest.height:
        yield where, offset, rest


def _batches(file: str, id_column: str, wanted: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
    try:
        with pq.ParquetFile(file) as parquet:
            have = parquet.schema_arrow.names
            if id_column not in have:
                raise DataError(
                    f"columns [{id_column!r}] are missing",
                    file=file,
                    hint=f"The table has {have[:20]}; name others by argument",
                )
            columns = [c for c in dict.fromkeys(wanted) if c in have]
            for batch in parquet.iter_batches(batch_size=rows, columns=columns):
                if batch.num_rows:
                    yield pl.DataFrame(pl.from_arrow(batch))
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"the Parquet file cannot be read; it is damaged or cut off ({reason})",
            file=file,
            hint="Write or copy it again",
        ) from error


def _moved(error: DataError, offset: int) -> DataError:
    places: dict[str, Any] = {"file": error.file, "column": error.column, "series": error.series}
    row = None if error.row is None else error.row + offset
    return DataError(error.problem, row=row, hint=error.hint, **places)
