"""What clinical interfaces say, whatever their format: measurements, visits, orders, refusals.

Readers of HL7 v2 and FHIR give these records; :func:`normalise` turns a measurement into the
schema's terms, and :func:`stays_from_feed` a whole feed into hourly stays. Times are seconds since
1970 in UTC. No record holds a name, an address or a date of birth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import polars as pl

from foretell.data.clinical.binning import bin_observations
from foretell.data.clinical.doubts import DOUBTS, is_old
from foretell.data.clinical.merges import owned
from foretell.data.clinical.repair import UnitRepair, Verdict
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays
from foretell.data.clinical.treatments import TreatmentCodes
from foretell.data.clinical.visits import IDLE, Result, visits_of
from foretell.data.panel import DataNote
from foretell.errors import DataError

Status = Literal["preliminary", "final", "corrected", "deleted"]
VISIT_KINDS = (
    "admit", "register", "transfer", "discharge", "update",
    "cancel_admit", "cancel_transfer", "cancel_discharge", "merge",
)  # fmt: skip
RANKS: Mapping[str, int] = {"preliminary": 0, "final": 1, "corrected": 2, "deleted": 3}
"""Of two versions issued at the same time, the one of higher rank stands."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One result as an interface sent it.

    Args:
        site: whose patient it is.
        patient: identifier within the site.
        visit: identifier of the stay; None where the message names none.
        codes: (system, code) pairs that name what was measured; ``"LN"`` is LOINC.
        value: NaN where there is no number.
        unit: as it was sent, None where it was not.
        time: at which the specimen was taken.
        issued: at which the value became known; not before ``time``.
        status: what the sender says of it.
        group: tells results of one sender apart; versions of one result share it.
        comparator: ``"<"`` or ``">"`` where the value bounds the measuring range.
        problem: why there is no number.
        described: age and sex that the message tells of the patient, as of ``issued``: results of
            somebody else are found by them.
    """

    site: str
    patient: str
    visit: str | None
    codes: tuple[tuple[str, str], ...]
    value: float
    unit: str | None
    time: float
    issued: float
    status: Status
    group: str
    comparator: str | None = None
    problem: str | None = None
    described: tuple[float | None, str | None] | None = None


@dataclass(frozen=True, slots=True)
class VisitChange:
    """An admission, transfer, discharge, or what cancels or corrects one; see ``VISIT_KINDS``.

    ``prior`` is the identifier that a merge retires; ``age`` is in years, 90 from 90 on, as of the
    admission where that is told, else of ``time``; ``doubt`` says why an age was left out.
    """

    site: str
    patient: str
    visit: str | None
    kind: str
    time: float
    admitted: float | None = None
    unit: str | None = None
    age: float | None = None
    sex: str | None = None
    prior: str | None = None
    doubt: str | None = None


@dataclass(frozen=True, slots=True)
class OrderChange:
    """An order, a treatment or a diagnosis.

    Args:
        site: whose patient it is.
        patient: identifier within the site.
        visit: identifier of the stay; None where the message names none.
        codes: (system, code) pairs of what was ordered, given or found.
        number: the sender's name of it: versions of one share it.
        status: ``pending``, ``done`` or ``cancelled``.
        time: at which it was ordered, given or found.
        kind: ``"test"``, ``"treatment"`` or ``"condition"``.
        issued: at which it became known; None where the message does not say.
    """

    site: str
    patient: str
    visit: str | None
    codes: tuple[tuple[str, str], ...]
    number: str
    status: str
    time: float
    kind: str = "test"
    issued: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A part of a message that could not be used: which, where and why, without any value."""

    reason: str
    where: str
    code: str = ""
    system: str = ""
    unit: str = ""


Record = Measurement | VisitChange | OrderChange | Refusal


class Normal(NamedTuple):
    """A measurement in the schema's terms: ``value`` in the canonical unit."""

    channel: str
    value: float


