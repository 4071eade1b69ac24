"""Folders with one delimited text file a stay, as the 2019 challenge gave them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from foretell.data.clinical.columns import Notes, stay_numbers
from foretell.data.clinical.frames import stays_from_frame
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays
from foretell.data.clinical.tokens import MISSING
from foretell.data.panel import DataNote
from foretell.errors import DataError

_FILES_AT_ONCE = 2000
_SEPARATORS = ("|", ";", "\t", ",")
_NULLS = sorted({*MISSING, "NaN", "NA", "NULL", "None", "N/A"} - {""})


def read_psv(
    source: str | Path | Sequence[str | Path],
    *,
    hospital: str | None = None,
    schema: Schema | None = None,
    pattern: str = "*.psv",
) -> Stays:
    """Stays from files with one row an hour, named by the stay: ``p000001.psv`` is stay 1.

    Columns are those of the 2019 challenge: channels, ``Age``, ``Gender`` (1 = male), ``Unit1``
    (medical unit), ``Unit2`` (surgical unit), ``HospAdmTime`` (hours, negative where the hospital
    came first), ``ICULOS`` and, if known, ``SepsisLabel``. A byte-order mark, CRLF, another
    separator, other orders of columns and empty files are dealt with and counted; two files of
    one stay are joined.

    Args:
        source: a folder or the files.
        hospital: see :func:`~foretell.data.clinical.frames.stays_from_frame`.
        schema: the channels that are wanted.
        pattern: of the files in the folder.

    Raises:
        DataError: there is no file, or one cannot be read; the file is named.
    """
    if isinstance(source, str | Path):
        files = sorted(Path(source).glob(pattern))
        where = str(source)
    else:
        files = [Path(f) for f in source]
        where = str(files[0].parent) if files else "nothing"
    if not files:
        raise DataError(f"there is no file {pattern}", file=where)
    found: dict[str, int] = defaultdict(int)
    seen: set[str] = set()
    frames = []
    for begin in range(0, len(files), _FILES_AT_ONCE):
        frames += _read(files[begin : begin + _FILES_AT_ONCE], found, seen)
    if not frames:
        raise DataError("all files are empty", file=where)
    stays = challenge_stays(
        pl.concat(frames, how="diagonal_relaxed"), hospital=hospital, schema=schema, source=where
    )
    texts = {
        "split_file": "{n:,} files hold more of a stay of another file and were joined to it",
        "empty_file": "{n:,} files without a row were left out",
        "separator": "{n:,} files are separated by another character than |",
    }
    notes = tuple(DataNote(k, texts[k].format(n=n), n) for k, n in found.items() if n)
    return replace(stays, notes=(*stays.notes, *notes))


def challenge_stays(
    frame: pl.DataFrame,
    *,
    hospital: str | None = None,
    schema: Schema | None = None,
    source: str | None = None,
) -> Stays:
    """Stays from a table with the columns of the 2019 challenge and ``patient_id``.

    Categories are ``sex``, ``unit`` (``MICU``, ``SICU``), ``site`` (hospital and unit, such as
    ``A-MICU``, ``A-unknown``) and ``hospital``; numbers are ``age`` in years and ``admission``,
    the hours from hospital to unit admission.

    Raises:
        DataError: see :func:`~foretell.data.clinical.frames.stays_from_frame`.
    """

    def flag(name: str, words: dict[float, str]) -> pl.Expr:
        if name not in frame.columns:
            return pl.lit(None, pl.String)
        value = pl.col(name).cast(pl.Float64, strict=False).fill_nan(None)
        return value.replace_strict(words, default=None, return_dtype=pl.String)

    notes = Notes()

    def number(name: str) -> pl.Series:
        if name not in frame.columns:
            return pl.Series(name, [None] * frame.height, dtype=pl.Float64)
        return stay_numbers(frame[name], name, notes)

    unit = pl.coalesce(flag("Unit1", {1.0: "MICU"}), flag("Unit2", {1.0: "SICU"}))
    place = pl.lit("" if hospital is None else f"{hospital}-")
    frame = frame.with_columns(
        flag("Gender", {0.0: "female", 1.0: "male"}).alias("sex"),
        unit.alias("unit"),
        (place + unit.fill_null("unknown")).alias("site"),
        number("Age").alias("age"),
        (-number("HospAdmTime")).alias("admission"),
    ).drop("Gender", "Unit1", "Unit2", "Age", "HospAdmTime", strict=False)
    stays = stays_from_frame(
        frame,
        id_column="patient_id",
        hour_column="ICULOS",
        label_column="SepsisLabel" if "SepsisLabel" in frame.columns else None,
        hospital=hospital,
        schema=schema,
        source=source,
    )
    return replace(stays, notes=(*notes.found, *stays.notes))


def _read(files: Sequence[Path], found: dict[str, int], seen: set[str]) -> list[pl.DataFrame]:
    """Files with the same header are parsed together, as text; numbers are read later."""
    groups: dict[tuple[str, tuple[str, ...]], tuple[list[bytes], list[str], list[int]]] = {}
    for file in files:
        try:
            raw = file.read_bytes()
            raw.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"a file cannot be read: {error}", file=str(file)) from error
        raw = raw.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in raw:
            raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        head, _, body = raw.partition(b"\n")
        # No cell holds a separator, so that quotation marks say nothing, closed or not.
        body = body.replace(b'"', b"").strip(b"\n")
        if b"\n\n" in body:
            body = re.sub(rb"\n+", b"\n", body)
        if not body:
            found["empty_file"] += 1
            continue
        header = head.decode()
        separator = max(_SEPARATORS, key=header.count)
        if separator != "|":
            found["separator"] += 1
        columns = tuple(name.strip().strip('"') for name in header.split(separator))
        if len(set(columns)) != len(columns):
            twice = next(c for i, c in enumerate(columns) if c in columns[:i])
            raise DataError("a column is there twice", file=str(file), column=twice)
        lines = body.split(b"\n")
        rows, cut = len(lines), separator.encode()
        cells = [line.count(cut) + 1 for line in lines]
        if set(cells) != {len(columns)}:
            row = next(i for i, n in enumerate(cells) if n != len(columns))
            raise DataError(
                f"a row holds {cells[row]} cells for {len(columns)} columns",
                file=str(file),
                row=row,
                hint="Every row must have one cell a column",
            )
        bodies, names, counts = groups.setdefault((separator, columns), ([], [], []))
        bodies.append(body)
        names.append(_stay(file))
        found["split_file"] += names[-1] in seen
        seen.add(names[-1])
        counts.append(rows)
    frames = []
    for (separator, columns), (bodies, names, counts) in groups.items():
        table = pl.read_csv(
            b"\n".join(bodies),
            has_header=False,
            new_columns=list(columns),
            separator=separator,
            infer_schema=False,
            null_values=_NULLS,
            quote_char=None,
        )
        # Plain numbers at once; a column with a word in it stays text.
        plain = [_plain(table[c]) for c in table.columns if c != "patient_id"]
        ids = pl.Series("patient_id", names).gather(
            pl.Series([i for i, n in enumerate(counts) for _ in range(n)], dtype=pl.UInt32)
        )
        frames.append(pl.DataFrame([ids, *plain]))
    return frames


def _plain(values: pl.Series) -> pl.Series:
    try:
        return values.cast(pl.Float64)
    except pl.exceptions.InvalidOperationError:
        return values


def _stay(file: Path) -> str:
    """``p000001`` is stay 1, as in tables that hold the number; other names stay as they are."""
    found = re.fullmatch(r"p0*(\d+)", file.stem)
    return found[1] if found else file.stem
