"""What a subscription is about: a search on one type of resource, or a topic with filters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from foretell.data.clinical.fhir import FhirError
from foretell.serving.resources import named

TOPICS: Mapping[str, str] = {
    "urn:foretell:topic:risk-assessment": "RiskAssessment",
    "urn:foretell:topic:alarm": "Flag",
}
"""Canonical address of a topic -> type of the resource that its events are about."""

KINDS = ("RiskAssessment", "Flag", "CommunicationRequest")
_PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le")


@dataclass(frozen=True)
class Criteria:
    """A search: all tests must hold, and of each one of its values.

    Args:
        kind: type of resource.
        tests: (parameter, values).
    """

    kind: str
    tests: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def matches(self, site: str, resource: Mapping[str, Any]) -> bool:
        """Whether a resource of a site is among what the search finds."""
        if resource.get("resourceType") != self.kind:
            return False
        return all(_holds(name, values, site, resource) for name, values in self.tests)


def read_criteria(text: str, where: str = "Subscription.criteria") -> Criteria:
    """A search such as ``RiskAssessment?subject=Patient/1&probability=ge0.5``.

    Known parameters are ``subject`` and ``patient`` (by reference, whatever the resource names
    somebody by, or ``:identifier``), ``encounter``, ``status``, ``probability`` of RiskAssessment,
    and ``site``, the hospital's name in this service.

    Raises:
        FhirError: the type or a parameter is not known: nothing is left out in silence.
    """
    kind, _, query = text.strip().partition("?")
    if kind not in KINDS:
        raise FhirError(f"only {', '.join(KINDS)} can be subscribed to", where=where)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query),
                          max_num_fields=20)  # fmt: skip
    except ValueError:
        raise FhirError("the search cannot be read", where=where) from None
    tests = []
    for name, told in pairs:
        plain, _, modifier = name.partition(":")
        values = tuple(v for v in told.split(",") if v)
        known = plain in ("subject", "patient", "encounter", "status", "site") or (
            plain == "probability" and kind == "RiskAssessment"
        )
        if not known or modifier not in ("", "identifier") or not values:
            raise FhirError("a search parameter is not known or empty", where=where)
        if modifier and plain not in ("subject", "patient", "encounter"):
            raise FhirError("a search modifier is not known", where=where)
        if plain == "probability" and any(math.isnan(_bound(v)[1]) for v in values):
            raise FhirError("a probability is no number", where=where)
        tests.append((name, values))
    return Criteria(kind, tuple(tests))


def _bound(text: str) -> tuple[str, float]:
    prefix, number = (text[:2], text[2:]) if text[:2] in _PREFIXES else ("eq", text)
    try:
        return prefix, float(number)
    except ValueError:
        return prefix, math.nan


def _holds(
    name: str, values: tuple[str, ...], site: str, resource: Mapping[str, Any]
) -> bool:  # fmt: skip
    plain, _, modifier = name.partition(":")
    if plain == "site":
        return site in values
    if plain == "status":
        return str(resource.get("status")) in {v.rpartition("|")[2] for v in values}
    if plain == "probability":
        found = [p.get("probabilityDecimal") for p in resource.get("prediction", ())]
        return any(p is not None and _compared(*_bound(v), float(p)) for p in found for v in values)
    told = resource.get("encounter" if plain == "encounter" else "subject") or {}
    if modifier == "identifier":
        return named(told)[1] in {v.rpartition("|")[2] for v in values}
    kind, identity = named(told)
    address = f"{kind}/{identity}"
    return bool(identity) and any(
        v in (identity, address) or v.endswith(f"/{address}") for v in values
    )


def _compared(prefix: str, bound: float, value: float) -> bool:
    # "eq" is as precise as what a resource holds.
    return {
        "eq": abs(value - bound) < 5e-7, "ne": abs(value - bound) >= 5e-7, "gt": value > bound,
        "lt": value < bound, "ge": value >= bound, "le": value <= bound,
    }[prefix]  # fmt: skip
