"""Diagnoses (DG1), drugs that were given (RXA) and drugs that were ordered (RXE, RXO)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from foretell.data.clinical.feed import OrderChange, Refusal
from foretell.data.clinical.hl7.message import Message
from foretell.data.clinical.hl7.times import read_time

if TYPE_CHECKING:
    from foretell.data.clinical.hl7.reader import Hl7Reader

# RXA-20, HL7 table 0322: given, given in part; refused, not given.
_COMPLETED: Mapping[str, str] = {
    "": "done", "CP": "done", "PA": "done", "RE": "cancelled", "NA": "cancelled",
}  # fmt: skip


def diagnoses(
    reader: Hl7Reader, message: Message, owner: tuple[str, str, str | None], sent: float
) -> Iterator[OrderChange | Refusal]:
    """The diagnoses of a message; a code without an identifier of its own is its own.

    Args:
        reader: whose zone holds.
        message: with DG1 segments.
        owner: site, patient and visit.
        sent: when the message was.
    """
    for name, fields in message.segments:
        if name != "DG1":
            continue
        codes = reader.codes(message, fields, 3)
        if not codes:
            yield Refusal("no_code", "DG1-3")
            continue
        found = read_time(message.part(fields, 5), reader.zone, near=sent, precise=False)
        number = message.part(fields, 20) or "|".join(codes[0])
        gone = message.part(fields, 21).upper() == "D"
        time = sent if found is None else min(found, sent)
        # What is taken back, is so of the same finding: its time is not what tells them apart.
        yield OrderChange(*owner, codes, f"DG1/{number}", "cancelled" if gone else "done", time,
                          "condition", sent)  # fmt: skip


def drugs(
    reader: Hl7Reader, message: Message, owner: tuple[str, str, str | None], sent: float | None,
    statuses: Mapping[str, str],
) -> Iterator[OrderChange | Refusal]:  # fmt: skip
    """What was given and what was ordered.

    Args:
        reader: whose zone holds.
        message: with RXA, RXE or RXO segments.
        owner: site, patient and visit.
        sent: when the message was.
        statuses: of orders, by ORC-1.
    """
    control: list[str] = []
    for name, fields in message.segments:
        if name == "ORC":
            control = fields
            continue
        if name not in ("RXA", "RXE", "RXO"):
            continue
        given = name == "RXA"
        codes = reader.codes(message, fields, {"RXA": 5, "RXE": 2, "RXO": 1}[name])
        number = message.part(control, 2) or message.part(control, 3)
        text = message.part(fields, 3) if given else message.part(control, 9)
        time = read_time(text, reader.zone, near=sent)
        time = sent if time is None else time
        if not codes or time is None:
            yield Refusal("no_time" if codes else "no_code", name)
            continue
        if given:
            deleted = message.part(fields, 21).upper() == "D"
            status = _COMPLETED.get(message.part(fields, 20).upper())
            status = "cancelled" if deleted else status
            turn = message.part(fields, 2) or "0"
            # Many senders count every dose of an order as the first: its time tells them apart.
            number = f"RXA/{number or '|'.join(codes[0])}/{turn}/{text}"
        else:
            status = statuses.get(message.part(control, 1).upper() or "NW")
            # A dose that was given says more than an order that is done.
            status = "pending" if status == "done" else status
            number = f"{name}/{number}" if number else ""
        if status is None or not number:
            yield Refusal("unusable_order", "RXA-20" if given else "ORC")
            continue
        issued = None if sent is None else max(sent, time)
        yield OrderChange(*owner, codes, number, status, time, "treatment", issued)
