"""FHIR R4: what resources and bundles say."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical.feed import Measurement, OrderChange, VisitChange, normalise
from foretell.data.clinical.fhir import FhirError, FhirReader, read_fhir, read_instant


def observation(**more) -> dict:
    return {
        "resourceType": "Observation", "id": "o1", "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": "Patient/p1"}, "encounter": {"reference": "Encounter/e1"},
        "effectiveDateTime": "2026-01-01T10:00:00+01:00", "issued": "2026-01-01T09:20:00Z",
        "valueQuantity": {"value": 88, "code": "/min"}, **more,
    }  # fmt: skip


def read(resource, **options) -> list:
    return FhirReader("A", **options).read(resource)


def test_an_observation_is_read():
    (r,) = read(observation())
    assert isinstance(r, Measurement)
    assert (r.patient, r.visit, r.value, r.status) == ("p1", "e1", 88.0, "final")
    assert r.time == datetime(2026, 1, 1, 9, tzinfo=UTC).timestamp() and r.issued == r.time + 1200
    assert normalise(r) == ("HR", 88.0)
    assert read(observation(status="amended"))[0].status == "corrected"
    assert read(observation(status="entered-in-error"))[0].status == "deleted"
    assert read(observation(status="registered")) == []
    told = observation(valueString="> 100 bpm")
    del told["valueQuantity"]
    assert (read(told)[0].value, read(told)[0].comparator) == (100.0, ">")
    absent = observation(dataAbsentReason={"text": "off"})
    del absent["valueQuantity"]
    assert read(absent) == []


def test_a_panel_is_its_components():
    def part(code, value):
        coding = [{"system": "http://loinc.org", "code": code}]
        return {"code": {"coding": coding}, "valueQuantity": {"value": value, "unit": "mmHg"}}

    panel = observation(component=[part("8480-6", 120), part("8462-4", 70)])
    panel["code"]["coding"][0]["code"] = "85354-9"
    del panel["valueQuantity"]
    assert [normalise(r) for r in read(panel)] == [("SBP", 120.0), ("DBP", 70.0)]
    assert len({r.group for r in read(panel)}) == 2


def test_a_correction_without_a_value_takes_it_back():
    gone = observation(status="amended", dataAbsentReason={"text": "wrong patient"})
    del gone["valueQuantity"]
    (r,) = read(gone)
    assert (r.status, r.group) == ("corrected", read(observation())[0].group)
    name, value = normalise(r)
    assert name == "HR" and math.isnan(value)
    # Emptied by its server, as some do with what is in error.
    empty = observation(status="entered-in-error")
    del empty["valueQuantity"]
    empty["code"]["coding"][0]["code"] = "85354-9"
    assert [(normalise(r)[0], r.status) for r in read(empty)] == [
        ("SBP", "deleted"), ("DBP", "deleted"), ("MAP", "deleted")
    ]  # fmt: skip


def test_of_two_corrections_without_an_issue_the_later_counts():
    def version(status: str, hour: int, **more) -> float:
        meta = {"lastUpdated": f"2026-01-01T{hour}:00:00Z"}
        return read(observation(status=status, issued=None, meta=meta, **more))[0].issued

    assert version("corrected", 12) < version("amended", 13) < version("entered-in-error", 14)
    # What is told first was known when it was measured: a server may be filled much later.
    assert version("final", 20) == read(observation())[0].time


def test_patients_encounters_and_merges():
    patient = {
        "resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1950-06-01",
        "name": [{"family": "CANARY"}], "meta": {"lastUpdated": "2026-01-01T00:00:00Z"},
        "identifier": [{"system": "urn:mrn", "value": "M1"}],
        "link": [{"type": "replaces", "other": {"reference": "Patient/p0"}}],
    }  # fmt: skip
    encounter = {
        "resourceType": "Encounter", "id": "e1", "status": "in-progress",
        "subject": {"reference": "Patient/p1"}, "period": {"start": "2026-01-01T08:00:00Z"},
        "location": [{"location": {"display": "MICU"}}],
    }  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "transaction",
              "entry": [{"resource": r} for r in (encounter, patient, observation())]}  # fmt: skip
    found = read(bundle, systems=("urn:mrn",))
    assert "CANARY" not in repr(found)
    assert {r.patient for r in found} == {"M1"}
    admit = next(r for r in found if isinstance(r, VisitChange) and r.kind == "admit")
    assert (admit.unit, admit.age, admit.sex, admit.visit) == ("MICU", 75.0, "female", "e1")
    merges = [r.prior for r in found if getattr(r, "kind", "") == "merge"]
    assert merges == ["Patient/p1", "Patient/p0"]
    never = {**patient, "birthDate": "1850-06-01"}
    told = [r for r in read(never) if r.kind == "update"]
    assert [(r.age, r.doubt) for r in told] == [(None, "impossible_age")]
    done = {**encounter, "status": "finished", "period": {**encounter["period"],
            "end": "2026-01-02T08:00:00Z"}}  # fmt: skip
    assert [r.kind for r in read(done)] == ["admit", "discharge"]
    bundle |= {"entry": [{"resource": r} for r in (done, patient, observation())]}
    stays = read_fhir(bundle)
    assert stays.lengths.tolist() == [24] and stays.column("HR")[1] == 88


def test_an_identifier_is_no_id_and_a_patient_has_both():
    systems = ("urn:mrn",)
    patient = {"resourceType": "Patient", "id": "7",
               "meta": {"lastUpdated": "2026-01-01T00:00:00Z"},
               "identifier": [{"system": "urn:mrn", "value": "9"}]}  # fmt: skip
    about = {"subject": {"reference": "Patient/7"}}
    assert read(observation(**about))[0].patient == "7"
    # Somebody else's number may be the same text.
    assert read(observation(**about), systems=systems)[0].patient == "Patient/7"
    merge, update = read(patient, systems=systems)
    assert (merge.kind, merge.patient, merge.prior) == ("merge", "9", "Patient/7")
    assert (update.kind, update.patient) == ("update", "9")
    assert [r.kind for r in read(patient)] == ["update"]


def test_who_was_replaced_says_by_whom():
    gone = {"resourceType": "Patient", "id": "old", "meta": {"lastUpdated": "2026-01-01T00:00:00Z"},
            "link": [{"type": "replaced-by", "other": {"reference": "Patient/new"}},
                     {"type": "seealso", "other": {"reference": "Patient/else"}}]}  # fmt: skip
    merge, update = read(gone)
    assert (merge.kind, merge.patient, merge.prior) == ("merge", "new", "old")
    assert update.patient == "old"


@pytest.mark.parametrize(
    "subject",
    [{"reference": "Device/p1"}, {"reference": "https://x.example/r4/Group/p1"},
     {"reference": "#p1", "type": "Location"}],
)  # fmt: skip
def test_what_is_no_patient_has_no_stay(subject):
    (refused,) = read(observation(subject=subject))
    assert refused.where == "Observation.subject"
    whole = {"reference": "https://x.example/r4/Patient/p1/_history/3", "type": "Patient"}
    assert read(observation(subject=whole))[0].patient == "p1"


def test_who_is_known_in_one_resource_alone_is_named_by_an_identifier():
    """What is contained is often called ``#patient`` in every resource, whosever it is."""

    def inside(number: str, system: str = "urn:mrn") -> dict:
        held = {"resourceType": "Patient", "id": "patient",
                "identifier": [{"system": system, "value": number}]}  # fmt: skip
        return observation(contained=[held], subject={"reference": "#patient"})

    named = [read(inside(n), systems=("urn:mrn",))[0].patient for n in ("M1", "M2")]
    assert named == ["M1", "M2"]
    for one in (inside("M1"), observation(subject={"reference": "#patient"})):
        assert read(one)[0].reason == "unusable"
    # The number of another system may be somebody else's.
    ours, other = ({"identifier": {"system": s, "value": "M1"}} for s in ("urn:mrn", "urn:ssn"))
    assert read(observation(subject=ours), systems=("urn:mrn",))[0].patient == "M1"
    assert read(observation(subject=other), systems=("urn:mrn",))[0].reason == "unusable"
    assert read(observation(subject=other))[0].patient == "M1"


