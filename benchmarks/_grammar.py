"""A grammar of inputs for the doors: they grow from valid ones, cut, repeated, mixed, filled.

HL7 v2 changes on the level of bytes, segments, fields and components; FHIR and CDS Hooks on that of
JSON values and of bytes. The same seed makes the same inputs.
"""

from __future__ import annotations

import json
import random
from typing import Any

from foretell.data.clinical.hl7.writer import Result, result_message, visit_message
from foretell.serving.ingest.mllp import frame

T0 = 1_767_225_600.0
CODES = ("8867-4", "9279-1", "8480-6", "8310-5", "59408-5", "2524-7", "6690-2", "no-code")
ASKED = ("", "AL", "NE", "NE", "ER", "SU", "ne", "XX")
JUNK = (
    "", '""', "0", "-1", "1e309", "-1e309", "1e-400", "nan", "inf", "9" * 400, "1,5", "<5", ">=7",
    "<>", "\\F\\", "\\X00\\", "\\X0D0A\\", "\\Xzz\\", "\\", "\\\\\\", "^~\\&", "|", "&&&",
    "^" * 50, "~" * 50, "\x00", "\ufeff", "\u202e", "\U0001f600", "ÄÖÜß", "\t", " " * 100,
    "99999999999999", "20260101", "2026010125", "20260230120000", "%s%n", "A" * 5000,
    "99991231235959", "00010101000000",
    "20260329023000", "20261025023000", "20260101120000+9999", "20260101120000-0000", "2026-01-01",
    "99990101000000-2359", "00010101000000+2359", "P", "T", "2.5.1", "3.0", "UNICODE UTF-8",
    "8859/1", "ISO IR87", "UNICODE UTF-16", "NM", "SN", "CWE", "ED", "F", "C", "D", "W", "X", "LN",
    "AL", "NE", "ER", "SU", "ORU^R01", "ADT^A40", "ADT^A99", "ORM^O01", "MDM^T02", "null", "../..",
    "'; DROP TABLE event; --", "<!ENTITY x SYSTEM 'file:///'>", "\u0663", "1_000", "0x10", "½",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    "\ud800", None, True, False,
    0, -1, 1, 10**400, -(10**30), 1.5, 1e308, -1e308, 1e-320, "", [], {}, [[]],
    [None], {"": None}, {"value": {}}, "x" * 5000, *JUNK,
    "2026-01-01T10:00:00Z", "2026-01-01", "2026", "2026-13-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:60-14:00", "2026-10-25T02:30:00", "Patient/p1", "urn:uuid:", "#", "/",
    "final", "entered-in-error", "Bundle", "Observation", "Encounter", "Patient", "http://loinc.org",
    "8867-4", "/min", "in-progress", "finished", "batch", "replaces", "patient-view",
)  # fmt: skip


def hl7_seeds() -> list[bytes]:
    """Valid messages of every type that is taken."""
    out = []
    for i in range(12):
        results = [Result(c, 60.0 + i, "/min", T0 + 60 * i, "FPCDWX"[i % 6]) for c in CODES]
        out.append(result_message("H", f"P{i % 4}", results[: 1 + i % 8], time=T0 + 600 * i,
                                  control=f"c{i}", visit=f"V{i % 3}"))  # fmt: skip
    for event in ("A01", "A02", "A03", "A04", "A08", "A11", "A12", "A13"):
        out.append(visit_message("H", "P1", event, time=T0, control=event, visit="V1", unit="MICU",
                                 admitted=T0, born="19500101", sex="F"))  # fmt: skip
    out.append(visit_message("H", "P2", "A40", time=T0, control="m", prior="P3"))
    head = "MSH|^~\\&|A|H|B|B|20260101120000||{}|k|P|2.5|||AL|AL||8859/1\r"
    order = "PID|1||P1^^^H^MR\rPV1|1|I|MICU||||||||||||||||V1\rORC|NW|7\rOBR|1|7||2524-7^L^LN\r"
    for kind in ("ORM^O01", "OML^O21"):
        out.append((head.format(kind) + order).encode("latin-1"))
    unusual = "PID|1||A^^^X~B^^^H^MR\rOBR|1|1|2|x|||20260101\rOBX|1|SN|8867-4^^LN||<^5|/min|||||F\r"
    out.append((head.format("ORU^R01") + unusual).encode("latin-1"))
    return out


