"""One way in for tables of every kind: ``read_panel(source, ...)``."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from foretell.data.covariates import fill_known
from foretell.data.frames import from_polars
from foretell.data.frequency import Frequency
from foretell.data.gluonts import from_gluonts
from foretell.data.panel import Panel
from foretell.data.storage import is_stored_panel, open_panel
from foretell.errors import DataError, ParameterError

_PARQUET = (".parquet", ".pq")
_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")
_ARROW = (".arrow", ".feather", ".ipc")
_DUCKDB = (".duckdb", ".ddb", ".db")
_GLOB = frozenset("*?[")


def read_panel(
    source: Any,
    *,
    id_column: str = "unique_id",
    time_column: str = "ds",
    target_column: str = "y",
    past: Sequence[str] = (),
    known: Sequence[str] = (),
    events: Sequence[str] = (),
    censored: str | None = None,
    future: Any = None,
    static: Any = None,
    frequency: str | Frequency | None = None,
    impute: Literal["forward"] | None = None,
    query: str | None = None,
    separator: str | None = None,
    encoding: str = "utf8",
    decimal_comma: bool = False,
) -> Panel:
    """Reads a panel from nearly anything that holds a long table.

    ``source`` may be a polars, pandas or pyarrow table; the path of a CSV, Parquet or Arrow file,
    of a folder of Parquet files or a glob; a DuckDB database file with ``query``, or a DuckDB
    relation; a folder written by :func:`~foretell.data.storage.write_panel`; an iterable of
    GluonTS dicts; or a panel, which is handed back. ``future`` and ``static`` may be any table of
    these kinds.

    Args:
        source: see above.
        id_column: names the series.
        time_column: dates, moments or integers.
        target_column: what is forecast, a number; empty means not observed.
        past: numeric columns known only up to the present.
        known: numeric columns known ahead.
        events: those of ``known`` that are 0/1 indicators of named events.
        censored: column that is true where a stock-out cut the sales.
        future: rows of the ``known`` columns beyond the target and within gaps.
        static: attributes, one row a series.
        frequency: a pandas-style alias; inferred when ``None``.
        impute: ``"forward"`` fills missing known covariates, see
            :func:`~foretell.data.covariates.fill_known`; ``None`` leaves them missing, which
            training refuses.
        query: SQL over the tables of a DuckDB file; a file without it must hold one table.
        separator: delimiter of a CSV file; found from its first line when ``None``.
        encoding: of a CSV file, e.g. ``"utf8"`` or ``"latin-1"``.
        decimal_comma: whether a CSV file writes 1,5 for one and a half.

    Raises:
        DataError: the source cannot be read or its content cannot be used; says where and why.
    """
    if isinstance(source, Panel):
        return source
    if isinstance(source, (str, Path)) and is_stored_panel(Path(source)):
        return open_panel(source)
    if _is_dicts(source):
        return from_gluonts(source, frequency=frequency)
    options: dict[str, Any] = {
        "separator": separator,
        "encoding": encoding,
        "decimal_comma": decimal_comma,
    }
    name = str(source) if isinstance(source, (str, Path)) else None
    if query is not None and (name is None or not name.lower().endswith(_DUCKDB)):
        raise ParameterError("query= is for DuckDB files; give a connection's result as source")
    events = tuple(events)
    table = read_table(source, query=query, **options)
    panel = from_polars(
        table,
        id_column=id_column,
        time_column=time_column,
        target_column=target_column,
        past=past,
        known=known,
        events=events,
        censored=censored,
        future=None if future is None else read_table(future, **options),
        static=None if static is None else read_table(static, **options),
        frequency=frequency,
        source=name,
    )
    return panel if impute is None else fill_known(panel, impute)


def read_table(
    source: Any,
    *,
    query: str | None = None,
    separator: str | None = None,
    encoding: str = "utf8",
    decimal_comma: bool = False,
) -> pl.DataFrame:
    """A polars table of any of the kinds that :func:`read_panel` takes.

    Raises:
        DataError: the source does not exist, is empty, damaged or of an unknown kind.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if _GLOB & set(str(source)) and not path.exists():
            return _parquet_files(sorted(glob.glob(str(source), recursive=True)), str(source))
        if not path.exists():
            raise DataError(
                "there is no such file", file=str(source), hint=f"The folder is {Path.cwd()}"
            )
        if path.is_dir():
            files = sorted(str(f) for f in path.rglob("*") if f.suffix in _PARQUET)
            return _parquet_files(files, str(path))
        if path.stat().st_size == 0:
            raise DataError("the file is empty", file=str(path), hint="Give a table with rows")
        lower = path.name.lower()
        if lower.endswith(_PARQUET):
            return _parquet_files([str(path)], str(path))
        if lower.endswith(_DUCKDB):
            return _duckdb_file(path, query)
        if lower.endswith(_ARROW):
            return _arrow_file(path)
        if lower.endswith(_TEXT):
            return _csv(path, separator, encoding, decimal_comma)
        raise DataError(
            f"files that end in {path.suffix!r} are not known",
            file=str(path),
            hint=f"Known are {', '.join([*_PARQUET, *_TEXT, *_ARROW, *_DUCKDB])}",
        )
    return _frame(source)


