"""FHIR R4 bundles from values: for replays, load generators and tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np

from foretell.data.clinical.sexes import sex_word
from foretell.data.clinical.stays import Stays


def _instant(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _id(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9\-.]", "-", text)[:64]


def bundles_of(
    stays: Stays, *, begin: float = 1_767_225_600.0, name: str = ""
) -> Iterator[tuple[float, dict[str, Any]]]:
    """(time, bundle) of stays as a feed: admission, one bundle of observations an hour, discharge.

    The same as :func:`foretell.data.clinical.hl7.writer.messages_of` tells, in FHIR's words.

    Args:
        stays: whose channels have LOINC codes.
        begin: when every stay begins, in seconds since 1970.
        name: tells apart feeds whose stays have the same numbers.
    """
    variables = stays.schema.variables
    ages, starts = stays.number("age"), stays.starts
    units = stays.names("unit") if "unit" in stays.categories else ["unknown"] * len(stays)
    sexes = stays.names("sex") if "sex" in stays.categories else ["unknown"] * len(stays)
    for i in range(len(stays)):
        patient, visit = _id(str(stays.patients[i])), _id(str(stays.ids[i]))
        admitted = begin - 3600.0 * (int(starts[i]) - 1)
        subject = {"reference": f"Patient/{patient}"}
        person: dict[str, Any] = {"resourceType": "Patient", "id": patient}
        if gender := sex_word(sexes[i]):
            person["gender"] = gender
        if np.isfinite(ages[i]):
            born = admitted - (float(ages[i]) + 0.5) * 365.2425 * 86400
            person["birthDate"] = _instant(born)[:10]
        encounter: dict[str, Any] = {
            "resourceType": "Encounter", "id": visit, "status": "in-progress",
            "class": {"code": "IMP"}, "subject": subject,
            "period": {"start": _instant(admitted)}, "meta": {"lastUpdated": _instant(admitted)},
        }  # fmt: skip
        if units[i] != "unknown":
            encounter["location"] = [{"location": {"display": str(units[i])}}]
        yield admitted, _bundle([person, encounter])
        for row, values in enumerate(stays.matrix(np.array([i]))):
            time = begin + 3600.0 * (row + 1)
            found = [
                {
                    "resourceType": "Observation",
                    "id": _id(f"{name}{i}-{row}-{variable.name}"),
                    "status": "final",
                    "code": {"coding": [{"system": "http://loinc.org", "code": variable.loinc[0]}]},
                    "subject": subject,
                    "encounter": {"reference": f"Encounter/{visit}"},
                    "effectiveDateTime": _instant(time),
                    "issued": _instant(time),
                    "valueQuantity": {"value": float(value), "unit": variable.unit},
                }
                for variable, value in zip(variables, values.tolist(), strict=True)
                if value == value and variable.loinc
            ]
            if found:
                yield time, _bundle(found)
        end = begin + 3600.0 * int(stays.lengths[i])
        done = {**encounter, "status": "finished", "meta": {"lastUpdated": _instant(end)}}
        done["period"] = {"start": _instant(admitted), "end": _instant(end)}
        yield end, _bundle([person, done])


def _bundle(resources: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "resourceType": "Bundle", "type": "collection",
        "entry": [{"resource": r} for r in resources],
    }  # fmt: skip
