"""HL7 v2 messages without what identifies: fields that are known to be safe, and no others."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from foretell.data.clinical.deidentify import codes
from foretell.data.clinical.deidentify.dates import Dates, year_of
from foretell.data.clinical.deidentify.rules import (
    FREE_TEXT,
    OLDEST,
    STATES,
    birth_year,
    kind_of,
    three_digits,
)
from foretell.data.clinical.hl7.message import Hl7Error, Message
from foretell.data.clinical.hl7.reader import Hl7Reader
from foretell.data.clinical.schema import Variable
from foretell.data.clinical.tokens import read_token

if TYPE_CHECKING:
    from foretell.data.clinical.deidentify.deidentifier import Deidentifier

_KINDS = frozenset("ACK ADT BAR DFT MDM OML ORL ORM ORR ORU RAS RDE RRA RRE SIU VXU".split())
_EVENT = re.compile(r"[A-Z]\d{2}")
_VERSION = re.compile(r"2\.\d(?:\.\d)?")
_COUNT = re.compile(r"\d{1,4}", re.ASCII)
_RACE = re.compile(r"\d{4}-\d", re.ASCII)
_WORDS: Mapping[str, frozenset[str]] = {
    "sex": frozenset("MFOUAN"),
    "class": frozenset("EIOPRBCNU"),
    "status": frozenset("FPCDWXRSIOUNA"),
    "order": frozenset("NW XO SC RP OK CA DC OC CR UA CM RE SN".split()),
    "given": frozenset("CP PA NA RE".split()),
    "action": frozenset("AUD"),
    "processing": frozenset("PTD"),
    "diagnosis": frozenset("AWF"),
    "yes": frozenset("YN"),
    "type": frozenset("NM SN ST CE CWE CNE".split()),
}

_ELEMENTS: Mapping[str, str | Mapping[int, str]] = {
    "MSH": {3: "device", 5: "device", 6: "geography", 10: "other"},
    "PID": {
        2: "mrn", 3: "mrn", 4: "mrn", 5: "names", 6: "names", 7: "dates", 9: "names",
        11: "geography", 12: "geography", 18: "account", 19: "ssn", 20: "licence", 21: "mrn",
        23: "geography", 29: "dates", 33: "dates",
    },
    "PV1": {3: "geography", 6: "geography", 7: "names", 8: "names", 9: "names", 17: "names",
            19: "account", 50: "account", 52: "names"},
    "PV2": FREE_TEXT, "PD1": "names", "NK1": "names", "GT1": "names", "ROL": "names",
    "IN1": "plan", "IN2": "plan", "IN3": "plan", "ACC": "vehicle", "PRT": "device",
    "OBR": {3: "other", 10: "names", 16: "names", 28: "names", 32: "names"},
    "OBX": {4: "other", 16: "names", 18: "device", 23: "names", 24: "geography", 25: "names"},
    "ORC": {10: "names", 11: "names", 12: "names", 19: "names", 21: "names", 22: "geography"},
    "RXA": {10: "names", 11: "geography", 15: "device"}, "DG1": {16: "names"},
    "NTE": FREE_TEXT, "TXA": FREE_TEXT, "EVN": {5: "names", 7: "geography"},
}  # fmt: skip
"""What stands where, for counting what was removed: a field, or all of a segment."""


class _Cleaner:
    """One message; the fields of its segments are taken one by one."""

    def __init__(self, told: Deidentifier, message: Message) -> None:
        self.told, self.message = told, message
        self.count = told.removed
        self.site = message.sender[1] or told.site
        self.reader = Hl7Reader(self.site)
        self.patient = self._first_patient()
        self.dates: Dates = told.dates(self.site, self.patient)
        self.event = year_of(message.part(message.get("MSH"), 7))
        self.event_told = year_of(self.dates.hl7(message.part(message.get("MSH"), 7)))
        self.what: Variable | str | None = None

    def _first_patient(self) -> str | None:
        for name, fields in self.message.segments:
            if name == "PID":
                return self.reader.patient(self.message, fields, 3)
        return None

    def text(self) -> str:
        """The message that is left."""
        lines = []
        for name, fields in self.message.segments:
            make = _SEGMENTS.get(name)
            self.kept: dict[int, str] = {}
            self.name, self.fields = name, fields
            if name == "PID":
                self.patient = self.reader.patient(self.message, fields, 3)
                self.dates = self.told.dates(self.site, self.patient)
            if make is not None:
                make(self)
            self._count_rest()
            if make is None or (name in _NEEDS and _NEEDS[name] not in self.kept):
                continue
            last = max(self.kept, default=0)
            line = [self.kept.get(i, "") for i in range(1, last + 1)]
            if name == "MSH":
                lines.append("|".join(["MSH", "^~\\&", *line[2:]]))
            else:
                lines.append("|".join([name, *line]))
        return "\r".join(lines) + "\r"

    def part(self, field: int, component: int = 1, repeat: int = 0) -> str:
        return self.message.part(self.fields, field, component, repeat)

    def keep(self, field: int, value: str | None) -> None:
        if value:
            self.kept[field] = value

    def word(self, field: int, words: str) -> None:
        value = self.part(field).upper()
        self.keep(field, value if value in _WORDS[words] else None)

    def matching(self, field: int, pattern: re.Pattern[str], component: int = 1) -> None:
        value = self.part(field, component)
        self.keep(field, value if pattern.fullmatch(value) else None)

    def date(self, field: int) -> None:
        text = self.part(field)
        if not text:
            return
        found = self.dates.hl7(text)
        self.keep(field, found)
        if found and found != text:
            if self.told.keys is None:
                self.count.generalised["dates"] += 1
            else:
                self.count.moved += 1
        elif not found:
            self.count.removed["dates"] += 1

    def coded(self, field: int, kind: str, element: str) -> None:
        value = self.part(field)
        if value:
            self.keep(field, self.told.code(kind, self.site, value))
            self.count.coded[element] += 1

    def concept(self, field: int) -> tuple[tuple[str, str], ...]:
        """Keeps the first code of a field that may be told; all of its codes."""
        pairs = tuple(
            (self.part(field, at + 2), self.part(field, at))
            for at in (1, 4)
            if self.part(field, at)
        )
        for system, code in pairs:
            if codes.is_told(self.told, system, code):
                # A name of a system that is known says no more than that.
                self.keep(field, f"{code}^^{system}")
                break
        return pairs

    def birth(self) -> None:
        text = self.part(7)
        year = year_of(text)
        if year is None:
            return
        moves = self.told.keys is not None
        # Of a code the date was told before, and it is not moved again.
        again = moves and self.patient is not None and self.told.is_code(self.patient)
        kept = year if again else birth_year(year, self.event, self.told.year)
        if kept == year and moves:
            self.date(7)
            return
        if kept is not None and self.event_told is not None and kept != year:
            kept = self.event_told - OLDEST - 1
        self.keep(7, None if kept is None else str(kept))
        if kept is not None and text != str(kept):
            self.count.generalised["dates"] += 1
        elif kept is None:
            self.count.removed["dates"] += 1

    def address(self) -> None:
        state, place = self.part(11, 4).upper(), self.part(11, 5)
        country = self.part(11, 6).upper()
        short = three_digits(place) if country in ("", "US", "USA") else None
        state = state if state in STATES else ""
        if short is not None and short != place:
            self.count.generalised["geography"] += 1
        if state or short:
            self.keep(11, f"^^^{state}^{short or ''}".rstrip("^"))

    def value(self) -> None:
        """OBX-5 and OBX-6, as numbers in units that are known."""
        kind, unit = self.part(2).upper(), self.part(6)
        sign = ""
        if kind == "SN":
            mark, text = self.part(5, 1), self.part(5, 2)
            sign = mark if mark in ("<", ">", "<=", ">=") else ""
        else:
            text = self.part(5)
        reading = read_token(text[:64])
        sign = sign or (reading.comparator or "")
        found = None
        own = codes.unit(self.told, self.what, unit or reading.unit or "")
        # "12 Elm Street" is no number with a unit.
        if not math.isnan(reading.value) and (reading.unit is None or own is not None):
            found = codes.number(self.told, self.what, reading.value)
        if found is None:
            return
        if self.what == "age" and found != reading.value:
            self.count.generalised["dates"] += 1
        plain = repr(found).removesuffix(".0")
        self.keep(2, "SN" if sign else "NM")
        self.keep(5, f"{sign}^{plain}" if sign else plain)
        self.keep(6, own)

    def _count_rest(self) -> None:
        """Counts what a segment held and is not told, field by field."""
        known = {0, *self.kept}
        if self.name == "MSH":
            known |= {1, 2, 18}
        elif self.name == "PID":
            known |= {3, 7}
            self._count_identifiers()
            if self.fields[11:12] != [self.kept.get(11)]:
                known -= {11}
        places = _ELEMENTS.get(self.name, FREE_TEXT)
        for number, text in enumerate(self.fields):
            if number in known or not text.strip() or text == '""':
                continue
            element = places if isinstance(places, str) else places.get(number, FREE_TEXT)
            if self.name == "PID" and number in (13, 14, 40):
                repeats = range(self.message.repeats(self.fields, number))
                self.count.removed.update(self._telecom(number, i) for i in repeats)
                continue
            if self.name == "OBX" and number == 5:
                kind = self.part(2).upper()
                element = "photo" if kind in ("ED", "RP") else kind_of(text)
            elif element in (FREE_TEXT, "names"):
                element = kind_of(text, element)
            self.count.removed[element] += 1

    def _count_identifiers(self) -> None:
        """Of a patient's identifiers one is coded; the others are gone."""
        kinds = {"SS": "ssn", "DL": "licence", "AN": "account", "MA": "plan", "MC": "plan",
                 "NPI": "licence", "PN": "account", "MB": "plan"}  # fmt: skip
        found = [
            kinds.get(self.part(3, 5, i).upper(), "mrn")
            for i in range(self.message.repeats(self.fields, 3))
            if self.part(3, 1, i)
        ]
        if "mrn" in found:
            found.remove("mrn")
        elif found:
            found.pop(0)
        self.count.removed.update(found)

    def _telecom(self, number: int, repeat: int) -> str:
        kind = self.part(number, 3, repeat).upper()
        if kind == "FX":
            return "fax"
        if kind in ("INTERNET", "X.400") or self.part(number, 4, repeat):
            return "email"
        return kind_of(self.part(number, 1, repeat), "phone")


