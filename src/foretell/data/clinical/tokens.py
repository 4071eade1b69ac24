"""What laboratories write where a number belongs: ``>100``, ``7,2``, ``7.2 mg/dL``, words."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_NUMBER = re.compile(
    r"^\s*(?P<sign><=|>=|<|>|≤|≥|~)?\s*(?P<number>[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?)"
    r"\s*(?P<unit>(?:(?<=\s)x?10[*^]\d|[^\W\d_]|[%°\[{(]|/[^\W\d_]).{0,31})?\s*$"
)
# 1,200 may be 1.2 or 1200: nobody should guess.
_AMBIGUOUS = re.compile(r"^[+-]?[1-9]\d{0,2},\d{3}$")
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", ".", "-", "?"})
"""Texts, in lower case, that say that nothing was measured."""


class Reading(NamedTuple):
    """What a token says.

    ``value`` is NaN where it holds no number; ``comparator`` is ``"<"`` or ``">"`` where the value
    is a bound of the measuring range; ``unit`` is the text behind the number.
    """

    value: float
    comparator: str | None
    unit: str | None


def read_token(token: str) -> Reading:
    """A token as number, comparator and unit; a comma is a decimal comma.

    ``1,200`` could be either and counts as no number.
    """
    found = _NUMBER.match(token)
    if found is None:
        return Reading(math.nan, None, None)
    number = found["number"]
    if _AMBIGUOUS.match(number):
        return Reading(math.nan, None, None)
    value = float(number.replace(",", "."))
    if not math.isfinite(value):
        return Reading(math.nan, None, None)
    sign = found["sign"]
    comparator = None if sign in (None, "~") else ("<" if sign in ("<", "<=", "≤") else ">")
    unit = found["unit"]
    return Reading(value, comparator, unit.strip() if unit else None)


def is_missing(token: str) -> bool:
    """Whether a token says that nothing was measured."""
    return token.strip().lower() in MISSING
