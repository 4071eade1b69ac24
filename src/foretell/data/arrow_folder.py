"""Folders of Arrow files that are mapped into memory: how they are written, checked and opened.

A folder holds a JSON header (format, version, names, the size of every file) and Arrow IPC files of
a single uncompressed record batch each, so that a column is one contiguous view of its file. The
folder appears when it is complete. Opening checks sizes, types and structure; no file name is ever
taken from the header, and nothing in a folder is executed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foretell.errors import DataError

Sizes = Mapping[str, int]
"""File name -> bytes, as the header has them."""


@dataclass(frozen=True)
class ArrowFolder:
    """One kind of folder.

    Attributes:
        format: its name in the header.
        version: the newest that can be read.
        header: file name of the header.
        noun: what is stored, in the singular or plural of the messages: ``"panel"``, ``"stays"``.
        writer: what writes it, for hints.
        verb: ``"is"`` or ``"are"``.
        again: what to do with a damaged one.
    """

    format: str
    version: int
    header: str
    noun: str
    writer: str
    verb: str = "is"
    again: str = "Write it again"

    def is_here(self, folder: Path) -> bool:
        """Whether a folder is of this kind, by its header's name."""
        return (folder / self.header).is_file()

    def check_free(self, folder: Path, overwrite: bool) -> None:
        """Refuses a folder that must not be replaced.

        Raises:
            DataError: it exists and ``overwrite`` is not set, or it holds something else.
        """
        if folder.exists() and not (overwrite and self.is_here(folder)):
            raise DataError(
                "the folder exists already",
                file=str(folder),
                hint="Name another one, or pass overwrite=True to replace "
                + (f"a stored {self.noun}" if self.verb == "is" else f"stored {self.noun}"),
            )

    @contextmanager
    def writing(self, folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
        """A partial folder to write into: :meth:`finish` puts it in place, failing leaves none."""
        self.check_free(folder, overwrite)
        partial = folder.with_name(folder.name + ".partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def finish(self, partial: Path, folder: Path, content: Mapping[str, Any]) -> None:
        """Writes the header and puts the folder in place."""
        header = {
            "format": self.format,
            "version": self.version,
            **content,
            "bytes": {f.name: f.stat().st_size for f in sorted(partial.iterdir())},
        }
        text = json.dumps(header, indent=1, ensure_ascii=False)
        (partial / self.header).write_text(text, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)

    def read_header(self, folder: Path) -> dict[str, Any]:
        """The header.

        Raises:
            DataError: the folder is missing, damaged, or newer than this library.
        """
        path = folder / self.header
        if not path.is_file():
            raise DataError(
                f"the folder holds no stored {self.noun}",
                file=str(folder),
                hint=f"Name a folder written by {self.writer}",
            )
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self.damaged(path, str(error)) from error
        if not isinstance(header, dict) or header.get("format") != self.format:
            raise self.damaged(path, f"its format is not {self.format!r}")
        version = header.get("version")
        if not isinstance(version, int) or version < 1:
            raise self.damaged(path, f"its version is {version!r}")
        if version > self.version:
            has = "has" if self.verb == "is" else "have"
            raise DataError(
                f"the {self.noun} {has} format version {version}; this library reads up to "
                f"{self.version}",
                file=str(path),
                hint="Update foretell",
            )
        return header

    def read_batch(self, path: Path, sizes: Sizes, *, full: bool = False) -> pa.RecordBatch:
        """A file's record batch, mapped.

        Args:
            path: of the file.
            sizes: of the header.
            full: whether every value is looked at; texts must be, since their offsets are followed
                blindly later.

        Raises:
            DataError: the file is missing or damaged.
        """
        if not path.is_file():
            raise self.damaged(path, "the file is missing")
        size = path.stat().st_size
        if sizes.get(path.name) != size:
            raise self.damaged(
                path, f"it has {size:,} bytes where {sizes.get(path.name)} were written"
            )
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
            count = reader.num_record_batches
            batch = reader.get_batch(0) if count == 1 else None
            if batch is not None:
                batch.validate(full=full)
                _ = batch.schema.names  # names that are no text fail here
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self.damaged(path, (str(error).splitlines() or [""])[0][:200]) from error
        if batch is None:
            raise self.damaged(path, f"it holds {count} batches, not 1")
        return batch

    def read_column(
        self, path: Path, sizes: Sizes, count: int | None, *types: pa.DataType
    ) -> pa.Array:
        """The only column of a file, without missing values.

        Args:
            path: of the file.
            sizes: of the header.
            count: number of values; None for any.
            types: those that are allowed.

        Raises:
            DataError: the file is missing or damaged, or holds something else.
        """
        text = any(pa.types.is_string(t) or pa.types.is_large_string(t) for t in types)
        batch = self.read_batch(path, sizes, full=text)
        if batch.num_columns != 1 or batch.schema.field(0).type not in types:
            raise self.damaged(path, f"it should hold values of type {types[0]}")
        array = batch.column(0)
        if count is not None and len(array) != count:
            raise self.damaged(path, f"it holds {len(array):,} values where {count:,} should be")
        if array.null_count:
            raise self.damaged(path, "a value is missing")
        return array

    def damaged(self, path: Path, reason: str) -> DataError:
        """The error that says what is wrong with a file."""
        return DataError(
            f"the stored {self.noun} {self.verb} damaged: {reason}",
            file=str(path),
            hint=self.again,
        )


def write_batch(path: Path, columns: Mapping[str, pa.Array | NDArray]) -> None:
    """Writes equally long columns as one record batch."""
    arrays = [
        v if isinstance(v, pa.Array) else pa.array(np.ascontiguousarray(v))
        for v in columns.values()
    ]
    batch = pa.record_batch(arrays, names=list(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def write_column(path: Path, values: NDArray | pa.Array) -> None:
    """Writes one column."""
    write_batch(path, {"value": values})
