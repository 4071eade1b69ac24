"""Public data sets as sources of runs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from foretell.data import registry
from foretell.errors import DataError


def is_public(name: str) -> bool:
    """Whether a source is the name of a public data set."""
    return name in registry.SHORT_NAMES or name in registry.known()


def loader_options(name: str) -> list[str]:
    """Arguments of a public data set's reader."""
    loader = registry.find(name).loader
    if loader is None:
        return []
    module, _, function = loader.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    return list(parameters)[1:]


@contextmanager
def naming_source(source: str) -> Iterator[None]:
    """Adds the source's name to errors that name column and series but no file."""
    try:
        yield
    except DataError as error:
        if error.file is not None:
            raise
        places: dict[str, Any] = {
            "column": error.column, "series": error.series, "row": error.row, "hint": error.hint,
        }  # fmt: skip
        raise DataError(error.problem, file=source, **places) from error
