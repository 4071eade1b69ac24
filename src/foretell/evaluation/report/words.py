"""Figures as a reader expects them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

MISSING = "–"


def number(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits, thousands apart: ``1,234``, ``0.0712``."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    if size >= 10 ** (digits - 1) or value == 0:
        return f"{value:,.0f}".replace("-", "−")
    places = digits - 1 - math.floor(math.log10(size))
    return f"{value:,.{min(places, 8)}f}".replace("-", "−")


def fixed(value: Any, places: int = 4, sign: bool = False) -> str:
    """A number with so many decimal places."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:{'+' if sign else ''},.{places}f}".replace("-", "−")


def percent(value: Any, places: int = 0) -> str:
    """A share in per cent: ``12%``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{100 * value:.{places}f}%".replace("-", "−")


def count(value: int, noun: str, plural: str | None = None) -> str:
    """``1 model``, ``3 models``; for words whose plural is the singular, give it."""
    return f"{value:,} {noun if value == 1 else (plural or noun + 's')}"


def seconds(value: Any) -> str:
    """A duration: ``0.4 s``, ``12 s``, ``3 min 5 s``, ``1 h 2 min``."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def listing(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


_UNITS = {
    "S": "second", "MIN": "minute", "H": "hour", "D": "day", "W": "week", "M": "month",
    "Q": "quarter", "Y": "year", "A": "year",
}  # fmt: skip


def period_noun(alias: str) -> str:
    """The plain word of a frequency's period: ``week`` of ``W-SUN``; ``period`` when unsure."""
    head = alias.upper().split("-")[0]
    if head in ("T",):
        return "minute"
    if head.endswith(("MS", "ME")):
        head = "M"
    elif head.endswith(("QS", "QE")):
        head = "Q"
    elif head.endswith(("YS", "YE")):
        head = "Y"
    return _UNITS.get(head, "period")
