"""Times of HL7 v2: local or with an offset, of any precision, through changes of the clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo

_TIME = re.compile(
    r"(?P<year>\d{4})(?P<month>\d{2})?(?P<day>\d{2})?(?P<hour>\d{2})?(?P<minute>\d{2})?"
    r"(?P<second>\d{2})?(?P<fraction>\.\d{1,6})?(?P<sign>[+-])?(?P<offset>\d{4})?",
    re.ASCII,
)


def read_time(
    text: str, zone: tzinfo, *, near: float | None = None, precise: bool = True
) -> float | None:
    """Seconds since 1970 (UTC) of an HL7 time; None where it is no time.

    In the hour that autumn repeats, a local time without an offset is the later of the two that is
    not after ``near``. In the hour that spring leaves out, it is read by the offset before.

    Args:
        text: ``YYYY[MM[DD[HH[MM[SS[.S]]]]]][+ZZZZ]``.
        zone: of times without an offset.
        near: a time shortly before which the text was written.
        precise: whether a time needs its hour; a date alone is midnight otherwise.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None or (precise and found["hour"] is None):
        return None
    sign, offset = found["sign"], found["offset"]
    if (sign is None) != (offset is None):
        return None
    parts = [found[n] for n in ("year", "month", "day", "hour", "minute", "second")]
    year, month, day, hour, minute, second = (
        int(p) if p is not None else default
        for p, default in zip(parts, (0, 1, 1, 0, 0, 0), strict=True)
    )
    fraction = float(found["fraction"]) if found["fraction"] else 0.0
    try:
        # A leap second and midnight written as 24:00 are what comes next.
        extra = timedelta(seconds=second) + timedelta(days=hour // 24)
        if second > 60 or hour > 24 or (hour == 24 and minute + second):
            return None
        local = datetime(year, month, day, hour % 24, minute) + extra
        if sign is not None:
            shift = timedelta(hours=int(offset[:2]), minutes=int(offset[2:]))
            own = timezone(shift if sign == "+" else -shift)
            return local.replace(tzinfo=own).timestamp() + fraction
        return local_time(local, zone, near) + fraction
    except (ValueError, OverflowError):
        return None


def local_time(local: datetime, zone: tzinfo, near: float | None = None) -> float:
    """Seconds since 1970 of a local time; see :func:`read_time` for repeated hours."""
    first = local.replace(tzinfo=zone, fold=0).timestamp()
    second = local.replace(tzinfo=zone, fold=1).timestamp()
    # In a gap fold 1 lies before fold 0; only in a repeated hour it lies after.
    if second > first and near is not None and second <= near + 60:
        return second
    return first


def write_time(seconds: float) -> str:
    """An HL7 time with milliseconds and offset, in UTC."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y%m%d%H%M%S}.{moment.microsecond // 1000:03d}+0000"
