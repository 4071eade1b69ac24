"""Stays on disk: a folder of Arrow files that is mapped into memory, not read.

A folder holds ``stays.json`` (format, schema, names) and one Arrow IPC file a column, each with a
single uncompressed record batch. Opening checks names, types, sizes and bytes. No file name is ever
taken from ``stays.json``, and nothing in a folder is executed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foretell.data.clinical.schema import Schema, variable_from_dict, variable_to_dict
from foretell.data.clinical.stays import Stays
from foretell.data.panel import Categorical, DataNote
from foretell.errors import DataError, ForetellError

FORMAT, VERSION = "foretell.stays", 1
_HEADER = "stays.json"


def is_stored_stays(folder: Path) -> bool:
    """Whether a folder was written by :func:`write_stays`."""
    return (folder / _HEADER).is_file()


def write_stays(stays: Stays, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Writes stays to a folder for :func:`open_stays`.

    What is written is what is seen: of a view only its own stays and rows. The folder appears when
    it is complete; a failure leaves none.

    Raises:
        DataError: the folder exists and ``overwrite`` is not set, or holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (overwrite and is_stored_stays(folder)):
        raise DataError(
            "the folder exists already",
            file=str(folder),
            hint="Name another one, or pass overwrite=True to replace stored stays",
        )
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        _write(partial / "ids.arrow", pa.array([str(i) for i in stays.ids], pa.large_string()))
        patients = pa.array([str(i) for i in stays.patients], pa.large_string())
        _write(partial / "patients.arrow", patients)
        _write(partial / "lengths.arrow", stays.lengths.astype(np.int64))
        _write(partial / "starts.arrow", stays.starts.astype(np.int64))
        _write(partial / "onset.arrow", stays.onset.astype(np.float64))
        for i, name in enumerate(stays.channels):
            _write(partial / f"channel_{i}.arrow", stays.column(name))
        if stays.label is not None:
            _write(partial / "label.arrow", stays.labels())
        for i, category in enumerate(stays.categories.values()):
            _write(partial / f"category_{i}.arrow", category.codes.astype(np.int32))
        for i, numbers in enumerate(stays.numbers.values()):
            _write(partial / f"number_{i}.arrow", numbers.astype(np.float64))
        header = {
            "format": FORMAT,
            "version": VERSION,
            "stays": len(stays),
            "rows": stays.n_rows,
            "label": stays.label is not None,
            "schema": [variable_to_dict(v) for v in stays.schema.variables],
            "synonyms": dict(stays.schema.synonyms),
            "schema_version": stays.schema.version,
            "categories": {k: list(c.vocabulary) for k, c in stays.categories.items()},
            "numbers": list(stays.numbers),
            "notes": [vars(note) | {"count": int(note.count)} for note in stays.notes],
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


def open_stays(folder: str | Path) -> Stays:
    """Opens a folder of :func:`write_stays` without reading its hours.

    Raises:
        DataError: the folder is missing, damaged, incomplete or newer than this library.
    """
    folder = Path(folder)
    header = _header(folder)
    try:
        size, rows = int(header["stays"]), int(header["rows"])
        labelled = bool(header["label"])
        schema = Schema(
            tuple(variable_from_dict(v) for v in header["schema"]),
            {str(k): str(v) for k, v in header["synonyms"].items()},
            int(header["schema_version"]),
        )
        vocabularies = {str(k): tuple(v) for k, v in header["categories"].items()}
        if not all(isinstance(w, str) for v in vocabularies.values() for w in v):
            raise TypeError("a category is not text")
        names = [str(n) for n in header["numbers"]]
        sizes = {str(k): int(v) for k, v in header["bytes"].items()}
        notes = tuple(DataNote(**note) for note in header["notes"])
    except (KeyError, TypeError, ValueError, AttributeError, ForetellError) as error:
        raise _damaged(folder / _HEADER, f"{type(error).__name__}: {error}") from error

    def column(file: str, kind: pa.DataType, count: int = size) -> Any:
        return _column(folder / f"{file}.arrow", sizes, count, kind)

    def numbers(file: str, kind: pa.DataType, count: int = size) -> NDArray:
        return column(file, kind, count).to_numpy(zero_copy_only=True)

    def texts(file: str) -> NDArray[np.object_]:
        return np.array([*column(file, pa.large_string()).to_pylist(), None], object)[:-1]

    lengths = numbers("lengths", pa.int64())
    # Sums in floating point: a forged length must not wrap around to a plausible total.
    if len(lengths) and (lengths.min() < 0 or float(lengths.sum(dtype=np.float64)) != rows):
        raise _damaged(folder / "lengths.arrow", "the lengths do not add up")
    ids = texts("ids")
    if len(set(ids.tolist())) != len(ids):
        raise _damaged(folder / "ids.arrow", "a stay is there twice")
    categories = {}
    for i, (name, vocabulary) in enumerate(vocabularies.items()):
        codes = numbers(f"category_{i}", pa.int32())
        if len(codes) and (codes.min() < 0 or codes.max() > len(vocabulary)):
            raise _damaged(folder / f"category_{i}.arrow", f"a code of {name!r} has no name")
        categories[name] = Categorical(codes, vocabulary)
    return Stays(
        ids,
        texts("patients"),
        np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)[:size],
        lengths,
        numbers("starts", pa.int64()),
        {n: numbers(f"channel_{i}", pa.float32(), rows) for i, n in enumerate(schema.names)},
        schema,
        numbers("label", pa.int8(), rows) if labelled else None,
        numbers("onset", pa.float64()),
        categories,
        {n: numbers(f"number_{i}", pa.float64()) for i, n in enumerate(names)},
        notes,
    )


def _write(path: Path, values: NDArray | pa.Array) -> None:
    array = values if isinstance(values, pa.Array) else pa.array(np.ascontiguousarray(values))
    batch = pa.record_batch([array], names=["value"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _column(path: Path, sizes: dict[str, int], count: int, kind: pa.DataType) -> pa.Array:
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
        # Offsets of texts are followed blindly later; numbers are what they are.
        batch.validate(full=kind == pa.large_string())
        if batch.num_columns != 1 or batch.schema.field(0).type != kind:
            raise _damaged(path, f"it should hold values of type {kind}")
        array = batch.column(0)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(path, str(error).splitlines()[0][:200]) from error
    if array.null_count or len(array) != count:
        raise _damaged(path, f"it holds {len(array):,} values, or a missing one, not {count:,}")
    return array


def _header(folder: Path) -> dict[str, Any]:
    path = folder / _HEADER
    if not path.is_file():
        raise DataError(
            "the folder holds no stored stays",
            file=str(folder),
            hint="Name a folder written by write_stays",
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
            f"the stays have format version {version}; this library reads up to {VERSION}",
            file=str(path),
            hint="Update foretell",
        )
    return header


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"the stored stays are damaged: {reason}", file=str(path), hint="Write them again"
    )
