"""Messages and resources with something of each of the eighteen kinds, all of it invented."""

from __future__ import annotations

import json
import re

CANARIES = {
    "names": ("ZELENKA", "QUIRINIA"),
    "geography": ("Ptarmigan Alley", "Wolverton", "59901"),
    "dates": ("19500317", "1950-03-17", "20260214", "2026-02-14"),
    "phone": ("555-0142", "5550142"),
    "fax": ("555-0177",),
    "email": ("qz@mail.example",),
    "ssn": ("078-05-1120", "078051120"),
    "mrn": ("MRN7741",),
    "plan": ("PLAN9931",),
    "account": ("ACCT5522",),
    "licence": ("DLX0077",),
    "vehicle": ("VIN1HGBH41JX",),
    "device": ("SERIAL88213",),
    "url": ("https://who.example/zq",),
    "ip": ("203.0.113.77",),
    "biometric": ("FINGER0xA1",),
    "photo": ("iVBORw0KGgoCANARY",),
    "other": ("STUDYCODE314", "VISIT6611", "ORDER4242", "CTRL1717"),
    "free_text": ("brother of the mayor",),
}
"""Element -> what must not be found in anything that is told."""

_CODE = re.compile(r"(?:r|k\d+)-[0-9a-f]{32}")

ALL = [text for texts in CANARIES.values() for text in texts]

HL7 = "\r".join(
    [
        "MSH|^~\\&|LAB SERIAL88213|Wolverton General|APP|Wolverton|20260214101530.123+0100||"
        "ORU^R01^ORU_R01|CTRL1717|P|2.5.1|||||||https://who.example/zq",
        "PID|1|078-05-1120|MRN7741^^^Wolverton^MR~078-05-1120^^^SSA^SS~PLAN9931^^^X^MA|STUDYCODE314|"
        "ZELENKA^QUIRINIA^^^Dr|MOTHER ZELENKA|19500317|F|ZELLY|2106-3|"
        "12 Ptarmigan Alley^^Wolverton^MT^59901^USA|Wolverton|555-0142^PRN^PH~qz@mail.example|"
        "555-0177^WPN^FX|en|M|CAT|ACCT5522|078-05-1120|DLX0077^MT|MRN7741|2186-5|Wolverton",
        "PD1|||ZELENKA CLINIC|DOC^QUIRINIA",
        "NK1|1|ZELENKA^BRUNO|SPO|12 Ptarmigan Alley^^Wolverton|555-0142",
        "PV1|1|I|MICU^203^Wolverton||||DOC^ZELENKA||||||||||||VISIT6611"
        + "|" * 25
        + "20260214093000",
        "GT1|1||ZELENKA^QUIRINIA||12 Ptarmigan Alley|555-0142",
        "IN1|1|PLAN9931|PLAN9931|INSURER|||555-0177",
        "ACC|20260214|VIN1HGBH41JX",
        "OBR|1|ORDER4242|ORDER4242|24323-8^^LN|||20260214100000|||DOC^ZELENKA",
        "OBX|1|NM|8867-4^Heart rate for ZELENKA^LN|STUDYCODE314|91|/min|||brother of the mayor||F"
        "|||20260214100000||203.0.113.77|DOC^ZELENKA||SERIAL88213",
        "NTE|1||brother of the mayor, call 555-0142",
        "OBX|2|ST|2524-7^Lactate^LN||>4.2 mmol/L|||||F",
        "OBX|3|ST|8867-4^^LN||12 Ptarmigan Alley||||F",
        "OBX|4|NM|45396-3^SSN^LN||078051120||||F",
        "OBX|5|NM|8867-4^^LN||5550142|/min|||F",
        "OBX|6|ED|18842-5^Photo^LN||^image^png^Base64^iVBORw0KGgoCANARY||||F",
        "OBX|7|NM|30525-0^Age^LN||97|a|||F",
        "OBX|8|TX|FINGER0xA1^print^L||FINGER0xA1||||F",
        "OBX|9|NM|8867-4^^LN||MRN7741||||F",
        "ZXX|STUDYCODE314|brother of the mayor",
    ]
)

