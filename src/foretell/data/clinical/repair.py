"""Units that were not stated, or not as they are: found by source, repaired only where it is safe.

A unit belongs to a laboratory or a device, not to a single value. A glucose of 18 mg/dL is an
emergency and not 18 mmol/L sent by mistake, so a value that is merely unusual is never converted by
itself. What is converted is

1. a value with a stated unit, by that unit;
2. all values of a source whose values *as a whole* lie where another unit puts them, compared with
   a reference site;
3. a single value that no patient can have in the canonical unit, if exactly one other unit makes
   it plausible.

What no patient can have and no unit explains is invalid. Nothing is ever clipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.schema import Conversion, Schema, Variable
from foretell.data.clinical.stays import Stays
from foretell.data.panel import DataNote
from foretell.errors import ParameterError

_FAR, _NEAR = 2.0, 1.6
"""A source's median is far from the reference beyond this ratio, and near it within that."""


class Verdict(IntEnum):
    """What became of a value."""

    MISSING = 0
    KEPT = 1
    UNUSUAL = 2
    """Kept, but outside what intensive care usually sees."""
    REPAIRED = 3
    INVALID = 4


class Repaired(NamedTuple):
    """Values in the canonical unit, NaN where invalid, and what became of each.

    Args:
        values: (n,) float64.
        verdict: (n,) int8, see :class:`Verdict`.
    """

    values: NDArray[np.float64]
    verdict: NDArray[np.int8]


