"""Bulk export of a FHIR server, for the beginning: all that is known of who is there already.

HL7, Bulk Data Access 2.0: asked for once, waited for, read line by line. What was read is kept in
the store, so that a process that is killed goes on where it was; what is read twice is known.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from threading import Event as Signal
from typing import Any
from urllib.parse import urljoin

from foretell.data.clinical.fhir import FhirError, read_instant
from foretell.serving.cds.trust import allowed_server
from foretell.serving.config import PollConfig
from foretell.serving.events import Delivery, Quarantined, digest
from foretell.serving.ingest.client import FhirClient, check
from foretell.serving.ingest.committer import BusyError, Committer
from foretell.serving.ingest.duty import Duty
from foretell.serving.ingest.errors import PollError, retry_after
from foretell.serving.ingest.intake import Intake
from foretell.serving.metrics import Metrics
from foretell.serving.store.base import Appended, Lease, Store
from foretell.serving.worker.ticks import HOLD

log = logging.getLogger("foretell.serving.bulk")
_LEASE = 60.0
_LINES = 500
_LONGEST_LINE = 4 << 20
_FIRST = ("Patient", "Encounter")


def export_name(config: PollConfig) -> str:
    """Under which a server's export is kept in the store."""
    return f"export {config.site} {config.url.rstrip('/')}/"


def export_due(store: Store, config: PollConfig, *, again: bool = False) -> bool:
    """Whether a server's export is still to be taken: never, or not to the end, or ``again``."""
    if not (config.warm_up or again):
        return False
    held = store.mark(export_name(config))
    return held is None or again or json.loads(held)["state"] != "done"


def hold(store: Store, config: PollConfig, until: float) -> None:
    """Asks all clocks to close no hours until a time; 0 where an export holds them no more."""

    def change(told: str | None) -> str:
        held: dict[str, float] = {} if told is None else json.loads(told)
        held = {name: end for name, end in held.items() if end > time.time()}
        return json.dumps({**held, export_name(config): until})

    # Other exports may hold them, too, in other processes.
    store.change_mark(HOLD, change)