FHIR = {
    "resourceType": "Bundle",
    "id": "STUDYCODE314",
    "type": "collection",
    "timestamp": "2026-02-14T10:15:30.123+01:00",
    "entry": [
        {
            "fullUrl": "https://who.example/zq",
            "resource": {
                "resourceType": "Patient",
                "id": "MRN7741",
                "meta": {"lastUpdated": "2026-02-14T10:15:30.123+01:00", "source": "203.0.113.77"},
                "text": {"status": "generated", "div": "<div>ZELENKA, brother of the mayor</div>"},
                "identifier": [
                    {"type": {"coding": [{"code": code}]}, "system": "urn:x", "value": value}
                    for code, value in (
                        ("MR", "MRN7741"), ("SS", "078-05-1120"), ("DL", "DLX0077"),
                        ("MB", "PLAN9931"), ("AN", "ACCT5522"), ("VIN", "VIN1HGBH41JX"),
                    )
                ],
                "name": [{"family": "ZELENKA", "given": ["QUIRINIA"], "text": "QUIRINIA ZELENKA"}],
                "telecom": [
                    {"system": "phone", "value": "555-0142"},
                    {"system": "fax", "value": "555-0177"},
                    {"system": "email", "value": "qz@mail.example"},
                    {"system": "url", "value": "https://who.example/zq"},
                ],
                "gender": "female",
                "birthDate": "1950-03-17",
                "deceasedDateTime": "2026-02-14T23:00:00+01:00",
                "address": [
                    {"line": ["12 Ptarmigan Alley"], "city": "Wolverton", "district": "Wolverton",
                     "state": "MT", "postalCode": "59901", "country": "US"}
                ],
                "photo": [{"contentType": "image/png", "data": "iVBORw0KGgoCANARY"}],
                "contact": [{"name": {"family": "ZELENKA"}}],
                "extension": [{"url": "https://who.example/zq", "valueString": "FINGER0xA1"}],
                "maritalStatus": {"text": "brother of the mayor"},
            },
        },
        {
            "resource": {
                "resourceType": "Encounter",
                "id": "VISIT6611",
                "status": "in-progress",
                "class": {"code": "IMP", "display": "Wolverton"},
                "subject": {"reference": "Patient/MRN7741", "display": "QUIRINIA ZELENKA"},
                "period": {"start": "2026-02-14T09:30:00+01:00"},
                "location": [
                    {"location": {"display": "MICU", "reference": "Location/Wolverton"}},
                    {"location": {"display": "Wolverton 3 East"}},
                ],
                "serviceProvider": {"display": "Wolverton General"},
            }
        },
        {
            "resource": {
                "resourceType": "Observation",
                "id": "ORDER4242",
                "status": "final",
                "code": {
                    "coding": [{"system": "http://loinc.org", "code": "8867-4",
                                "display": "ZELENKA"}],
                    "text": "brother of the mayor",
                },
                "subject": {"reference": "https://who.example/zq"},
                "encounter": {"reference": "Encounter/VISIT6611"},
                "effectiveDateTime": "2026-02-14T10:00:00+01:00",
                "issued": "2026-02-14T10:15:30.123+01:00",
                "valueQuantity": {"value": 91, "unit": "/min"},
                "note": [{"text": "brother of the mayor, https://who.example/zq"}],
                "performer": [{"display": "DOC ZELENKA"}],
                "device": {"display": "SERIAL88213"},
            }
        },
        {
            "resource": {
                "resourceType": "Observation",
                "id": "CTRL1717",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "45396-3"}]},
                "subject": {"reference": "Patient/MRN7741"},
                "effectiveDateTime": "2026-02-14",
                "valueString": "078-05-1120",
            }
        },
        {
            "resource": {
                "resourceType": "Observation",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
                "subject": {"reference": "Patient/MRN7741"},
                "effectiveDateTime": "2026-02-14T11:00:00+01:00",
                "valueQuantity": {"value": 5550142, "unit": "ZELENKA"},
            }
        },
        {"resource": {"resourceType": "DocumentReference", "id": "STUDYCODE314",
                      "description": "ZELENKA"}},
    ],
}  # fmt: skip


def found(data: bytes) -> list[str]:
    """Which of the canaries are in the bytes, whatever their case.

    Codes are left out: of the digits of some thousand codes, five are a postal code by chance.
    """
    text = _CODE.sub("", data.decode("utf-8").casefold())
    return [c for c in ALL if c.casefold() in text]


def fhir_bytes() -> bytes:
    return json.dumps(FHIR).encode()