@pytest.mark.parametrize("own", [{}, {"id": "7"}])
def test_who_is_to_be_created_is_named_by_the_place_in_the_bundle(own):
    person = {"resourceType": "Patient", "gender": "female", "birthDate": "1950-06-01", **own,
              "identifier": [{"system": "urn:mrn", "value": "M1"}]}  # fmt: skip
    about = {"subject": {"reference": "urn:uuid:0b1c"}}
    admitted = {"resourceType": "Encounter", "status": "in-progress", **about,
                "period": {"start": "2026-01-01T08:00:00Z"}}  # fmt: skip
    entries = [{"resource": observation(**about)}, {"resource": admitted},
               {"fullUrl": "urn:uuid:0b1c", "resource": person}]  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    measured, admit = read(bundle, systems=("urn:mrn",))
    assert (measured.patient, admit.patient) == ("M1", "M1")
    assert (admit.age, admit.sex) == (75.0, "female")


def test_a_related_person_is_not_merged():
    linked = {"resourceType": "Patient", "id": "1", "meta": {"lastUpdated": "2026-01-01T00:00:00Z"},
              "link": [{"type": "replaces", "other": {"reference": "RelatedPerson/2"}},
                       {"type": "replaces", "other": {"reference": "Patient/3/_history/2"}}],
              }  # fmt: skip
    refused, merge, update = read(linked)
    assert (refused.reason, refused.where) == ("unusable", "Patient.link")
    assert (merge.patient, merge.prior, update.kind) == ("1", "3", "update")


