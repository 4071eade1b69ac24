"""What the description says of tokens: the same as the doors do."""

from __future__ import annotations

import asyncio
import inspect

import httpx
import pytest

pytest.importorskip("fastapi")

from fastapi.routing import APIRoute

from foretell.serving.api.app import build_app
from foretell.serving.api.auth import new_token
from foretell.serving.config import SCOPES, read_config
from foretell.serving.service import Service

# They trust the tokens of clients, too.
HOOKS = ("/cds-services/{name}", "/cds-services/{name}/feedback")


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """The application, its description, and a token that lacks each scope."""
    made = {scope: new_token(scope, [s for s in SCOPES if s != scope]) for scope in SCOPES}
    config = read_config({
        "service": {"store": str(tmp_path_factory.mktemp("told") / "s.db")},
        "tokens": [known.model_dump(exclude_defaults=True) for _, known in made.values()],
    })  # fmt: skip
    service = Service(config, roles=("ingest",))
    app = build_app(service)
    told = app.openapi()
    assert app.openapi() == told, "asked again it says the same"
    yield app, told, {scope: token for scope, (token, _) in made.items()}
    service.store.close()


def test_each_operation_names_the_scope_that_it_needs(described):
    app, told, tokens = described
    found: dict[str, int] = {}

    async def ask() -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            for path, operations in told["paths"].items():
                for method, operation in operations.items():
                    if "security" not in operation or path in HOOKS:
                        continue
                    ((scope,),) = [need["bearer"] for need in operation["security"]]
                    found[scope] = found.get(scope, 0) + 1
                    place = path.replace("{row}", "1").replace("{", "").replace("}", "")
                    answer = await client.request(method, place)
                    assert answer.status_code == 401, (method, path)
                    head = {"Authorization": f"Bearer {tokens[scope]}"}
                    answer = await client.request(method, place, headers=head)
                    assert answer.status_code == 403, (method, path)
                    assert f"'{scope}'" in answer.text, (method, path)
                    assert {"401", "403", "429"} <= set(operation["responses"])

    asyncio.run(ask())
    assert set(found) == set(SCOPES) and sum(found.values()) >= 35


def test_what_needs_no_token_is_not_said_to_refuse_one(described):
    _, told, _ = described
    free = {path for path, ops in told["paths"].items() for op in ops.values()
            if "security" not in op}  # fmt: skip
    assert free == {"/healthz", "/readyz", "/metrics", "/cds-services", "/fhir/metadata"}
    for path in free:
        assert not {"401", "403", "429"} & set(told["paths"][path]["get"]["responses"])


def test_dependencies_say_where_their_types_are_to_be_found(described):
    """FastAPI 0.115 looks for postponed annotations in the globals of the call itself."""
    app, _, _ = described
    found = [
        d.call for r in app.routes if isinstance(r, APIRoute) for d in r.dependant.dependencies
    ]
    assert len(found) >= 35
    for call in found:
        names = getattr(call, "__globals__", {})
        told = inspect.signature(call).parameters.values()
        assert not [p.name for p in told if str(p.annotation) not in names], call
