"""Coverage-guided fuzzing of the readers with Atheris, which must be installed beside foretell.

    python benchmarks/fuzz_coverage.py hl7 CORPUS -max_total_time=600 -timeout=10
    python benchmarks/fuzz_coverage.py fhir CORPUS -max_total_time=600 -timeout=10

Everything after the target is libFuzzer's. An error that is not a refusal, or an answer that is
none, ends the run, and its input is kept in a file ``crash-...``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import atheris

INSTRUMENTED = ["foretell.data.clinical.hl7", "foretell.data.clinical.fhir",
                "foretell.data.clinical.tokens", "foretell.data.clinical.feed",
                "foretell.serving.ingest.acknowledge", "foretell.serving.ingest.intake",
                "foretell.serving.ingest.mllp", "foretell.serving.events"]  # fmt: skip
with atheris.instrument_imports(include=INSTRUMENTED):
    from _grammar import T0, fhir_seeds, hl7_seeds
    from fuzz_interfaces import answered

    from foretell.data.clinical.fhir import FhirError
    from foretell.data.clinical.hl7 import Hl7Error, Message
    from foretell.serving.api.fhir import parsed
    from foretell.serving.config import Config, MllpConfig
    from foretell.serving.ingest import Framer, Intake
    from foretell.serving.ingest.acknowledge import acknowledgements, refusal
    from foretell.serving.ingest.mllp import frame

INTAKE = Intake(Config(mllp=MllpConfig(port=0)))


def hl7(data: bytes) -> None:
    """Reads and answers one message, framed and not."""
    message = None
    try:
        message = Message.from_bytes(data)
        INTAKE.hl7(message, data, T0 + 7200)
        answers = acknowledgements(message, T0)
    except Hl7Error as error:
        answers = (
            [refusal(data, T0, error)] if message is None
            else acknowledgements(message, T0, error)
        )  # fmt: skip
    answered(answers, message)
    framer = Framer(1 << 20)
    found = [*framer.feed(frame(data)[: len(data) // 2]), *framer.feed(frame(data))]
    if b"\x0b" not in data and b"\x1c\r" not in data and not data.endswith(b"\x1c"):
        assert found[-1] == data, "a frame does not hold what was put into it"


def fhir(data: bytes) -> None:
    """Reads one resource."""
    try:
        delivery = INTAKE.fhir(parsed(data), "fhir", T0 + 7200)
    except FhirError:
        return
    told = [[e.body, [item for _, item in e.items]] for e in delivery.events]
    json.dumps(told, allow_nan=False)


def main() -> None:
    target, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = hl7_seeds() if target == "hl7" else [json.dumps(s).encode() for s in fhir_seeds()]
    for number, seed in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], {"hl7": hl7, "fhir": fhir}[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
