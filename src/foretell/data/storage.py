"""Panels on disk: a folder of Arrow files that is mapped into memory, not read.

A folder holds ``panel.json`` (format, grid, names), ``series.arrow`` (one row a series) and one
Arrow IPC file a column; see :mod:`foretell.data.arrow_folder`. Opening costs what the table of
series costs; steps are read from disk when a window asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from foretell.data.arrow_folder import ArrowFolder, write_batch
from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, DataNote, Panel, flat_steps
from foretell.errors import DataError, ForetellError

_FOLDER = ArrowFolder(
    "foretell.panel", 1, "panel.json", "panel", "write_panel or convert_parquet",
    again="Write or convert it again",
)  # fmt: skip
_SERIES = "series.arrow"
_CHUNK_STEPS = 1 << 22


def is_stored_panel(folder: Path) -> bool:
    """Whether a folder was written by :func:`write_panel`."""
    return _FOLDER.is_here(folder)


def write_panel(panel: Panel, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a panel to a folder for :func:`open_panel`.

    Selections and cuts are written as they are seen: what was cut off is not stored. The folder
    appears when it is complete; a failure leaves none.

    Raises:
        DataError: the folder exists and ``overwrite`` is not set.
    """
    with PanelWriter(folder, overwrite=overwrite) as writer:
        writer.static(panel.static_categorical, panel.static_real)
        ends = np.cumsum(np.maximum(panel.lengths, panel.known_lengths))
        start = 0
        while start < len(panel):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _CHUNK_STEPS, side="right")))
            writer.append(panel.select(np.arange(start, stop)))
            start = stop
        if len(panel) == 0:
            writer.append(panel)
        writer.notes = panel.notes
    return Path(folder)


def open_panel(folder: str | Path) -> Panel:
    """Opens a folder of :func:`write_panel` without reading its steps.

    Raises:
        DataError: the folder is missing, damaged, incomplete or newer than this library.
    """
    folder = Path(folder)
    header = _FOLDER.read_header(folder)
    try:
        grid = Frequency(**header["frequency"])
        past, known = list(header["past"]), list(header["known"])
        vocabularies = {str(k): tuple(v) for k, v in header["vocabularies"].items()}
        real, events = list(header["real"]), tuple(header["events"])
        notes = tuple(DataNote(**note) for note in header["notes"])
        sizes = {str(k): int(v) for k, v in header["bytes"].items()}
        censored = bool(header["censored"])
        strings = [*past, *known, *real, *events, *(w for v in vocabularies.values() for w in v)]
        if not all(isinstance(s, str) for s in strings):
            raise TypeError("a name is not text")
        if not isinstance(grid.step, int) or grid.kind not in ("integer", "fixed", "months"):
            raise TypeError("the frequency is not one")
    except (KeyError, TypeError, ValueError, AttributeError, ForetellError) as error:
        raise _FOLDER.damaged(
            folder / _FOLDER.header, f"{type(error).__name__}: {error}"
        ) from error
    table = _FOLDER.read_batch(folder / _SERIES, sizes, full=True)
    wanted = {"id": pa.string(), "start": pa.int64(), "length": pa.int64()}
    wanted |= {"known_length": pa.int64()}
    wanted |= {f"category_{i}": pa.int32() for i in range(len(vocabularies))}
    wanted |= {f"real_{i}": pa.float32() for i in range(len(real))}
    for name, kind in wanted.items():
        if name not in table.schema.names or table.schema.field(name).type != kind:
            raise _FOLDER.damaged(folder / _SERIES, f"column {name!r} is missing or not {kind}")
    columns = {name: table.column(name) for name in wanted}
    if any(column.null_count for column in columns.values()):
        raise _FOLDER.damaged(folder / _SERIES, "a value is missing")
    numbers = {k: v.to_numpy(zero_copy_only=False) for k, v in columns.items() if k != "id"}
    lengths, known_lengths = numbers["length"], numbers["known_length"]
    if len(lengths) and (lengths.min() < 0 or known_lengths.min() < 0):
        raise _FOLDER.damaged(folder / _SERIES, "a length is negative")
    # Sums in floating point: a forged length must not wrap around to a plausible total.
    steps, known_steps = (_total(v, folder) for v in (lengths, known_lengths))
    names = pl.Series(pl.from_arrow(columns["id"]))
    if names.n_unique() != len(names):
        raise _FOLDER.damaged(folder / _SERIES, "a series is there twice")
    categories = {}
    for i, (name, vocabulary) in enumerate(vocabularies.items()):
        codes = numbers[f"category_{i}"]
        if len(codes) and (codes.min() < 0 or codes.max() > len(vocabulary)):
            raise _FOLDER.damaged(folder / _SERIES, f"a code of {name!r} has no name")
        categories[name] = Categorical(codes, vocabulary)

    def column(file: str, size: int, kind: pa.DataType) -> NDArray:
        array = _FOLDER.read_column(folder / file, sizes, size, kind)
        return array.to_numpy(zero_copy_only=True)

    floats = pa.float32()
    flags = column("censored.arrow", steps, pa.uint8()) if censored else None
    if not set(events) <= set(known):
        raise _FOLDER.damaged(folder / _FOLDER.header, "an event is not among the known covariates")
    return Panel(
        names.to_numpy().astype(object),
        grid,
        numbers["start"],
        _begins(lengths),
        lengths,
        column("target.arrow", steps, floats),
        censored=None if flags is None else flags.view(np.bool_),
        past={n: column(f"past_{i}.arrow", steps, floats) for i, n in enumerate(past)},
        known={n: column(f"known_{i}.arrow", known_steps, floats) for i, n in enumerate(known)},
        known_begins=_begins(known_lengths),
        known_lengths=known_lengths,
        static_categorical=categories,
        static_real={n: numbers[f"real_{i}"] for i, n in enumerate(real)},
        events=events,
        notes=notes,
    )