def _header(c: _Cleaner) -> None:
    c.keep(4, c.told.code("site", "", c.site))
    c.count.coded["geography"] += 1
    c.date(7)
    kind, event = c.part(9, 1).upper(), c.part(9, 2).upper()
    if kind in _KINDS:
        c.keep(9, f"{kind}^{event}" if _EVENT.fullmatch(event) else kind)
    c.coded(10, "message", "other")
    c.word(11, "processing")
    c.matching(12, _VERSION)
    c.keep(18, "UNICODE UTF-8")


def _person(c: _Cleaner) -> None:
    if c.patient is not None:
        c.keep(3, f"{c.told.code('patient', c.site, c.patient)}^^^^MR")
        c.count.coded["mrn"] += 1
    c.birth()
    c.word(8, "sex")
    c.matching(10, _RACE)
    c.address()
    c.matching(22, _RACE)
    c.date(29)
    c.word(30, "yes")


def _visit(c: _Cleaner) -> None:
    c.word(2, "class")
    unit = c.part(3)
    c.keep(3, c.told.unit(unit) if unit else None)
    c.coded(19, "visit", "account")
    c.date(44)
    c.date(45)


def _event(c: _Cleaner) -> None:
    c.matching(1, _EVENT)
    c.date(2)
    c.date(6)


