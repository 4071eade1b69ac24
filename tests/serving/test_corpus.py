"""What once broke a reader, an answer or a check of tokens, found by fuzzing: refused since."""

from __future__ import annotations

import json
import math
import time

import pytest

from foretell.data.clinical.fhir import FhirError
from foretell.data.clinical.hl7 import Hl7Error, Message
from foretell.serving.api.fhir import parsed
from foretell.serving.cds import CdsTrust, UntrustedError
from foretell.serving.config import CdsClientConfig, Config
from foretell.serving.ingest import Intake
from foretell.serving.ingest.acknowledge import acknowledgements, refusal

HEAD = b"MSH|^~\\&|A|H|B|B|20260101120000||"
MESSAGES = {
    "delimiters cut off by a line break": b"MSH|^~\r\\&|A|H|||2026||ORU^R01|1|P|2.5\r",
    "letters of other scripts as delimiters": "MSH|\u0430\u0431\u0432\u0433|A|H\r".encode(),
    "digits as delimiters": b"MSH|1234|A|H|||20260101||ORU^R01|1|P|2.5\r",
    "blanks as delimiters": b"MSH| ~\\&|A|H|||20260101||ORU^R01|1|P|2.5\r",
    "an end of a frame in the control id": HEAD + b"ADT^A02|A02\x1c|P|2.5.1\rPID|||P1\r",
    "a begin of a frame in the control id": HEAD + b"ADT^A99|A\x0b02|P|2.5.1\rPID|||P1\r",
    "a control id of half a character": HEAD + b"ORU^R01|\xed\xa0\x80|P|2.5\rPID|||P1\r",
    "delimiters overwritten, so that the version asks for silence": (
        b"MSH||||||A|H|||20260329141735||ORU^R01^ORU_R01|5-15|P|2.5.1\rPID|||P1\r"
    ),
    "nothing": b"",
    "a mark of byte order alone": b"\xff\xfe",
}
RESOURCES = {
    "an endless number": b'{"resourceType": "Observation", "valueQuantity": {"value": NaN}}',
    "half a character": b'{"resourceType": "Patient", "id": "\\ud800"}',
    "a NUL": b'{"resourceType": "Patient", "id": "\\u0000"}',
    "too deep": b'{"resourceType": "Bundle", "entry": ' + b"[" * 100_000,
    "entries that are no list": b'{"resourceType": "Bundle", "type": "batch", "entry": {}}',
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name):
    data, intake, message = MESSAGES[name], Intake(Config()), None
    try:
        message = Message.from_bytes(data)
        intake.hl7(message, data, 1.7e9)
        answers = acknowledgements(message, 1.7e9)
    except Hl7Error as error:
        answers = (
            [refusal(data, 1.7e9, error)] if message is None
            else acknowledgements(message, 1.7e9, error)
        )  # fmt: skip
    (answer,) = answers
    assert b"\x0b" not in answer and b"\x1c" not in answer
    read = Message.from_bytes(answer)
    assert [s for s, _ in read.segments][:2] == ["MSH", "MSA"]
    assert read.part(read.get("MSA"), 1) in ("AA", "AE", "AR")


@pytest.mark.parametrize("name", RESOURCES)
def test_resources(name):
    with pytest.raises(FhirError):
        Intake(Config()).fhir(parsed(RESOURCES[name]), "fhir", 1.7e9)


def test_a_mistyped_year_is_no_reason_to_compute_centuries(tmp_path):
    from foretell.data.clinical.hl7.writer import Result, result_message, visit_message
    from foretell.serving.service import make_fold
    from foretell.serving.store import open_store
    from foretell.serving.worker import Worker
    from foretell.serving.worker.ticks import send_ticks

    store, now, intake = open_store(str(tmp_path / "s.db"), partitions=1), 1.767e9, Intake(Config())
    pulse = [Result("8867-4", 80.0, "/min")]
    for data in (
        visit_message("H", "P", "A01", time=now, control="1", admitted=-6.2e10),
        result_message("H", "P", pulse, time=now, control="2"),
        result_message("H", "Q", pulse, time=-6.2e10, control="3"),
        result_message("H", "Q", pulse, time=now, control="4"),
    ):
        store.append([intake.hl7(Message.from_bytes(data), data, now)])
    send_ticks(store, now + 7200, everywhere=True)
    worker = Worker(store, make_fold(Config()), ttl=3600)
    worker.keep_leases()
    while worker.work():
        pass
    assert store._run("SELECT COUNT(*) FROM score")[0][0] < 200
    store.close()


@pytest.mark.parametrize(
    "changed",
    [{"exp": 10**400}, {"iat": -(10**400)}, {"exp": math.inf}, {"exp": math.nan},
     {"iat": math.nan}, {"jti": "\ud800"}, {"jti": "a\x00"}, {"jti": 5}, {"iss": {}},
     {"aud": [None]}, {"nbf": 10**400}],
    ids=str,
)  # fmt: skip
def test_tokens(changed, tmp_path):
    jwt = pytest.importorskip("jwt")
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    told = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [{**told, "kid": "k"}]}))
    client = CdsClientConfig(issuer="https://e", audience="a", algorithms=("ES384",),
                             jwks_file=str(tmp_path / "jwks.json"))  # fmt: skip
    now = time.time()
    claims = {"iss": "https://e", "aud": "a", "iat": now, "exp": now + 60, "jti": "x"}
    trust = CdsTrust([client])

    def signed(what: dict) -> str:
        # As a client writes it that checks nothing.
        return jwt.api_jws.encode(json.dumps(what).encode(), key, "ES384", {"kid": "k"})

    assert trust.caller(signed(claims)).name == "cds https://e"
    with pytest.raises(UntrustedError):
        trust.caller(signed({**claims, "jti": "y", **changed}))


def test_metrics_tell_no_text_of_a_message():
    from foretell.serving.ingest.mllp import _counted

    head = "MSH|^~\\&|A|H|||20260101||{}|1|P|2.5\rPID|||P1\r"
    told = ("ADT^A01", "ADT^Miller", "ORU", "Miller^R01", "OML^O21^OML_O21")
    kinds = [_counted(Message(head.format(kind))) for kind in told]
    assert kinds == ["ADT^A01", "ADT^other", "ORU^other", "other", "OML^O21"]