class PanelWriter:
    """Writes a panel piece by piece; a context manager.

    Every piece must have the same grid and covariates. The folder is put in place when the block
    ends without an error.

    Args:
        folder: where to.
        overwrite: whether a folder of :func:`write_panel` that is there may be replaced.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self._overwrite = overwrite
        _FOLDER.check_free(self.folder, overwrite)
        self.notes: tuple[DataNote, ...] = ()
        self._place = ExitStack()
        self._files = ExitStack()
        self._raw: dict[str, BinaryIO] = {}
        self._ids: list[NDArray[np.object_]] = []
        self._numbers: dict[str, list[NDArray[np.int64]]] = {
            "start": [],
            "length": [],
            "known_length": [],
        }
        self._shape: dict[str, Any] | None = None
        self._categories: Mapping[str, Categorical] = {}
        self._real: Mapping[str, NDArray[np.float32]] = {}

    def __enter__(self) -> PanelWriter:
        writing = _FOLDER.writing(self.folder, overwrite=self._overwrite)
        self._partial = self._place.enter_context(writing)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._place:
            self._files.close()
            if kind is None:
                self._finish()

    def static(
        self, categories: Mapping[str, Categorical], real: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """Sets the attributes of all series, in the order in which they are appended."""
        self._categories, self._real = categories, real

    def append(self, part: Panel) -> None:
        """Adds series; attributes of the part itself are ignored, see :meth:`static`.

        Raises:
            DataError: the part has another grid or other covariates than the ones before.
        """
        shape = {
            "frequency": part.frequency.to_dict(),
            "past": list(part.past),
            "known": list(part.known),
            "events": list(part.events),
            "censored": part.censored is not None,
        }
        if self._shape is None:
            self._shape = shape
        elif shape != self._shape:
            raise DataError(
                f"this part has {shape}, the ones before {self._shape}",
                file=str(self.folder),
                hint="Give all parts the same grid and covariates",
            )
        flat, _ = flat_steps(part.begins, part.lengths)
        # A cut panel still knows the future; without covariates there is nothing to know.
        known_lengths = part.known_lengths if part.known else part.lengths
        known_flat, _ = flat_steps(part.known_begins, known_lengths)
        self._write("target", part.target[flat])
        if part.censored is not None:
            self._write("censored", part.censored[flat].view(np.uint8))
        for i, values in enumerate(part.past.values()):
            self._write(f"past_{i}", values[flat])
        for i, values in enumerate(part.known.values()):
            self._write(f"known_{i}", values[known_flat])
        self._ids.append(part.ids)
        for name, numbers in zip(
            self._numbers, (part.starts, part.lengths, known_lengths), strict=True
        ):
            self._numbers[name].append(numbers)

    @property
    def frequency(self) -> Frequency | None:
        """The grid of what was appended so far."""
        return None if self._shape is None else Frequency(**self._shape["frequency"])

    def skeleton(self) -> Panel:
        """What was appended so far without its steps: to look up attributes by name.

        Raises:
            DataError: nothing was appended.
        """
        if self._shape is None:
            raise self._nothing()
        ids = np.concatenate(self._ids)
        none = np.zeros(len(ids), np.int64)
        starts = np.concatenate(self._numbers["start"])
        grid = Frequency(**self._shape["frequency"])
        return Panel(ids, grid, starts, none, none, np.zeros(0, np.float32))

    def _nothing(self) -> DataError:
        return DataError(
            "there is no series to store", file=str(self.folder), hint="Append at least one"
        )

    def _write(self, name: str, values: NDArray) -> None:
        if name not in self._raw:
            path = self._partial / f"{name}.raw"
            self._raw[name] = self._files.enter_context(path.open("wb"))
        self._raw[name].write(np.ascontiguousarray(values).data)

    def _finish(self) -> None:
        if self._shape is None:
            raise self._nothing()
        for name in self._raw:
            raw = self._partial / f"{name}.raw"
            kind = np.dtype(np.uint8 if name == "censored" else np.float32)
            size = raw.stat().st_size // kind.itemsize
            # An empty file cannot be mapped.
            values = np.memmap(raw, kind, "r") if size else np.zeros(0, kind)
            array = pa.Array.from_buffers(
                pa.from_numpy_dtype(kind), size, [None, pa.py_buffer(values)]
            )
            write_batch(self._partial / f"{name}.arrow", {"value": array})
            del array, values
            raw.unlink()
        ids = np.concatenate(self._ids)
        columns = {"id": pa.array([str(i) for i in ids], pa.string())}
        for name, parts in self._numbers.items():
            columns[name] = pa.array(np.concatenate(parts).astype(np.int64))
        for i, category in enumerate(self._categories.values()):
            columns[f"category_{i}"] = pa.array(category.codes.astype(np.int32))
        for i, values in enumerate(self._real.values()):
            columns[f"real_{i}"] = pa.array(np.asarray(values, np.float32), from_pandas=False)
        write_batch(self._partial / _SERIES, columns)
        content = {
            **self._shape,
            "series": len(ids),
            "vocabularies": {k: list(c.vocabulary) for k, c in self._categories.items()},
            "real": list(self._real),
            "notes": [vars(note) for note in self.notes],
        }
        _FOLDER.finish(self._partial, self.folder, content)


def merge_notes(notes: Iterable[DataNote]) -> tuple[DataNote, ...]:
    """Notes of the parts of a panel as notes of the whole: counts of one kind are added."""
    texts = {
        "gap": "{n} missing periods are treated as not observed",
        "missing_target": "{n} rows without a target are treated as not observed",
        "missing_static": "{n} attributes of series are not known",
        "filled_known": "{n} missing values of known covariates were filled",
    }
    merged: dict[str, DataNote] = {}
    for note in notes:
        before = merged.get(note.kind)
        if before is None:
            merged[note.kind] = note
            continue
        count = before.count + note.count
        text = texts.get(note.kind, f"{{n}} findings of kind {note.kind!r}").format(n=count)
        merged[note.kind] = DataNote(note.kind, text, count, before.series or note.series)
    return tuple(merged.values())


def _total(lengths: NDArray[np.int64], folder: Path) -> int:
    if float(lengths.sum(dtype=np.float64)) > 2**53:
        raise _FOLDER.damaged(folder / _SERIES, "lengths are impossibly large")
    return int(lengths.sum())


def _begins(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64)[: len(lengths)]
