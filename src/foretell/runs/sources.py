"""From a recipe's data section to a panel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from foretell.data import registry, simulators
from foretell.data.panel import Panel
from foretell.data.readers import read_panel
from foretell.errors import RecipeError
from foretell.runs.recipe import DataSection

SIMULATORS: dict[str, Callable[..., tuple[Panel, Any]]] = {"shop": simulators.shop}


def load_panel(data: DataSection, *, source: str | None = None, seed: int = 0) -> Panel:
    """The panel that a recipe names.

    Args:
        data: the section.
        source: another source read with the same columns, for predictions on new data.
        seed: of a simulator, unless the recipe's options set one.

    Raises:
        RecipeError: an option is not known to the simulator or reader.
        DataError: the data cannot be found, read or used.
    """
    name = data.source if source is None else source
    if name in SIMULATORS:
        options = {"horizon": data.horizon, "seed": seed, **data.options}
        panel = _call(SIMULATORS[name], name, options)[0]
    elif name in registry.SHORT_NAMES or name in registry.known():
        panel = registry.load(name, **data.options)
    else:
        panel = read_panel(
            name,
            id_column=data.id_column,
            time_column=data.time_column,
            target_column=data.target_column,
            past=data.past,
            known=data.known,
            events=data.events,
            censored=data.censored,
            future=data.future,
            static=data.static,
            frequency=data.frequency,
            impute=data.impute,
            query=data.query,
        )
    return panel if data.limit is None else panel.select(np.arange(min(data.limit, len(panel))))


def _call(function: Callable[..., Any], name: str, options: dict[str, Any]) -> Any:
    known = list(inspect.signature(function).parameters)
    unknown = [key for key in options if key not in known]
    if unknown:
        raise RecipeError(f"data.options of {name!r} has no key {unknown[0]!r}; known: {known}")
    return function(**options)