def fhir_seeds() -> list[dict]:
    """Valid resources of every type that is taken, and bundles."""
    subject = {"reference": "Patient/p1"}
    code = {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]}
    pulse = {
        "resourceType": "Observation", "id": "o1", "status": "final", "code": code,
        "subject": subject, "effectiveDateTime": "2026-01-01T10:00:00Z",
        "issued": "2026-01-01T10:01:00Z", "encounter": {"reference": "Encounter/e1"},
        "valueQuantity": {"value": 88, "code": "/min", "comparator": "<"},
    }  # fmt: skip
    part = {"code": code, "valueQuantity": {"value": 120, "unit": "mm[Hg]"}}
    panel = {**pulse, "id": "o2", "component": [part, part]}
    del panel["valueQuantity"]
    stay = {
        "resourceType": "Encounter", "id": "e1", "status": "in-progress", "subject": subject,
        "period": {"start": "2026-01-01T08:00:00Z", "end": "2026-01-02T08:00:00Z"},
        "location": [{"status": "active", "location": {"display": "MICU"}}],
        "meta": {"lastUpdated": "2026-01-01T09:00:00Z"},
    }  # fmt: skip
    person = {
        "resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1950-01-01",
        "meta": {"lastUpdated": "2026-01-01T09:00:00Z"},
        "identifier": [{"system": "s", "value": "m"}],
        "link": [{"type": "replaces", "other": {"reference": "Patient/p2"}}],
    }  # fmt: skip
    wish = {"resourceType": "ServiceRequest", "id": "s", "status": "active", "code": code,
            "subject": subject, "authoredOn": "2026-01-01T10:00:00Z"}  # fmt: skip
    drug = {"resourceType": "MedicationAdministration", "id": "m", "status": "completed",
            "medicationCodeableConcept": code, "subject": subject,
            "effectiveDateTime": "2026-01-01T10:00:00Z"}  # fmt: skip
    ill = {"resourceType": "Condition", "id": "c", "code": code, "subject": subject,
           "recordedDate": "2026-01-01"}  # fmt: skip
    some = [pulse, panel, stay, person, wish, drug, ill, {**stay, "status": "finished"}]
    for kind in ("batch", "transaction", "message", "collection", "searchset"):
        entries = [{"resource": r} for r in some[:4]]
        some.append({"resourceType": "Bundle", "type": kind, "entry": entries})
    return some


