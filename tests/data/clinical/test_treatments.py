"""Codes of treatment, and how HL7 v2 and FHIR tell of doses, orders and diagnoses."""

from __future__ import annotations

import pytest

from foretell.data.clinical.feed import OrderChange
from foretell.data.clinical.fhir import FhirReader
from foretell.data.clinical.hl7 import Hl7Reader, Message
from foretell.data.clinical.hl7.writer import drug_message, visit_message
from foretell.data.clinical.treatments import TreatmentCodes
from foretell.errors import ParameterError

T0 = 1_767_225_600.0
HOUR = 3600.0
VANCOMYCIN = ("RXNORM", "11124")


def dose(hour: float, number: str, drug=VANCOMYCIN, **options) -> bytes:
    return drug_message("H", "P", drug, time=T0 + (hour - 0.4) * HOUR, control=f"d{number}",
                        order=number, visit="V", **options)  # fmt: skip


def test_what_codes_say():
    codes = TreatmentCodes({"LAB|VANC": "antibiotic", "ATC|J01XD01": "none", "BUNDLE*": "sepsis"})
    assert codes([("http://www.whocc.no/atc", "J01CR05")]) == "antibiotic"
    assert codes([("http://www.nlm.nih.gov/research/umls/rxnorm", "11124")]) == "antibiotic"
    assert codes([("http://hl7.org/fhir/sid/icd-10-cm", "A41.9")]) == "sepsis"
    assert codes([("I10", "R65.21")]) == codes([("SCT", "91302008")]) == "sepsis"
    assert codes([("lab", "vanc")]) == "antibiotic" and codes([("X", "BUNDLE7")]) == "sepsis"
    # A number means something in its own system only; a site's word comes first.
    assert codes([("SCT", "11124")]) is None and codes([("ATC", "J01XD01")]) is None
    assert codes([]) is None
    with pytest.raises(ParameterError, match="means one of"):
        TreatmentCodes({"X": "antiviral"})


def test_hl7_tells_of_doses_orders_and_diagnoses():
    read = Hl7Reader().read
    (given,) = read(Message.from_bytes(dose(1, "7")))
    assert isinstance(given, OrderChange)
    assert (given.kind, given.status, given.codes) == ("treatment", "done", (VANCOMYCIN,))
    assert given.time == pytest.approx(T0 + 0.6 * HOUR) and given.visit == "V"
    (gone,) = read(Message.from_bytes(dose(1, "7", action="D")))
    assert (gone.status, gone.number) == ("cancelled", given.number)
    (refused,) = read(Message.from_bytes(dose(1, "7", status="RE")))
    assert refused.status == "cancelled"
    visit = visit_message("H", "P", "A01", time=T0, control="1", visit="V",
                          diagnoses=[("I10", "A41.9")])  # fmt: skip
    _, found = read(Message.from_bytes(visit))
    assert (found.kind, found.status, found.codes) == ("condition", "done", (("I10", "A41.9"),))
    head = "MSH|^~\\&|PH|H|||20260101010000||{}|1|P|2.5\rPID|||P^^^^MR\rORC|NW|9\r"
    (order,) = read(Message(head.format("RDE^O11^RDE_O11") + "RXE||11124^^RXNORM|1\r"))
    assert (order.kind, order.status, order.number) == ("treatment", "pending", "RXE/9")
    (order,) = read(Message(head.format("ORM^O01") + "RXO|11124^^RXNORM|1\r"))
    assert (order.kind, order.status) == ("treatment", "pending")


def administration(status: str = "completed", **more) -> dict:
    return {
        "resourceType": "MedicationAdministration", "id": "m1", "status": status,
        "subject": {"reference": "Patient/P"}, "effectiveDateTime": "2026-01-01T03:36:00Z",
        "medicationCodeableConcept": {"coding": [{
            "system": "http://www.whocc.no/atc", "code": "J01CR05"}]},
        **more,
    }  # fmt: skip


def test_fhir_tells_of_doses_and_diagnoses():
    read = FhirReader("H").read
    (given,) = read(administration())
    assert (given.kind, given.status, given.number) == (
        "treatment", "done", "MedicationAdministration/m1")  # fmt: skip
    (gone,) = read(administration("entered-in-error", meta={"lastUpdated": "2026-01-01T09:00:00Z"}))
    assert gone.status == "cancelled" and gone.issued == T0 + 9 * HOUR
    assert read(administration("unknown")) == []
    named = administration(medicationReference={"reference": "#d"}, contained=[
        {"resourceType": "Medication", "id": "d", "code": {"coding": [
            {"system": "RXNORM", "code": "11124"}]}}])  # fmt: skip
    del named["medicationCodeableConcept"]
    assert read(named)[0].codes == (("RXNORM", "11124"),)
    beside = {**named, "medicationReference": {"reference": "Medication/d"}, "contained": []}
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [
        {"resource": beside}, {"resource": named["contained"][0]}]}  # fmt: skip
    assert [r.codes for r in FhirReader("H").read(bundle)] == [(("RXNORM", "11124"),)]

    def condition(verified: str, clinical: str = "active") -> list:
        one = {"resourceType": "Condition", "id": "c", "subject": {"reference": "Patient/P"},
               "code": {"coding": [{"system": "http://snomed.info/sct", "code": "91302008"}]},
               "verificationStatus": {"coding": [{"code": verified}]},
               "clinicalStatus": {"coding": [{"code": clinical}]},
               "recordedDate": "2026-01-01T03:00:00Z"}  # fmt: skip
        return [r.status for r in FhirReader("H").read(one)]

    assert condition("confirmed") == ["done"] and condition("provisional") == ["pending"]
    assert condition("refuted") == ["cancelled"] and condition("confirmed", "resolved") == []
