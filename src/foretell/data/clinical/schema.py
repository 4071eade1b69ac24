"""The variables of bedside monitoring: names, LOINC codes, units, bounds; shipped as data."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import DataError, ParameterError

_KEYS = frozenset(
    {"name", "title", "kind", "panel", "unit", "possible", "plausible", "loinc", "loinc_shared",
     "units", "aliases", "sets"}
)  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """How a value in another unit becomes one in the canonical unit: factor * value + offset."""

    factor: float
    offset: float = 0.0


@dataclass(frozen=True)
class Variable:
    """One variable that is charted over time.

    Args:
        name: its name in tables and features.
        title: what it is, in words.
        kind: ``"vital"``, ``"lab"`` or ``"output"``.
        unit: canonical unit in UCUM.
        possible: bounds outside of which a value is an error of the record.
        plausible: bounds of what intensive care usually sees.
        loinc: codes that name this variable alone.
        loinc_shared: codes that name other variables, too.
        units: other units and their conversion.
        aliases: other names, compared without regard to case.
        sets: named lists of channels that hold it.
        panel: the laboratory order it comes with.
    """

    name: str
    title: str
    kind: str
    unit: str
    possible: tuple[float, float]
    plausible: tuple[float, float]
    loinc: tuple[str, ...] = ()
    loinc_shared: tuple[str, ...] = ()
    units: Mapping[str, Conversion] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    panel: str | None = None

    def is_possible(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Whether each value lies within the possible bounds; False for NaN and infinities."""
        values = np.asarray(values)
        return (values >= self.possible[0]) & (values <= self.possible[1])

    def is_plausible(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Whether each value lies within the plausible bounds; False for NaN and infinities."""
        values = np.asarray(values)
        return (values >= self.plausible[0]) & (values <= self.plausible[1])


@dataclass(frozen=True)
class Schema:
    """The variables in the order of their channels, looked up by name, alias or LOINC code.

    ``Schema.default()`` is what the package ships; :meth:`override` takes a site's own file.
    """

    variables: tuple[Variable, ...]
    synonyms: Mapping[str, str] = field(default_factory=dict)
    version: int = 1

    def __post_init__(self) -> None:
        names: dict[str, str] = {}
        codes: dict[str, str] = {}
        for variable in self.variables:
            for name in (variable.name, *variable.aliases):
                other = names.setdefault(name.casefold(), variable.name)
                if other != variable.name:
                    raise ParameterError(
                        f"the name {name!r} is used by {other} and {variable.name}"
                    )
            for code in variable.loinc:
                other = codes.setdefault(code, variable.name)
                if other != variable.name:
                    raise ParameterError(f"LOINC {code} is used by {other} and {variable.name}")
            for low, high in (variable.possible, variable.plausible):
                if not low < high:
                    raise ParameterError(f"the bounds of {variable.name} are not ascending")
            for unit, conversion in variable.units.items():
                if not np.isfinite(conversion.factor) or conversion.factor == 0:
                    raise ParameterError(f"unit {unit!r} of {variable.name} has no usable factor")
        shared: dict[str, list[str]] = {}
        for variable in self.variables:
            for code in variable.loinc_shared:
                if code in codes:
                    raise ParameterError(f"LOINC {code} is both exclusive and shared")
                shared.setdefault(code, []).append(variable.name)
        object.__setattr__(self, "_names", names)
        object.__setattr__(self, "_codes", codes)
        object.__setattr__(self, "_shared", shared)
        object.__setattr__(self, "_by_name", {v.name: v for v in self.variables})

    @staticmethod
    @cache
    def default() -> Schema:
        """The schema that the package ships."""
        text = resources.files("foretell.data.clinical").joinpath("variables.toml")
        return Schema.from_dict(tomllib.loads(text.read_text("utf-8")))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Schema:
        """A schema from the tables of a TOML or JSON file.

        Raises:
            ParameterError: a key is unknown or missing, a bound or a name is wrong.
        """
        variables = tuple(variable_from_dict(entry) for entry in table.get("variable", ()))
        synonyms = {
            word: unit for unit, words in table.get("synonyms", {}).items() for word in words
        }
        return cls(variables, synonyms, int(table.get("version", 1)))

    def override(self, file: str | Path) -> Schema:
        """The schema with the entries of a site's TOML file.

        An entry whose name is known replaces the keys it states; others are added at the end.

        Raises:
            DataError: the file cannot be read.
            ParameterError: an entry is wrong.
        """
        path = Path(file)
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"the variables cannot be read: {error}", file=str(path)) from error
        variables = {v.name: v for v in self.variables}
        for entry in table.get("variable", ()):
            name = entry.get("name")
            if name in variables:
                variables[name] = variable_from_dict({**variable_to_dict(variables[name]), **entry})
            else:
                variables[name] = variable_from_dict(entry)
        words = {w: unit for unit, ws in table.get("synonyms", {}).items() for w in ws}
        return Schema(tuple(variables.values()), {**self.synonyms, **words}, self.version)

    def channels(self, of: str | Sequence[str] = "p19") -> Schema:
        """Only the variables of a named set (``"p19"``, ``"vitals"``, ...), or those named.

        Raises:
            ParameterError: there is no such set or variable.
        """
        if isinstance(of, str):
            kept = tuple(v for v in self.variables if of in v.sets)
            if not kept:
                sets = sorted({s for v in self.variables for s in v.sets})
                raise ParameterError(f"no set of channels is called {of!r}; known are {sets}")
            return replace(self, variables=kept)
        return replace(self, variables=tuple(self[name] for name in of))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all channels in order."""
        return tuple(self._by_name)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.variables)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name  # type: ignore[attr-defined]

    def __getitem__(self, name: str) -> Variable:
        try:
            return self._by_name[name]  # type: ignore[attr-defined]
        except KeyError:
            raise ParameterError(
                f"no variable is called {name!r}; known are {', '.join(self.names)}"
            ) from None

    def find(self, name: str) -> Variable | None:
        """The variable with this name or alias, in any case; None if there is none."""
        known = self._names.get(name.strip().casefold())  # type: ignore[attr-defined]
        return None if known is None else self._by_name[known]  # type: ignore[attr-defined]

    def by_loinc(self, codes: str | Iterable[str]) -> Variable | None:
        """The variable that the codes of one observation name; None if none does.

        Exclusive codes win over shared ones: a saturation coded 2708-6 and 59408-5 is that of the
        pulse oximeter. Where only a shared code is given, the last variable that lists it is meant
        (2708-6 alone: arterial blood, as LOINC defines it).
        """
        codes = (codes,) if isinstance(codes, str) else tuple(codes)
        for table in (self._codes, {k: v[-1] for k, v in self._shared.items()}):  # type: ignore[attr-defined]
            for code in codes:
                if code in table:
                    return self._by_name[table[code]]  # type: ignore[attr-defined]
        return None

    def unit(self, text: str) -> str:
        """The UCUM spelling of a unit; the text itself where it is no known synonym."""
        text = text.strip()
        return self.synonyms.get(text, text)

    def convert(self, name: str, values: ArrayLike, unit: str | None) -> NDArray[np.float64]:
        """Values of a variable in its canonical unit.

        Args:
            name: of the variable.
            values: of any shape.
            unit: in which they are; None means the canonical one.

        Raises:
            DataError: the unit is not known for this variable.
        """
        variable = self[name]
        values = np.asarray(values, np.float64)
        if unit is None:
            return values
        unit = self.unit(unit)
        if unit == self.unit(variable.unit):
            return values
        conversion = variable.units.get(unit)
        if conversion is None:
            raise DataError(
                f"unit {unit!r} is not known for {name}",
                column=name,
                hint=f"Known are {', '.join((variable.unit, *variable.units))}",
            )
        return conversion.factor * values + conversion.offset

    def fingerprint(self) -> str:
        """A hash of names, order, units and bounds: equal where models understand the same."""
        told = [[v.name, v.unit, list(v.possible)] for v in self.variables]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def variable_from_dict(entry: Mapping[str, Any]) -> Variable:
    """A variable from the keys of a TOML or JSON entry.

    Raises:
        ParameterError: a key is unknown or missing, or has the wrong type.
    """
    unknown = set(entry) - _KEYS
    if unknown:
        raise ParameterError(f"a variable has unknown keys {sorted(unknown)}")
    try:
        return Variable(
            name=str(entry["name"]),
            title=str(entry["title"]),
            kind=str(entry["kind"]),
            unit=str(entry["unit"]),
            possible=_bounds(entry["possible"]),
            plausible=_bounds(entry["plausible"]),
            loinc=tuple(entry.get("loinc", ())),
            loinc_shared=tuple(entry.get("loinc_shared", ())),
            units={k: Conversion(**v) for k, v in entry.get("units", {}).items()},
            aliases=tuple(entry.get("aliases", ())),
            sets=tuple(entry.get("sets", ())),
            panel=entry.get("panel"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ParameterError(
            f"variable {entry.get('name')!r} is not complete: {type(error).__name__} {error}"
        ) from error


def _bounds(pair: Sequence[float]) -> tuple[float, float]:
    low, high = pair
    return float(low), float(high)


def variable_to_dict(variable: Variable) -> dict[str, Any]:
    """The entry of a variable, for :func:`variable_from_dict`."""
    told = {k: v for k, v in vars(variable).items() if v is not None}
    told["units"] = {k: vars(c) for k, c in variable.units.items()}
    return told