class Mutator:
    """Makes inputs; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.messages, self.resources = hl7_seeds(), fhir_seeds()

    def _bytes(self, data: bytes) -> bytes:
        r, out = self.random, bytearray(data)
        for _ in range(r.choice((1, 1, 2, 4, 16))):
            at = r.randrange(len(out) + 1)
            draw = r.randrange(5)
            if draw == 0 and out:
                out[min(at, len(out) - 1)] = r.randrange(256)
            elif draw == 1:
                del out[at : at + r.choice((1, 2, 8, 64))]
            elif draw == 2:
                out[at:at] = bytes(r.randrange(256) for _ in range(r.choice((1, 2, 8))))
            elif draw == 3:
                other = r.choice(self.messages)
                begin = r.randrange(len(other))
                out[at:at] = other[begin : begin + r.randrange(80)]
            else:
                out[at:at] = r.choice(JUNK).encode("utf-8", "surrogatepass")
        return bytes(out)

    def hl7(self) -> bytes:
        """A message, or something like one."""
        r = self.random
        data = r.choice(self.messages)
        if r.random() < 0.15:
            return self._bytes(data)
        text = data.decode("utf-8", "replace").replace("20260101", f"202601{r.randrange(10, 30)}")
        text = text.replace("|||P", f"|||P{r.randrange(9)}")
        lines = text.rstrip("\r").split("\r")
        if r.random() < 0.06:
            # Which answers it asks for, silence among them.
            head = [*lines[0].split("|"), *[""] * 16][:16]
            head[14:16] = r.choice(ASKED), r.choice(ASKED)
            lines[0] = "|".join(head)
        for _ in range(r.choice((0, 1, 1, 2, 3, 6))):
            draw = r.random()
            i = r.randrange(len(lines))
            if draw < 0.08:
                del lines[i]
                lines = lines or ["MSH"]
            elif draw < 0.16:
                lines.insert(i, r.choice(lines))
            elif draw < 0.2:
                r.shuffle(lines)
            elif draw < 0.24:
                other = r.choice(self.messages).decode("utf-8", "replace").split("\r")
                lines.insert(r.randrange(len(lines) + 1), r.choice(other))
            elif draw < 0.26:
                lines.append("NTE|" * r.choice((1, 2000)))
            else:
                fields = lines[i].split("|")
                k = r.randrange(len(fields))
                if r.random() < 0.5:
                    fields[k] = r.choice(JUNK)
                elif r.random() < 0.5:
                    parts = fields[k].split("^")
                    parts[r.randrange(len(parts))] = r.choice(JUNK)
                    fields[k] = "^".join(parts)
                elif r.random() < 0.5:
                    fields.insert(k, r.choice(fields))
                else:
                    fields[k] += r.choice("^~&|\\") + r.choice(JUNK)
                lines[i] = "|".join(fields)
        mark = r.choice(("\r",) * 20 + ("\n", "\r\n", "\r\r"))
        text = mark.join(lines) + mark
        if r.random() < 0.03:
            a, b = r.choice("^~&|\\"), r.choice("^~&|\\#$!aZ0\r\xa7")
            text = text.replace(a, b)
        code = r.choice(("utf-8",) * 20 + ("latin-1", "utf-16", "utf-32", "cp1252"))
        data = text.encode(code, "replace" if code != "utf-8" else "surrogatepass")
        return self._bytes(data) if r.random() < 0.1 else data

    def stream(self, contents: list[bytes]) -> bytes:
        """Bytes as a network might bring them: frames with noise, cut and run together."""
        r, out = self.random, bytearray()
        for content in contents:
            draw = r.random()
            if draw < 0.02:
                out += bytes(r.randrange(256) for _ in range(20))
            framed = frame(content)
            if draw > 0.98:
                framed = framed[: r.randrange(len(framed))]
            elif draw > 0.97:
                framed = framed.replace(b"\x1c\r", b"\x1c")
            out += framed
        return bytes(out)

    def value(self, seed: Any, depth: int = 0) -> Any:
        """A JSON value with something in it changed."""
        r = self.random
        if depth > 12 or r.random() < 0.12 or not isinstance(seed, dict | list) or not seed:
            draw = r.random()
            if draw < 0.1:
                nested: Any = r.choice(VALUES)
                for _ in range(r.choice((5, 40))):
                    nested = [nested] if r.random() < 0.5 else {"resource": nested}
                return nested
            if draw < 0.2:
                return r.choice(self.resources)
            return r.choice(VALUES)
        if isinstance(seed, dict):
            out = dict(seed)
            key = r.choice(list(out))
            draw = r.random()
            if draw < 0.1:
                del out[key]
            elif draw < 0.2:
                out[r.choice(list(r.choice(self.resources)))] = r.choice(VALUES)
            else:
                out[key] = self.value(out[key], depth + 1)
            return out
        items = list(seed)
        at = r.randrange(len(items))
        if r.random() < 0.15:
            items.append(items[at])
        else:
            items[at] = self.value(items[at], depth + 1)
        return items

    def json(self, seed: Any) -> bytes:
        """A document that grew from a valid one, or bytes that look like it."""
        r = self.random
        value = seed
        for _ in range(r.choice((0, 1, 1, 2, 4))):
            value = self.value(value)
        text = json.dumps(value, ensure_ascii=r.random() < 0.5)
        if r.random() < 0.02:
            text = text.replace(
                "null", r.choice(("NaN", "Infinity", "1e999", '"\\ud800"', "[" * 3000))
            )
        data = text.encode("utf-8", "surrogatepass")
        return self._bytes(data) if r.random() < 0.08 else data

    def fhir(self) -> bytes:
        """A resource, or something like one."""
        return self.json(self.random.choice(self.resources))
