"""Which codes, numbers and units may be told: those that are known to name no one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from foretell.data.clinical.deidentify.rules import OLDEST
from foretell.data.clinical.schema import Variable

if TYPE_CHECKING:
    from foretell.data.clinical.deidentify.deidentifier import Deidentifier

LOINC = frozenset(
    {"LN", "LOINC", "2.16.840.1.113883.6.1", "HTTP://LOINC.ORG", "URN:OID:2.16.840.1.113883.6.1"}
)
AGES = frozenset({"30525-0", "21612-7", "29553-5"})
"""LOINC codes of ages in years."""
PANELS = frozenset({"85354-9", "55284-4", "24323-8", "24320-4", "58410-2", "24336-0", "24338-6"})
"""LOINC codes of panels, which hold no value themselves."""

# Letters and digits of these stand at fixed places: no name and no number of a person has the form.
_SHAPES: Mapping[str, re.Pattern[str]] = {
    "ICD10": re.compile(r"[A-TV-Z]\d[0-9AB](?:\.?[0-9A-KXZ]{1,4})?"),
    "ATC": re.compile(r"[A-V]\d{2}(?:[A-Z]{1,2}(?:\d{2})?)?"),
}
_DIGITS = re.compile(r"\d{1,18}", re.ASCII)
_SYSTEMS: Mapping[str, str] = {
    **dict.fromkeys(
        ("I10", "I10C", "ICD10", "ICD-10", "ICD10CM", "ICD-10-CM", "HTTP://HL7.ORG/FHIR/SID/ICD-10",
         "HTTP://HL7.ORG/FHIR/SID/ICD-10-CM"), "ICD10",
    ),
    **dict.fromkeys(("ATC", "WC", "HTTP://WWW.WHOCC.NO/ATC"), "ATC"),
}  # fmt: skip


def measured(told: Deidentifier, codes: Iterable[tuple[str, str]]) -> Variable | str | None:
    """What the (system, code) pairs of an observation name.

    A variable of the schema, ``"age"``, ``"panel"``, or None for what is not known.
    """
    known = [code for system, code in codes if system.strip().upper() in LOINC]
    if any(code in AGES for code in known):
        return "age"
    found = told.schema.by_loinc(known)
    if found is not None:
        return found
    return "panel" if any(code in PANELS for code in known) else None


def is_told(told: Deidentifier, system: str, code: str) -> bool:
    """Whether the code of a measurement, a drug or a diagnosis may be told."""
    name = system.strip().upper()
    if name in LOINC:
        return measured(told, [(system, code)]) is not None
    shape = _SHAPES.get(_SYSTEMS.get(name, ""))
    if shape is not None:
        return shape.fullmatch(code) is not None
    # Bare numbers only where they are on the list: an identifier is a number, too.
    return _DIGITS.fullmatch(code) is not None and told.treatments([(system, code)]) is not None


def number(told: Deidentifier, what: Variable | str | None, value: float) -> float | None:
    """A value that may be told of what was measured, to six digits; ages above 89 become 90.

    None where it is impossible in every unit that is known of the variable: identifiers get lost
    among numbers, and are not told from broken sensors.
    """
    if not math.isfinite(value):
        return None
    if what == "age":
        return float(min(math.floor(value), OLDEST + 1)) if 0 <= value < 150 else None
    if not isinstance(what, Variable):
        return None
    ways = [(1.0, 0.0), *((c.factor, c.offset) for c in what.units.values())]
    possible = any(what.is_possible(f * value + o) for f, o in ways)
    return float(f"{value:.6g}") if possible else None


def unit(told: Deidentifier, what: Variable | str | None, text: str) -> str | None:
    """A unit that is known of what was measured."""
    text = text.strip()
    if what == "age":
        return text if text in ("a", "yr", "years") else None
    if not isinstance(what, Variable):
        return None
    known = {told.schema.unit(u) for u in (what.unit, *what.units)}
    return text if told.schema.unit(text) in known else None
