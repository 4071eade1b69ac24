"""Feeds as hospitals send them: by two doors, repeated, late, out of order, corrected, damaged.

What a rough feed says in the end is what its stays hold, so that a service that takes it must come
to the same scores and alarms as the tables do.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from foretell.data.clinical.fhir.writer import bundles_of
from foretell.data.clinical.hl7.writer import Result, messages_of, result_message
from foretell.data.clinical.schema import Variable
from foretell.data.clinical.stays import Stays
from foretell.errors import ParameterError

_UTC = re.compile(rb"(\d{14})\.\d{3}\+0000")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_DAMAGE = ("cut", "no patient", "no number", "delimiters", "charset", "junk")
Door = Literal["hl7", "fhir"]


class Sending(NamedTuple):
    """One message on its way.

    Args:
        time: at which it is sent.
        door: HL7 v2 over MLLP, or FHIR.
        site: whose it is.
        name: MSH-10, or the bundle's id.
        content: its bytes.
        good: whether the service has to take it.
    """

    time: float
    door: Door
    site: str
    name: str
    content: bytes
    good: bool = True


@dataclass(frozen=True)
class Roughness:
    """How a feed departs from an orderly one; shares are of messages where not said otherwise.

    Args:
        fhir: sent as FHIR bundles rather than HL7 v2.
        repeated: sent twice, the second time up to three hours later.
        late: sent up to ``delay`` seconds after they were written.
        delay: see ``late``.
        corrected: results that are first sent wrong, or of another patient, and then corrected.
        damaged: that arrive damaged first, are refused and sent again.
        converted: whose values are in other units than the canonical ones.
        zones: site -> time zone of its HL7 messages, whose times but MSH-7 have no offset.
    """

    fhir: float = 0.5
    repeated: float = 0.05
    late: float = 0.05
    delay: float = 5400.0
    corrected: float = 0.01
    damaged: float = 0.005
    converted: float = 0.1
    zones: Mapping[str, str] = field(default_factory=dict)


class _Cell(NamedTuple):
    variable: Variable
    value: float
    status: str = "F"


def plain_names(stays: Stays) -> Stays:
    """The stays under names of patients and stays that HL7 v2 and FHIR can both send."""
    patients, ids = (
        np.array([re.sub(r"[^A-Za-z0-9\-.]", "-", str(n))[:64] for n in names])
        for names in (stays.patients, stays.ids)
    )
    return replace(stays, patients=patients, ids=ids)


def rough_feed(
    stays: Stays,
    roughness: Roughness | None = None,
    *,
    begin: float = 1_767_225_600.0,
    spread: float = 24.0,
    site: str = "hospital",
    seed: int = 0,
) -> list[Sending]:
    """Stays as a rough feed, in the order in which it is sent.

    Args:
        stays: from their first hour on, whose channels have LOINC codes.
        roughness: of the feed.
        begin: when the first stay begins, in seconds since 1970.
        spread: hours over which the stays begin, evenly.
        site: category of the stays that names the site, else the site of all.
        seed: of all that is drawn.

    Raises:
        ParameterError: a stay does not begin with its first hour, or its name cannot be sent.
    """
    rough = Roughness() if roughness is None else roughness
    if not all(_ID.fullmatch(str(name)) for name in (*stays.patients, *stays.ids)):
        raise ParameterError("names of patients or stays cannot be ids of FHIR: plain_names() them")
    if (np.asarray(stays.starts) != 1).any():
        raise ParameterError("a rough feed is of stays that begin with their first hour")
    draw = random.Random(seed)
    sites = stays.names(site) if site in stays.categories else [site] * len(stays)
    out: list[Sending] = []
    for i in range(len(stays)):
        start = begin + 3600.0 * spread * i / max(len(stays), 1) + draw.uniform(0, 600)
        out += _Stay(stays.select([i]), i, str(sites[i]), start, rough, draw).sendings()
    # Of equal times the one made first is first.
    out.sort(key=lambda s: s.time)
    return out


class _Stay:
    """One stay's messages."""

    def __init__(
        self, stay: Stays, number: int, site: str, begin: float, rough: Roughness,
        draw: random.Random,
    ) -> None:  # fmt: skip
        self._stay, self._number, self._site = stay, number, site
        self._begin, self._rough, self._draw = begin, rough, draw
        self._end = begin + 3600.0 * int(stay.lengths[0])
        self._patient, self._visit = str(stay.patients[0]), str(stay.ids[0])
        name = rough.zones.get(site)
        self._zone = None if name is None else ZoneInfo(name)

    def sendings(self) -> Iterator[Sending]:
        """All messages, in no order."""
        first, last = self._visits()
        yield first
        for hour, values in enumerate(self._stay.matrix(np.array([0])), 1):
            for one in self._hour(hour, values):
                yield from self._roughly(one)
        yield last

    def _visits(self) -> tuple[Sending, Sending]:
        """Admission and discharge, which are sent on time."""
        name = f"{self._number}."
        if self._draw.random() < self._rough.fhir:
            told = list(bundles_of(self._stay, begin=self._begin, name=name))
            first, last = (
                self._fhir(t, f"{name}{k}", b["entry"])
                for k, (t, b) in (("in", told[0]), ("out", told[-1]))
            )
        else:
            messages = list(messages_of(self._stay, begin=self._begin, facility=self._site,
                                        name=name))  # fmt: skip
            first, last = (
                Sending(t, "hl7", self._site, _control(m), self._local(m))
                for t, m in (messages[0], messages[-1])
            )
        return first, last

    def _hour(self, hour: int, values: Sequence[float]) -> Iterator[Sending]:
        """What becomes known in an hour, and the corrections of it."""
        draw = self._draw
        known = self._begin + 3600.0 * (hour - 1 + draw.uniform(0.02, 0.98))
        taken = max(known - draw.uniform(0, 900), self._begin + 1)
        door: Door = "fhir" if draw.random() < self._rough.fhir else "hl7"
        cells: list[_Cell] = []
        mended: list[_Cell] = []
        for variable, value in zip(self._stay.schema.variables, values, strict=True):
            if not variable.loinc:
                continue
            there = value == value
            wrong = draw.random() < self._rough.corrected
            if there and not wrong:
                cells.append(_Cell(variable, float(value)))
            elif there:
                cells.append(_Cell(variable, self._other(variable, float(value))))
                mended.append(_Cell(variable, float(value), "C"))
            elif wrong and draw.random() < 0.25:
                middle = sum(variable.plausible) / 2
                cells.append(_Cell(variable, self._other(variable, middle)))
                mended.append(_Cell(variable, float("nan"), "D"))
        if not cells:
            return
        order = f"{self._number}-{hour}"
        later = min(known + draw.uniform(60, 12 * 3600), self._end - 30)
        if mended and later < known:
            # There is no time left to correct anything before the discharge.
            cells = [
                next((m for m in mended if m.variable is c.variable), c) for c in cells
            ]  # fmt: skip
            cells = [c._replace(status="F") for c in cells if c.value == c.value]
            mended = []
        if cells:
            yield self._results(door, order, order, cells, taken, known)
        if mended:
            yield self._results(door, f"{order}c", order, mended, taken, later)

    def _other(self, variable: Variable, value: float) -> float:
        low, high = variable.plausible
        return round(low + (high - low) * self._draw.random(), 2) + (value == low)

    def _results(
        self, door: Door, name: str, order: str, cells: list[_Cell], taken: float, known: float
    ) -> Sending:
        converted = self._draw.random() < self._rough.converted
        if door == "hl7":
            results = []
            for cell in cells:
                value, unit = self._unit(cell, converted)
                told: float | str = '""' if value != value else value
                results.append(Result(cell.variable.loinc[0], told, unit, taken, cell.status))
            message = result_message(
                self._site, self._patient, results, time=taken, control=name, order=order,
                visit=self._visit, sent=known,
            )  # fmt: skip
            return Sending(known, "hl7", self._site, name, self._local(message))
        entries = []
        for cell in cells:
            value, unit = self._unit(cell, converted)
            status = {"F": "final", "C": "corrected", "D": "entered-in-error"}[cell.status]
            one: dict[str, Any] = {
                "resourceType": "Observation", "id": f"{order}-{cell.variable.name}",
                "status": status,
                "code": {"coding": [{"system": "http://loinc.org",
                                     "code": cell.variable.loinc[0]}]},
                "subject": {"reference": f"Patient/{self._patient}"},
                "encounter": {"reference": f"Encounter/{self._visit}"},
                "effectiveDateTime": self._instant(taken), "issued": self._instant(known),
            }  # fmt: skip
            if value == value:
                one["valueQuantity"] = {"value": value, "unit": unit}
            entries.append({"resource": one})
        return self._fhir(known, name, entries)

    def _unit(self, cell: _Cell, converted: bool) -> tuple[float, str]:
        """A value and its unit, canonical or another."""
        variable = cell.variable
        if not converted or not variable.units or cell.value != cell.value:
            return cell.value, variable.unit
        unit = self._draw.choice(sorted(variable.units))
        conversion = variable.units[unit]
        return (cell.value - conversion.offset) / conversion.factor, unit

    def _fhir(self, time: float, name: str, entries: Sequence[Any]) -> Sending:
        bundle = {"resourceType": "Bundle", "id": name, "type": "collection",
                  "entry": list(entries)}  # fmt: skip
        return Sending(time, "fhir", self._site, name, json.dumps(bundle).encode())

    def _instant(self, time: float) -> str:
        moment = datetime.fromtimestamp(time, UTC if self._zone is None else self._zone)
        return moment.isoformat(timespec="milliseconds")

    def _local(self, message: bytes) -> bytes:
        """The site's own times without an offset, but in MSH-7."""
        if self._zone is None:
            return message
        zone = self._zone
        head, mark, rest = message.partition(b"\r")

        def told(found: re.Match[bytes]) -> bytes:
            moment = datetime.strptime(found[1].decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            return moment.astimezone(zone).strftime("%Y%m%d%H%M%S").encode()

        return head + mark + _UTC.sub(told, rest)

    def _roughly(self, one: Sending) -> Iterator[Sending]:
        """A message as it is sent: late, after a damaged one, more than once."""
        draw, rough = self._draw, self._rough
        time = one.time + draw.uniform(0, 60)
        if draw.random() < rough.late:
            time = one.time + draw.uniform(0, rough.delay)
        if draw.random() < rough.damaged:
            yield one._replace(time=time, content=self._damaged(one), good=False)
        yield one._replace(time=time)
        if draw.random() < rough.repeated:
            yield one._replace(time=time + draw.uniform(0, 3 * 3600))

    def _damaged(self, one: Sending) -> bytes:
        """Such that nothing of it can be taken."""
        kind, data = self._draw.choice(_DAMAGE), one.content
        if one.door == "fhir":
            if kind in ("cut", "charset", "junk"):
                return data[: self._draw.randrange(1, len(data) - 1)]
            name = {"no patient": b'"resourceType"', "no number": b'"collection"'}.get(kind, b":")
            return data.replace(name, b'"x"' if kind != "delimiters" else b"=", 1)
        lines = data.split(b"\r")
        if kind == "no patient":
            return b"\r".join(line for line in lines if not line.startswith(b"PID"))
        if kind == "no number":
            fields = lines[0].split(b"|")
            fields[9] = b""
            return b"\r".join([b"|".join(fields), *lines[1:]])
        if kind == "delimiters":
            return data.replace(b"^~\\&", b"||||", 1)
        if kind == "charset":
            return b"\r".join([lines[0] + b"||||||KLINGON", *lines[1:]])
        if kind == "junk":
            return b"\x00\xff" + data[:40]
        return data[: self._draw.randrange(1, 8)]


def _control(message: bytes) -> str:
    return message.split(b"\r", 1)[0].split(b"|")[9].decode()
