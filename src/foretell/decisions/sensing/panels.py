"""What can be measured next: panels of features, what they cost, and when not to ask for them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import DataError, ParameterError

_KEYS = ("channels", "cost", "turnaround", "refractory", "loinc", "available")


@dataclass(frozen=True)
class Panel:
    """A group of features that one order brings.

    Args:
        name: of the order.
        features: numbers of its columns.
        cost: in any common unit (money, blood, delay); must be positive.
        turnaround: hours from the order to the result.
        refractory: hours after a result in which the panel is not asked for again.
        loinc: codes of the order.
    """

    name: str
    features: tuple[int, ...]
    cost: float
    turnaround: float = 1.0
    refractory: float = 4.0
    loinc: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(int(i) for i in self.features))
        if not self.features or len(set(self.features)) != len(self.features):
            raise ParameterError(f"panel {self.name!r} needs features, each once")
        if not (np.isfinite(self.cost) and self.cost > 0):
            raise ParameterError(
                f"panel {self.name!r} costs {self.cost}: a positive number is needed"
            )
        if not all(np.isfinite(h) and h >= 0 for h in (self.turnaround, self.refractory)):
            raise ParameterError(f"hours of panel {self.name!r} must be finite and not negative")


def read_panels(
    columns: Mapping[str, int], file: str | Path | None = None, *, refractory: float = 4.0
) -> tuple[Panel, ...]:
    """Panels of a TOML file, one table each: ``channels``, ``cost``, ``turnaround``, ...

    Args:
        columns: channel -> number of the feature that a result fills in. Channels that are not
            there are left out, and so are panels without any, and those with
            ``available = false``.
        file: of the site; the one that comes with foretell by default.
        refractory: hours of panels that tell none.

    Raises:
        DataError: the file is not readable, or a panel has no cost, no channel or an unknown key;
            says which.
        ParameterError: a cost or a time is out of range, or two panels share a channel.
    """
    name = "panels.toml" if file is None else str(file)
    return check_panels(panels_of(panel_tables(file), columns, name=name, refractory=refractory))


def panel_tables(file: str | Path | None = None) -> dict[str, Any]:
    """The tables of a file of panels as they stand there.

    Args:
        file: of the site; the one that comes with foretell by default.

    Raises:
        DataError: the file is not readable.
    """
    name = "panels.toml" if file is None else str(file)
    try:
        if file is None:
            text = (resources.files(__package__) / "panels.toml").read_text("utf-8")
        else:
            text = Path(file).read_text("utf-8")
        return tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"panels cannot be read: {error}", file=name) from error


def panels_of(
    tables: Mapping[str, Any],
    columns: Mapping[str, int],
    *,
    name: str = "panels.toml",
    refractory: float = 4.0,
) -> tuple[Panel, ...]:
    """Panels of tables that were read, as :func:`read_panels` does; there may be none.

    Args:
        tables: of the panels.
        columns: channel -> number of the feature that a result fills in.
        name: of the file, for errors.
        refractory: hours of panels that tell none.

    Raises:
        DataError: a panel has no cost, no channel or an unknown key; says which.
        ParameterError: a cost or a time is out of range, or two panels share a channel.
    """
    found = [_panel(name, key, table, columns, refractory) for key, table in tables.items()]
    panels = tuple(panel for panel in found if panel is not None)
    return check_panels(panels) if panels else ()


def _panel(
    file: str, name: str, told: Any, columns: Mapping[str, int], refractory: float
) -> Panel | None:
    if not isinstance(told, dict):
        raise DataError(f"{name!r} must be a table with channels and cost", file=file)
    for key in told:
        if key not in _KEYS:
            raise DataError(
                f"panel {name!r} has an unknown key; known are {', '.join(_KEYS)}",
                file=file, column=key,
            )  # fmt: skip
    for key in ("channels", "cost"):
        if key not in told:
            raise DataError(f"panel {name!r} has no {key}", file=file, column=key)
    channels, codes = told["channels"], told.get("loinc", [])
    numbers = {"refractory": refractory}
    numbers |= {k: told[k] for k in ("cost", "turnaround", "refractory") if k in told}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"panel {name!r}: {value!r} is no number", file=file, column=key)
    for key, names in (("channels", channels), ("loinc", codes)):
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise DataError(f"panel {name!r} needs a list of names", file=file, column=key)
    if not isinstance(told.get("available", True), bool):
        raise DataError(f"panel {name!r} is available: true or false", file=file,
                        column="available")  # fmt: skip
    features = tuple(columns[c] for c in channels if c in columns)
    if not channels:
        raise DataError(f"panel {name!r} has no channels", file=file, column="channels")
    found = Panel(name, features, loinc=tuple(codes), **numbers) if features else None
    return found if told.get("available", True) else None


def check_panels(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """Panels whose names and features do not collide.

    Raises:
        ParameterError: none, or a name or a feature is there twice.
    """
    if not panels:
        raise ParameterError("there is no panel to choose from")
    names = [panel.name for panel in panels]
    features = [i for panel in panels for i in panel.features]
    if len(set(names)) != len(names) or len(set(features)) != len(features):
        raise ParameterError("panels must have names of their own and share no feature")
    return tuple(panels)


def measured(panels: Sequence[Panel], seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n, P) whether any feature of each panel was seen, from (n, F)."""
    return np.stack([seen[:, list(panel.features)].any(1) for panel in panels], axis=1)
