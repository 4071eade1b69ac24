"""What HL7 v2 messages say: results (ORU), visits (ADT), orders (ORM, OML), drugs (RAS, RDE)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from foretell.data.clinical.doubts import age_at
from foretell.data.clinical.feed import (
    Measurement,
    OrderChange,
    Record,
    Refusal,
    Status,
    VisitChange,
    stays_from_feed,
)
from foretell.data.clinical.hl7.message import Hl7Error, Message
from foretell.data.clinical.hl7.times import read_time
from foretell.data.clinical.hl7.treatments import diagnoses, drugs
from foretell.data.clinical.stays import Stays
from foretell.data.clinical.tokens import read_token
from foretell.errors import DataError

_STATUS: Mapping[str, Status | None] = {
    "": "final", "F": "final", "P": "preliminary", "C": "corrected",
    # D deletes, W was another patient's, X cannot be obtained: nothing of them may stand.
    "D": "deleted", "W": "deleted", "X": "deleted",
    # Entered but not verified, partial, pending, asked for, unchanged: no value yet.
    "R": None, "S": None, "I": None, "O": None, "U": None, "N": None,
}  # fmt: skip
_VISITS = {
    "A01": "admit", "A02": "transfer", "A03": "discharge", "A04": "register", "A08": "update",
    "A11": "cancel_admit", "A12": "cancel_transfer", "A13": "cancel_discharge", "A40": "merge",
}  # fmt: skip
_ORDERS = {
    "NW": "pending", "XO": "pending", "SC": "pending", "RP": "pending", "OK": "pending",
    "CA": "cancelled", "DC": "cancelled", "OC": "cancelled", "CR": "cancelled", "UA": "cancelled",
    "CM": "done",
}  # fmt: skip
_LOINC = frozenset({"LN", "LOINC", "2.16.840.1.113883.6.1"})
_NO_VALUE = frozenset({"", '""'})
_START = re.compile(rb"(?:^|[\r\n\x0b])(?=MSH[^A-Za-z0-9\s])")


@dataclass(frozen=True)
class Hl7Reader:
    """Reads messages of one site.

    Args:
        site: to which all patients belong; None takes the sending facility, MSH-4.
        zone: of times without an offset.
        authorities: assigning authorities of patient identifiers, the preferred first.
    """

    site: str | None = None
    zone: tzinfo = UTC
    authorities: Sequence[str] = field(default_factory=tuple)

    def read(self, message: Message, *, received: float | None = None) -> list[Record]:
        """The records of a message, and a :class:`Refusal` for each part that is of no use.

        Args:
            message: of a type that is taken: ORU^R01, the ADT events A01, A02, A03, A04, A08, A11,
                A12, A13 and A40 (with diagnoses, DG1), ORM^O01, OML^O21 and its kin, RAS^O17 and
                RDE^O11 (drugs).
            received: when it came, which tells the two hours apart that autumn repeats.

        Raises:
            Hl7Error: the message cannot be used as a whole.
        """
        kind, event = message.kind
        head = message.get("MSH")
        sent = read_time(message.part(head, 7), self.zone, near=received)
        if sent is None:
            sent = received
        if kind == "ORU":
            if event not in ("R01", "R30", "R31", "R32", ""):
                raise Hl7Error("the event is not taken", code=201, where="MSH-9", reject=True)
            return self._results(message, sent)
        if kind == "ADT":
            if event not in _VISITS:
                raise Hl7Error("the event is not taken", code=201, where="MSH-9", reject=True)
            visit = self._visit(message, _VISITS[event], sent)
            owner = (visit.site, visit.patient, visit.visit)
            found = diagnoses(self, message, owner, visit.time if sent is None else sent)
            return [visit, *self._further_merges(message, visit), *found]
        if kind in ("ORM", "OML"):
            return self._orders(message, sent)
        if kind in ("RAS", "RDE"):
            out: list[Record] = list(self._drugs(message, sent))
            if not out:
                raise Hl7Error("the message holds no drug", code=100, where="RXA")
            return out
        raise Hl7Error("the message type is not taken", code=200, where="MSH-9", reject=True)

    def _site(self, message: Message) -> str:
        site = self.site or message.sender[1]
        if not site:
            raise Hl7Error("the sending facility is missing", code=101, where="MSH-4")
        return site

    def patient(self, message: Message, fields: list[str], number: int) -> str:
        """The identifier of a list (CX): of the preferred authority, else MR, else the first.

        Raises:
            Hl7Error: there is none.
        """
        # Of PID, and of MRG what a merge retires.
        where = f"{fields[0] if fields else 'PID' if number == 3 else 'MRG'}-{number}"
        best: tuple[int, int, str] | None = None
        for i in range(message.repeats(fields, number)):
            identity = message.part(fields, number, 1, i)
            if not identity:
                continue
            authority = message.part(fields, number, 4, i)
            kind = message.part(fields, number, 5, i)
            if authority in self.authorities:
                rank = (0, list(self.authorities).index(authority))
            else:
                rank = (1, 0) if kind == "MR" else (2, i)
            plain = not authority or (self.authorities and authority == self.authorities[0])
            name = identity if plain else f"{identity}@{authority}"
            if best is None or rank < best[:2]:
                best = (*rank, name)
        if best is None:
            raise Hl7Error("the patient's identifier is missing", code=101, where=where)
        return best[2][:200]

    def _results(self, message: Message, sent: float | None) -> list[Record]:
        site = self._site(message)
        out: list[Record] = []
        patient = visit = described = None
        order: list[str] = []
        known: float | None = None
        sender = "|".join(message.sender)
        for name, fields in message.segments:
            if name == "PID":
                patient, visit = self.patient(message, fields, 3), None
                order, known = [], None
                age, sex, _ = self._person(message, fields, sent)
                described = None if age is None and sex is None else (age, sex)
            elif name == "PV1":
                visit = message.part(fields, 19) or None
            elif name == "OBR":
                order = fields
                known = read_time(message.part(fields, 22), self.zone, near=sent)
            elif name == "OBX":
                if patient is None:
                    raise Hl7Error("a result comes before its patient", code=100, where="OBX")
                issued = known if known is not None else sent
                who = (site, patient, visit, described)
                out.append(self._result(message, fields, order, who, sender, issued, sent))
        if patient is None:
            raise Hl7Error("the patient is missing", code=100, where="PID")
        return [record for record in out if record is not None]

    def _result(
        self, message: Message, fields: list[str], order: list[str],
        who: tuple[str, str, str | None, tuple[float | None, str | None] | None], sender: str,
        issued: float | None, sent: float | None,
    ) -> Any:  # fmt: skip
        codes = self.codes(message, fields, 3)
        if not codes:
            return Refusal("no_code", "OBX-3")
        system, code = codes[0]
        letter = message.part(fields, 11).upper()
        if letter not in _STATUS:
            return Refusal("unknown_status", "OBX-11", code, system)
        status = _STATUS[letter]
        if status is None:
            return None
        text = message.part(fields, 14) or message.part(order, 7)
        time = read_time(text, self.zone, near=sent)
        if time is None:
            return Refusal("imprecise_time" if text else "no_time", "OBX-14", code, system)
        value, comparator, unit, problem = self._value(message, fields)
        number = message.part(order, 3) or message.part(order, 2)
        return Measurement(
            *who[:3],
            codes,
            value,
            message.part(fields, 6) or unit,
            time,
            max(time, issued) if issued is not None else time,
            status,
            f"{sender}|{number}|{code}|{message.part(fields, 4)}",
            comparator,
            problem,
            who[3],
        )

    @staticmethod
    def _value(
        message: Message, fields: list[str]
    ) -> tuple[float, str | None, str | None, str | None]:
        """Value, comparator, unit and problem of OBX-2 and OBX-5."""
        kind = message.part(fields, 2).upper()
        raw = fields[5] if len(fields) > 5 else ""
        if raw.strip() in _NO_VALUE:
            return math.nan, None, None, "no_value"
        if message.repetition in raw:
            return math.nan, None, None, "repeated_value"
        if kind == "SN":
            sign, first, mark, second = (message.part(fields, 5, i) for i in (1, 2, 3, 4))
            if mark or second:
                return math.nan, None, None, "range"
            if sign == "<>":
                return math.nan, None, None, "no_number"
            reading = read_token(f"{sign}{first}")
        elif kind in ("NM", "ST", "TX", "CE", "CWE", ""):
            reading = read_token(message.part(fields, 5))
            if math.isnan(reading.value) and kind in ("CE", "CWE"):
                reading = read_token(message.part(fields, 5, 2))
        else:
            return math.nan, None, None, "value_type"
        problem = "no_number" if math.isnan(reading.value) else None
        return reading.value, reading.comparator, reading.unit, problem

    @staticmethod
    def codes(message: Message, fields: list[str], number: int) -> tuple[tuple[str, str], ...]:
        """(system, code) of a coded field (CWE), the first and its alternative."""
        pairs = []
        for at in (1, 4):
            code, system = (message.part(fields, number, at + i) for i in (0, 2))
            if code:
                pairs.append(("LN" if system.upper() in _LOINC else system[:40], code[:40]))
        return tuple(pairs)

    def _visit(self, message: Message, kind: str, sent: float | None) -> VisitChange:
        person, place, event = (message.get(n) for n in ("PID", "PV1", "EVN"))
        if not person:
            raise Hl7Error("the patient is missing", code=100, where="PID")
        moments = [message.part(event, n) for n in (6, 2)]
        times = [read_time(text, self.zone, near=sent) for text in moments]
        admitted = read_time(message.part(place, 44), self.zone, near=sent)
        if kind == "discharge":
            times.insert(0, read_time(message.part(place, 45), self.zone, near=sent))
        time = next((t for t in times if t is not None), sent)
        if time is None:
            raise Hl7Error("the event has no time", code=101, where="EVN-2")
        prior = None
        if kind == "merge":
            prior = self.patient(message, message.get("MRG"), 1)
        age, sex, doubt = self._person(message, person, time if admitted is None else admitted)
        return VisitChange(
            self._site(message),
            self.patient(message, person, 3),
            message.part(place, 19) or None,
            kind,
            time,
            admitted,
            message.part(place, 3) or None,
            age,
            sex,
            prior,
            doubt,
        )

    def _further_merges(self, message: Message, first: VisitChange) -> Iterator[VisitChange]:
        """What a merge says of further patients: PID and MRG may be repeated in pairs."""
        if first.kind != "merge":
            return
        named = [(name, fields) for name, fields in message.segments if name in ("PID", "MRG")]
        if re.fullmatch("(PM+)+", "".join(n[0] for n, _ in named)) is None:
            # Who is retired for whom would be a guess.
            raise Hl7Error("each PID of a merge has its MRG behind it", code=100, where="MRG")
        person: list[str] = []
        pairs = []
        for name, fields in named:
            if name == "PID":
                person = fields
            else:
                pairs.append((person, fields))
        for person, retired in pairs[1:]:
            age, sex, doubt = self._person(message, person, first.time)
            yield VisitChange(
                first.site, self.patient(message, person, 3), None, "merge", first.time,
                age=age, sex=sex, prior=self.patient(message, retired, 1), doubt=doubt,
            )  # fmt: skip

    def _person(
        self, message: Message, person: list[str], moment: float | None
    ) -> tuple[float | None, str | None, str | None]:
        """Age, sex, and why there is no age."""
        born = read_time(message.part(person, 7), self.zone, precise=False)
        age, doubt = age_at(born, moment)
        return age, {"M": "male", "F": "female"}.get(message.part(person, 8).upper()), doubt

    def _drugs(self, message: Message, sent: float | None) -> Iterator[Record]:
        patient = self.patient(message, message.get("PID"), 3)
        visit = message.part(message.get("PV1"), 19) or None
        yield from drugs(self, message, (self._site(message), patient, visit), sent, _ORDERS)

    def _orders(self, message: Message, sent: float | None) -> list[Record]:
        site = self._site(message)
        patient = self.patient(message, message.get("PID"), 3)
        visit = message.part(message.get("PV1"), 19) or None
        out: list[Record] = list(self._drugs(message, sent))
        control: list[str] = []
        for name, fields in message.segments:
            if name == "ORC":
                control = fields
            elif name == "OBR":
                codes = self.codes(message, fields, 4)
                status = _ORDERS.get(message.part(control, 1).upper() or "NW")
                number = message.part(control, 2) or message.part(fields, 2)
                number = number or message.part(control, 3) or message.part(fields, 3)
                if status is None or not number:
                    where = "ORC-1" if status is None else "ORC-2"
                    out.append(Refusal("unusable_order", where))
                    continue
                text = message.part(control, 9) or message.part(fields, 6)
                time = read_time(text, self.zone, near=sent)
                time = sent if time is None else time
                if time is None:
                    out.append(Refusal("no_time", "ORC-9"))
                    continue
                out.append(OrderChange(site, patient, visit, codes, number, status, time))
        if not out:
            raise Hl7Error("the message holds no order", code=100, where="OBR")
        return out


def split_messages(data: bytes) -> Iterator[bytes]:
    """The messages of a file: in MLLP frames, in batches (FHS, BHS), or one after another."""
    starts = [found.end() for found in _START.finditer(data)]
    for begin, end in zip(starts, [*starts[1:], len(data)], strict=False):
        part = data[begin:end]
        for mark in (b"\x1c", b"\rBTS", b"\rFTS", b"\nBTS", b"\nFTS", b"\rBHS", b"\nBHS"):
            part = part.split(mark, 1)[0]
        yield part.strip(b"\x0b\r\n ")


def read_hl7(file: str | Path, *, reader: Hl7Reader | None = None, **options: Any) -> Stays:
    """Hourly stays from a file of HL7 v2 messages.

    Messages that cannot be used are left out: the rest of a feed is still worth reading.

    Args:
        file: messages with or without MLLP frames or batch headers.
        reader: site, time zone and authorities; by default the facility is the site, in UTC.
        options: of :func:`foretell.data.clinical.feed.stays_from_feed`.

    Raises:
        DataError: the file cannot be read or holds no stay.
    """
    path = Path(file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"the messages cannot be read: {error}", file=str(path)) from error
    reader = Hl7Reader() if reader is None else reader
    records: list[Record] = []
    for part in split_messages(data):
        try:
            records.extend(reader.read(Message.from_bytes(part)))
        except Hl7Error:
            continue
    return stays_from_feed(records, **options)
