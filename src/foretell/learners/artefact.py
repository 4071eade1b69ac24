"""Saved models: a folder with one JSON file and one safetensors file, never a pickle.

Opening somebody's model reads numbers and text; it cannot run code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from foretell.errors import ArtefactError, ForetellError

FORMAT = 1
_CONFIG, _ARRAYS = "model.json", "arrays.safetensors"


def save_artefact(
    folder: str | Path, kind: str, config: Mapping[str, Any], arrays: Mapping[str, NDArray]
) -> None:
    """Writes a folder; an existing artefact there is replaced file by file, each one atomically.

    Args:
        folder: made if it does not exist.
        kind: name of the class that can read it.
        config: JSON values; numpy's numbers and arrays and paths become theirs.
        arrays: name -> numeric array.
    """
    folder = Path(folder)
    document = {"format": FORMAT, "kind": kind, "config": dict(config)}
    # Before anything is written, so that what cannot be written spoils no older artefact.
    text = json.dumps(document, indent=1, allow_nan=True, default=_plain)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    partial = folder / f".{_ARRAYS}.partial"
    save_file(tensors, partial)
    os.replace(partial, folder / _ARRAYS)
    partial = folder / f".{_CONFIG}.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / _CONFIG)


def _plain(value: Any) -> Any:
    """What users also give as a hyper-parameter, as JSON values."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be saved: {value!r}")


def read_kind(folder: str | Path) -> str:
    """The class name under which a folder was saved."""
    return _read_config(Path(folder))["kind"]


def load_artefact(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Reads a folder written by :func:`save_artefact`.

    Raises:
        ArtefactError: a file is missing or damaged, the kind differs, or the format is newer.
    """
    folder = Path(folder)
    document = _read_config(folder)
    if document["kind"] != kind:
        raise ArtefactError(f"{folder} holds a {document['kind']}, not a {kind}")
    try:
        arrays = load_file(folder / _ARRAYS)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtefactError(f"{folder / _ARRAYS} cannot be read: {error}") from error
    return document["config"], arrays


@contextmanager
def readable(folder: str | Path, kind: str) -> Iterator[None]:
    """Whatever is wrong with saved values is an :class:`ArtefactError` that names the folder."""
    try:
        yield
    except ArtefactError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        ForetellError,
    ) as error:
        raise ArtefactError(f"{folder} is not a readable {kind}: {error}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict):
        raise ArtefactError(f"{path} is not a saved model")
    if not isinstance(document.get("format"), int) or not isinstance(document.get("kind"), str):
        raise ArtefactError(f"{path} is not a saved model: format or kind is missing")
    if document["format"] > FORMAT:
        raise ArtefactError(
            f"{path} has format {document['format']}; this foretell reads up to {FORMAT}. "
            "Install a newer foretell"
        )
    return document