def _merged(c: _Cleaner) -> None:
    prior = c.reader.patient(c.message, c.fields, 1)
    c.keep(1, f"{c.told.code('patient', c.site, prior)}^^^^MR")
    c.count.coded["mrn"] += 1


def _request(c: _Cleaner) -> None:
    c.matching(1, _COUNT)
    c.coded(2, "order", "other")
    c.coded(3, "order", "other")
    c.concept(4)
    c.date(7)
    c.date(22)
    c.word(25, "status")


def _result(c: _Cleaner) -> None:
    c.matching(1, _COUNT)
    c.what = codes.measured(c.told, c.concept(3))
    c.value()
    c.word(11, "status")
    c.date(14)


def _order(c: _Cleaner) -> None:
    c.word(1, "order")
    c.coded(2, "order", "other")
    c.coded(3, "order", "other")
    c.date(9)


def _given(c: _Cleaner) -> None:
    c.matching(1, _COUNT)
    c.matching(2, _COUNT)
    c.date(3)
    c.date(4)
    c.concept(5)
    c.matching(6, _COUNT)
    c.word(20, "given")
    c.word(21, "action")


def _diagnosis(c: _Cleaner) -> None:
    c.matching(1, _COUNT)
    c.concept(3)
    c.date(5)
    c.word(6, "diagnosis")


_SEGMENTS: Mapping[str, Callable[[_Cleaner], None]] = {
    "MSH": _header, "PID": _person, "PV1": _visit, "EVN": _event, "MRG": _merged, "OBR": _request,
    "OBX": _result, "ORC": _order, "RXA": _given, "DG1": _diagnosis,
}  # fmt: skip
_NEEDS = {"OBX": 3, "RXA": 5, "DG1": 3}
"""Segments that say nothing without this field."""


def cleaned(told: Deidentifier, data: bytes) -> bytes | None:
    """The message under codes; None, and counted, where it cannot be read."""
    told.removed.taken += 1
    try:
        text = _Cleaner(told, Message.from_bytes(data)).text()
    except Hl7Error:
        told.removed.refused += 1
        return None
    return text.encode("utf-8")
