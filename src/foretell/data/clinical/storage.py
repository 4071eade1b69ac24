"""Stays on disk: a folder of Arrow files that is mapped into memory, not read.

A folder holds ``stays.json`` (format, schema, names) and one Arrow IPC file a column, each with a
single uncompressed record batch. Opening checks names, types, sizes and bytes. No file name is ever
taken from ``stays.json``, and nothing in a folder is executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foretell.data.arrow_folder import ArrowFolder, write_column
from foretell.data.clinical.schema import Schema, variable_from_dict, variable_to_dict
from foretell.data.clinical.stays import Stays
from foretell.data.panel import Categorical, DataNote
from foretell.errors import ForetellError

_FOLDER = ArrowFolder(
    "foretell.stays", 1, "stays.json", "stays", "write_stays", "are", "Write them again"
)


def write_stays(stays: Stays, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Writes stays to a folder for :func:`open_stays`.

    What is written is what is seen: of a view only its own stays and rows. The folder appears when
    it is complete; a failure leaves none.

    Raises:
        DataError: the folder exists and ``overwrite`` is not set, or holds something else.
    """
    folder = Path(folder)
    with _FOLDER.writing(folder, overwrite=overwrite) as partial:
        write_column(
            partial / "ids.arrow", pa.array([str(i) for i in stays.ids], pa.large_string())
        )
        patients = pa.array([str(i) for i in stays.patients], pa.large_string())
        write_column(partial / "patients.arrow", patients)
        write_column(partial / "lengths.arrow", stays.lengths.astype(np.int64))
        write_column(partial / "starts.arrow", stays.starts.astype(np.int64))
        write_column(partial / "onset.arrow", stays.onset.astype(np.float64))
        for i, name in enumerate(stays.channels):
            write_column(partial / f"channel_{i}.arrow", stays.column(name))
        if stays.label is not None:
            write_column(partial / "label.arrow", stays.labels())
        for i, category in enumerate(stays.categories.values()):
            write_column(partial / f"category_{i}.arrow", category.codes.astype(np.int32))
        for i, numbers in enumerate(stays.numbers.values()):
            write_column(partial / f"number_{i}.arrow", numbers.astype(np.float64))
        content = {
            "stays": len(stays),
            "rows": stays.n_rows,
            "label": stays.label is not None,
            "schema": [variable_to_dict(v) for v in stays.schema.variables],
            "synonyms": dict(stays.schema.synonyms),
            "schema_version": stays.schema.version,
            "categories": {k: list(c.vocabulary) for k, c in stays.categories.items()},
            "numbers": list(stays.numbers),
            "notes": [vars(note) | {"count": int(note.count)} for note in stays.notes],
        }
        _FOLDER.finish(partial, folder, content)
    return folder


def open_stays(folder: str | Path) -> Stays:
    """Opens a folder of :func:`write_stays` without reading its hours.

    Raises:
        DataError: the folder is missing, damaged, incomplete or newer than this library.
    """
    folder = Path(folder)
    header = _FOLDER.read_header(folder)
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
        raise _FOLDER.damaged(
            folder / _FOLDER.header, f"{type(error).__name__}: {error}"
        ) from error

    def column(file: str, kind: pa.DataType, count: int = size) -> Any:
        return _FOLDER.read_column(folder / f"{file}.arrow", sizes, count, kind)

    def numbers(file: str, kind: pa.DataType, count: int = size) -> NDArray:
        return column(file, kind, count).to_numpy(zero_copy_only=True)

    def texts(file: str) -> NDArray[np.object_]:
        return np.array([*column(file, pa.large_string()).to_pylist(), None], object)[:-1]

    lengths = numbers("lengths", pa.int64())
    # Sums in floating point: a forged length must not wrap around to a plausible total.
    if len(lengths) and (lengths.min() < 0 or float(lengths.sum(dtype=np.float64)) != rows):
        raise _FOLDER.damaged(folder / "lengths.arrow", "the lengths do not add up")
    ids = texts("ids")
    if len(set(ids.tolist())) != len(ids):
        raise _FOLDER.damaged(folder / "ids.arrow", "a stay is there twice")
    categories = {}
    for i, (name, vocabulary) in enumerate(vocabularies.items()):
        codes = numbers(f"category_{i}", pa.int32())
        if len(codes) and (codes.min() < 0 or codes.max() > len(vocabulary)):
            raise _FOLDER.damaged(folder / f"category_{i}.arrow", f"a code of {name!r} has no name")
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
