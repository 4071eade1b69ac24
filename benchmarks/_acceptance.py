"""What a replay is accepted by: a sender that remembers, an EHR that fails, and the tables."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np

from foretell.data.clinical.stays import Stays
from foretell.serving.deployment import Deployment
from foretell.serving.errors import ServingError
from foretell.serving.replay import MllpClient
from foretell.serving.resources import score_key
from foretell.serving.rough_feed import Sending
from foretell.serving.store import Store

STATUSES = ("ok", "invalid_input", "out_of_distribution", "ambiguous")


class FakeEhr:
    """A FHIR server that creates what it does not know, and for a while fails.

    While it fails it answers 500, or takes a transaction and answers too late. What is created
    under which identifier, in which order, is kept.

    Args:
        fails: seconds after the first request for which it fails.
        late: seconds after which it answers where it answers too late.
    """

    def __init__(self, *, fails: float = 0.0, late: float = 2.0, seed: int = 0) -> None:
        self.created: dict[tuple[str, str], int] = Counter()
        self.repeated = self.failures = self.timeouts = 0
        self.order: dict[str, list[str]] = defaultdict(list)
        self.retracted: set[str] = set()
        self.last_failure = 0.0
        self._fails, self._late = fails, late
        self._begun: float | None = None
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        ehr = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, wait = ehr._take(json.loads(body))
                try:
                    time.sleep(wait)
                    self.send_response(status)
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _take(self, bundle: dict[str, Any]) -> tuple[int, float]:
        with self._lock:
            now = time.monotonic()
            self._begun = now if self._begun is None else self._begun
            wait = 0.0
            if now - self._begun < self._fails:
                self.last_failure = now
                if self._random.random() < 0.6:
                    self.failures += 1
                    return 500, 0.0
                self.timeouts += 1
                wait = self._late
            for entry in bundle["entry"]:
                self._create(entry["resource"], entry["request"])
            return 200, wait

    def _create(self, resource: dict[str, Any], request: dict[str, Any]) -> None:
        kind, name = resource["resourceType"], resource["identifier"][0]["value"]
        if request["method"] == "PUT":
            gone = resource["status"] == "entered-in-error"
            (self.retracted.add if gone else self.retracted.discard)(name)
            return
        if self.created[kind, name]:
            self.repeated += 1
            return
        self.created[kind, name] += 1
        if kind == "RiskAssessment":
            subject = resource["subject"]
            patient = subject.get("reference") or subject["identifier"]["value"]
            self.order[patient].append(name)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class RoughClient(MllpClient):
    """Cuts its frames as networks do: two in a segment, or byte after byte.

    Args:
        draw: random numbers.
        joined: share of messages that go with the next one.
        bytewise: share of messages that go byte after byte.
    """

    def __init__(self, port: int, draw: random.Random, *, joined: float = 0.2,
                 bytewise: float = 0.02, timeout: float = 30.0) -> None:  # fmt: skip
        super().__init__("127.0.0.1", port, window=32, timeout=timeout)
        self._draw, self._joined, self._bytewise = draw, joined, bytewise
        self._kept = b""
        self.segments: Counter[str] = Counter()

    def send(self, content: bytes, name: object = None) -> list[tuple[object, str]]:
        out = []
        while len(self._waiting) >= self._window:
            self._push()
            out.append(self._answer())
        framed = b"\x0b" + content + b"\x1c\r"
        self._waiting.append(name)
        draw = self._draw.random()
        if not self._kept and draw < self._bytewise:
            for byte in framed:
                self._socket.send(bytes((byte,)))
            self.segments["byte after byte"] += 1
        elif not self._kept and draw < self._bytewise + self._joined:
            self._kept = framed
            self.segments["two in a segment"] += 1
        else:
            self._socket.sendall(self._kept + framed)
            self._kept = b""
        return out

    def _push(self) -> None:
        self._socket.sendall(self._kept)
        self._kept = b""

    def flush(self) -> list[tuple[object, str]]:
        self._push()
        return super().flush()


class Sender:
    """Plays a rough feed: what is not acknowledged is sent again, and what is, is remembered.

    Args:
        ports: of the door: ``mllp`` and ``http``.
        token: with the scopes ingest and admin.
        seed: of how frames are cut.
        patience: seconds for which a door that is gone is waited for.
    """

    def __init__(
        self, ports: dict[str, int], token: str, *, seed: int = 0, patience: float = 180.0
    ) -> None:
        self._ports, self._patience = ports, patience
        self._draw = random.Random(seed)
        self._client: RoughClient | None = None
        header = {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{ports['http']}", headers=header, timeout=30
        )
        self._number = 0
        self._waiting: dict[int, Sending] = {}
        self.acknowledged: set[tuple[str, str, str]] = set()
        self.refused: Counter[str] = Counter()
        self.wrong: list[tuple[str, str]] = []
        self.reconnected = 0
        self.segments: Counter[str] = Counter()  # of all connections so far

    def play(
        self, feed: Sequence[Sending], *, every: float = 1800.0,
        meanwhile: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        """Sends a feed and says what time it is.

        Args:
            feed: in order.
            every: seconds of the feed between two ticks.
            meanwhile: told the number of each message before it is sent.
        """
        ticked = feed[0].time
        for number, one in enumerate(feed):
            if meanwhile is not None:
                meanwhile(number)
            while one.time - ticked >= every:
                ticked += every
                self.flush()
                self.tick(ticked)
            self._send(one)
        self.flush()
        self.tick(feed[-1].time + 7200)

    def _send(self, one: Sending) -> None:
        if one.door == "hl7":
            self._number += 1
            self._waiting[self._number] = one
            self._patiently(lambda c: c.send(one.content, self._number))
            return
        answer = self._ask("/fhir", content=one.content, params={"site": one.site})
        self._note(one, "AA" if answer.status_code == 200 else str(answer.status_code))

    def flush(self) -> None:
        """Waits until all that was sent is answered."""
        while self._waiting:
            self._patiently(lambda c: c.flush())

    def tick(self, moment: float) -> None:
        """Says what time it is."""
        self._ask("/v1/clock", json={"time": moment}).raise_for_status()

    def _patiently(self, act: Callable[[RoughClient], Sequence[tuple[object, str]]]) -> None:
        end = time.monotonic() + self._patience
        again = False
        while True:
            try:
                if self._client is None:
                    self._client = RoughClient(self._ports["mllp"], self._draw)
                    self._client.segments = self.segments
                    again = True
                if again:
                    # After a lost connection nobody knows what was taken: all of it again.
                    for number, one in list(self._waiting.items()):
                        self._settle(self._client.send(one.content, number))
                    again = False
                    self._settle(self._client.flush())
                    return
                self._settle(act(self._client))
                return
            except (OSError, ServingError):
                self.reconnected += 1
                self._drop()
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    def _ask(self, path: str, **told: Any) -> httpx.Response:
        end = time.monotonic() + self._patience
        while True:
            try:
                answer = self._http.post(path, **told)
                if answer.status_code not in (429, 503) or time.monotonic() > end:
                    return answer
            except httpx.TransportError:
                self.reconnected += 1
                if time.monotonic() > end:
                    raise
            time.sleep(0.1)

    def _settle(self, answers: Sequence[tuple[object, str]]) -> None:
        for number, code in answers:
            one = self._waiting.pop(int(str(number)), None)
            if one is not None:
                self._note(one, code)

    def _note(self, one: Sending, code: str) -> None:
        if code == "AA":
            self.acknowledged.add((one.door, one.site, one.name))
        else:
            self.refused[code] += 1
        if (code == "AA") != one.good:
            self.wrong.append((one.name, code))

    def close(self) -> None:
        """Ends its connections."""
        self._drop()
        self._http.close()


def settled(store: Store, patience: float = 600.0) -> None:
    """Waits until all events are folded."""
    end = time.monotonic() + patience
    while store.counts()["lag"] > 0:
        if time.monotonic() > end:
            raise TimeoutError("events are not folded")
        time.sleep(0.05)


def standing(store: Store) -> tuple[set[tuple[str, str, int, str]], list[str], int]:
    """(site, patient, hour, tier) of alarms that stand, keys of all, number of corrections."""
    held: dict[str, tuple[str, str, int, str]] = {}
    gone: set[str] = set()
    keys: list[str] = []
    corrections = after = 0
    while notes := store.notes(after, 1000):
        after = notes[-1].id
        for note in notes:
            if note.kind == "alarm":
                keys.append(note.key)
                held[note.key] = (note.site, note.patient, note.body["hour"], note.body["tier"])
            elif note.kind == "correction":
                corrections += 1
                change = note.body["change"]
                (gone.add if change == "retracted" else gone.discard)(note.body["alarm"])
    return {v for k, v in held.items() if k not in gone}, keys, corrections


def compared(store: Store, deployment: Deployment, stays: Stays, site: str) -> dict[str, Any]:
    """What the service said against what the deployment says of the tables."""
    told = deployment.judge(stays)
    sites = stays.names(site) if site in stays.categories else [site] * len(stays)
    names = [tier.name for tier in deployment.policy.tiers]
    expected: set[tuple[str, str, int, str]] = set()
    most = 0.0
    hours = issued = 0
    differ: list[str] = []
    for i in range(len(stays)):
        rows = slice(stays.offsets[i], stays.offsets[i + 1])
        where, patient = str(sites[i]), str(stays.patients[i])
        length = int(stays.lengths[i])
        course = {s.hour: s for s in store.scores(where, patient)}
        statuses = [STATUSES[k] for k in told.gated.status[rows]]
        scores = told.gated.score[rows]
        for hour in range(1, length + 1):
            hours += 1
            mine = course.get(hour)
            want = float(scores[hour - 1])
            if mine is None:
                differ.append(f"{patient} hour {hour}: no score")
                continue
            got = np.nan if mine.risk is None else float(mine.risk)
            if mine.status != statuses[hour - 1] or (got == got) != (want == want):
                differ.append(f"{patient} hour {hour}: {mine.status} {got} for "
                              f"{statuses[hour - 1]} {want}")  # fmt: skip
            elif want == want:
                issued += 1
                most = max(most, abs(got - want))
                if abs(got - want) > 1e-6:
                    differ.append(f"{patient} hour {hour} of {length}: {got} for {want}")
        extra = [h for h in course if h > length]
        if extra:
            differ.append(f"{patient}: hours {extra[:3]} of {length}")
        for row in np.flatnonzero(told.alarms.raised[rows]):
            tier = names[told.alarms.tier[rows][row]]
            expected.add((where, patient, int(row) + 1, tier))
    found, keys, corrections = standing(store)
    return {
        "stays": len(stays), "stay_hours": hours, "scores_issued": issued,
        "most_difference": most, "hours_that_differ": len(differ), "first": differ[:5],
        "alarms_of_the_tables": len(expected), "alarms_that_stand": len(found),
        "alarms_missing": len(expected - found), "alarms_too_many": len(found - expected),
        "alarms_raised": len(keys), "alarms_doubled": len(keys) - len(set(keys)),
        "corrections_of_alarms": corrections,
        "alarm_keys": keys,
    }  # fmt: skip


def told_in_order(store: Store) -> dict[str, list[str]]:
    """patient -> identifiers of the assessments of alarms, as the outbox has them."""
    out: dict[str, list[str]] = defaultdict(list)
    after = 0
    while notes := store.notes(after, 1000):
        after = notes[-1].id
        for note in notes:
            if note.kind == "alarm":
                key = score_key(note.site, note.patient, note.body["stay"], note.body["hour"])
                # Alarms of several tiers of one hour share its assessment.
                if key not in out[f"Patient/{note.patient}"]:
                    out[f"Patient/{note.patient}"].append(key)
    return out


def logged(store: Store) -> set[tuple[str, str, str]]:
    """(door, site, name) of all messages in the log."""
    out = set()
    for source, control in store._run("SELECT source, control FROM message"):
        parts = str(source).split("|")
        out.add((parts[0], parts[2] if parts[0] == "hl7" else parts[1], str(control)))
    return out