@dataclass(frozen=True)
class Normaliser:
    """From a sender's codes and units to the schema's.

    Args:
        schema: the channels that are known.
        codes: further codes, ``"SYSTEM|CODE"`` or ``"CODE"`` -> name of a variable.
        repair: of values, where no unit or a wrong one was stated; what it calls impossible is
            refused. None takes values as they come.
        treatments: what codes of orders, drugs and diagnoses say of treatment.
        units: the sender's own spellings of units, or a code's: ``spelling -> UCUM``, or
            ``"SYSTEM|CODE"`` or ``"CODE"`` -> such a table; what a code's says comes first, and
            its ``""`` is a unit that is not stated.
    """

    schema: Schema = field(default_factory=Schema.default)
    codes: Mapping[str, str] = field(default_factory=dict)
    repair: UnitRepair | None = None
    treatments: TreatmentCodes = field(default_factory=TreatmentCodes)
    units: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)

    def __call__(self, measurement: Measurement) -> Normal | Refusal:
        """The measurement in canonical terms, or why it cannot be used.

        A deletion needs no value, and a correction without a number is one. Values outside the
        possible bounds are kept: features leave them out, and a quality monitor may say more about
        them.
        """
        codes = measurement.codes
        system, code = codes[0] if codes else ("", "")
        where = "code"
        name = self._mapped(codes)
        if name is None:
            loinc = [c for s, c in codes if s in ("LN", "")]
            variable = self.schema.by_loinc(loinc)
            name = None if variable is None else variable.name
        if name is None:
            return Refusal("unknown_code", where, code, system)
        withdrawn = measurement.status == "corrected" and measurement.problem is not None
        if measurement.status == "deleted" or withdrawn:
            # A correction to "hemolyzed", or to nothing, takes the number back that stood there.
            return Normal(name, math.nan)
        if measurement.problem is not None:
            return Refusal(measurement.problem, "value", code, system)
        if not math.isfinite(measurement.value):
            return Refusal("no_number", "value", code, system)
        unit = self._unit(measurement) if self.units else measurement.unit
        if self.repair is not None and name in self.repair.schema:
            return self._repaired(self.repair, name, measurement, unit)
        if not unit or unit == self.schema[name].unit:
            return Normal(name, measurement.value)
        try:
            return Normal(name, float(self.schema.convert(name, measurement.value, unit)))
        except DataError:
            return Refusal("unknown_unit", "unit", code, system, unit[:32])

    def _unit(self, measurement: Measurement) -> str | None:
        """The unit as the sender means it."""
        spelling = (measurement.unit or "").strip()
        for system, code in measurement.codes:
            for key in (f"{system}|{code}", code):
                of_code = self.units.get(key)
                if isinstance(of_code, Mapping) and spelling in of_code:
                    return of_code[spelling]
        found = self.units.get(spelling)
        return found if isinstance(found, str) else measurement.unit

    def _repaired(
        self, repair: UnitRepair, name: str, measurement: Measurement, unit: str | None
    ) -> Normal | Refusal:
        system, code = measurement.codes[0]
        unit = unit or None
        canonical = self.schema[name].unit
        try:
            if unit is not None and unit != canonical:
                value = float(self.schema.convert(name, measurement.value, unit))
                # A stated unit is taken at its word: what it makes of the value is judged alone.
                found = repair.values(name, value, unit=canonical)
            else:
                source = None if unit else measurement.site
                found = repair.values(name, measurement.value, source=source)
        except DataError:
            return Refusal("unknown_unit", "unit", code, system, (unit or "")[:32])
        if found.verdict[0] == Verdict.INVALID:
            return Refusal("impossible_value", "value", code, system, (unit or "")[:32])
        return Normal(name, float(found.values[0]))

    def _mapped(self, codes: tuple[tuple[str, str], ...]) -> str | None:
        for system, code in codes if self.codes else ():
            found = self.codes.get(f"{system}|{code}") or self.codes.get(code)
            if found is not None:
                return found
        return None


def normalise(measurement: Measurement, schema: Schema | None = None) -> Normal | Refusal:
    """A measurement in canonical terms, or why it cannot be used; see :class:`Normaliser`."""
    return Normaliser(Schema.default() if schema is None else schema)(measurement)


_Key = tuple[str, str, str, float]
_Version = tuple[tuple[float, int], str, Measurement, float]


def _settle_times(latest: dict[_Key, _Version]) -> None:
    """Joins corrections that state another time of the specimen, if it is clear what they correct.

    In the hour that autumn repeats, a local time that is told later may be read as the second.
    """
    of_group: dict[tuple[str, str, str], list[_Key]] = {}
    for key in latest:
        of_group.setdefault(key[:3], []).append(key)
    for keys in of_group.values():
        if len(keys) != 2:
            continue
        first, second = sorted(keys, key=lambda k: latest[k][0][1])
        if latest[first][0][1] < RANKS["corrected"] <= latest[second][0][1]:
            began = min(latest[first][3], latest[second][3])
            newest = max(latest[first], latest[second], key=lambda v: v[0])
            latest[first] = (*newest[:3], began)
            del latest[second]


