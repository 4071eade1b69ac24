"""Random requests after the service's own description of itself."""

from __future__ import annotations

import hashlib

import pytest

schemathesis = pytest.importorskip("schemathesis")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from schemathesis.checks import CHECKS, load_all_checks  # noqa: E402

load_all_checks()
NAMES = ("not_a_server_error", "content_type_conformance", "response_schema_conformance")
WANTED = [c for c in CHECKS.get_all() if c.__name__ in NAMES]
# The stream never ends.
LEFT_OUT = ("/v1/alarms/stream",)


def test_every_answer_is_one_that_is_described(tmp_path, launch):
    token = hashlib.sha256(b"test-token").hexdigest()
    config = tmp_path / "c.toml"
    config.write_text(
        f'[service]\nstore = "{tmp_path / "s.db"}"\npartitions = 2\nclock = "external"\n'
        "[mllp]\nport = 0\n[http]\nport = 0\n"
        f'[[tokens]]\nname = "t"\nsha256 = "{token}"\n'
        'scopes = ["read", "act", "ingest", "audit", "admin", "subscribe"]\n'
    )
    running = launch(config).wait()
    found = schemathesis.openapi.from_url(f"http://127.0.0.1:{running.ports['http']}/openapi.json")
    tried = 0
    for result in found.get_all_operations():
        operation = result.ok()
        if operation.path in LEFT_OUT:
            continue

        @settings(max_examples=4, deadline=None, phases=[Phase.generate], derandomize=True,
                  database=None, suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy())
        def one(case):
            answer = case.call(headers={"Authorization": "Bearer test-token"})
            case.validate_response(answer, checks=WANTED)

        one()
        tried += 1
    assert tried > 15 and running.alive
