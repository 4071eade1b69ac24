"""Files and folders: stays, HL7 v2 messages, FHIR resources."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foretell.data.clinical.deidentify.deidentifier import Deidentifier
from foretell.data.clinical.hl7.reader import split_messages
from foretell.data.clinical.storage import open_stays, write_stays
from foretell.errors import DataError

_HL7 = frozenset({".hl7", ".er7", ".txt", ".dat"})
_FHIR = frozenset({".json", ".ndjson", ".jsonl"})


def deidentify(told: Deidentifier, source: str | Path, out: str | Path) -> Path:
    """Writes what may be told of a file or folder, and a report beside it.

    A folder of :func:`~foretell.data.clinical.write_stays` becomes another one. Messages (``.hl7``)
    and resources (``.json``, ``.ndjson``) become files of the same kind, alone or in a folder,
    where their names are numbers: a name can hold a patient's. Whatever else a folder holds is
    left out and counted.

    Args:
        told: the method, with its keys and crosswalk.
        source: a folder of stays, a file, or a folder of files.
        out: must not exist.

    Returns:
        The report, ``OUT.report.json``: counts only.

    Raises:
        DataError: the source is none of these, or ``out`` is there already.
    """
    source, out = Path(source), Path(out)
    report = out.with_name(out.name + ".report.json")
    for place in (out, report):
        if place.exists():
            raise DataError("there is something already", file=str(place))
    if (source / "stays.json").is_file():
        stays = told.stays(open_stays(source))
        told.crosswalk.commit()
        out.parent.mkdir(parents=True, exist_ok=True)
        write_stays(stays, out)
    elif source.is_file():
        if source.suffix.lower() not in _HL7 | _FHIR:
            raise DataError(
                "this is no file of messages or resources", file=str(source),
                hint="Take .hl7, .json or .ndjson, or a folder of stays",
            )  # fmt: skip
        out.parent.mkdir(parents=True, exist_ok=True)
        _file(told, source, out)
    elif source.is_dir():
        _folder(told, source, out)
    else:
        raise DataError("there is no such file or folder", file=str(source))
    told.crosswalk.commit()
    report.write_text(json.dumps(told.report(), indent=2) + "\n", "utf-8")
    return report


def _folder(told: Deidentifier, source: Path, out: Path) -> None:
    files = sorted(p for p in source.rglob("*") if p.is_file())
    known = [p for p in files if p.suffix.lower() in _HL7 | _FHIR]
    if not known:
        raise DataError("the folder holds neither stays nor messages nor resources",
                        file=str(source))  # fmt: skip
    told.removed.refused += len(files) - len(known)
    told.removed.taken += len(files) - len(known)
    out.mkdir(parents=True)
    for number, file in enumerate(known):
        _file(told, file, out / f"{number:06d}{file.suffix.lower()}")


def _file(told: Deidentifier, source: Path, out: Path) -> None:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", file=str(source)) from None
    if source.suffix.lower() in _HL7:
        parts = [told.hl7(part) for part in split_messages(data)]
        written = b"\r".join(p for p in parts if p is not None)
    else:
        one_a_line = source.suffix.lower() != ".json"
        kept = [told.fhir(resource) for resource in _resources(data, one_a_line)]
        texts = [json.dumps(k, allow_nan=False) for k in kept if k is not None]
        written = "".join(f"{text}\n" for text in texts).encode()
    # Codes last before anything that bears them.
    told.crosswalk.commit()
    out.write_bytes(written)


def _resources(data: bytes, one_a_line: bool) -> Iterator[Any]:
    for part in data.splitlines() if one_a_line else [data]:
        if not part.strip():
            continue
        try:
            yield json.loads(part)
        except (ValueError, RecursionError):
            # Not told what it was: the text could be anybody's.
            yield None
