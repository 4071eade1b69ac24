"""The public data sets foretell knows: where each comes from, its licence, whether it is here.

No data set is part of the package, and none is fetched: a person puts the folder where
``FORETELL_DATA`` points, under the terms of its licence.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from foretell.errors import DataError, ParameterError

VARIABLE = "FORETELL_DATA"
SHORT_NAMES = {
    "walmart": "walmart_store_sales",
    "favorita": "favorita_weekly_21_stores",
    "m3": "m3_competition",
    "tourism": "tourism_competition",
    "orange_juice": "orange_juice_dominicks",
    "pedestrian": "pedestrian_hourly",
    "vic_elec": "vic_elec_half_hourly",
    "starbucks": "starbucks_offers",
    "adult": "adult_census",
    "physionet2012": "physionet2012_icu",
    "physionet2019": "physionet2019_sepsis",
    "snips": "nlu_atis_snips",
    "newsgroups": "newsgroups20",
    "wnut17": "wnut17_ner",
    "xquad": "squad_derived",
    "nlu_evaluation": "nlu_evaluation_home",
}
"""Names that recipes use for short."""


_FORMS = {
    "panel": "a panel of series",
    "events": "an event log",
    "stays": "hourly stays",
    "table": "a table",
    "text": "a set of utterances",
    "questions": "a set of questions",
    "pairs": "pairs of texts",
}


@dataclass(frozen=True)
class ExpectedFile:
    """A file of a data set; size and hash are None where any copy will do."""

    path: str
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class PublicDataSet:
    """What is known of a public data set.

    Args:
        name: name of its folder.
        title: what it is.
        domain: field it belongs to.
        serves: what it is used for here.
        origin: where it comes from, one entry a source.
        licence: as its source states it.
        restriction: what must not be done with it.
        citation: the work to cite.
        loader: ``module:function`` that reads its folder.
        form: what the loader gives: ``"panel"``, ``"events"`` (an event log), ``"stays"`` (hourly
            stays in hospital), ``"table"``, ``"text"``, ``"questions"`` or ``"pairs"``.
        obtain: how to get it, where it is not among the shared folders.
        files: what its folder should hold.
    """

    name: str
    title: str
    domain: str
    serves: str
    origin: tuple[str, ...]
    licence: str
    restriction: str | None = None
    citation: str | None = None
    loader: str | None = None
    form: str = "panel"
    obtain: str | None = None
    files: tuple[ExpectedFile, ...] = ()


_LICENCES = re.compile(
    r"CC0|CC BY(?:-[A-Z]+)*(?: \d\.\d)?|MIT|Apache-2\.0|GPL(?:-\d(?:\.\d)?| \(>= 2\))"
    r"|public domain|not stated|Kaggle"
)


def short_licence(text: str) -> str:
    """The first licence by name in what a source states, with dots where it names more.

    What is no licence by name is ``"own terms"``.
    """
    found = list(dict.fromkeys(_LICENCES.findall(text)))
    if not found:
        return "own terms"
    return found[0].replace("Kaggle", "Kaggle rules") + (" ..." if len(found) > 1 else "")


@dataclass(frozen=True)
class FileCheck:
    """What :func:`check` found of one file: ``ok``, ``missing`` or ``different``, and why."""

    path: str
    state: str
    detail: str


@cache
def known() -> dict[str, PublicDataSet]:
    """All data sets of the registry by name."""
    text = resources.files("foretell.data.public").joinpath("registry.toml").read_text("utf-8")
    found = {}
    for entry in tomllib.loads(text)["dataset"]:
        files = tuple(ExpectedFile(**f) for f in entry.pop("files", ()))
        origin = tuple(entry.pop("origin"))
        found[entry["name"]] = PublicDataSet(**entry, origin=origin, files=files)
    return found


def find(name: str) -> PublicDataSet:
    """The registry's entry, by its name or short name.

    Raises:
        DataError: no data set has this name; the nearest known one is named.
    """
    name = SHORT_NAMES.get(name, name)
    if name not in known():
        near = difflib.get_close_matches(name, known(), n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "See `foretell data list`"
        raise DataError(f"no public data set is called {name!r}", hint=hint)
    return known()[name]


def roots() -> list[Path]:
    """Folders that may hold data sets, the first that exists is used.

    ``FORETELL_DATA`` alone where it is set; else ``../shared/data`` beside the current folder or
    beside the checkout this package runs from; else ``~/.cache/foretell``.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return [Path(named).expanduser()]
    candidates = [Path.cwd().parent / "shared" / "data", Path.cwd() / "shared" / "data"]
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").is_file():
        candidates.append(checkout.parent / "shared" / "data")
    candidates.append(Path("~/.cache/foretell").expanduser())
    return list(dict.fromkeys(candidates))