@dataclass(frozen=True)
class UnitRepair:
    """Brings values into canonical units, and says where that cannot be done.

    Args:
        schema: variables with their units and bounds.
        medians: of each variable at a reference site; none for no comparison by source.
        sources: unit that each source uses without stating it: source -> variable -> unit.
        min_values: values of a source that are needed for a judgement of it.
    """

    schema: Schema
    medians: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    min_values: int = 20

    @classmethod
    def fit(cls, stays: Stays, *, min_values: int = 20) -> UnitRepair:
        """Takes a site whose units are known to be right as the reference."""
        medians = {}
        for name in stays.schema.names:
            values = stays.column(name)
            values = values[stays.schema[name].is_possible(values)]
            if len(values) >= min_values:
                medians[name] = float(np.median(values))
        return cls(stays.schema, medians, {}, min_values)

    def learn(self, name: str, values: ArrayLike, *, source: str) -> UnitRepair:
        """The same, with what the values of a source without stated units say of its unit.

        Args:
            name: of the variable.
            values: (n,) as they were sent.
            source: who sent them.
        """
        unit = self.unit_of(name, values)
        known = {s: dict(units) for s, units in self.sources.items()}
        mine = known.setdefault(source, {})
        mine.pop(name, None)
        if unit is not None:
            mine[name] = unit
        return replace(self, sources=known)

    def unit_of(self, name: str, values: ArrayLike) -> str | None:
        """The unit in which values seem to be, as a whole; None for the canonical one.

        Their median must be far from the reference's as it stands, and near it after exactly one
        conversion.
        """
        variable, reference = self.schema[name], self.medians.get(name)
        given = np.asarray(values, np.float64)
        given = given[np.isfinite(given)]
        if reference is None or reference <= 0 or len(given) < self.min_values:
            return None
        middle = float(np.median(given))
        if _apart(middle, reference) < np.log(_FAR):
            return None
        near = [
            unit
            for unit, how in variable.units.items()
            if _apart(how.factor * middle + how.offset, reference) <= np.log(_NEAR)
        ]
        return near[0] if len(near) == 1 else None

    def values(
        self, name: str, values: ArrayLike, *, unit: str | None = None, source: str | None = None
    ) -> Repaired:
        """Judges values of one variable.

        Args:
            name: of the variable.
            values: (n,) as they were sent; NaN for none.
            unit: as it was stated; None where it was not.
            source: who sent them, for what is known of it.

        Raises:
            DataError: the stated unit is not known for the variable.
            ParameterError: there is no such variable.
        """
        variable = self.schema[name]
        raw = np.atleast_1d(np.asarray(values, np.float64))
        verdict = np.where(np.isnan(raw), Verdict.MISSING, Verdict.KEPT).astype(np.int8)
        known = self.sources.get(source or "", {}).get(name)
        if unit is not None:
            found = self.schema.convert(name, raw, unit)
        elif known is not None:
            found = self.schema.convert(name, raw, known)
            verdict[~np.isnan(raw)] = Verdict.REPAIRED
        else:
            found = raw.copy()
            for row in np.flatnonzero(~np.isnan(raw) & ~variable.is_possible(raw)):
                other = _explained(variable, raw[row])
                if other is not None:
                    found[row] = other.factor * raw[row] + other.offset
                    verdict[row] = Verdict.REPAIRED
        there = ~np.isnan(raw)
        impossible = there & ~variable.is_possible(found)
        unusual = there & ~variable.is_plausible(found) & (verdict != Verdict.REPAIRED)
        verdict[unusual] = Verdict.UNUSUAL
        verdict[impossible] = Verdict.INVALID
        return Repaired(np.where(impossible, np.nan, found), verdict)

    def stays(self, stays: Stays, *, by: str | None = None) -> tuple[Stays, pl.DataFrame]:
        """Repairs hourly stays, source by source; invalid values count as missing.

        Args:
            stays: whose values may be in other units; they are not changed.
            by: category whose values are the sources, such as ``"hospital"``; None for one.

        Returns:
            The stays, and a table ``source, channel, unit, kept, unusual, repaired, invalid``
            of the channels where anything was found; ``unit`` is that of the source if it is not
            the canonical one.

        Raises:
            ParameterError: the category is not known, or the schemas differ.
        """
        if stays.schema.names != self.schema.names:
            raise ParameterError("the stays have other channels than this was fitted on")
        names = np.full(len(stays), "") if by is None else stays.names(by)
        of_row = np.repeat(names.astype(str), stays.lengths)
        sources = sorted(set(names.astype(str).tolist()))
        places = {source: np.flatnonzero(of_row == source) for source in sources}
        channels, rows = {}, []
        repair = self
        for name in stays.schema.names:
            column = np.array(stays.column(name), np.float32)
            for source in sources:
                mine = column[places[source]]
                if source not in self.sources:
                    repair = repair.learn(name, mine, source=source)
                found = repair.values(name, mine, source=source)
                counts = np.bincount(found.verdict, minlength=len(Verdict))
                column[places[source]] = found.values
                if counts[Verdict.UNUSUAL :].any():
                    unit = repair.sources.get(source, {}).get(name)
                    rows.append((source, name, unit, *counts[Verdict.KEPT :].tolist()))
            channels[name] = column
        table = pl.DataFrame(
            rows,
            schema={"source": pl.String, "channel": pl.String, "unit": pl.String}
            | {v.name.lower(): pl.Int64 for v in list(Verdict)[1:]},
            orient="row",
        )
        notes = list(stays.notes)
        for kind in ("repaired", "invalid"):
            if (count := int(table[kind].sum())) > 0:
                what = "were converted from another unit" if kind == "repaired" else (
                    "are impossible in any unit and count as missing"
                )  # fmt: skip
                notes.append(DataNote(kind, f"{count} values {what}", count))
        offsets = stays.offsets
        label = None if stays.label is None else stays.labels()
        repaired = replace(
            stays, begins=offsets[:-1], channels=channels, label=label, notes=tuple(notes)
        )
        return repaired, table


def _explained(variable: Variable, value: float) -> Conversion | None:
    """The one conversion that makes an impossible value plausible; None for none or several."""
    fits = [
        how
        for how in variable.units.values()
        if variable.is_plausible(how.factor * value + how.offset)
    ]
    distinct = {(how.factor, how.offset): how for how in fits}
    return next(iter(distinct.values())) if len(distinct) == 1 else None


def _apart(value: float, reference: float) -> float:
    """Distance of two positive numbers as a ratio's logarithm; infinite where there is none."""
    if not value > 0:
        return float("inf")
    return float(abs(np.log(value / reference)))