def stays_from_feed(
    records: Iterable[Record],
    *,
    schema: Schema | None = None,
    normaliser: Normaliser | None = None,
    until: float | None = None,
    idle: float = IDLE,
) -> Stays:
    """Hourly stays from the records of a feed, in any order.

    Of each result the last version counts, in the hour in which its first one became known.

    A stay begins at its admission, or with its first specimen where none is told when its result
    becomes known, and ends with its discharge, the admission to another visit, ``until``, or its
    last measurement. Who comes back has another stay of the same patient, ``"site/patient~2"``; see
    :func:`foretell.data.clinical.visits.visits_of`: the stays are those that a service sees. Hours
    go by when values became known. A stay's unit is the first one: a table holds one a stay, and a
    later one was no news before.

    What was told of an identifier until a merge retired it is history of who stays, visits too,
    from the merge on; where a stay goes on by then it is one with it.

    Results that belong to no stay, such as those that became known after a discharge, and what is
    told of a patient that cannot all be true are counted in the notes.

    Args:
        records: of the readers.
        schema: the channels of the stays, the 34 of the 2019 challenge by default.
        normaliser: of codes and units, the schema's by default.
        until: time at which the record ends.
        idle: hours without any result after which a stay counts as left.
    """
    schema = Schema.default().channels("p19") if schema is None else schema
    normaliser = Normaliser(schema) if normaliser is None else normaliser
    latest: dict[_Key, _Version] = {}
    visits: dict[tuple[str, str], list[VisitChange]] = {}
    refused = 0
    for record in records:
        if isinstance(record, VisitChange):
            visits.setdefault((record.site, record.patient), []).append(record)
        elif isinstance(record, Measurement):
            normal = normaliser(record)
            if isinstance(normal, Refusal) or normal.channel not in schema:
                refused += 1
                continue
            key = (record.site, record.patient, record.group, record.time)
            version = (record.issued, RANKS[record.status])
            held = latest.get(key)
            first = record.issued if held is None else min(held[3], record.issued)
            if held is None or version >= held[0]:
                latest[key] = (version, normal.channel, record, first)
            else:
                latest[key] = (*held[:3], first)
    _settle_times(latest)
    measured: list[tuple[str, float, float, float, str, str | None]] = []
    of_patient: dict[tuple[str, str], list[int]] = {}
    for (site, patient, group, time), (_, channel, record, first) in latest.items():
        # What was deleted is no value, but somebody was there.
        known = normaliser(record)
        value = known.value if isinstance(known, Normal) else math.nan
        of_patient.setdefault((site, patient), []).append(len(measured))
        measured.append((channel, value, time, first, group, record.visit))
    rows: dict[str, list] = {n: [] for n in ("id", "channel", "value", "time", "arrival", "source")}
    stays: dict[str, list] = {
        n: [] for n in ("id", "patient", "hours", "age", "site", "sex", "unit")
    }
    outside, doubts = 0, Counter[str]()
    owners = owned(visits, of_patient, [v[3] for v in measured])
    names = {"/".join(owner) for owner in owners}
    for owner, of in sorted(owners.items()):
        values = [measured[i] for _, i in of.results]
        old = [is_old(v[2], v[3]) for v in values]
        told = [
            Result(v[3], v[3] if stale else v[2], v[5], stale, path)
            for v, stale, (path, _) in zip(values, old, of.results, strict=True)
        ]
        found = visits_of([c for _, c in of.changes], told, [p for p, _ in of.changes], idle=idle)
        outside += found.outside
        doubts.update(found.doubts)
        for number, stay in enumerate(found.stays, 1):
            identity = name = "/".join(owner)
            if number > 1:
                name = f"{identity}~{number}"
                while name in names:
                    name += "~"
                names.add(name)
            stays["id"].append(name)
            stays["patient"].append(identity)
            stays["hours"].append(stay.hours(until, idle))
            stays["site"].append(owner[0])
            stays["age"].append(stay.described.age)
            stays["sex"].append(stay.described.sex)
            stays["unit"].append(stay.unit)
            for i in stay.results:
                channel, value, time, first, group, _ = values[i]
                if math.isnan(value):
                    continue
                at, then = (time - stay.begin) / 3600, (first - stay.begin) / 3600
                cells = (name, channel, value, at, then, group)
                for column, cell in zip(rows.values(), cells, strict=True):
                    column.append(cell)
    if not stays["id"]:
        raise DataError("the feed holds no stay", hint="Admissions or measurements are needed")
    text = dict.fromkeys(("id", "patient", "site", "sex", "unit", "channel", "source"), pl.String)
    numbers = dict.fromkeys(("value", "time", "arrival", "age"), pl.Float64)
    kinds = {**text, **numbers, "hours": pl.Int64}
    binned = bin_observations(
        pl.DataFrame(rows, schema={n: kinds[n] for n in rows}),
        pl.DataFrame(stays, schema={n: kinds[n] for n in stays}),
        schema=schema,
        categories=("site", "unit", "sex"),
        numbers=("age",),
    )
    notes = [DataNote(name, f"{n:,} times: {DOUBTS[name]}", n) for name, n in doubts.items()]
    if outside:
        message = f"{outside:,} results belong to no stay and were left out"
        notes.append(DataNote("outside_stays", message, outside))
    return replace(binned, notes=(*binned.notes, *notes))
