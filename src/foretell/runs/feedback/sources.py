"""From a recipe's data section to an event log."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data import registry, simulators
from foretell.data.events import EventLog, read_events
from foretell.data.events.clock import to_datetimes
from foretell.errors import DataError, ParameterError, RecipeError
from foretell.runs.feedback.recipe import DataSection
from foretell.runs.section import nearest
from foretell.runs.sources import is_public, loader_options

SIMULATORS: dict[str, Callable[..., tuple[EventLog, Any]]] = {
    "funnel_stream": simulators.funnel_stream
}

_COLUMNS = (
    "outcomes", "id_column", "time_column", "kind_column", "outcome_time_column",
    "unit", "features", "conversion", "revocation", "deadline",
    "separator", "encoding", "decimal_comma",
)  # fmt: skip


def load_log(data: DataSection, *, seed: int = 0) -> tuple[EventLog, NDArray[np.float64] | None]:
    """The log that a recipe names, and the true probabilities (n,) where a simulator knows them.

    Args:
        data: the section.
        seed: of a simulator, unless the recipe's options set one.

    Raises:
        RecipeError: an option or key does not fit the kind of source.
        DataError: the data cannot be found, read or used.
    """
    log, truth = _load(data, seed)
    kept = np.ones(len(log), bool)
    if data.between is not None:
        begin, end = (log.moment(edge) for edge in data.between)
        kept &= (log.times >= begin) & (log.times < end)
    for name, (low, high) in data.keep.items():
        if name not in log.feature_names or name in log.categorical_features:
            numeric = [n for n in log.feature_names if n not in log.categorical_features]
            raise RecipeError(f"data.keep: {name!r} is no numeric feature" + nearest(name, numeric))
        values = log.matrix()[:, log.feature_names.index(name)]
        kept &= (values >= low) & (values <= high)
    if not kept.any():
        raise DataError("data.between and data.keep leave no entity")
    if not kept.all():
        log, truth = log.select(kept), None if truth is None else truth[kept]
    if data.attribution_window is not None and not _is_table(data):
        log = log.with_window(data.attribution_window)
    return log, truth


def _load(data: DataSection, seed: int) -> tuple[EventLog, NDArray[np.float64] | None]:
    name = data.source
    if name in SIMULATORS:
        simulate = SIMULATORS[name]
        _check_options(name, data, _arguments(simulate))
        log, truth = simulate(**{"seed": seed, **data.options})
        return log, truth.conversion()
    if is_public(name):
        _check_options(name, data, loader_options(name))
        log = registry.load(name, **data.options)
        if not isinstance(log, EventLog):
            raise RecipeError(f"data.source {name!r} holds no events with outcomes that come later")
        return log, None
    return _read(data), None


def _is_table(data: DataSection) -> bool:
    return data.source not in SIMULATORS and not is_public(data.source)


def describe(data: DataSection, log: EventLog) -> dict[str, Any]:
    """What a run's record says of its data."""
    return {
        "source": data.source,
        "entities": len(log),
        "first": _when(log, log.times.min()) if len(log) else None,
        "last": _when(log, log.times.max()) if len(log) else None,
        "unit": log.unit,
        "calendar": log.calendar,
        "window": log.window,
        "now": log.now,
        "kinds": list(log.kinds),
        "features": list(log.feature_names),
        "fingerprint": log.fingerprint(),
        "notes": [
            {"kind": n.kind, "message": n.message, "count": n.count, "entity": n.series}
            for n in log.notes
        ],
    }


def _when(log: EventLog, time: float) -> float | str:
    """A moment as the log counts: a number, or a date."""
    if not log.calendar:
        return float(time)
    return str(to_datetimes(np.array([time]), log.unit)[0])


def _read(data: DataSection) -> EventLog:
    if data.options:
        raise RecipeError(
            f"data.options {list(data.options)} are for simulators and public data sets, but "
            f"{data.source!r} is read as a file: name its columns by data.id_column, ..."
        )
    path = Path(data.source)
    if not path.suffix and len(path.parts) == 1 and not path.exists():
        names = [*SIMULATORS, *registry.SHORT_NAMES, *registry.known()]
        raise DataError(
            f"{data.source!r} is no simulator, no public data set and no file"
            + nearest(data.source, names)
        )
    try:
        return read_events(
            data.source,
            data.outcomes,
            attribution_window=data.attribution_window,
            id=data.id_column,
            time=data.time_column,
            kind=data.kind_column,
            outcome_time=data.outcome_time_column,
            unit=data.unit,
            features=data.features,
            conversion=data.conversion,
            revocation=data.revocation,
            deadline=data.deadline,
            separator=data.separator,
            encoding=data.encoding,
            decimal_comma=data.decimal_comma,
        )
    except ParameterError as error:
        raise RecipeError(f"data: {error}") from error


def _arguments(simulate: Callable[..., Any]) -> list[str]:
    """Named arguments of a simulator; of its settings, where it takes any."""
    parameters = inspect.signature(simulate).parameters
    names = [n for n, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    if len(names) < len(parameters):
        names += [f for f in vars(simulators.FunnelStream()) if f not in names]
    return names


def _check_options(name: str, data: DataSection, known: list[str]) -> None:
    for key in data.options:
        if key not in known:
            raise RecipeError(f"data.options of {name!r} has no key {key!r}" + nearest(key, known))
    for key in _COLUMNS:
        if getattr(data, key) != DataSection.model_fields[key].get_default(
            call_default_factory=True
        ):
            raise RecipeError(f"data.{key} is for files: {name!r} names its columns itself")
