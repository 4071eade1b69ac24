"""Acknowledgements of HL7 v2 in original and enhanced mode (HL7 v2.5.1, 2.9)."""

from __future__ import annotations

import itertools

from foretell.data.clinical.hl7 import Hl7Error, Message
from foretell.data.clinical.hl7.times import write_time

_TOLD = {
    100: "Segment sequence error", 101: "Required field missing", 102: "Data type error",
    103: "Table value not found", 200: "Unsupported message type", 201: "Unsupported event code",
    202: "Unsupported processing id", 203: "Unsupported version id",
    207: "Application internal error",
}  # fmt: skip
_numbers = itertools.count(1)


def acknowledgements(message: Message, now: float, error: Hl7Error | None = None) -> list[bytes]:
    """The answers that a message asks for, to be framed and sent in order.

    In original mode that is one: AA, AE or AR. Where MSH-15 or MSH-16 are given, the mode is
    enhanced: CA, CE or CR as MSH-15 wants it, then the application's answer as MSH-16 wants it.
    What is not of HL7 table 0155 there asks for no silence: the mode is original, so that a sender
    whose fields have slipped hears of it.

    Args:
        message: that is answered.
        now: for MSH-7.
        error: why it was refused; None where it is durable.
    """
    head = message.get("MSH")
    accept, application = message.part(head, 15).upper(), message.part(head, 16).upper()
    letter = "A" if error is None else ("R" if error.reject else "E")
    wanted = {"": False, "AL": True, "NE": False, "ER": error is not None, "SU": error is None}
    known = accept in wanted and application in wanted
    if not known or not (accept or application):
        return [_answer(message, "A" + letter, now, error)]
    out = []
    if wanted[accept]:
        out.append(_answer(message, "C" + letter, now, error))
    if wanted[application]:
        out.append(_answer(message, "A" + letter, now, error))
    return out


def refusal(data: bytes, now: float, error: Hl7Error) -> bytes:
    """The answer to what could not even be parsed: AR, or AE where MSH could be read."""
    letters = "AR" if error.reject else "AE"
    control = b""
    start = data.find(b"MSH")
    if start >= 0 and len(data) > start + 8:
        fields = data[start:].split(b"\r", 1)[0].split(data[start + 3 : start + 4])
        control = fields[9][:199] if len(fields) > 9 else b""
    name = control.decode("ascii", "replace").translate(_DANGEROUS)
    return _text("^~\\&", "|", ("", "", "", ""), "", "2.5", letters, name, now, error)


_DANGEROUS = {ord(c): "_" for c in "\r\n\x0b\x1c|^~\\&\ufffd"}


def _answer(message: Message, letters: str, now: float, error: Hl7Error | None) -> bytes:
    head = message.get("MSH")
    fields = [head[n] if n < len(head) else "" for n in (3, 4, 5, 6)]
    marks = message.component + message.repetition + message._escape + message.sub
    event = message.part(head, 9, 2)[:3]
    version = message.part(head, 12)[:8] or "2.5"
    control = head[10] if len(head) > 10 else ""
    mode = message.part(head, 11).upper()
    return _text(
        marks, message.field, tuple(fields), event, version, letters, control, now, error,
        mode if mode in _MODES else "P",
    )  # fmt: skip


# HL7 table 0103: production, training, debugging. What answers is of the same kind.
_MODES = ("P", "T", "D")
# Before 2.5 ERR had one field, and MSA told why.
_OLD = ("2.1", "2.2", "2.3", "2.4")


def _text(
    marks: str, field: str, names: tuple[str, ...], event: str, version: str, letters: str,
    control: str, now: float, error: Hl7Error | None, mode: str = "P",
) -> bytes:  # fmt: skip
    application, facility, own_application, own_facility = names
    kind = marks[0].join(filter(None, ("ACK", event, "ACK" if event else "")))
    number = f"FT{int(now * 1000):x}{next(_numbers):x}"
    head = field.join(
        ("MSH", marks, own_application, own_facility, application, facility, write_time(now), "",
         kind, number, mode, version, "", "", "", "", "", "UNICODE UTF-8")
    )  # fmt: skip
    answer = ["MSA", letters, control]
    lines = [head]
    if error is not None:
        segment, _, number = error.where.partition("-")
        place = [segment[:3], "1", number] if segment else []
        told = (str(error.code), _TOLD.get(error.code, "Error"), "HL70357")
        # A sender may have made a comma or a semicolon its delimiter.
        problem = error.problem.translate({ord(c): " " for c in marks + field})
        if version.startswith(_OLD):
            answer.append(problem[:80])
            place += [""] * (3 - len(place))
            lines.append(field.join(("ERR", marks[0].join((*place, marks[3].join(told))))))
        else:
            where = marks[0].join(filter(None, place))
            code = marks[0].join(told)
            lines.append(field.join(("ERR", "", where, code, "E", "", "", "", problem)))
    lines.insert(1, field.join(answer))
    # What is repeated of the message must not end the frame it is sent in.
    text = ("\r".join(lines) + "\r").translate({0x0B: "_", 0x1C: "_"})
    return text.encode("utf-8", "replace")
