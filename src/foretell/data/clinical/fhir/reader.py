"""What FHIR R4 resources say: observations, encounters, patients, orders and treatments.

The reader takes what is there and refuses, part by part, what it cannot use: full validation would
turn away most of what hospitals send. Names and addresses are never read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from foretell.data.clinical.doubts import age_at
from foretell.data.clinical.feed import (
    Measurement,
    OrderChange,
    Record,
    Refusal,
    Status,
    VisitChange,
    stays_from_feed,
)
from foretell.data.clinical.fhir.times import read_instant
from foretell.data.clinical.stays import Stays
from foretell.data.clinical.tokens import read_token
from foretell.errors import DataError

_SYSTEMS = {"http://loinc.org": "LN", "urn:oid:2.16.840.1.113883.6.1": "LN"}
_STATUS: Mapping[str, Status | None] = {
    "registered": None, "preliminary": "preliminary", "final": "final", "amended": "corrected",
    "corrected": "corrected", "cancelled": "deleted", "entered-in-error": "deleted",
    "unknown": None,
}  # fmt: skip
_ENCOUNTER = {
    "arrived": "register", "triaged": "register", "in-progress": "admit", "onleave": "update",
    "finished": "discharge", "cancelled": "cancel_admit", "entered-in-error": "cancel_admit",
}  # fmt: skip
_REQUEST = {
    "draft": None, "active": "pending", "on-hold": "pending", "completed": "done",
    "revoked": "cancelled", "entered-in-error": "cancelled",
}  # fmt: skip
_GIVEN = {
    "in-progress": "done", "completed": "done", "stopped": "done", "on-hold": "pending",
    "not-done": "cancelled", "entered-in-error": "cancelled",
}  # fmt: skip
_PANELS = {"85354-9": ("8480-6", "8462-4", "8478-0")}
_HISTORY = frozenset({"resolved", "inactive", "remission"})
_SUSPECTED = frozenset({"unconfirmed", "provisional", "differential"})
_BUNDLES = frozenset(
    {"batch", "transaction", "message", "collection", "searchset", "history",
     "subscription-notification", "document"}
)  # fmt: skip
MAX_ENTRIES = 20_000
MAX_DEPTH = 4


class FhirError(DataError):
    """A resource that cannot be taken.

    Args:
        problem: in words that hold nothing of its content.
        where: the element, such as ``"Observation.subject"``.
    """

    def __init__(self, problem: str, *, where: str = "") -> None:
        super().__init__(problem, column=where or None)
        self.where = where

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.problem, self.where))


def _rebuild(problem: str, where: str) -> FhirError:
    return FhirError(problem, where=where)


@dataclass(frozen=True)
class FhirReader:
    """Reads resources of one site.

    Args:
        site: to which all patients belong.
        zone: of times without an offset.
        systems: systems of patient identifiers, the preferred first. With any a patient is named
            by such an identifier, and until one is known ``Patient/`` and the resource's id: a
            Patient that has both merges them.
        identities: patient id -> identifier, as learned from Patient resources of the same bundle.
        drugs: id -> codes, as learned from Medication resources of the same bundle.
    """

    site: str
    zone: tzinfo = UTC
    systems: tuple[str, ...] = ()
    identities: dict[str, str] = field(default_factory=dict)
    drugs: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def read(self, resource: Any) -> list[Record]:
        """The records of a resource or bundle, and a :class:`Refusal` for what is of no use.

        Raises:
            FhirError: it is no resource, or a bundle of a type that is not taken.
        """
        resources = list(flatten(resource))
        people = self._people(resources)
        out: list[Record] = []
        for one in resources:
            kind = one.get("resourceType")
            try:
                if kind == "Observation":
                    out.extend(self._observation(one))
                elif kind == "Encounter":
                    out.extend(self._encounter(one, people))
                elif kind == "Patient":
                    out.extend(self._patient(one))
                elif kind in ("ServiceRequest", "MedicationAdministration", "Condition"):
                    out.extend(self._ordered(one, str(kind)))
                elif kind == "Medication" and one.get("id") in self.drugs:
                    continue
                elif kind == "MessageHeader":
                    continue  # the envelope of a message
                elif isinstance(kind, str):
                    out.append(Refusal("resource_not_taken", kind[:40], kind[:40]))
                elif one.get("deleted"):
                    out.append(Refusal("deletion_not_taken", "entry"))
                else:
                    out.append(Refusal("no_resource", "entry"))
            except FhirError as error:
                out.append(Refusal("unusable", error.where))
        return out

    def learn(self, resource: Any) -> None:
        """Learns who the patients of a resource or bundle are, and which drugs, and reads no more.

        Raises:
            FhirError: as :meth:`read` does.
        """
        self._people(flatten(resource))

    def _people(self, resources: Iterable[dict]) -> dict[str, dict]:
        """Learns who patients are, and which drugs; Patients by their ids."""
        people: dict[str, dict] = {}
        for one in resources:
            if one.get("resourceType") == "Patient":
                found = self._identifier(one)
                # Who is to be created may have no id yet, only a place in the bundle.
                for name in (one.get("id"), _local(one.get("fullUrl"))):
                    if isinstance(name, str) and name:
                        people[name] = one
                        if found is not None:
                            self.identities[name] = found
            elif one.get("resourceType") == "Medication" and isinstance(one.get("id"), str):
                self.drugs[one["id"]] = _codes(one.get("code"))
        return people

    def _identifier(self, patient: dict) -> str | None:
        """The identifier of the preferred system that a Patient has."""
        best: tuple[int, str] | None = None
        for identifier in _dicts(patient.get("identifier")):
            value, system = identifier.get("value"), identifier.get("system")
            if not isinstance(value, str) or not value or system not in self.systems:
                continue
            rank = self.systems.index(system)
            if best is None or rank < best[0]:
                best = (rank, value)
        return None if best is None else best[1][:200]

    def name_of(self, identity: str) -> str:
        """What the patient of a resource's id is called."""
        # An identifier of somebody else may be the same text as an id.
        unknown = f"Patient/{identity}" if self.systems else identity
        return self.identities.get(identity, unknown)[:200]

    def _subject(self, resource: dict, element: str = "subject") -> str:
        told, where = _dict(resource.get(element)), f"{resource['resourceType']}.{element}"
        identity = _patient_id(told, where)
        if identity is not None and identity.startswith("#"):
            # An id within this resource alone: in the next one it may be somebody else's.
            inside = _dicts(resource.get("contained"))
            held = next((one for one in inside if one.get("id") == identity[1:]), {})
            named = self._identifier(held)
            if named is not None:
                return named
        elif identity is not None:
            return self.name_of(identity)
        identifier = _dict(told.get("identifier"))
        # Another system may give somebody else the same number.
        of_ours = not self.systems or identifier.get("system") in (None, *self.systems)
        if of_ours and isinstance(identifier.get("value"), str):
            return str(identifier["value"])[:200]
        raise FhirError("the patient is not named", where=where)

    def _observation(self, one: dict) -> Iterator[Record]:
        status = one.get("status")
        if not isinstance(status, str) or status not in _STATUS:
            yield Refusal("unknown_status", "Observation.status")
            return
        state = _STATUS[status]
        if state is None:
            return
        patient = self._subject(one)
        visit = _reference(one.get("encounter"))
        period = one.get("effectivePeriod")
        times = [one.get("effectiveDateTime"), one.get("effectiveInstant")]
        if isinstance(period, dict):
            times += [period.get("end"), period.get("start")]
        time = next((t for t in (read_instant(x, self.zone) for x in times) if t is not None), None)
        meta = _dict(one.get("meta"))
        issued = read_instant(one.get("issued"), self.zone)
        updated = read_instant(meta.get("lastUpdated"), self.zone)
        if issued is None and updated is not None and state in ("corrected", "deleted"):
            # Of several corrections the last one counts, in whatever order they come.
            issued = updated
        if issued is None:
            issued = updated if time is None else time
        if time is None:
            time = issued
        codes = _codes(one.get("code"))
        system, code = codes[0] if codes else ("", "")
        if time is None or issued is None:
            yield Refusal("no_time", "Observation.effective", code, system)
            return
        issued = max(time, issued)
        identity = one.get("id")
        if not isinstance(identity, str) or not identity:
            identity = next(
                (str(i["value"]) for i in _dicts(one.get("identifier")) if i.get("value")), ""
            )
        parts = _dicts(one.get("component"))
        if state == "deleted" and not parts:
            # Some servers empty what is in error: its components went with it.
            told = {c for _, c in codes}
            parts = [_component(c) for panel in told & _PANELS.keys() for c in _PANELS[panel]]
        for i, part in enumerate([one, *parts]):
            named = _codes(part.get("code"))
            has = any(k.startswith("value") for k in part)
            if i == 0 and parts and not has:
                continue  # a panel: its components say it all
            if not named:
                yield Refusal("no_code", "Observation.code")
                continue
            value, unit, comparator, problem = _value(part)
            if problem == "absent" and state not in ("corrected", "deleted"):
                continue
            yield Measurement(
                self.site, patient, visit, named, value, unit, time, issued, state,
                f"fhir|{identity}|{named[0][1]}", comparator, problem,
            )  # fmt: skip

    def _encounter(self, one: dict, people: Mapping[str, dict]) -> Iterator[Record]:
        status = one.get("status")
        if status in ("planned", "unknown"):
            return
        kind = _ENCOUNTER.get(status) if isinstance(status, str) else None
        if kind is None:
            yield Refusal("unknown_status", "Encounter.status")
            return
        patient = self._subject(one)
        period = _dict(one.get("period"))
        start = read_instant(period.get("start"), self.zone)
        end = read_instant(period.get("end"), self.zone)
        meta = _dict(one.get("meta"))
        updated = read_instant(meta.get("lastUpdated"), self.zone)
        unit = None
        for place in _dicts(one.get("location")):
            if place.get("status", "active") == "active":
                told = _dict(place.get("location"))
                unit = told.get("display") or _reference(told)
        identity = one.get("id") if isinstance(one.get("id"), str) else None
        of = _patient_id(_dict(one.get("subject")), "Encounter.subject")
        person = people.get(of or "", {})
        age, sex, doubt = self.person(person, start if start is not None else updated)
        shared = (self.site, patient, identity)
        unit = str(unit)[:80] if unit else None
        if kind == "discharge":
            if start is not None:
                yield VisitChange(*shared, "admit", start, start, unit, age, sex, None, doubt)
            when = end if end is not None else updated
            if when is None:
                yield Refusal("no_time", "Encounter.period")
                return
            yield VisitChange(*shared, "discharge", when, start, unit, age, sex, None, doubt)
            return
        when = start if kind in ("admit", "register") and start is not None else updated
        when = start if when is None else when
        if when is None:
            yield Refusal("no_time", "Encounter.period")
            return
        yield VisitChange(*shared, kind, when, start, unit, age, sex, None, doubt)

    def person(
        self, person: Mapping, at: float | None
    ) -> tuple[float | None, str | None, str | None]:
        """Age at a time, sex, and why there is no age, of a Patient."""
        sex = person.get("gender") if person.get("gender") in ("male", "female") else None
        born = read_instant(person.get("birthDate"), self.zone, precise=False)
        age, doubt = age_at(born, at)
        return age, sex, doubt

    def _patient(self, one: dict) -> Iterator[Record]:
        meta = _dict(one.get("meta"))
        updated = read_instant(meta.get("lastUpdated"), self.zone)
        if updated is None or not isinstance(one.get("id"), str):
            return
        patient = self.name_of(one["id"])
        if one["id"] in self.identities:
            # What came, or will come, of the resource's id alone is this patient's.
            own = f"Patient/{one['id']}"[:200]
            yield VisitChange(self.site, patient, None, "merge", updated, prior=own)
        age, sex, doubt = self.person(one, updated)
        for link in _dicts(one.get("link")):
            kind = link.get("type")
            if kind not in ("replaces", "replaced-by"):
                continue
            try:
                other = _patient_id(_dict(link.get("other")), "Patient.link")
            except FhirError as error:
                yield Refusal("unusable", error.where)
                continue
            if other is None or other.startswith("#"):
                continue
            stays, prior = patient, self.name_of(other)
            if kind == "replaced-by":
                stays, prior = prior, stays
            yield VisitChange(self.site, stays, None, "merge", updated, prior=prior)
        shared = (self.site, patient, None)
        yield VisitChange(*shared, "update", updated, None, None, age, sex, None, doubt)

    def _ordered(self, one: dict, kind: str) -> Iterator[Record]:
        element = "subject"
        patient = self._subject(one, element)
        codes = self._drug(one) if kind == "MedicationAdministration" else _codes(one.get("code"))
        identity = one.get("id") if isinstance(one.get("id"), str) else ""
        visit = _reference(one.get("encounter") or one.get("context"))
        period = _dict(one.get("effectivePeriod"))
        texts = (one.get("authoredOn"), one.get("effectiveDateTime"), period.get("start"),
                 one.get("recordedDate"), one.get("onsetDateTime"))  # fmt: skip
        times = (read_instant(x, self.zone, precise=False) for x in texts)
        time = next((t for t in times if t is not None), None)
        updated = read_instant(_dict(one.get("meta")).get("lastUpdated"), self.zone)
        time = updated if time is None and kind == "Condition" else time
        if time is None:
            yield Refusal("no_time", kind)
            return
        if kind == "ServiceRequest":
            status = _REQUEST.get(str(one.get("status")))
            what = "test"
        elif kind == "MedicationAdministration":
            status, what = _GIVEN.get(str(one.get("status"))), "treatment"
        else:
            status, what = _found(one), "condition"
        if status is None:
            return
        number = f"{kind}/{identity}"
        issued = None if updated is None else max(updated, time)
        yield OrderChange(self.site, patient, visit, codes, number, status, time, what, issued)

    def _drug(self, one: dict) -> tuple[tuple[str, str], ...]:
        """Codes of what was given, of the resource itself or of one that came with it."""
        codes = _codes(one.get("medicationCodeableConcept"))
        told = _dict(one.get("medicationReference"))
        name = str(told.get("reference", ""))
        if not codes and name.startswith("#"):
            for part in _dicts(one.get("contained")):
                if part.get("id") == name[1:]:
                    codes = _codes(part.get("code"))
        if not codes:
            codes = self.drugs.get(_reference(told) or "", ())
        return codes


