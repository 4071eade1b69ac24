"""Names of a package that are loaded when they are first used (PEP 562).

What a process does not need it does not load: a door of the service has no use for nets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names live in modules that are loaded late.

    Args:
        package: its ``__name__``.
        homes: module -> names that it has.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def loaded(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home_of[name]), name)

    return loaded
