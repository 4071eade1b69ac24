"""What an admin of some sites sees and may change: what is of another is not there."""

from __future__ import annotations

import asyncio
import json
import tomllib
from dataclasses import asdict

import httpx

from foretell.data.clinical.feed import Measurement
from foretell.serving.api.app import build_app
from foretell.serving.config import read_config
from foretell.serving.drift import MARK
from foretell.serving.events import Delivery, Quarantined
from foretell.serving.service import Service
from foretell.serving.store.base import Effects, OutboxRow, ShadowRow

from .test_api import as_
from .test_governance import token

SITES = ("east", "west")


def aside(site: str, part: int) -> Quarantined:
    """A heart rate that was not known as one when it came."""
    told = Measurement(site, "P", None, (("LN", "8867-4"),), 80.0, "/min", 0.0, 0.0, "final", "g")
    body = json.loads(json.dumps(asdict(told)))
    return Quarantined(bytes([part]), site, "unknown_code", "LN", "8867-4", "/min", body)


def filled(service: Service) -> None:
    """A thing of each kind at each site, what was set aside thrice at the other."""
    store = service.store
    held = Delivery("s", "1", b"x", "ORU", 5.0, [], [])
    held.quarantined = [aside("east", 0), *(aside("west", k) for k in (1, 2, 3))]
    store.append([held])
    work, send = (store.acquire(kind, "a", 3600, 1)[0] for kind in ("work", "send"))
    rows = [OutboxRow(site, "P", 0, site, "alarm", 1.0, {}) for site in SITES]
    shadows = [
        ShadowRow(site, "P", "x", 1, "new", "", 0.1, "ok", None, "old", 0.2, None)
        for site in SITES
    ]  # fmt: skip
    store.commit(Effects({0: work}, {0: 1}, outbox=rows, shadows=shadows))
    for row in store.outbox(0, 100.0, 10):
        store.sent(send, row.id, error="refused")
    store.set_mark(MARK, json.dumps({"time": 1.0, "seconds": 0.1, "sites": {s: {} for s in SITES}}))


def test_an_admin_of_a_site_sees_and_touches_nothing_of_another(address):
    east = token("east", 'roles = ["admin"]\nsites = ["east"]')
    text = f'[service]\nstore = "{address}"\npartitions = 1\n[sites.east]\n[sites.west]\n'
    text += east + token("all", 'roles = ["admin"]')
    service = Service(read_config(tomllib.loads(text)), roles=("ingest",))
    filled(service)

    async def check() -> None:
        transport = httpx.ASGITransport(app=build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:

            async def get(path: str, who: str, **params):
                answer = await client.get(path, headers=as_(who), params=params)
                assert answer.status_code == 200
                return answer.json()

            async def post(path: str, who: str, **body) -> httpx.Response:
                return await client.post(path, headers=as_(who), json=body)

            async def count(who: str) -> dict[str, int]:
                rows = (await get("/v1/quarantine", who))["quarantine"]
                return {row["site"]: row["count"] for row in rows}

            assert await count("all") == {"west": 3, "east": 1}
            assert await count("east") == {"east": 1}
            assert [*(await get("/v1/drift", "all"))["sites"]] == [*SITES]
            assert [*(await get("/v1/drift", "east"))["sites"]] == ["east"]
            for who, sites in (("all", [*SITES]), ("east", ["east"])):
                compared = (await get("/v1/shadow", who))["compared"]
                assert [row["site"] for row in compared] == sites
            assert (await get("/v1/shadow", "east", site="west"))["compared"] == []
            dead = {row["site"]: row["id"] for row in (await get("/v1/outbox/dead", "all"))["dead"]}
            assert [*dead] == [*SITES]
            theirs = (await get("/v1/outbox/dead", "east"))["dead"]
            assert [row["id"] for row in theirs] == [dead["east"]]
            # One of another site is not told from none at all.
            other = await post(f"/v1/outbox/{dead['west']}/revive", "east")
            assert other.status_code == 404
            assert other.json() == (await post("/v1/outbox/99/revive", "east")).json()
            assert (await post(f"/v1/outbox/{dead['east']}/revive", "east")).status_code == 200
            assert [r["site"] for r in (await get("/v1/outbox/dead", "all"))["dead"]] == ["west"]
            code = {"system": "LN", "code": "8867-4"}
            assert (await post("/v1/quarantine/retry", "east", **code)).json() == {"read": 1}
            assert await count("all") == {"west": 3}
            assert (await post("/v1/quarantine/retry", "all", **code)).json() == {"read": 3}
            assert await count("all") == {}

    asyncio.run(check())
    service.store.close()
