"""Which orders, drugs and diagnoses mean that sepsis is known or treated; shipped as data."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from foretell.errors import ParameterError

ANTIBIOTIC, SEPSIS, NONE = "antibiotic", "sepsis", "none"
MEANINGS = (ANTIBIOTIC, SEPSIS, NONE)


@cache
def _shipped() -> tuple[Mapping[str, str], Mapping[str, str], tuple[tuple[str, str], ...]]:
    """Names of systems, meanings of whole codes, and of beginnings of codes."""
    text = resources.files("foretell.data.clinical").joinpath("treatments.toml").read_text("utf-8")
    table: dict[str, Any] = tomllib.loads(text)
    systems = {name.upper(): short for short, names in table["systems"].items() for name in names}
    whole: dict[str, str] = {}
    begins: list[tuple[str, str]] = []
    for meaning in (ANTIBIOTIC, SEPSIS):
        for system, codes in table[meaning].items():
            for code in codes:
                key = f"{system}|{code}".upper()
                if key.endswith("*"):
                    begins.append((key[:-1], meaning))
                else:
                    whole[key] = meaning
    return systems, whole, tuple(begins)


@dataclass(frozen=True)
class TreatmentCodes:
    """What a code says about the treatment of sepsis.

    Args:
        codes: of a site, ``"SYSTEM|CODE"`` or ``"CODE"`` -> ``"antibiotic"``, ``"sepsis"`` or
            ``"none"``; they come before the shipped list. A code that ends in ``"*"`` stands for
            all that begin so.

    Raises:
        ParameterError: a meaning is not known.
    """

    codes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for code, meaning in self.codes.items():
            if meaning not in MEANINGS:
                raise ParameterError(f"code {code!r} means one of {MEANINGS}, not {meaning!r}")
        own = {code.upper(): meaning for code, meaning in self.codes.items()}
        begins = [(k[:-1], m) for k, m in own.items() if k.endswith("*")]
        # The longest beginning says most.
        begins.sort(key=lambda b: (-len(b[0]), b))
        object.__setattr__(self, "_own", own)
        object.__setattr__(self, "_begins", tuple(begins))

    def __call__(self, codes: Iterable[tuple[str, str]]) -> str | None:
        """``"antibiotic"``, ``"sepsis"`` or None, of (system, code) pairs that name one thing."""
        systems, whole, begins = _shipped()
        pairs = [(system.upper(), code.upper()) for system, code in codes]
        own: Mapping[str, str] = self._own  # type: ignore[attr-defined]
        own_begins: tuple[tuple[str, str], ...] = self._begins  # type: ignore[attr-defined]
        for system, code in pairs if own else ():
            short = systems.get(system, system)
            for key in (f"{system}|{code}", f"{short}|{code}", code):
                found = own.get(key) or next((m for b, m in own_begins if key.startswith(b)), None)
                if found is not None:
                    return None if found == NONE else found
        for system, code in pairs:
            key = f"{systems.get(system, system)}|{code}"
            found = whole.get(key) or next((m for b, m in begins if key.startswith(b)), None)
            if found is not None:
                return found
        return None
