"""A subscription of ours at another server: made once, looked after, made again if it is lost."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from foretell.serving.config import PollConfig, SubscribeConfig
from foretell.serving.ingest.client import FhirClient
from foretell.serving.ingest.duty import Duty
from foretell.serving.ingest.errors import PollError
from foretell.serving.metrics import Metrics
from foretell.serving.store.base import Store
from foretell.serving.subscriptions.incoming import ask_poller
from foretell.serving.subscriptions.resource import BACKPORT

log = logging.getLogger("foretell.serving.subscriber")
_EVERY = 300.0
_PATIENCE = 2.5


def wanted(config: SubscribeConfig) -> dict[str, Any]:
    """The resource that asks for notifications."""
    channel: dict[str, Any] = {
        "type": "rest-hook", "endpoint": config.endpoint, "payload": "application/fhir+json",
    }  # fmt: skip
    out: dict[str, Any] = {
        "resourceType": "Subscription", "status": "requested", "reason": config.reason,
        "criteria": config.criteria, "channel": channel,
    }  # fmt: skip
    if config.token_file is not None:
        token = Path(config.token_file).read_text("utf-8").strip()
        channel["header"] = [f"Authorization: Bearer {token}"]
    if ":" in config.criteria.partition("?")[0]:
        out["meta"] = {"profile": [BACKPORT + "backport-subscription"]}
        channel["_payload"] = {"extension": [
            {"url": BACKPORT + "backport-payload-content", "valueCode": config.content}
        ]}  # fmt: skip
        if config.heartbeat_seconds is not None:
            channel["extension"] = [{
                "url": BACKPORT + "backport-heartbeat-period",
                "valueUnsignedInt": config.heartbeat_seconds,
            }]  # fmt: skip
        if config.filters:
            out["_criteria"] = {"extension": [
                {"url": BACKPORT + "backport-filter-criteria", "valueString": text}
                for text in config.filters
            ]}  # fmt: skip
    return out


class Subscriber:
    """Keeps a subscription of ours alive.

    Args:
        config: of the server, with what to subscribe to.
        client: that asks it.
        store: of this thread, for its identifier.
        metrics: counts.
        duty: that only one process has; without it nobody else may look after it.
    """

    def __init__(
        self, config: PollConfig, client: FhirClient, store: Store, metrics: Metrics,
        duty: Duty | None = None,
    ) -> None:  # fmt: skip
        assert config.subscribe is not None
        self._duty = duty
        self._config, self._subscribe = config, config.subscribe
        self._client, self._store, self._metrics = client, store, metrics
        self._name = f"subscription {config.site} {client.base}"
        self._next = 0.0
        self._silent = False

    def keep(self) -> None:
        """Makes it where there is none, and asks after it now and then.

        Raises:
            PollError: the server does not answer as it should.
        """
        if time.monotonic() < self._next:
            return
        identity = self._store.mark(self._name)
        if identity:
            answer = self._client.ask(self._client.address(f"Subscription/{identity}"))
            if answer.status_code in (404, 410):
                identity = None
            elif answer.status_code != 200:
                raise PollError(f"the subscription answers {answer.status_code}")
            else:
                told = answer.json()
                if told.get("status") not in ("requested", "active"):
                    log.warning("a subscription has stopped and is asked for again")
                    body = {**wanted(self._subscribe), "id": identity}
                    answer = self._client.ask(
                        self._client.address(f"Subscription/{identity}"), method="PUT", json=body
                    )
                    if answer.status_code not in (200, 201):
                        raise PollError(f"the subscription is refused: {answer.status_code}")
                    ask_poller(self._store, self._config.site)
        if not identity:
            made = self._make()
            self._store.set_mark(self._name, made, None if self._duty is None else self._duty.lease)
            ask_poller(self._store, self._config.site)
        self._next = time.monotonic() + _EVERY

    def _make(self) -> str:
        found = self._standing()
        if found is not None:
            return found
        answer = self._client.ask(
            self._client.address("Subscription"), method="POST", json=wanted(self._subscribe)
        )
        if answer.status_code not in (200, 201):
            raise PollError(f"the subscription is refused: {answer.status_code}")
        identity = None
        try:
            identity = answer.json().get("id")
        except (ValueError, AttributeError):
            pass
        if not isinstance(identity, str):
            where = answer.headers.get("Location", "").split("/_history", 1)[0]
            identity = where.rpartition("/")[2]
        if not identity:
            raise PollError("the subscription has no identifier")
        log.info("a subscription was made")
        return identity

    def _standing(self) -> str | None:
        """One that was made by a process that died before it could note it."""
        answer = self._client.ask(
            self._client.address("Subscription"), params={"url": self._subscribe.endpoint}
        )
        if answer.status_code != 200:
            return None
        try:
            bundle = json.loads(answer.content)
        except ValueError:
            return None
        for entry in bundle.get("entry", []) if isinstance(bundle, dict) else []:
            one = entry.get("resource") if isinstance(entry, dict) else None
            if not isinstance(one, dict) or one.get("resourceType") != "Subscription":
                continue
            told = one.get("channel")
            channel = told if isinstance(told, dict) else {}
            same = (one.get("criteria"), channel.get("endpoint")) == (
                self._subscribe.criteria, self._subscribe.endpoint,
            )  # fmt: skip
            if same and one.get("status") in ("requested", "active") and one.get("id"):
                return str(one["id"])
        return None

    def listen(self, now: float) -> bool:
        """Whether the server has been silent for longer than its heartbeats allow."""
        period = self._subscribe.heartbeat_seconds
        identity = self._store.mark(self._name)
        if period is None or not identity:
            return False
        seen = [
            row["seen"] for row in self._store.heard(self._config.site)
            if str(row["subscription"]).rpartition("/")[2] == identity
        ]  # fmt: skip
        silent = bool(seen) and now - max(seen) > _PATIENCE * period
        if silent and not self._silent:
            log.warning("a subscription is silent; its server is asked")
            self._metrics.silences.labels(self._config.site).inc()
            self._next = 0.0
        news, self._silent = silent and not self._silent, silent
        return news