class BulkExport:
    """Takes an export of a server's resources into the log.

    Hours are closed by ticks; while an export is read none is sent, so that what happened before
    falls into the hours in which it happened, in whatever order the files tell it.

    Args:
        config: of the server.
        client: that asks it.
        intake: reads resources.
        committer: makes them durable.
        store: of this thread.
        metrics: counts.
        clock: seconds since 1970.
        again: whether an export that was taken to its end is followed by one of what is newer.
        duty: that only one process has; without it nobody else may take the export.
    """

    def __init__(
        self, config: PollConfig, client: FhirClient, intake: Intake, committer: Committer,
        store: Store, metrics: Metrics, clock: Callable[[], float] = time.time, *,
        again: bool = False, duty: Duty | None = None,
    ) -> None:  # fmt: skip
        self._duty, self._turn = duty, None if duty is None else -1
        self._config, self._client, self._intake = config, client, intake
        self._committer, self._store, self._metrics = committer, store, metrics
        self._clock, self._again = clock, again
        self._name = export_name(config)
        self._reader = intake.fhir_reader(config.site)
        self._begun: float | None = None
        self._resumed = False

    def run(self, stop: Signal) -> bool:
        """Takes it to the end, or until told to stop; whether it is done.

        Raises:
            PollError: the server does not answer as it should; the next call goes on from here.
            FencedError: another process has the duty by now.
        """
        if self._begun is None:
            self._begun = time.time()
        turn = None if self._duty is None else self._duty.lease.token
        if turn != self._turn:
            # Others may have read on meanwhile: what they have learnt is not known here.
            self._turn, self._resumed = turn, False
        held = self._store.mark(self._name)
        told: dict[str, Any] = {} if held is None else json.loads(held)
        if told.get("state") == "done" and not self._again:
            return True
        self._again = False
        if told.get("state") in (None, "done"):
            told = self._ask(told.get("time"))
        try:
            if told["state"] == "asked":
                found = self._wait(told, stop)
                if found is None:
                    return False
                told = found
            elif not self._resumed:
                # Who is who was in the memory of the process that is gone.
                for file in told["files"]:
                    file["done"] = 0 if file["type"] == "Patient" else file["done"]
            self._resumed = True
            for file in told["files"]:
                if not self._read(told, file, stop):
                    return False
        except _GoneError:
            # The server keeps it no longer: it is asked anew, from the same beginning.
            self._note({"state": "done", "time": told["since"]})
            self._again = True
            raise PollError("the export is gone; it is asked for anew", 1.0) from None
        self._finish(told)
        return True

    # -------------------------------------------------- the conversation

    def _ask(self, since: str | None) -> dict[str, Any]:
        begin = self._clock() - 3600 * self._config.warm_up_hours
        if since is None:
            since = datetime.fromtimestamp(max(begin, 0.0), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = self._client.ask(
            self._client.address(self._config.export),
            params={"_type": ",".join(self._config.resources), "_since": since,
                    "_outputFormat": "application/fhir+ndjson"},
            headers={"Prefer": "respond-async"},
        )  # fmt: skip
        where = answer.headers.get("Content-Location")
        if answer.status_code != 202 or not where:
            raise PollError(f"the export is not begun: {answer.status_code}")
        where = urljoin(self._client.base, where)
        if not self._client.ours(where):
            raise PollError("the export's state is on another server")
        told = {"state": "asked", "status": where, "since": since}
        self._note(told)
        log.info("a bulk export was asked for")
        return told

    def _wait(self, told: dict[str, Any], stop: Signal) -> dict[str, Any] | None:
        pause = 1.0
        while not stop.is_set():
            self._hold()
            answer = self._client.ask(told["status"], accept="application/json")
            if answer.status_code == 200:
                return self._manifest(told, answer.json())
            if answer.status_code in (404, 410):
                raise _GoneError
            if answer.status_code != 202:
                raise PollError(f"the export's state answers {answer.status_code}")
            asked = retry_after(answer.headers)
            pause = min(pause * 1.5, 30.0)
            stop.wait(min(max(pause if asked is None else asked, 0.05), 120.0))
        return None

    def _manifest(self, told: dict[str, Any], manifest: Any) -> dict[str, Any]:
        if not isinstance(manifest, dict) or not isinstance(manifest.get("output"), list):
            raise PollError("the export's manifest cannot be read")
        secret = manifest.get("requiresAccessToken") is True
        files = []
        for kind, entries in (("", manifest["output"]), ("error", manifest.get("error") or [])):
            for entry in entries:
                if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
                    raise PollError("the export's manifest cannot be read")
                url = urljoin(told["status"], entry["url"])
                if not self._client.ours(url) and not allowed_server(
                    url.partition("?")[0], self._config.file_servers
                ):
                    raise PollError("a file of the export is on a server that is not listed")
                files.append({"url": url, "type": kind or str(entry.get("type")), "done": 0})
        # Who, then where, then what: the order in which it is understood.
        files.sort(key=lambda f: _FIRST.index(f["type"]) if f["type"] in _FIRST else len(_FIRST))
        moment = manifest.get("transactionTime")
        if read_instant(moment, UTC) is None:
            moment = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = {**told, "state": "reading", "files": files, "time": moment, "secret": secret}
        self._note(told)
        return told

    def _finish(self, told: dict[str, Any]) -> None:
        moment = read_instant(told["time"], UTC)
        for resource in self._config.resources:
            name = f"poll {self._config.site} {self._client.base}{resource}"
            held = self._store.mark(name)
            if moment is not None and (held is None or float(held) < moment):
                self._store.set_mark(name, repr(moment), self._lease())
        self._note({"state": "done", "time": told["time"]})
        hold(self._store, self._config, 0.0)
        with contextlib.suppress(Exception):
            # A kindness: the server may free its files.
            self._client.ask(told["status"], method="DELETE")
        log.info("a bulk export was taken to its end")

    def _lease(self) -> Lease | None:
        return None if self._duty is None else self._duty.lease

    def _note(self, told: dict[str, Any]) -> None:
        self._store.set_mark(self._name, json.dumps(told), self._lease())

    def _hold(self) -> None:
        assert self._begun is not None
        now = time.time()
        last = self._begun + self._config.hold_seconds
        if now < last:
            hold(self._store, self._config, min(now + _LEASE, last))

    # -------------------------------------------------- files

    def _read(self, told: dict[str, Any], file: dict[str, Any], stop: Signal) -> bool:
        """Reads what is left of a file."""
        number, done = 0, int(file["done"])
        waiting: list[Future[Appended]] = []

        def keep() -> None:
            for future in waiting:
                future.result(60)
            waiting.clear()
            file["done"] = max(number, done)
            self._note(told)
            self._hold()

        options: dict[str, Any] = {"accept": "application/fhir+ndjson", "secret": told["secret"]}
        with self._client.stream(file["url"], **options) as answer:
            if answer.status_code in (404, 410):
                raise _GoneError
            check(answer)
            if answer.status_code != 200:
                raise PollError(f"a file of the export answers {answer.status_code}")
            for line in _lines(answer.iter_bytes()):
                number += 1
                if number <= done or line == b"":
                    continue
                future = self._submit(self._delivery(file, number, line), stop)
                if future is None:
                    break
                waiting.append(future)
                if len(waiting) >= _LINES:
                    keep()
                if stop.is_set():
                    break
        if stop.is_set():
            return False
        keep()
        return True

    def _delivery(self, file: dict[str, Any], number: int, line: bytes | None) -> Delivery:
        """What a line says; one that says nothing is set aside."""
        now, site = self._clock(), self._config.site
        try:
            if line is None:
                raise FhirError("the line is too long")
            resource = json.loads(line)
            if file["type"] == "error":
                return self._aside(file, number, "bulk_error", _code(resource))
            if not isinstance(resource, dict) or resource.get("resourceType") == "Bundle":
                raise FhirError("this is no resource")
            delivery = self._intake.fhir(
                resource, site, now, self._client.base, reader=self._reader
            )
            self._metrics.messages.labels("bulk", "", "stored").inc()
            return delivery
        except (FhirError, ValueError, RecursionError):
            self._metrics.messages.labels("bulk", "", "refused").inc()
            return self._aside(file, number, "bulk_line", file["type"])

    def _aside(self, file: dict[str, Any], number: int, reason: str, code: str) -> Delivery:
        key = digest(reason, self._config.site, file["url"], number)
        note = Quarantined(key, self._config.site, reason, "bulk", code[:40], "")
        source = f"bulk|{self._config.site}|{self._client.base}"
        return Delivery(source, f"{file['type']}/{number}", key, "bulk", self._clock(), [], [note])

    def _submit(self, delivery: Delivery, stop: Signal) -> Future[Appended] | None:
        while not stop.is_set():
            try:
                return self._committer.submit(delivery)
            except BusyError:
                time.sleep(0.05)
        return None


class _GoneError(Exception):
    """The server has forgotten the export."""


def _code(outcome: Any) -> str:
    issues = outcome.get("issue") if isinstance(outcome, dict) else None
    first = issues[0] if isinstance(issues, list) and issues else None
    code = first.get("code") if isinstance(first, dict) else None
    return code if isinstance(code, str) else "unknown"


def _lines(parts: Iterator[bytes]) -> Iterator[bytes | None]:
    """Lines of a stream; None for one that is too long to be held."""
    held = bytearray()
    long = False
    for part in parts:
        held += part
        *whole, rest = held.split(b"\n")
        for line in whole:
            yield None if long or len(line) > _LONGEST_LINE else bytes(line.strip())
            long = False
        held = bytearray(rest)
        if len(held) > _LONGEST_LINE:
            held, long = bytearray(), True
    if held.strip() or long:
        yield None if long else bytes(held.strip())
