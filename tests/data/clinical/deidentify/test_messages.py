"""HL7 v2 messages and FHIR resources: nothing that was planted comes through, what is safe does."""

from __future__ import annotations

import copy
import itertools
import json
from datetime import UTC

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.data.clinical.deidentify import ELEMENTS, FREE_TEXT, Deidentifier, KeyRing
from foretell.data.clinical.fhir.reader import FhirReader
from foretell.data.clinical.fhir.times import read_instant
from foretell.data.clinical.hl7 import Hl7Reader, Message, read_time

from .canaries import ALL, CANARIES, FHIR, HL7, found

RING = KeyRing({"k1": bytes(range(32))}, "k1")


def made(method, **changed):
    return Deidentifier(method, keys=RING if method == "date-shift" else None, year=2026, **changed)


both = pytest.mark.parametrize("method", ["safe-harbor", "date-shift"])


def fields(data, segment):
    lines = [line.split("|") for line in data.decode().split("\r") if line.startswith(segment)]
    return lines[0]


def test_every_kind_is_planted():
    assert set(CANARIES) == {*ELEMENTS, FREE_TEXT}
    text = HL7 + json.dumps(FHIR)
    assert not [c for c in ALL if c not in text]


@both
def test_nothing_planted_is_in_a_message(method):
    told = made(method)
    data = told.hl7(HL7.encode())
    assert data is not None and found(data) == []
    counts = told.report()["elements"]
    for name in {*ELEMENTS, FREE_TEXT} - {"biometric"}:
        assert sum(counts[name].values()) > 0, name
    assert found(json.dumps(told.report()).encode()) == []


def test_a_code_that_reads_like_a_postal_code_is_none(monkeypatch):
    number = itertools.count()
    monkeypatch.setattr("secrets.token_hex", lambda size: f"59901{next(number):0{2 * size - 5}x}")
    data = made("safe-harbor").hl7(HL7.encode())
    assert b"r-599010" in data and found(data) == []
    assert found(data.replace(b"MT^599", b"MT^59901")) == ["59901"]


@both
def test_nothing_planted_is_in_a_resource(method):
    told = made(method)
    given_ = copy.deepcopy(FHIR)
    out = told.fhir(given_)
    assert given_ == FHIR
    assert found(json.dumps(out).encode()) == []
    counts = told.report()["elements"]
    for name in ("names", "geography", "phone", "fax", "email", "url", "ssn", "plan", "account",
                 "licence", "vehicle", "device", "photo", FREE_TEXT):  # fmt: skip
        assert sum(counts[name].values()) > 0, name
    assert found(json.dumps(told.report()).encode()) == []
    assert [e["resource"]["resourceType"] for e in out["entry"]] == [
        "Patient", "Encounter", "Observation", "Observation", "Observation"
    ]  # fmt: skip


def test_a_message_of_safe_harbor():
    data = made("safe-harbor").hl7(HL7.encode())
    pid, head = fields(data, "PID"), fields(data, "MSH")
    assert head[6] == "2026" and head[8] == "ORU^R01"
    assert pid[7] == "1950" and pid[8] == "F" and pid[10] == "2106-3" and pid[22] == "2186-5"
    assert pid[11] == "^^^MT^599"
    assert pid[3].startswith("r-") and pid[3].endswith("^^^^MR")
    assert fields(data, "PV1")[3] == "MICU" and fields(data, "PV1")[44] == "2026"
    results = [line.split("|") for line in data.decode().split("\r") if line.startswith("OBX")]
    told = [(r[3], *(r + [""] * 6)[5:7]) for r in results]
    assert told == [
        ("8867-4^^LN", "91", "/min"), ("2524-7^^LN", ">^4.2", "mmol/L"), ("8867-4^^LN", "", ""),
        ("8867-4^^LN", "", ""), ("30525-0^^LN", "90", "a"), ("8867-4^^LN", "", ""),
    ]  # fmt: skip
    segments = [line[:3] for line in data.decode().strip().split("\r")]
    assert set(segments) == {"MSH", "PID", "PV1", "OBR", "OBX"}


def test_a_message_that_is_moved_is_read_as_before_but_for_when_and_who():
    told = made("date-shift")
    reader = Hl7Reader("A")
    days = RING.days("Wolverton", "MRN7741@Wolverton", 365)
    text = HL7.replace("Wolverton General", "Wolverton")
    data = told.hl7(text.encode())
    before = reader.read(Message(text))
    after = reader.read(Message.from_bytes(data))
    first, other = before[0], after[0]
    assert other.value == first.value == 91 and other.codes[0][1] == "8867-4"
    assert other.time - first.time == pytest.approx(86400 * days)
    assert other.patient == RING.code("patient", "Wolverton", "MRN7741@Wolverton")
    assert read_time(fields(data, "PID")[7], reader.zone, precise=False) is not None