def _frame(source: Any) -> pl.DataFrame:
    """Tables in memory, told apart without importing what is not installed."""
    if isinstance(source, pl.DataFrame):
        return source
    if isinstance(source, pl.LazyFrame):
        return source.collect()
    library = type(source).__module__.partition(".")[0]
    try:
        if library in ("duckdb", "_duckdb"):
            return source.pl()
        if library == "pyarrow":
            return pl.DataFrame(pl.from_arrow(source))
        if library == "pandas":
            return _from_pandas(source)
        if isinstance(source, Mapping):
            return pl.DataFrame(dict(source))
        if hasattr(source, "__arrow_c_stream__"):
            return pl.DataFrame(source)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"the {type(source).__name__} cannot be read as a table: {error}",
            hint="Give every column one type",
        ) from error
    raise DataError(
        f"a {type(source).__name__} is not a table that can be read",
        hint="Give a polars, pandas or pyarrow table, a path, a DuckDB relation or GluonTS dicts",
    )


def _from_pandas(frame: Any) -> pl.DataFrame:
    if getattr(frame.index, "names", [None]) != [None]:  # Nixtla tables may carry the id so
        frame = frame.reset_index()
    frame = frame.rename(columns=str)
    columns = {}
    for name in frame.columns:
        values = frame[name]
        if str(values.dtype).startswith("period"):
            values = values.dt.to_timestamp()
        elif values.dtype == object:
            zones = {str(v.tzinfo) for v in values if getattr(v, "tzinfo", None) is not None}
            moments = [v for v in values if hasattr(v, "tzinfo")]
            if zones and (len(zones) > 1 or any(v.tzinfo is None for v in moments)):
                first = next(
                    i for i, v in enumerate(values) if str(getattr(v, "tzinfo", None)) not in zones
                    or str(v.tzinfo) != str(values.iloc[0].tzinfo)
                )  # fmt: skip
                raise DataError(
                    f"time zones are mixed: {', '.join(sorted(zones))}",
                    column=name,
                    row=first,
                    hint="Convert the column to one zone, e.g. pandas.to_datetime(..., utc=True)",
                )
            kinds = {type(v) for v in values if v is not None and v == v}
            if len(kinds) > 1 and str in kinds:
                values = values.map(lambda v: None if v is None or v != v else str(v))
        columns[name] = pl.Series(name, pl.from_pandas(values, nan_to_null=True))
    return pl.DataFrame(columns)


