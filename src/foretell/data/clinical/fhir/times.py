"""Dates and instants of FHIR."""

from __future__ import annotations

import re
from datetime import datetime, tzinfo

from foretell.data.clinical.hl7.times import local_time

_INSTANT = re.compile(
    r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:T(\d{2}):(\d{2})(?::(\d{2})(\.\d+)?)?"
    r"(Z|[+-]\d{2}:\d{2})?)?)?)?",
    re.ASCII,
)


def read_instant(text: object, zone: tzinfo, *, precise: bool = True) -> float | None:
    """Seconds since 1970 (UTC) of a FHIR dateTime or instant; None where it is none.

    Args:
        text: such as ``2026-01-01T10:00:00+01:00``.
        zone: of times without an offset.
        precise: whether a time of day is needed; a date alone is its midnight otherwise.
    """
    found = _INSTANT.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or (precise and found[4] is None):
        return None
    numbers = [int(found[i]) if found[i] else d for i, d in zip(range(1, 7), (0, 1, 1, 0, 0, 0),
                                                                 strict=True)]  # fmt: skip
    fraction = float(found[7]) if found[7] else 0.0
    offset = found[8]
    try:
        year, month, day, hour, minute, second = numbers
        leap = second == 60
        local = datetime(year, month, day, hour, minute, 59 if leap else second)
        if offset is None:
            return local_time(local, zone) + leap + fraction
        told = datetime.fromisoformat(f"{local.isoformat()}{offset.replace('Z', '+00:00')}")
        return told.timestamp() + leap + fraction
    except (ValueError, OverflowError):
        return None
