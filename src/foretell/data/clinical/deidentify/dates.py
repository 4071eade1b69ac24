"""What becomes of dates: their year alone, or the same dates some secret days away."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Protocol

from foretell.data.clinical.fhir.times import read_instant
from foretell.data.clinical.hl7.times import read_time, write_time

_HL7_DATE = re.compile(r"(\d{4})(\d{2})?(\d{2})?", re.ASCII)
_FHIR_DATE = re.compile(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", re.ASCII)
_YEAR = re.compile(r"(\d{4})(?![^\dT.+\-])", re.ASCII)
_YEARS = range(1800, 2201)


class Dates(Protocol):
    """How the dates of one patient are told. Both give ``""`` for what is no date."""

    def hl7(self, text: str) -> str:
        """Of a date or time of HL7 v2."""
        ...

    def fhir(self, text: object, *, whole: bool = False) -> str:
        """Of a date or dateTime of FHIR; ``whole`` where FHIR demands a time of day."""
        ...


class YearsOnly:
    """Safe Harbor: no element of a date but its year."""

    def hl7(self, text: str) -> str:
        """``YYYY``."""
        return _year(text, read_time(text, UTC, precise=False) is not None)

    def fhir(self, text: object, *, whole: bool = False) -> str:
        """``YYYY``; nothing for an instant, which has no such form."""
        known = not whole and isinstance(text, str)
        found = known and read_instant(text, UTC, precise=False) is not None
        return _year(str(text), bool(found))


@dataclass(frozen=True)
class Moved:
    """The same dates, whole days away: intervals within a patient and times of day stay.

    Times are told in UTC, so that a change of the clock neither adds nor takes an hour.

    Args:
        days: by which they are moved.
        zone: of times without an offset.
    """

    days: int
    zone: tzinfo = UTC

    def hl7(self, text: str) -> str:
        """As precise as it was."""
        text = text.strip()
        seconds = read_time(text, self.zone)
        if seconds is not None:
            try:
                return write_time(seconds + 86400 * self.days)
            except (OverflowError, ValueError, OSError):
                return ""
        found = _HL7_DATE.fullmatch(text)
        return "" if found is None else self._date(found, "")

    def fhir(self, text: object, *, whole: bool = False) -> str:
        """As precise as it was."""
        seconds = read_instant(text, self.zone)
        if seconds is not None:
            try:
                moment = datetime.fromtimestamp(seconds + 86400 * self.days, UTC)
            except (OverflowError, ValueError, OSError):
                return ""
            return moment.isoformat(timespec="milliseconds")
        found = _FHIR_DATE.fullmatch(text.strip()) if isinstance(text, str) else None
        return "" if found is None or whole else self._date(found, "-")

    def _date(self, found: re.Match[str], mark: str) -> str:
        year, month, day = found[1], found[2], found[3]
        try:
            # Of a month or a year, its middle is moved.
            moved = date(int(year), int(month or 7), int(day or (15 if month else 2)))
            moved += timedelta(days=self.days)
        except (ValueError, OverflowError):
            return ""
        parts = [f"{moved:%Y}", f"{moved:%m}", f"{moved:%d}"]
        return mark.join(parts[: 1 + (month is not None) + (day is not None)])


def year_of(text: object) -> int | None:
    """The year that a date of either kind begins with."""
    found = _YEAR.match(text.strip()) if isinstance(text, str) else None
    return int(found[1]) if found is not None and int(found[1]) in _YEARS else None


def _year(text: str, known: bool) -> str:
    year = year_of(text) if known else None
    return "" if year is None else str(year)
