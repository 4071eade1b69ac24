"""Asks a FHIR server for what changed: paging, overlap, back-off; repeats cost nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from threading import Event as Signal
from typing import Any
from urllib.parse import urljoin, urlsplit

from foretell.data.clinical.fhir import FhirError, read_instant
from foretell.serving.config import PollConfig
from foretell.serving.errors import FencedError, StoreUnavailableError
from foretell.serving.ingest.bulk import BulkExport
from foretell.serving.ingest.client import FhirClient
from foretell.serving.ingest.committer import BusyError, Committer
from foretell.serving.ingest.duty import Duty
from foretell.serving.ingest.errors import PollError
from foretell.serving.ingest.intake import Intake
from foretell.serving.ingest.subscriber import Subscriber
from foretell.serving.metrics import Metrics
from foretell.serving.store.base import Appended, Store
from foretell.serving.subscriptions.incoming import catch_up_name

log = logging.getLogger("foretell.serving.poller")
MAX_PAGES = 10_000


class FhirPoller:
    """Reads a server's resources from ``_lastUpdated`` on, again and again.

    Each round begins some time before the end of the last one, as servers show resources late;
    the log knows what it has. The mark moves only when all pages of a round are durable, and is
    kept in the store. Before the first round comes a bulk export, where one is wanted. A
    notification that went missing asks for a round at once.

    Args:
        config: of the server.
        intake: reads resources.
        committer: makes them durable.
        store: of this thread, for the mark.
        metrics: counts.
        clock: seconds since 1970, for the first round's beginning.
        warm_up: whether a bulk export is taken though one was before.
        duty: that only one process has; without it nobody else may ask the server for this.

    Raises:
        ParameterError: the key of SMART cannot be read.
    """

    def __init__(
        self,
        config: PollConfig,
        intake: Intake,
        committer: Committer,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        warm_up: bool = False,
        duty: Duty | None = None,
    ) -> None:
        self._duty = duty
        self._config, self._intake, self._committer = config, intake, committer
        self._store, self._metrics, self._clock = store, metrics, clock
        self._client = FhirClient(config)
        self._base = self._client.base
        # Resource type -> since when it was asked, and the tag of an answer of one page.
        self._etags: dict[str, tuple[str, str | None]] = {}
        self._export: BulkExport | None = None
        if config.warm_up or warm_up:
            self._export = BulkExport(
                config, self._client, intake, committer, store, metrics, clock, again=warm_up,
                duty=duty,
            )  # fmt: skip
        self._subscriber: Subscriber | None = None
        if config.subscribe is not None:
            self._subscriber = Subscriber(config, self._client, store, metrics, duty)

    def run(self, stop: Signal) -> None:
        """Polls until told to stop, whenever the duty is this process's."""
        delay = 1.0
        while not stop.is_set():
            if self._duty is not None and not self._duty.held:
                stop.wait(0.2)
                continue
            pause = self._config.every_seconds
            asked: str | None = None
            try:
                asked = self._store.mark(catch_up_name(self._config.site))
                self.round(stop)
                delay = 1.0
            except FencedError:
                log.warning("another process polls from now on")
                continue
            except Exception as error:
                told = getattr(error, "pause", None)
                pause = max(delay, told or 0.0)
                delay = min(delay * 2, 300.0)
                # The words of our own errors hold no addresses and no patients.
                why = str(error) if isinstance(error, PollError) else ""
                log.warning("a round failed: %s %s", type(error).__name__, why)
                self._metrics.messages.labels("poll", "", "failed").inc()
            self._pause(stop, pause, asked)
        self._client.close()

    def round(self, stop: Signal | None = None) -> None:
        """All that is to be done now: export, subscription, every resource type."""
        if self._export is not None:
            if not self._export.run(Signal() if stop is None else stop):
                return
            self._export = None
        if self._subscriber is not None:
            self._subscriber.keep()
        for resource in self._config.resources:
            self.once(resource, stop)

    def _pause(self, stop: Signal, seconds: float, asked: str | None) -> None:
        """Waits for the next round; less long where somebody asks for one meanwhile."""
        end = time.monotonic() + seconds
        while not stop.is_set() and (left := end - time.monotonic()) > 0:
            stop.wait(min(left, 1.0))
            if self._duty is not None and not self._duty.held:
                return
            try:
                if self._store.mark(catch_up_name(self._config.site)) != asked:
                    return
                if self._subscriber is not None and self._subscriber.listen(time.time()):
                    return
            except StoreUnavailableError:
                continue

    def once(self, resource: str, stop: Signal | None = None) -> int:
        """One round over all pages of a resource type; returns how many entries came."""
        name = f"poll {self._config.site} {self._base}{resource}"
        mark = self._store.mark(name)
        since = self._clock() - 86400.0 if mark is None else float(mark)
        begin = max(since - self._config.overlap_seconds, 0.0)
        text = datetime.fromtimestamp(begin, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        url: str | None = urljoin(self._base, resource)
        params: dict[str, Any] | None = {
            "_lastUpdated": f"ge{text}", "_count": self._config.page, "_sort": "_lastUpdated",
        }  # fmt: skip
        latest, count = since, 0
        asked, tag = self._etags.pop(resource, ("", None))
        kept: str | None = None
        seen: set[str] = set()
        waiting: list[Future[Appended]] = []
        for _ in range(MAX_PAGES):
            if url is None or url in seen or (stop is not None and stop.is_set()):
                break
            seen.add(url)
            page, found = self._page(url, params, tag if params and asked == text else None)
            if page is None:
                kept = tag
                break
            entries = [e.get("resource") for e in page.get("entry", []) if isinstance(e, dict)]
            for one in entries:
                if not isinstance(one, dict):
                    continue
                count += 1
                meta = one.get("meta")
                told = meta.get("lastUpdated") if isinstance(meta, dict) else None
                updated = read_instant(told, UTC)
                latest = max(latest, updated or latest)
                future = self._submit(one)
                if future is not None:
                    waiting.append(future)
            # Of a result of several pages the first may stay while the last grows.
            url, params, kept = self._next(page, url), None, found if len(seen) == 1 else None
            if url is not None:
                kept = None
        else:
            raise PollError("the pages have no end")
        for future in waiting:
            future.result(60)
        if stop is None or not stop.is_set():
            self._store.set_mark(
                name, repr(latest), None if self._duty is None else self._duty.lease
            )
            # Only now: what is durable need not be read again.
            self._etags[resource] = (text, kept)
        return count

    def _submit(self, resource: dict) -> Future[Appended] | None:
        while True:
            try:
                delivery = self._intake.fhir(resource, self._config.site, self._clock(), self._base)
                return self._committer.submit(delivery)
            except FhirError:
                self._metrics.messages.labels("poll", "", "refused").inc()
                return None
            except BusyError:
                time.sleep(0.05)

    def _page(
        self, url: str, params: dict[str, Any] | None, tag: str | None = None
    ) -> tuple[dict[str, Any] | None, str | None]:
        """A page and its entity tag; None where it is as it was."""
        headers = None if tag is None else {"If-None-Match": tag}
        answer = self._client.ask(url, params=params, headers=headers)
        if answer.status_code == 304 and tag is not None:
            return None, tag
        if answer.status_code != 200:
            raise PollError(f"the server answered {answer.status_code}")
        page = answer.json()
        if not isinstance(page, dict) or page.get("resourceType") != "Bundle":
            raise PollError("the answer is no bundle")
        return page, answer.headers.get("ETag")

    def _next(self, page: dict[str, Any], url: str) -> str | None:
        for link in page.get("link", []):
            if isinstance(link, dict) and link.get("relation") == "next":
                target = urljoin(url, str(link.get("url")))
                # The token must not follow a link to somewhere else.
                if urlsplit(target)[:2] != urlsplit(self._base)[:2]:
                    raise PollError("the next page is on another server")
                return target
        return None
