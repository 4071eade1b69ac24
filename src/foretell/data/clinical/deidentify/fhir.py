"""FHIR R4 resources without what identifies: elements that are known to be safe, and no others."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from foretell.data.clinical.deidentify import codes
from foretell.data.clinical.deidentify.dates import Dates, year_of
from foretell.data.clinical.deidentify.rules import (
    FREE_TEXT,
    OLDEST,
    STATES,
    birth_year,
    kind_of,
    three_digits,
)
from foretell.data.clinical.fhir.reader import MAX_DEPTH, MAX_ENTRIES
from foretell.data.clinical.schema import Variable
from foretell.data.clinical.tokens import read_token

if TYPE_CHECKING:
    from foretell.data.clinical.deidentify.deidentifier import Deidentifier

_WORDS: Mapping[str, frozenset[str]] = {
    "gender": frozenset("male female other unknown".split()),
    "observation": frozenset(
        "registered preliminary final amended corrected cancelled entered-in-error unknown".split()
    ),
    "encounter": frozenset(
        "planned arrived triaged in-progress onleave finished cancelled entered-in-error "
        "unknown".split()
    ),
    "request": frozenset(
        "draft active on-hold revoked completed entered-in-error unknown proposal plan "
        "order".split()
    ),
    "given": frozenset(
        "in-progress not-done on-hold completed entered-in-error stopped unknown".split()
    ),
    "condition": frozenset(
        "active recurrence relapse inactive remission resolved unconfirmed provisional "
        "differential confirmed refuted entered-in-error".split()
    ),
    "class": frozenset("AMB EMER FLD HH IMP ACUTE NONAC OBSENC PRENC SS VR".split()),
    "absent": frozenset(
        "unknown asked-unknown temp-unknown not-asked asked-declined masked not-applicable "
        "unsupported as-text error not-a-number negative-infinity positive-infinity "
        "not-performed not-permitted".split()
    ),
    "bundle": frozenset("batch transaction message collection searchset history document".split()),
    "comparator": frozenset({"<", "<=", ">", ">="}),
}
_CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-"
_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_UCUM = "http://unitsofmeasure.org"

_KEYS: Mapping[str, str] = {
    "name": "names", "family": "names", "given": "names", "contact": "names", "telecom": "phone",
    "address": "geography", "city": "geography", "line": "geography", "district": "geography",
    "location": "geography", "photo": "photo", "image": "photo", "valueAttachment": "photo",
    "performer": "names", "participant": "names", "asserter": "names", "recorder": "names",
    "requester": "names", "generalPractitioner": "names", "author": "names", "device": "device",
    "udiCarrier": "device", "serialNumber": "device", "url": "url", "source": "url",
    "fullUrl": "url", "birthDate": "dates", "issued": "dates", "lastUpdated": "dates",
    "timestamp": "dates", "date": "dates", "account": "account", "coverage": "plan",
    "insurance": "plan", "managingOrganization": "geography", "serviceProvider": "geography",
    "birthPlace": "geography", "identifier": "other", "fingerprint": "biometric",
}  # fmt: skip
_IDENTIFIERS: Mapping[str, str] = {
    "MR": "mrn", "SS": "ssn", "SB": "ssn", "DL": "licence", "PPN": "licence", "AN": "account",
    "MB": "plan", "MA": "plan", "MC": "plan", "NIIP": "plan", "VIN": "vehicle", "UDI": "device",
    "SNO": "device", "MD": "licence", "RN": "licence", "NPI": "licence", "BIO": "biometric",
}  # fmt: skip

Json = dict[str, Any]


class _Cleaner:
    """One resource: what is taken of it is popped, what is left is counted as removed."""

    def __init__(self, told: Deidentifier, one: Json, people: Mapping[str, str]) -> None:
        self.told, self.count, self.people = told, told.removed, people
        self.one = one
        self.out: Json = {"resourceType": one.pop("resourceType")}
        self.dates: Dates = told.dates(told.site, self.owner())

    def owner(self) -> str | None:
        """The patient whose dates they are."""
        if self.out["resourceType"] == "Patient":
            return self.identity(self.one.get("id"))
        told = self.one.get("subject", self.one.get("patient"))
        reference = told.get("reference") if isinstance(told, dict) else None
        return self.identity(reference)

    def identity(self, reference: Any) -> str | None:
        if not isinstance(reference, str) or not reference:
            return None
        name = reference.split("/_history", 1)[0].rpartition("/")[2]
        name = name.removeprefix("urn:uuid:").removeprefix("#")
        return self.people.get(reference, name) or None

    def code(self, kind: str, identity: str) -> str:
        return self.told.code(kind, self.told.site, identity)

    def id(self, kind: str, element: str = "other") -> None:
        identity = self.one.pop("id", None)
        if isinstance(identity, str) and identity:
            self.out["id"] = self.code(kind, identity)
            self.count.coded[element] += 1

    def reference(self, key: str, target: str, kind: str) -> None:
        told = self.one.get(key)
        identity = self.identity(told.pop("reference", None)) if isinstance(told, dict) else None
        if identity is not None:
            self.out[key] = {"reference": f"{target}/{self.code(kind, identity)}"}
            self.count.coded["mrn" if kind == "patient" else "other"] += 1

    def word(self, key: str, words: str) -> None:
        value = self.one.get(key)
        if _is_word(value, words):
            self.out[key] = self.one.pop(key)

    def date(self, holder: Any, into: Json, key: str, *, whole: bool = False) -> None:
        if not isinstance(holder, dict) or key not in holder:
            return
        text = holder.pop(key)
        found = self.dates.fhir(text, whole=whole)
        if not found:
            self.count.removed["dates"] += 1
            return
        into[key] = found
        if found == text:
            return
        if self.told.keys is None:
            self.count.generalised["dates"] += 1
        else:
            self.count.moved += 1

    def dated(self, *keys: str) -> None:
        for key in keys:
            self.date(self.one, self.out, key)

    def period(self, key: str) -> None:
        told = self.one.get(key)
        kept: Json = {}
        self.date(told, kept, "start")
        self.date(told, kept, "end")
        if kept:
            self.out[key] = kept

    def concept(self, holder: Any, into: Json, key: str) -> list[tuple[str, str]]:
        """Keeps the codes that may be told; all (system, code) pairs."""
        told = holder.get(key) if isinstance(holder, dict) else None
        codings = told.get("coding") if isinstance(told, dict) else None
        pairs, kept = [], []
        for coding in codings if isinstance(codings, list) else []:
            if not isinstance(coding, dict):
                continue
            system, code = coding.get("system"), coding.get("code")
            if not isinstance(system, str) or not isinstance(code, str):
                continue
            pairs.append((system, code))
            if codes.is_told(self.told, system, code):
                kept.append({"system": coding.pop("system"), "code": coding.pop("code")})
        if kept:
            into[key] = {"coding": kept}
        return pairs

    def listed(self, key: str, system: str, words: str) -> None:
        """Keeps the code of a concept out of a list of words."""
        told = self.one.get(key)
        codings = told.get("coding") if isinstance(told, dict) else None
        for coding in codings if isinstance(codings, list) else []:
            if isinstance(coding, dict) and _is_word(coding.get("code"), words):
                self.out[key] = {"coding": [{"system": system, "code": coding.pop("code")}]}
                coding.pop("system", None)
                return

    def value(self, holder: Json, into: Json, what: Variable | str | None) -> None:
        """Keeps a quantity, or a number in words."""
        quantity = holder.get("valueQuantity")
        sign = unit = None
        number: Any = None
        if isinstance(quantity, dict):
            number, unit = quantity.get("value"), quantity.get("code", quantity.get("unit"))
            sign = quantity.get("comparator")
        elif isinstance(holder.get("valueInteger"), int):
            number = holder["valueInteger"]
        elif isinstance(holder.get("valueString"), str):
            reading = read_token(holder["valueString"][:64])
            number, unit, sign = reading.value, reading.unit, reading.comparator
        if isinstance(number, bool) or not isinstance(number, int | float):
            return
        own = codes.unit(self.told, what, unit) if isinstance(unit, str) else None
        if unit is not None and own is None:
            return
        try:
            found = codes.number(self.told, what, float(number))
        except OverflowError:
            found = None
        if found is None:
            return
        if what == "age" and not math.isclose(found, float(number)):
            self.count.generalised["dates"] += 1
        kept: Json = {"value": found}
        if isinstance(sign, str) and sign in _WORDS["comparator"]:
            kept["comparator"] = sign
        if own is not None:
            kept |= {"unit": own, "system": _UCUM, "code": own}
        into["valueQuantity"] = kept
        for key in ("valueQuantity", "valueInteger", "valueString"):
            holder.pop(key, None)

    def finished(self) -> Json:
        """What is told; the rest is counted."""
        self.one.pop("resourceType", None)
        _count(self.told, self.one, FREE_TEXT)
        return self.out


def _patient(c: _Cleaner) -> None:
    one, out = c.one, c.out
    raw = c.owner()
    seen = one.pop("id", None)
    if raw is not None and isinstance(seen, str):
        out["id"] = c.code("patient", raw)
        c.count.coded["mrn"] += 1
    c.word("gender", "gender")
    meta = one.get("meta")
    updated = meta.get("lastUpdated") if isinstance(meta, dict) else None
    event = year_of(updated)
    moves = c.told.keys is not None
    born = one.get("birthDate")
    year = year_of(born)
    if year is not None:
        again = moves and raw is not None and c.told.is_code(raw)
        kept = year if again else birth_year(year, event, c.told.year)
        if kept == year and moves:
            c.date(one, out, "birthDate")
        else:
            one.pop("birthDate")
            shown = year_of(c.dates.fhir(updated)) if kept not in (None, year) else None
            kept = shown - OLDEST - 1 if shown is not None else kept
            c.count.removed["dates"] += kept is None
            c.count.generalised["dates"] += kept is not None and born != str(kept)
            if kept is not None:
                out["birthDate"] = str(kept)
    if isinstance(one.get("deceasedBoolean"), bool):
        out["deceasedBoolean"] = one.pop("deceasedBoolean")
    c.dated("deceasedDateTime")
    places = []
    for place in one.get("address", []) if isinstance(one.get("address"), list) else []:
        kept_place = _address(c, place)
        if kept_place and kept_place not in places:
            places.append(kept_place)
    if places:
        out["address"] = places
    links = []
    for link in one.get("link", []) if isinstance(one.get("link"), list) else []:
        if not isinstance(link, dict) or link.get("type") not in (
            "replaces", "replaced-by", "refer", "seealso"
        ):  # fmt: skip
            continue
        other = link.get("other")
        identity = c.identity(other.pop("reference", None)) if isinstance(other, dict) else None
        if identity is not None:
            name = f"Patient/{c.code('patient', identity)}"
            links.append({"other": {"reference": name}, "type": link.pop("type")})
            c.count.coded["mrn"] += 1
    if links:
        out["link"] = links
    _meta(c)


def _address(c: _Cleaner, place: Any) -> Json:
    if not isinstance(place, dict):
        return {}
    kept: Json = {}
    country, state = place.get("country"), place.get("state")
    if isinstance(state, str) and state.upper() in STATES:
        kept["state"] = place.pop("state").upper()
    text = place.get("postalCode")
    if isinstance(text, str) and (country is None or str(country).upper() in ("US", "USA")):
        short = three_digits(text)
        if short is not None:
            kept["postalCode"] = short
            place.pop("postalCode")
            c.count.generalised["geography"] += short != text
    return kept


def _meta(c: _Cleaner) -> None:
    kept: Json = {}
    c.date(c.one.get("meta"), kept, "lastUpdated", whole=True)
    if kept:
        c.out["meta"] = kept


def _encounter(c: _Cleaner) -> None:
    c.id("visit", "account")
    c.word("status", "encounter")
    told = c.one.get("class")
    if isinstance(told, dict) and _is_word(told.get("code"), "class"):
        c.out["class"] = {"system": _ACT, "code": told.pop("code")}
        told.pop("system", None)
    c.reference("subject", "Patient", "patient")
    c.period("period")
    places = []
    for place in c.one.get("location", []) if isinstance(c.one.get("location"), list) else []:
        inner = place.get("location") if isinstance(place, dict) else None
        shown = inner.get("display") if isinstance(inner, dict) else None
        unit = c.told.unit(shown) if isinstance(shown, str) else None
        if unit is not None and isinstance(inner, dict):
            inner.pop("display")
            kept: Json = {"location": {"display": unit}}
            if place.get("status") in ("planned", "active", "reserved", "completed"):
                kept["status"] = place.pop("status")
            places.append(kept)
    if places:
        c.out["location"] = places
    _meta(c)


def _observation(c: _Cleaner) -> None:
    c.id("observation")
    c.word("status", "observation")
    c.reference("subject", "Patient", "patient")
    c.reference("encounter", "Encounter", "visit")
    c.dated("effectiveDateTime")
    c.period("effectivePeriod")
    for key in ("effectiveInstant", "issued"):
        c.date(c.one, c.out, key, whole=True)
    what = codes.measured(c.told, c.concept(c.one, c.out, "code"))
    c.value(c.one, c.out, what)
    c.listed("dataAbsentReason", _ABSENT, "absent")
    parts = []
    for part in c.one.get("component", []) if isinstance(c.one.get("component"), list) else []:
        if not isinstance(part, dict):
            continue
        kept: Json = {}
        c.value(part, kept, codes.measured(c.told, c.concept(part, kept, "code")))
        if "code" in kept:
            parts.append(kept)
    if parts:
        c.out["component"] = parts
    _meta(c)


def _condition(c: _Cleaner) -> None:
    c.id("condition")
    c.listed("clinicalStatus", f"{_CLINICAL}clinical", "condition")
    c.listed("verificationStatus", f"{_CLINICAL}ver-status", "condition")
    c.reference("subject", "Patient", "patient")
    c.reference("encounter", "Encounter", "visit")
    c.dated("onsetDateTime", "recordedDate", "abatementDateTime")
    c.concept(c.one, c.out, "code")
    _meta(c)


def _request(c: _Cleaner) -> None:
    c.id("order")
    c.word("status", "request")
    c.word("intent", "request")
    c.reference("subject", "Patient", "patient")
    c.reference("encounter", "Encounter", "visit")
    c.dated("authoredOn")
    c.concept(c.one, c.out, "code")
    _meta(c)


def _given(c: _Cleaner) -> None:
    c.id("order")
    c.word("status", "given")
    c.reference("subject", "Patient", "patient")
    c.reference("context", "Encounter", "visit")
    c.dated("effectiveDateTime")
    c.period("effectivePeriod")
    c.concept(c.one, c.out, "medicationCodeableConcept")
    c.reference("medicationReference", "Medication", "drug")
    _meta(c)


def _medication(c: _Cleaner) -> None:
    c.id("drug")
    c.concept(c.one, c.out, "code")


_RESOURCES: Mapping[str, Callable[[_Cleaner], None]] = {
    "Patient": _patient, "Encounter": _encounter, "Observation": _observation,
    "Condition": _condition, "ServiceRequest": _request, "MedicationAdministration": _given,
    "Medication": _medication,
}  # fmt: skip


def cleaned(told: Deidentifier, resource: Any) -> Json | None:
    """The resource or bundle under codes; None where nothing of it may stay."""
    if not isinstance(resource, dict):
        told.removed.taken += 1
        told.removed.refused += 1
        return None
    people: dict[str, str] = {}
    _learn(resource, people)
    return _cleaned(told, copy.deepcopy(resource), people, 0)


def _is_word(value: Any, words: str) -> bool:
    return isinstance(value, str) and value in _WORDS[words]


def _learn(resource: Json, people: dict[str, str], depth: int = 0) -> None:
    """Full addresses within a bundle -> id of the patient they mean."""
    entries = resource.get("entry") if resource.get("resourceType") == "Bundle" else None
    for entry in entries[:MAX_ENTRIES] if isinstance(entries, list) else []:
        one = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(one, dict):
            continue
        full, identity = entry.get("fullUrl"), one.get("id")
        if isinstance(full, str) and isinstance(identity, str):
            people[full] = identity
        if depth < MAX_DEPTH:
            _learn(one, people, depth + 1)


def _cleaned(told: Deidentifier, one: Json, people: Mapping[str, str], depth: int) -> Json | None:
    kind = one.get("resourceType")
    if kind == "Bundle" and depth < MAX_DEPTH:
        return _bundle(told, one, people, depth)
    told.removed.taken += 1
    make = _RESOURCES.get(kind) if isinstance(kind, str) else None
    if make is None:
        told.removed.refused += 1
        one.pop("resourceType", None)
        _count(told, one, FREE_TEXT)
        return None
    cleaner = _Cleaner(told, one, people)
    make(cleaner)
    return cleaner.finished()


def _bundle(told: Deidentifier, one: Json, people: Mapping[str, str], depth: int) -> Json:
    out: Json = {"resourceType": "Bundle", "type": "collection"}
    if _is_word(one.get("type"), "bundle"):
        out["type"] = one.pop("type")
    entries = one.pop("entry", None)
    kept = []
    for entry in entries[:MAX_ENTRIES] if isinstance(entries, list) else []:
        inner = entry.pop("resource", None) if isinstance(entry, dict) else None
        found = _cleaned(told, inner, people, depth + 1) if isinstance(inner, dict) else None
        if found is not None:
            kept.append({"resource": found})
        _count(told, entry, FREE_TEXT)
    out["entry"] = kept
    one.pop("resourceType", None)
    _count(told, one, FREE_TEXT)
    return out


def _count(told: Deidentifier, left: Any, element: str) -> None:
    """Counts each value that is not told, by where it stands, else by what it looks like."""
    if isinstance(left, dict):
        element = _element(left, element)
        for key, value in left.items():
            _count(told, value, _KEYS.get(key, element))
    elif isinstance(left, list):
        for value in left:
            _count(told, value, element)
    elif left is not None and left != "":
        known = kind_of(str(left), element) if element in (FREE_TEXT, "other") else element
        told.removed.removed[known] += 1


def _element(left: Json, element: str) -> str:
    if element == "phone":
        return {"fax": "fax", "email": "email", "url": "url"}.get(str(left.get("system")), element)
    told = left.get("type")
    codings = told.get("coding") if isinstance(told, dict) else None
    for coding in codings if isinstance(codings, list) else []:
        if isinstance(coding, dict) and str(coding.get("code")) in _IDENTIFIERS:
            return _IDENTIFIERS[str(coding["code"])]
    return element