def _component(code: str) -> dict:
    """A component of a panel, without a value."""
    return {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}}


def _found(one: dict) -> str | None:
    """What a Condition says: found, taken back, only thought of, or history (None)."""
    verified = {code for _, code in _codes(one.get("verificationStatus"))}
    if verified & {"refuted", "entered-in-error"}:
        return "cancelled"
    if {code for _, code in _codes(one.get("clinicalStatus"))} & _HISTORY:
        return None
    return "pending" if verified & _SUSPECTED else "done"


def flatten(resource: Any, depth: int = 0) -> Iterator[dict]:
    """The resources of a bundle, and of bundles in it.

    Raises:
        FhirError: it is no resource, or of a type or size that is not taken.
    """
    if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
        raise FhirError("this is no FHIR resource", where="resourceType")
    if resource["resourceType"] != "Bundle":
        yield resource
        return
    if str(resource.get("type")) not in _BUNDLES:
        raise FhirError("bundles of this type are not taken", where="Bundle.type")
    entries = resource.get("entry", [])
    if not isinstance(entries, list):
        raise FhirError("the entries are no list", where="Bundle.entry")
    if len(entries) > MAX_ENTRIES or depth >= MAX_DEPTH:
        raise FhirError("the bundle is too large or too deep", where="Bundle.entry")
    for entry in entries:
        inner = entry.get("resource") if isinstance(entry, dict) else None
        if isinstance(inner, dict):
            if inner.get("resourceType") == "Patient":
                inner = {**inner, "fullUrl": entry.get("fullUrl")}
            try:
                yield from flatten(inner, depth + 1)
            except FhirError:
                yield {"resourceType": None}
        elif isinstance(entry, dict) and _dict(entry.get("request")).get("method") == "DELETE":
            # It names no patient; entered-in-error does.
            yield {"resourceType": None, "deleted": True}


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _patient_id(told: dict, where: str) -> str | None:
    """The id of the patient that a reference names, ``#`` before that of a contained one.

    Raises:
        FhirError: it names something else, which may have the id of a patient.
    """
    reference = told.get("reference")
    if not isinstance(reference, str):
        return None
    place, _, identity = reference.split("/_history", 1)[0].rpartition("/")
    kinds = {place.rpartition("/")[2], str(told.get("type") or "").rpartition("/")[2]}
    if kinds - {"", "Patient"}:
        raise FhirError("the subject is no patient", where=where)
    return identity.removeprefix("urn:uuid:") or None


