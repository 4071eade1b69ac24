"""What identifies people under 45 CFR 164.514(b)(2), and what may be told of it all the same."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

ELEMENTS = (
    "names", "geography", "dates", "phone", "fax", "email", "ssn", "mrn", "plan", "account",
    "licence", "vehicle", "device", "url", "ip", "biometric", "photo", "other",
)  # fmt: skip
"""The eighteen of the rule, (A) to (R); ages over 89 belong to ``dates``."""

FREE_TEXT = "free_text"
"""What is said in words, or under a name nobody knows: it goes, whatever it may hold."""

RESTRICTED_ZIPS = frozenset(
    "036 059 063 102 203 556 692 790 821 823 830 831 878 879 884 890 893".split()
)
"""Beginnings of ZIP codes where 20,000 people or fewer live, by the census of 2000, as published
by the Department of Health and Human Services in its guidance of 2012."""

STATES = frozenset(
    "AL AK AZ AR CA CO CT DE DC FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ "
    "NM NY NC ND OH OK OR PA RI SC SD TN TX UT VT VA WA WV WI WY AS GU MP PR VI".split()
)

OLDEST = 89
"""Ages above it are told as 90."""

_ZIP = re.compile(r"(\d{3})\d{2}(?:-?\d{4})?", re.ASCII)
_PATTERNS = (
    ("email", re.compile(r"[^\s@^|~&]+@[^\s@^|~&]+\.[A-Za-z]{2,}")),
    ("url", re.compile(r"(?:[a-z][a-z0-9+.\-]*://|www\.)\S+", re.IGNORECASE)),
    ("ip", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")),
    ("ip", re.compile(r"(?<![\w:])(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{0,4}(?![\w:])", re.IGNORECASE)),
    ("ssn", re.compile(r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)")),
    ("phone", re.compile(r"(?<!\d)(?:\+\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]?\d{4}(?!\d)")),
)


@dataclass
class Removed:
    """What was done, by element: counts, never values.

    Attributes:
        removed: element -> values that are gone.
        coded: element -> values that a code stands for.
        generalised: element -> values that became coarser: years, ages of 90, three digits.
        moved: dates that were shifted.
        taken: messages, resources or stays.
        refused: of them, those that could not be read and are gone as a whole.
    """

    removed: Counter[str] = field(default_factory=Counter)
    coded: Counter[str] = field(default_factory=Counter)
    generalised: Counter[str] = field(default_factory=Counter)
    moved: int = 0
    taken: int = 0
    refused: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON values; every element of the rule is named, found or not."""
        names = (*ELEMENTS, FREE_TEXT)
        return {
            "taken": self.taken,
            "refused": self.refused,
            "dates_moved": self.moved,
            "elements": {
                name: {
                    "removed": self.removed[name],
                    "coded": self.coded[name],
                    "generalised": self.generalised[name],
                }
                for name in names
            },
        }


def kind_of(text: str, otherwise: str = FREE_TEXT) -> str:
    """The element that a text looks like, for counting what was removed anyway."""
    for name, pattern in _PATTERNS:
        if pattern.search(text):
            return name
    return otherwise


def three_digits(text: str) -> str | None:
    """What may be told of a ZIP code: its first three digits, ``000`` where few people live.

    None where it is no ZIP code.
    """
    text = text.strip()
    if re.fullmatch(r"\d{3}", text, re.ASCII):
        # Told before: the same again.
        return "000" if text in RESTRICTED_ZIPS else text
    found = _ZIP.fullmatch(text)
    if found is None:
        return None
    return "000" if found[1] in RESTRICTED_ZIPS else found[1]


def birth_year(year: int, event: int | None, now: int) -> int | None:
    """The year of birth that may be told.

    Where it tells of an age above 89 at an event, it becomes the year that tells 90 there, as the
    rule's single category of 90 or older; where it tells of one only by now, it is left out.
    Years alone cannot tell 89 from 90, so that 90 years apart is above.
    """
    if event is not None and event - year > OLDEST:
        return event - OLDEST - 1
    return None if now - year > OLDEST else year
