"""Random requests after the service's own description of itself, on both engines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

schemathesis = pytest.importorskip("schemathesis")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402

from .conftest import Running  # noqa: E402

# The stream never ends.
LEFT_OUT = ("/v1/alarms/stream",)
EXAMPLES = {GenerationMode.POSITIVE: 3, GenerationMode.NEGATIVE: 2}
HEAD = {"Authorization": "Bearer fuzz"}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def door(request, nursery, tmp_path_factory) -> Iterator[tuple[Running, str, str]]:
    """A running service with a patient, alarms and subscriptions; what calls may draw from."""
    place = Path(__file__).parents[2] / "benchmarks"
    if not place.exists():
        pytest.skip("the benchmarks are not here")
    sys.path.insert(0, str(place))
    try:
        import fuzz_openapi
    finally:
        sys.path.remove(str(place))
    folder = tmp_path_factory.mktemp("door")
    store = str(folder / "s.db")
    if request.param == "postgres":
        import psycopg

        server = request.getfixturevalue("postgres_server")
        with psycopg.connect(server, autocommit=True) as db:
            db.execute("CREATE DATABASE openapi")
        store = server.replace("/postgres?", "/openapi?")
    config = folder / "c.toml"
    config.write_text(fuzz_openapi.settings(store))
    running = Running(nursery, config, "ingest,worker,dispatcher", folder, None)
    try:
        url = f"http://127.0.0.1:{running.wait().ports['http']}"
        with httpx.Client(base_url=url, headers=HEAD, timeout=180) as client:
            drawn = fuzz_openapi.furnish(client)
        (folder / "schemathesis.toml").write_text(fuzz_openapi.SETTINGS.read_text() + drawn)
        yield running, url, str(folder / "schemathesis.toml")
    finally:
        running.kill()


def test_every_answer_is_one_that_is_described(door):
    running, url, told = door
    found = schemathesis.openapi.from_url(
        f"{url}/openapi.json", config=schemathesis.Config.from_path(told)
    )
    tried = 0
    for result in found.get_all_operations():
        operation = result.ok()
        if operation.path in LEFT_OUT:
            continue
        for mode, count in EXAMPLES.items():
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(max_examples=count, deadline=None, phases=[Phase.generate], database=None,
                      derandomize=True, suppress_health_check=list(HealthCheck))  # fmt: skip
            @given(case=strategy)
            def one(case):
                case.validate_response(case.call(headers=HEAD, timeout=180), headers=HEAD)

            try:
                one()
            except Unsatisfiable:
                # Some operations take nothing that could be wrong.
                assert mode is GenerationMode.NEGATIVE and not operation.body
        tried += 1
    assert tried > 35 and running.alive
    for sign in ("Traceback", "a request failed", "ended:"):
        assert sign not in running.text()
