"""Random requests after the service's own description of itself."""

from __future__ import annotations

import pytest

schemathesis = pytest.importorskip("schemathesis")
from hypothesis import HealthCheck, Phase, settings  # noqa: E402
from schemathesis.checks import CHECKS, load_all_checks  # noqa: E402

load_all_checks()
WANTED = [c for c in CHECKS.get_all() if c.__name__ in
          ("not_a_server_error", "status_code_conformance", "content_type_conformance",
           "response_schema_conformance")]  # fmt: skip
# The clock would run away with the patients of other tests; the stream never ends.
LEFT_OUT = ("/v1/clock", "/v1/alarms/stream")


@pytest.fixture(scope="module")
def described(ward):
    found = schemathesis.openapi.from_url(f"{ward.url}/openapi.json")
    for path in LEFT_OUT:
        found = found.exclude(path=path)
    return found


described_by = schemathesis.pytest.from_fixture("described")


@described_by.parametrize()
@settings(max_examples=4, deadline=None, phases=[Phase.generate], derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
def test_every_answer_is_one_that_is_described(case, ward):
    answer = case.call(headers=ward.auth)
    case.validate_response(answer, checks=WANTED)
    assert ward.running.alive