def root() -> Path:
    """The folder in which data sets are looked for; it may not exist yet."""
    candidates = roots()
    return next((c for c in candidates if c.is_dir()), candidates[-1])


def path(name: str) -> Path:
    """The folder of a data set.

    Raises:
        DataError: the set is not known or not here; says where to put it and where it comes from.
    """
    entry = find(name)
    folder = root() / entry.name
    if not folder.is_dir():
        terms = f" ({entry.restriction})" if entry.restriction else ""
        raise DataError(
            f"the data set {name!r} is not here",
            file=str(folder),
            hint=f"Get it from {'; '.join(entry.origin)} (licence: {entry.licence}){terms} and put "
            f"{', '.join(f.path for f in entry.files[:6])} into that folder, or point {VARIABLE} "
            "to the folder that holds it",
        )
    return folder


def list_datasets() -> pl.DataFrame:
    """One row a data set: name, title, domain, terms, origin, loader, its form, present."""
    here = root()
    return pl.DataFrame(
        [
            {
                "name": entry.name,
                "title": entry.title,
                "domain": entry.domain,
                "serves": entry.serves,
                "licence": entry.licence,
                "restriction": entry.restriction,
                "origin": "; ".join(entry.origin),
                "loader": entry.loader,
                "form": entry.form if entry.loader else None,
                "present": (here / entry.name).is_dir(),
            }
            for entry in known().values()
        ],
        infer_schema_length=None,
    )


def check(name: str) -> list[FileCheck]:
    """Compares every file of a data set with what the registry expects.

    Raises:
        DataError: the set is not known or its folder is not here.
    """
    folder = path(name)
    return [_checked(folder, expected) for expected in find(name).files]


def load(name: str, /, *, form: str | None = None, **arguments: Any) -> Any:
    """The data set as a panel, event log, table or text set (its ``form``), through its loader.

    Args:
        name: of a data set with a loader.
        form: the form that is needed, ``"panel"``, ``"events"``, ``"stays"``, ``"table"``,
            ``"text"``, ``"questions"`` or ``"pairs"``; any where None.
        **arguments: of the loader.

    Raises:
        DataError: the set is not known or not here.
        ParameterError: it has no loader, or another form.
    """
    entry = find(name)
    if entry.loader is None:
        with_loader = ", ".join(e.name for e in known().values() if e.loader)
        raise ParameterError(f"{name!r} has no loader; those that have one: {with_loader}")
    if form is not None and entry.form != form:
        others = ", ".join(e.name for e in known().values() if e.loader and e.form == form)
        raise ParameterError(
            f"{name!r} is read as {_FORMS[entry.form]}, not as {_FORMS[form]}; so are: {others}"
        )
    module, _, function = entry.loader.partition(":")
    return getattr(importlib.import_module(module), function)(path(name), **arguments)


def _checked(folder: Path, expected: ExpectedFile) -> FileCheck:
    file = folder / expected.path
    if not file.is_file():
        return FileCheck(expected.path, "missing", "there is no such file")
    size = file.stat().st_size
    if expected.bytes is not None and size != expected.bytes:
        return FileCheck(
            expected.path, "different", f"{size:,} bytes where {expected.bytes:,} are expected"
        )
    if expected.sha256 is not None:
        digest = hashlib.sha256()
        for block in _blocks(file):
            digest.update(block)
        if digest.hexdigest() != expected.sha256:
            return FileCheck(expected.path, "different", "its SHA-256 is another one")
    return FileCheck(expected.path, "ok", f"{size:,} bytes")


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block
