"""HL7 v2 messages from values: for replays, load generators and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from foretell.data.clinical.hl7.times import write_time
from foretell.data.clinical.sexes import sex_word
from foretell.data.clinical.stays import Stays


class Result(NamedTuple):
    """One OBX: LOINC code, value, UCUM unit, time of the specimen and status."""

    code: str
    value: float | str
    unit: str
    time: float | None = None
    status: str = "F"


def _escaped(text: str) -> str:
    out = text.replace("\\", "\\E\\")
    for mark, letter in (("|", "F"), ("^", "S"), ("&", "T"), ("~", "R")):
        out = out.replace(mark, f"\\{letter}\\")
    return "".join(c for c in out if c >= " ")


def _head(facility: str, kind: str, control: str, sent: float) -> str:
    return f"MSH|^~\\&|REPLAY|{_escaped(facility)}|||{write_time(sent)}||{kind}|{control}|P|2.5.1"


def _place(visit: str | None, unit: str | None, admitted: float | None = None) -> str:
    fields = [""] * 45
    fields[0], fields[2], fields[3] = "PV1", "I", _escaped(unit or "")
    fields[19] = _escaped(visit or "")
    fields[44] = "" if admitted is None else write_time(admitted)
    return "|".join(fields).rstrip("|")


def result_message(
    facility: str, patient: str, results: Sequence[Result], *, time: float, control: str,
    order: str | None = None, visit: str | None = None, sent: float | None = None,
) -> bytes:  # fmt: skip
    """An ORU^R01 with one OBR.

    Args:
        facility: MSH-4.
        patient: PID-3.
        results: its OBX segments.
        time: OBR-7, of results without a time of their own.
        control: MSH-10.
        order: OBR-3, by which a correction finds what it corrects; ``control`` by default.
        visit: PV1-19.
        sent: MSH-7, when the results became known; ``time`` by default.
    """
    lines = [
        _head(facility, "ORU^R01^ORU_R01", control, time if sent is None else sent),
        f"PID|||{_escaped(patient)}^^^^MR",
        _place(visit, None),
        f"OBR|1||{_escaped(order or control)}|PANEL^^L|||{write_time(time)}",
    ]
    for number, r in enumerate(results, 1):
        value = _escaped(r.value) if isinstance(r.value, str) else repr(float(r.value))
        at = "" if r.time is None else write_time(r.time)
        kind = "ST" if isinstance(r.value, str) else "NM"
        lines.append(
            f"OBX|{number}|{kind}|{r.code}^^LN||{value}|{_escaped(r.unit)}|||||{r.status}|||{at}"
        )
    return ("\r".join(lines) + "\r").encode()


def visit_message(
    facility: str, patient: str, event: str, *, time: float, control: str,
    visit: str | None = None, unit: str | None = None, admitted: float | None = None,
    born: str = "", sex: str = "", prior: str | None = None,
    diagnoses: Sequence[tuple[str, str]] = (),
) -> bytes:  # fmt: skip
    """An ADT message.

    ``event`` is ``"A01"`` and so on, ``prior`` is what an A40 retires, ``diagnoses`` are (system,
    code) pairs.
    """
    letter = {"male": "M", "female": "F"}.get(sex, sex)
    lines = [
        _head(facility, f"ADT^{event}", control, time),
        f"EVN|{event}|{write_time(time)}",
        f"PID|||{_escaped(patient)}^^^^MR||||{born}|{letter}",
        _place(visit, unit, admitted),
    ]
    if prior is not None:
        lines.append(f"MRG|{_escaped(prior)}^^^^MR")
    for number, (system, code) in enumerate(diagnoses, 1):
        lines.append(f"DG1|{number}||{_escaped(code)}^^{_escaped(system)}||{write_time(time)}|W")
    return ("\r".join(lines) + "\r").encode()


def drug_message(
    facility: str, patient: str, drug: tuple[str, str], *, time: float, control: str,
    order: str | None = None, visit: str | None = None, sent: float | None = None,
    status: str = "CP", action: str = "A",
) -> bytes:  # fmt: skip
    """A RAS^O17: a dose that was given.

    Args:
        facility: MSH-4.
        patient: PID-3.
        drug: (system, code) of RXA-5.
        time: RXA-3.
        control: MSH-10.
        order: ORC-2, by which a correction finds what it corrects; ``control`` by default.
        visit: PV1-19.
        sent: MSH-7; ``time`` by default.
        status: RXA-20.
        action: RXA-21; ``"D"`` takes the dose back.
    """
    system, code = drug
    at = write_time(time)
    lines = [
        _head(facility, "RAS^O17^RAS_O17", control, time if sent is None else sent),
        f"PID|||{_escaped(patient)}^^^^MR",
        _place(visit, None),
        f"ORC|RE|{_escaped(order or control)}",
        f"RXA|0|1|{at}|{at}|{_escaped(code)}^^{_escaped(system)}|1{'|' * 14}{status}|{action}",
    ]
    return ("\r".join(lines) + "\r").encode()


def messages_of(
    stays: Stays, *, begin: float = 1_767_225_600.0, facility: str = "SIM", name: str = ""
) -> Iterator[tuple[float, bytes]]:
    """(time, message) of stays as a feed: admission, one result message an hour, discharge.

    Messages come stay after stay; sort by time to interleave them. Values of hour k become known
    at its end. Labels are not told.

    Args:
        stays: whose channels have LOINC codes.
        begin: when every stay begins, in seconds since 1970.
        facility: MSH-4.
        name: begins MSH-10, to tell apart feeds whose stays have the same numbers.
    """
    codes = [(v.loinc[0], v.unit) if v.loinc else None for v in stays.schema.variables]
    ages, starts, lengths = stays.number("age"), stays.starts, stays.lengths
    sexes = stays.names("sex") if "sex" in stays.categories else ["unknown"] * len(stays)
    units = stays.names("unit") if "unit" in stays.categories else ["unknown"] * len(stays)
    for i in range(len(stays)):
        patient, visit = str(stays.patients[i]), str(stays.ids[i])
        admitted = begin - 3600.0 * (int(starts[i]) - 1)
        born = ""
        if np.isfinite(ages[i]):
            born = write_time(admitted - (float(ages[i]) + 0.5) * 365.2425 * 86400)[:8]
        unit = None if units[i] == "unknown" else str(units[i])
        yield admitted, visit_message(
            facility, patient, "A01", time=admitted, control=f"{name}{i}-A01", visit=visit,
            unit=unit, admitted=admitted, born=born, sex=sex_word(sexes[i]) or str(sexes[i]),
        )  # fmt: skip
        rows = stays.matrix(np.array([i]))
        for row, values in enumerate(rows):
            time = begin + 3600.0 * (row + 1)
            results = list(_results(values, codes))
            if results:
                yield (
                    time,
                    result_message(
                        facility,
                        patient,
                        results,
                        time=time,
                        control=f"{name}{i}-{row}",
                        visit=visit,
                    ),
                )
        end = begin + 3600.0 * int(lengths[i])
        yield (
            end,
            visit_message(
                facility, patient, "A03", time=end, control=f"{name}{i}-A03", visit=visit
            ),
        )


def _results(values: np.ndarray, codes: Iterable[tuple[str, str] | None]) -> Iterator[Result]:
    for value, code in zip(values.tolist(), codes, strict=True):
        if code is not None and value == value:
            yield Result(code[0], value, code[1])
