"""Stays to train on, to tune on and to judge on, site by site."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretell.data import registry
from foretell.data.clinical import (
    Stays,
    StaySplit,
    UnitRepair,
    challenge_stays,
    open_stays,
    read_psv,
    split_by_patient,
    stays_from_frame,
)
from foretell.data.readers import read_table
from foretell.data.simulators import hospitals
from foretell.errors import DataError, RecipeError
from foretell.runs.building import check_arguments, check_keys
from foretell.runs.section import nearest
from foretell.runs.sepsis.recipe import DataSection
from foretell.runs.sources import is_public, loader_options

SIMULATOR = "hospitals"


@dataclass(frozen=True, eq=False)
class Parts:
    """What a run works with.

    Args:
        split: stays of all sites, parted by patient.
        sites: names in the order of training.
        repair: how units are brought right; None where that was not asked for.
        repaired: what was found and done: ``source, channel, unit, kept, unusual, repaired,
            invalid``.
        fingerprint: of the stays as they came.
    """

    split: StaySplit
    sites: tuple[str, ...]
    repair: UnitRepair | None
    repaired: pl.DataFrame
    fingerprint: str


def read_stays(source: str, options: dict[str, Any] | None = None) -> Stays:
    """Stays of a public data set, the simulator, a folder or a table.

    Raises:
        RecipeError: an option does not fit the source.
        DataError: the data cannot be found, read or used.
    """
    given = dict(options or {})
    if source == SIMULATOR:
        check_arguments("data.options", hospitals, given)
        return hospitals(**_tuples(given))[0]
    path = Path(source)
    if not path.suffix and not path.exists():
        if not is_public(source):
            raise DataError(
                f"{source!r} is no public data set, no simulator and no file",
                hint="Stays are " + ", ".join([SIMULATOR, *_public_stays()]),
            )
        check_keys("data.options", given, loader_options(source))
        return registry.load(source, form="stays", **_tuples(given))
    if given:
        raise RecipeError(f"data.options {list(given)} are not for files")
    if path.is_dir():
        return open_stays(path) if (path / "stays.json").is_file() else read_psv(path)
    if path.suffix == ".psv":
        return read_psv([path])
    frame = read_table(source)
    if "ICULOS" in frame.columns:
        if "patient_id" not in frame.columns:
            frame = frame.with_columns(pl.lit(path.stem).alias("patient_id"))
        return challenge_stays(frame, source=source)
    label = next((name for name in ("label", "SepsisLabel") if name in frame.columns), None)
    return stays_from_frame(frame, label_column=label, source=source)


def first_stays(source: str, count: int) -> Stays:
    """The first stays of a source; where it can be done the others are not read.

    Raises:
        RecipeError, DataError: see :func:`read_stays`.
    """
    path = Path(source)
    if not path.exists() and source != SIMULATOR and is_public(source):
        if "stays" in loader_options(source):
            return read_stays(source, {"stays": count})
    elif path.is_dir() and not (path / "stays.json").is_file():
        files = sorted(path.glob("*.psv"))[:count]
        if files:
            return read_psv(files)
    return read_stays(source).select(slice(count))


def _public_stays() -> list[str]:
    listed = registry.list_datasets()
    return listed.filter(listed["form"] == "stays")["name"].to_list()


@lru_cache(maxsize=1)
def load_parts(document: str) -> Parts:
    """The parts of a recipe's data section, given as JSON so that jobs of a process share them.

    Raises:
        RecipeError: an option or a site does not fit the source.
        DataError: the data cannot be found, read or used.
    """
    data = DataSection.model_validate_json(document)
    stays = read_stays(data.source, data.options)
    if "site" not in stays.categories:
        raise DataError(
            "the stays have no category 'site'", file=data.source,
            hint="Say in a column where each stay was: training goes from site to site",
        )  # fmt: skip
    if stays.label is None:
        raise DataError("the stays have no label: there is nothing to learn", file=data.source)
    known = sorted(set(stays.names("site").tolist()))
    for name in data.sites:
        if name not in known:
            raise RecipeError(f"data.sites: there is no site {name!r}" + nearest(name, known))
    sites = tuple(data.sites) or tuple(str(name) for name in known)
    stays = stays.of("site", *sites)
    fingerprint = stays.fingerprint()
    repair, table = None, pl.DataFrame()
    if data.repair:
        stays, repair, table = _repaired(stays, sites[0], data)
    split = split_by_patient(
        stays, test_size=data.test_size, validation_size=data.validation_size,
        seed=data.split_seed,
    )  # fmt: skip
    for part, some in zip(StaySplit._fields, split, strict=True):
        for site in sites:
            mine = some.select(some.names("site") == site)
            if not np.isfinite(mine.onset).any() or not np.isnan(mine.onset).any():
                raise DataError(
                    f"the {part} part of site {site!r} has not both kinds of stays, with an onset "
                    "and without", file=data.source,
                    hint="Take more stays, or leave the site out with data.sites",
                )  # fmt: skip
    return Parts(split, sites, repair, table, fingerprint)


def _repaired(
    stays: Stays, first: str, data: DataSection
) -> tuple[Stays, UnitRepair, pl.DataFrame]:
    """Units are judged by hospital, on training patients, against the first site."""
    by = "hospital" if "hospital" in stays.categories else "site"
    train = split_by_patient(
        stays, test_size=data.test_size, validation_size=data.validation_size,
        seed=data.split_seed,
    ).train  # fmt: skip
    repair = UnitRepair.fit(train.of("site", first))
    for source, mine in train.by(by).items():
        for name in mine.schema.names:
            repair = repair.learn(name, mine.column(name), source=source)
    unseen: dict[str, dict[str, str]] = {
        str(s): {} for s in stays.names(by) if s not in repair.sources
    }
    repair = replace(repair, sources={**repair.sources, **unseen})
    fixed, table = repair.stays(stays, by=by)
    return fixed, repair, table


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