@both
def test_a_resource_keeps_what_is_safe(method):
    out = made(method).fhir(FHIR)
    patient, visit, result = (e["resource"] for e in out["entry"][:3])
    assert patient["gender"] == "female"
    assert patient["address"] == [{"state": "MT", "postalCode": "599"}]
    assert visit["status"] == "in-progress" and visit["class"]["code"] == "IMP"
    assert visit["location"] == [{"location": {"display": "MICU"}}]
    who = {"reference": f"Patient/{patient['id']}"}
    # The observation names its patient by the address that the bundle gives.
    assert visit["subject"] == who and result["subject"] == who
    assert result["encounter"] == {"reference": f"Encounter/{visit['id']}"}
    assert result["valueQuantity"]["value"] == 91
    assert "valueString" not in out["entry"][3]["resource"]
    assert "valueQuantity" not in out["entry"][4]["resource"]
    if method == "safe-harbor":
        assert patient["birthDate"] == "1950" and visit["period"] == {"start": "2026"}
        assert result["effectiveDateTime"] == "2026" and "issued" not in result
    else:
        days = RING.days("site", "MRN7741", 365)
        moved = read_instant(result["effectiveDateTime"], UTC)
        assert moved - read_instant("2026-02-14T10:00:00+01:00", UTC) == 86400 * days
        assert len(patient["birthDate"]) == 10


@both
def test_the_readers_take_what_is_told(method):
    told = made(method)
    refused = [r for r in FhirReader("s").read(told.fhir(FHIR)) if type(r).__name__ == "Refusal"]
    assert all(r.reason in ("no_code", "no_time") for r in refused)
    assert Message.from_bytes(told.hl7(HL7.encode())).kind == ("ORU", "R01")


@both
def test_old_people_are_ninety(method):
    text = HL7.replace("|19500317|", "|19200317|")
    data = made(method).hl7(text.encode())
    sent = int(fields(data, "MSH")[6][:4])
    assert fields(data, "PID")[7] == str(sent - 90)
    old = json.loads(json.dumps(FHIR).replace("1950-03-17", "1920-03-17"))
    born = made(method).fhir(old)["entry"][0]["resource"]["birthDate"]
    assert len(born) == 4 and 2024 <= int(born) + 90 <= 2028
    del old["entry"][0]["resource"]["meta"]
    assert "birthDate" not in made(method).fhir(old)["entry"][0]["resource"]


@both
def test_twice_is_once(method):
    told = made(method)
    for text in (HL7, HL7.replace("|19500317|", "|19200317|")):
        once = told.hl7(text.encode())
        assert told.hl7(once) == once
    once = told.fhir(FHIR)
    assert told.fhir(once) == once


def test_codes_of_chance_join_only_within_a_crosswalk():
    one, other = made("safe-harbor"), made("safe-harbor")
    a, b, c = one.hl7(HL7.encode()), one.hl7(HL7.encode()), other.hl7(HL7.encode())
    assert fields(a, "PID")[3] == fields(b, "PID")[3] != fields(c, "PID")[3]


@both
@pytest.mark.parametrize("data", [b"", b"ZELENKA", b"MSH|^~\\&", b"\xff\xfe\x00"])
def test_what_cannot_be_read_is_left_out(method, data):
    told = made(method)
    out = told.hl7(data)
    assert out is None or found(out) == []
    assert told.fhir([1]) is None and told.fhir(None) is None
    assert told.removed.taken == 3


TEXT = st.one_of(st.sampled_from(ALL), st.text("AZ19 .-/^~&\\|", max_size=12))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(["safe-harbor", "date-shift"]))
def test_whatever_field_holds_a_canary_it_does_not_come_through(data, method):
    lines = HL7.split("\r")
    at = data.draw(st.integers(1, len(lines) - 1))
    parts = lines[at].split("|")
    place = data.draw(st.integers(1, len(parts) + 3))
    parts += [""] * (place + 1 - len(parts))
    parts[place] = data.draw(TEXT)
    lines[at] = "|".join(parts)
    told = made(method)
    out = told.hl7("\r".join(lines).encode())
    assert out is None or found(out) == []


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["coding", "code", "system", "reference", "value", "unit", "display",
                             "start", "type", "other", "location", "lastUpdated", "resource",
                             "resourceType", "postalCode", "state"]), inner, max_size=4),
    ), max_leaves=8,
)  # fmt: skip
PLACES = [
    "id", "meta", "birthDate", "gender", "address", "link", "status", "class", "subject", "period",
    "location", "code", "encounter", "effectiveDateTime", "issued", "valueQuantity", "component",
    "valueString", "dataAbsentReason", "deceasedBoolean", "context", "entry", "type",
    "medicationCodeableConcept", "medicationReference", "clinicalStatus", "anything",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["Patient", "Encounter", "Observation", "Condition", "ServiceRequest", "Bundle",
                     "MedicationAdministration", "Medication", "ZELENKA"]),
    st.dictionaries(st.sampled_from(PLACES), VALUES, max_size=6),
    st.sampled_from(["safe-harbor", "date-shift"]),
)  # fmt: skip
def test_no_resource_breaks_it_or_lets_a_canary_through(kind, content, method):
    out = made(method).fhir({"resourceType": kind, **content})
    assert out is None or found(json.dumps(out, allow_nan=False).encode()) == []