def test_a_deletion_without_a_patient_is_set_aside():
    entries = [{"request": {"method": "DELETE", "url": "Observation/o1"}},
               {"request": {"method": "GET", "url": "Observation/o1"}}]  # fmt: skip
    (refused,) = read({"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert refused.reason == "deletion_not_taken"


def test_orders_and_treatments():
    order = {
        "resourceType": "ServiceRequest", "id": "s1", "status": "active",
        "subject": {"reference": "Patient/p1"}, "authoredOn": "2026-01-01T08:00:00Z",
        "code": {"coding": [{"system": "http://loinc.org", "code": "2524-7"}]},
    }  # fmt: skip
    drug = {**order, "resourceType": "MedicationAdministration", "status": "completed"}
    a, b = (*read(order), *read(drug))
    assert isinstance(a, OrderChange)
    assert (a.status, a.kind, b.status, b.kind) == ("pending", "test", "done", "treatment")


def test_parts_of_no_use_are_refused_one_by_one():
    bad = [
        observation(status="odd"), observation(subject={}), {"resourceType": "Group"},
        observation(effectiveDateTime="2026", issued=None), "text", {"resourceType": 5},
    ]  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "batch",
              "entry": [{"resource": r} for r in [*bad, observation()]]}  # fmt: skip
    *refused, good = read(bundle)
    assert len(refused) == 5 and good.value == 88.0
    for resource in ([], {}, {"resourceType": "Bundle", "type": "odd"},
                     {"resourceType": "Bundle", "type": "batch", "entry": 5}):  # fmt: skip
        with pytest.raises(FhirError):
            read(resource)


def test_files_of_one_bundle_or_a_resource_a_line(tmp_path):
    file = tmp_path / "f.ndjson"
    second = observation(id="o2", effectiveDateTime="2026-01-01T13:00:00Z", issued=None)
    file.write_text("\n".join(json.dumps(o) for o in (observation(), second)))
    assert read_fhir(file).n_rows == 4
    assert read_instant("2016-12-31T23:59:60Z", UTC) == datetime(2017, 1, 1, tzinfo=UTC).timestamp()


def test_a_file_may_say_at_its_end_who_a_patient_is(tmp_path):
    admitted = {"resourceType": "Encounter", "id": "e1", "status": "in-progress",
                "subject": {"reference": "Patient/p1"},
                "period": {"start": "2026-01-01T04:30:00Z"}}  # fmt: skip
    person = {"resourceType": "Patient", "id": "p1", "gender": "female",
              "meta": {"lastUpdated": "2026-01-01T00:00:00Z"},
              "identifier": [{"system": "urn:mrn", "value": "M1"}]}  # fmt: skip
    file = tmp_path / "f.ndjson"
    for lines in ([admitted, observation(), person], [person, admitted, observation()]):
        file.write_text("\n".join(json.dumps(one) for one in lines))
        stays = read_fhir(file, reader=FhirReader("A", systems=("urn:mrn",)))
        assert (stays.ids.tolist(), stays.lengths.tolist()) == (["A/M1"], [5])


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.sampled_from(
        ["final", "Patient/p", "2026-01-01T10:00:00Z", "in-progress"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["reference", "coding", "code", "system", "value", "type", "entry",
                         "resource", "start", "end", "lastUpdated"]), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
KEYS = ("id", "status", "code", "subject", "component", "valueQuantity", "valueString", "meta",
        "effectiveDateTime", "effectivePeriod", "encounter", "period", "location", "identifier",
        "link", "birthDate", "entry", "type", "issued", "authoredOn")  # fmt: skip


@given(
    st.sampled_from(["Observation", "Encounter", "Patient", "ServiceRequest", "Bundle",
                     "Condition"]),
    st.dictionaries(st.sampled_from(KEYS), json_values, max_size=8),
)  # fmt: skip
def test_no_resource_raises_anything_else(kind, body):
    resource = {**observation(), **body, "resourceType": kind}
    try:
        for record in read(resource):
            if isinstance(record, Measurement):
                normalise(record)
    except FhirError as error:
        assert str(error)