def _parquet_files(files: Sequence[str], name: str) -> pl.DataFrame:
    if not files:
        raise DataError(
            "no Parquet file is there", file=name, hint="Name a file, a folder or a glob"
        )
    tables = []
    for file in files:
        try:
            tables.append(pl.read_parquet(file, glob=False))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"the Parquet file cannot be read; it is damaged or cut off ({_short(error)})",
                file=file,
                hint="Write or copy it again",
            ) from error
    first = tables[0]
    for file, table in zip(files, tables, strict=True):
        if table.columns != first.columns and set(table.columns) != set(first.columns):
            differ = sorted(set(table.columns) ^ set(first.columns))
            raise DataError(
                f"the file has other columns than {files[0]}",
                file=file,
                column=differ[0],
                hint="Give all files of a folder the same columns",
            )
        for column in first.columns:
            if table[column].dtype.is_numeric() != first[column].dtype.is_numeric():
                raise DataError(
                    f"the column is {table[column].dtype} here and {first[column].dtype} in "
                    f"{files[0]}",
                    file=file,
                    column=column,
                    hint="Give every column the same type in all files",
                )
    if len(tables) == 1:
        return first
    try:
        return pl.concat([t.select(first.columns) for t in tables], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"the files do not fit together: {_short(error)}",
            file=name,
            hint="Give every column the same type in all files",
        ) from error


def _arrow_file(path: Path) -> pl.DataFrame:
    try:
        return pl.read_ipc(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"the Arrow file cannot be read ({_short(error)})",
            file=str(path),
            hint="Write or copy it again",
        ) from error


def _csv(path: Path, separator: str | None, encoding: str, decimal_comma: bool) -> pl.DataFrame:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        import gzip

        data = gzip.decompress(data)
    try:
        text = data.decode("utf-8-sig" if encoding.lower() in ("utf8", "utf-8") else encoding)
    except (UnicodeDecodeError, LookupError) as error:
        row = data[: getattr(error, "start", 0)].count(b"\n")
        raise DataError(
            f"the file is not {encoding} text (line {row + 1}: {error})",
            file=str(path),
            row=max(row - 1, 0),
            hint="Name its encoding, e.g. encoding='latin-1' or 'utf-16'",
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # old files end lines with CR alone
    if not text.strip():
        raise DataError("the file is empty", file=str(path), hint="Give a table with rows")
    header = text.lstrip("\n").split("\n", 1)[0]
    if separator is None:
        separator = max(",;\t|", key=header.count)
    try:
        return pl.read_csv(
            text.encode(),
            separator=separator,
            infer_schema_length=None,
            decimal_comma=decimal_comma,
            null_values=["", "NA", "NaN", "nan", "null", "NULL"],
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"the file cannot be read as a table with delimiter {separator!r} ({_short(error)})",
            file=str(path),
            hint="Name the delimiter with separator=; every line needs as many fields as the first",
        ) from error


def _duckdb_file(path: Path, query: str | None) -> pl.DataFrame:
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise DataError(
            "DuckDB is not installed",
            file=str(path),
            hint="pip install 'foretell[duckdb]'",
        ) from error
    try:
        with duckdb.connect(str(path), read_only=True) as database:
            if query is None:
                tables = [row[0] for row in database.execute("SHOW TABLES").fetchall()]
                if len(tables) != 1:
                    raise DataError(
                        f"the database holds {len(tables)} tables: {tables}",
                        file=str(path),
                        hint="Say which rows are meant: query='SELECT * FROM ...'",
                    )
                query = 'SELECT * FROM "' + tables[0].replace('"', '""') + '"'
            return database.sql(query).pl()
    except duckdb.Error as error:
        raise DataError(
            f"the query or the database failed: {_short(error)}",
            file=str(path),
            hint="Check the query in DuckDB's own shell",
        ) from error


def _is_dicts(source: Any) -> bool:
    if isinstance(source, (str, bytes, Path, Mapping, np.ndarray)) or not isinstance(
        source, Iterable
    ):
        return False
    library = type(source).__module__.partition(".")[0]
    if library in ("polars", "pandas", "pyarrow", "duckdb", "_duckdb"):
        return False
    if isinstance(source, Sequence):
        return bool(source) and isinstance(source[0], Mapping)
    return True


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
