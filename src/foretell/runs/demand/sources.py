"""From a recipe's data section to a panel."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foretell.data import registry, simulators
from foretell.data.carried import carry_known
from foretell.data.panel import Panel
from foretell.data.readers import read_panel
from foretell.errors import DataError, RecipeError
from foretell.runs.building import check_arguments
from foretell.runs.demand.recipe import DataSection
from foretell.runs.section import nearest
from foretell.runs.sources import is_public, loader_options

SIMULATORS: dict[str, Callable[..., tuple[Panel, Any]]] = {"shop": simulators.shop}

_READER = (
    "id_column", "time_column", "target_column", "past", "known", "events", "censored", "future",
    "static", "frequency", "impute", "query",
    "separator", "encoding", "decimal_comma",
)  # fmt: skip


def load_panel(data: DataSection, *, seed: int = 0) -> Panel:
    """The panel that a recipe names.

    Args:
        data: the section.
        seed: of a simulator, unless the recipe's options set one.

    Raises:
        RecipeError: an option or key does not fit the kind of source.
        DataError: the data cannot be found, read or used.
    """
    name = data.source
    if name in SIMULATORS:
        simulate = SIMULATORS[name]
        options = {"horizon": data.horizon, "seed": seed, **data.options}
        _check_options(name, data, list(inspect.signature(simulate).parameters))
        check_arguments(f"data.options of {name!r}", simulate, options)
        panel = simulate(**options)[0]
    elif is_public(name):
        _check_options(name, data, loader_options(name))
        panel = registry.load(name, form="panel", **data.options)
    else:
        panel = _read(data)
    if data.limit is not None:
        panel = panel.select(np.arange(min(data.limit, len(panel))))
    return panel if data.missing_known == "error" else carry_known(panel, data.horizon)


def for_new_data(
    data: DataSection, record: Mapping[str, Any], source: str, **tables: str | None
) -> DataSection:
    """The section by which new data of the same kind are read.

    Args:
        data: the run's section.
        record: what the run's record says of its data.
        source: the new data.
        tables: other paths for ``future`` and ``static``; those that are ``None`` stay.
    """
    changes: dict[str, Any] = {"source": source, "limit": None}
    changes |= {key: path for key, path in tables.items() if path is not None}
    was_table = data.source not in SIMULATORS and not is_public(data.source)
    is_table = source not in SIMULATORS and not is_public(source)
    if is_table and not was_table:
        # The run's data came with their columns named; the new table must have the same.
        changes["options"] = {}
        for key in ("past", "known", "events"):
            changes[key] = list(record.get(key, ()))
        changes["frequency"] = record.get("frequency")
    elif source != data.source and not is_table:
        changes |= {
            key: DataSection.model_fields[key].get_default(call_default_factory=True)
            for key in _READER
        }
        changes["options"] = {}
    return data.model_copy(update=changes)


def describe(data: DataSection, panel: Panel) -> dict[str, Any]:
    """What a run's record says of its data."""
    begun = panel.lengths > 0
    ends = panel.frequency.time(panel.ends[begun])
    starts = panel.frequency.time(panel.starts[begun])
    return {
        "source": data.source,
        "series": len(panel),
        "steps": int(panel.lengths.sum()),
        "first": str(starts.min()) if begun.any() else None,
        "last": str(ends.max()) if begun.any() else None,
        "frequency": panel.frequency.alias,
        "past": list(panel.past),
        "known": list(panel.known),
        "events": list(panel.events),
        "static": [*panel.static_categorical, *panel.static_real],
        "fingerprint": panel.fingerprint(),
        "notes": [
            {"kind": n.kind, "message": n.message, "count": n.count, "series": n.series}
            for n in panel.notes
        ],
    }


def _read(data: DataSection) -> Panel:
    if data.options:
        raise RecipeError(
            f"data.options {list(data.options)} are for simulators and public data sets, but "
            f"{data.source!r} is read as a file: name its columns by data.past, data.known, ..."
        )
    looks_like_a_name = not Path(data.source).suffix and len(Path(data.source).parts) == 1
    if looks_like_a_name and not Path(data.source).exists() and not set("*?[") & set(data.source):
        names = [*SIMULATORS, *registry.SHORT_NAMES, *registry.known()]
        raise DataError(
            f"{data.source!r} is no simulator, no public data set and no file"
            + nearest(data.source, names)
        )
    return read_panel(data.source, **{key: getattr(data, key) for key in _READER})


def _check_options(name: str, data: DataSection, known: list[str]) -> None:
    for key in data.options:
        if key not in known:
            raise RecipeError(f"data.options of {name!r} has no key {key!r}" + nearest(key, known))
    for key in _READER:
        if getattr(data, key) != DataSection.model_fields[key].get_default(
            call_default_factory=True
        ):
            raise RecipeError(f"data.{key} is for files: {name!r} names its columns itself")