def _local(url: Any) -> str | None:
    """How a bundle refers to an entry that it creates, None where it has an address."""
    mark = "urn:uuid:"
    return url.removeprefix(mark) if isinstance(url, str) and url.startswith(mark) else None


def _reference(told: Any) -> str | None:
    if not isinstance(told, dict):
        return None
    reference = told.get("reference")
    if not isinstance(reference, str) or not reference:
        return None
    return reference.rpartition("/")[2].removeprefix("urn:uuid:")[:200] or None


def _codes(concept: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(concept, dict):
        return ()
    out = []
    for coding in _dicts(concept.get("coding")):
        code, system = coding.get("code"), coding.get("system")
        if isinstance(code, str) and code:
            name = system if isinstance(system, str) else ""
            out.append((_SYSTEMS.get(name, name[:80]), code[:40]))
    return tuple(out)


def _value(part: dict) -> tuple[float, str | None, str | None, str | None]:
    """Value, unit, comparator and problem of an observation or component."""
    quantity = part.get("valueQuantity")
    if isinstance(quantity, dict):
        number = quantity.get("value")
        unit = quantity.get("code") or quantity.get("unit")
        unit = unit if isinstance(unit, str) else None
        sign = quantity.get("comparator")
        comparator = sign[0] if isinstance(sign, str) and sign[:1] in ("<", ">") else None
        if isinstance(number, bool) or not isinstance(number, int | float):
            return math.nan, unit, None, "no_number"
        try:
            return float(number), unit, comparator, None
        except OverflowError:
            return math.nan, unit, None, "no_number"
    for name in ("valueString", "valueInteger"):
        told = part.get(name)
        if isinstance(told, str | int) and not isinstance(told, bool):
            reading = read_token(str(told)[:64])
            problem = "no_number" if math.isnan(reading.value) else None
            return reading.value, reading.unit, reading.comparator, problem
    if any(k.startswith("value") for k in part):
        return math.nan, None, None, "value_type"
    return math.nan, None, None, "absent"


def read_fhir(bundle: Mapping[str, Any] | str | Path, *, reader: FhirReader | None = None,
              **options: Any) -> Stays:  # fmt: skip
    """Hourly stays from a bundle, a JSON file of one, or a file with a resource a line.

    Args:
        bundle: the bundle, or a file.
        reader: site, time zone and identifiers; by default the site ``"fhir"``, in UTC.
        options: of :func:`foretell.data.clinical.feed.stays_from_feed`.

    Raises:
        DataError: it cannot be read or holds no stay.
    """
    reader = FhirReader("fhir") if reader is None else reader
    resources: Sequence[Any]
    if isinstance(bundle, Mapping):
        resources = [dict(bundle)]
    else:
        path = Path(bundle)
        try:
            text = path.read_text("utf-8-sig")
            try:
                resources = [json.loads(text)]
            except ValueError:
                resources = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            reason = "it is no JSON" if isinstance(error, ValueError) else str(error)
            raise DataError(f"the bundle cannot be read: {reason}", file=str(path)) from None
    # Who a patient is may be told behind what is told of them.
    for resource in resources:
        reader.learn(resource)
    records: list[Record] = []
    for resource in resources:
        records.extend(reader.read(resource))
    return stays_from_feed(records, **options)
