"""The service: all parts of one process, started and stopped in order.

Roles can be spread over processes that share a store: doors (``ingest``, with the HTTP face),
``worker``, ``dispatcher``. Each may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foretell.data.clinical.feed import Measurement
from foretell.decisions.alarms import AlarmPolicy
from foretell.errors import ParameterError
from foretell.serving.api.auth import Caller, Tokens
from foretell.serving.api.stores import StorePool
from foretell.serving.cds import CdsTrust
from foretell.serving.client_tls import client_tls
from foretell.serving.config import Config, PollConfig
from foretell.serving.drift import DriftWatch
from foretell.serving.errors import StoreUnavailableError
from foretell.serving.events import Delivery, digest, events_of
from foretell.serving.ingest.bulk import export_due, hold
from foretell.serving.ingest.committer import Committer
from foretell.serving.ingest.duty import Duty
from foretell.serving.ingest.intake import Intake
from foretell.serving.ingest.mllp import MllpServer, server_tls
from foretell.serving.ingest.poller import FhirPoller
from foretell.serving.metrics import Metrics
from foretell.serving.outbox import Dispatcher, Sink, make_sink
from foretell.serving.privacy import Pseudonyms
from foretell.serving.records import keep_anchoring
from foretell.serving.rollout import announce, check_pins, configured
from foretell.serving.sites import Panels, panels_of, rules_of, sites_of
from foretell.serving.store import Store, open_store
from foretell.serving.subscriptions import FanOut, SubscriptionSink
from foretell.serving.worker import Fold, Ladder, RuleScorer, Scorer, Worker
from foretell.serving.worker.lineup import Lineup
from foretell.serving.worker.overload import Overload
from foretell.serving.worker.ticks import Ticker, warming

if TYPE_CHECKING:
    from foretell.serving.deployment import Deployment

log = logging.getLogger("foretell.serving")
ROLES = ("ingest", "worker", "dispatcher")
_HEARTBEAT_LATE = 6.0


def check_roles(roles: Sequence[str]) -> None:
    """Refuses what is no part of the service.

    Raises:
        ParameterError: a role is not known, or there is none.
    """
    unknown = set(roles) - set(ROLES)
    if unknown or not roles:
        raise ParameterError(f"roles are some of {ROLES}, not {sorted(unknown)}")


def check_tls(config: Config, roles: Sequence[str]) -> None:
    """Reads the files of TLS of doors and polls before anything runs; sinks read theirs at once.

    Raises:
        ParameterError: files cannot be used, or a key is encrypted.
    """
    taking = "ingest" in roles
    for what, door in (("mllp", config.mllp if taking else None), ("http", config.http)):
        if door is not None and door.tls is not None:
            server_tls(door.tls, what)
    for poll in config.polls if taking else ():
        if poll.tls is not None:
            client_tls(poll.tls, f"the poll of {poll.site!r}")


def make_fold(
    config: Config, scorers: Sequence[Scorer] = (), policy: AlarmPolicy | None = None,
    deployments: Sequence[Deployment] = (), candidate: Deployment | None = None,
    panels: tuple[Panels, Mapping[str, Panels]] | None = None,
) -> Fold:  # fmt: skip
    """The fold of a configuration: models first, then its rules.

    Args:
        config: of the service.
        scorers: of models.
        policy: of alarms; by default that of the first deployment, else of the configuration.
        deployments: a trained model and the versions before it, in the order of preference.
        candidate: a model on trial: it speaks where a lineup of the log says so.
        panels: tables of what can be ordered, at all sites and at those that have their own; by
            default those of the configuration.

    Raises:
        ParameterError: a file of panels, a site's costs or its thresholds are not right; says what
            is wrong.
    """
    common, own = panels_of(config) if panels is None else panels
    trained = [*deployments, *([] if candidate is None else [candidate])]
    if trained:
        from foretell.serving.worker.deployed import DeploymentScorer

        scorers = [
            *(DeploymentScorer(d, panels=common, site_panels=own) for d in trained), *scorers
        ]  # fmt: skip
    names = dict.fromkeys((config.model.rule, *config.model.fallbacks))
    schema = scorers[0].builder.schema if scorers else None
    rules = [RuleScorer(name, schema=schema) for name in names]
    told = rules_of(config, rules, policy, deployments, candidate)
    sites = {
        name: rules_of(config, rules, policy, deployments, candidate, name)
        for name in sites_of(config, policy, trained)
    }
    wanted = {kind for sink in config.sinks for kind in sink.kinds}
    return Fold(
        Ladder([*scorers, *rules]),
        told.policy,
        told.policies,
        watermark=config.service.watermark_hours,
        idle=config.service.idle_hours,
        quiet=told.quiet,
        sites=sites,
        pins=config.pins,
        scores_out="score" in wanted or bool(config.subscriptions.endpoints),
    )


_WAY_OUT = (
    "Take the pin out of the configuration, start, decide otherwise (PUT /v1/model), and pin again"
)


def _patiently(config: Config, seconds: float = 30.0) -> Store:
    """The store of a configuration; one that is just being started is waited for."""
    end = time.monotonic() + seconds
    while True:
        try:
            return open_store(config.service.store, partitions=config.service.partitions)
        except StoreUnavailableError:
            if time.monotonic() > end:
                raise
            log.warning("the store does not answer yet")
            time.sleep(0.5)


class Service:
    """One process of the service.

    Args:
        config: what it is told.
        roles: which parts run in this process.
        folds: makes the fold of a worker; that of the configuration by default.
        sinks: receivers beside those of the configuration.
        warm_up: whether bulk exports are taken anew, of what is newer than the last ones.
        deployments: models, the preferred first; rules alone where there are none.
        candidate: a model on trial; what it may do is told by the configuration.

    Attributes:
        ports: door -> port, once it listens.
    """

    def __init__(
        self,
        config: Config,
        *,
        roles: Sequence[str] = ROLES,
        folds: Callable[[], Fold] | None = None,
        sinks: Sequence[Sink] = (),
        deployments: Sequence[Deployment] = (),
        warm_up: bool = False,
        candidate: Deployment | None = None,
    ) -> None:
        check_roles(roles)
        self.config, self.roles = config, tuple(roles)
        if candidate is not None and not deployments:
            raise ParameterError("a candidate stands beside a run: name the one that speaks")
        # Read once: folds that are made later must not see what was changed meanwhile.
        panels = panels_of(config)
        self._folds = folds or (
            lambda: make_fold(config, deployments=deployments, candidate=candidate, panels=panels)
        )
        self._candidate = None if candidate is None else candidate.version
        trained = [*deployments, *([] if candidate is None else [candidate])]
        self.calibrations = {d.version: d.gate.calibration for d in trained}
        self._monitors = {d.version: d.monitor for d in trained if d.monitor is not None}
        self._scratch = threading.local()
        # For what a face has to know: tiers, channels, versions.
        self.reference: Fold = self._folds()
        pinned = config.model.version
        if pinned is not None and pinned != self.reference.ladder.version:
            raise ParameterError(
                f"model.version pins {pinned}, but {self.reference.ladder.version} is loaded"
            )
        check_pins(configured(self.versions, self._candidate, config.rollout), config.pins)
        self._fold: Fold | None = self._folds() if "worker" in self.roles else None
        self.store: Store = _patiently(config)
        self.stores = StorePool(self.store)
        self.metrics = Metrics(
            {name: site.units for name, site in config.sites.items()},
            drift_seconds=60 * config.drift.every_minutes if self._monitors else 0.0,
        )
        key = config.service.pseudonym_key
        self.pseudonyms = Pseudonyms() if key is None else Pseudonyms.from_file(key)
        http = config.http
        rate = http.requests_per_minute if http is not None else 60_000
        self.tokens = Tokens(config.tokens, per_minute=rate)
        repair = deployments[0].repair if deployments else None
        self.intake = Intake(config, repair=repair)
        self.cds = CdsTrust(config.cds.clients, use=self._use_token)
        self._warm_up = warm_up
        self._sinks = [make_sink(s, config.patient_systems) for s in config.sinks]
        self._sinks += sinks
        self.stopping = threading.Event()
        self._workers_stop = threading.Event()
        self._bell = threading.Event()
        self._threads: list[threading.Thread] = []
        self.ports: dict[str, int] = {}
        self.committer = Committer(
            self.store, most=config.service.queue, group=config.service.group, done=self.wake
        )

    def _use_token(self, issuer: str, token: str, expires: float) -> bool:
        with self.stores.use() as store:
            return store.use_token(issuer, token, expires)

    def wake(self) -> None:
        """Tells the worker of this process that there is something new."""
        self._bell.set()
        self.metrics.waiting.set(len(self.committer))

    def make_fold(self) -> Fold:
        """A fold of the calling thread, for patients that are not followed."""
        fold: Fold | None = getattr(self._scratch, "fold", None)
        if fold is None:
            fold = self._scratch.fold = self._folds()
        return fold

    @property
    def policy(self) -> AlarmPolicy:
        """The policy of alarms, where a site has none of its own."""
        return self.reference.policy

    def policy_at(self, site: str, version: str) -> AlarmPolicy:
        """The policy of alarms at a site, for the scores of a model or of a bedside rule."""
        return self.reference.rules(site).of(version)

    def audit(
        self, store: Store, caller: Caller, action: str, subject: str, *, purpose: str = "",
        detail: str = "",
    ) -> None:  # fmt: skip
        """Writes to the audit record; subjects are pseudonyms."""
        store.audit(
            {
                "time": time.time(), "actor": caller.name, "action": action, "subject": subject,
                "purpose": purpose, "outcome": "ok", "detail": detail,
            }
        )  # fmt: skip

    @property
    def versions(self) -> list[str]:
        """Of the models and rules at hand."""
        return self.reference.ladder.versions

    def announce(self) -> None:
        """Tells the log who speaks by the configuration, if it has not heard of that."""
        for version, calibration in self.calibrations.items():
            log.info("the gate of %s has %s", version, calibration.words)
        line = configured(self.versions, self._candidate, self.config.rollout)
        with self.stores.use() as store:
            if announce(store, line, self.versions, self.config.pins):
                log.warning("%s speaks from now on", line.primary)
            held = store.lineup(0)
            if held is not None:
                # What was decided while it ran must hold under pins that came later.
                try:
                    check_pins(Lineup.from_json(held["lineup"]), self.config.pins)
                except ParameterError as error:
                    raise ParameterError(
                        f"{error}, as was decided while it ran. {_WAY_OUT}"
                    ) from None

    def problems(self) -> list[str]:
        """Why the service is not ready; empty where it is."""
        out = []
        if self.stopping.is_set():
            out.append("stopping")
        try:
            with self.stores.use(2.0) as store:
                counts, warm = store.counts(), warming(store)
        except StoreUnavailableError:
            return [*out, "the store is not available"]
        late = max(_HEARTBEAT_LATE, 3 * self.config.service.tick_seconds)
        if counts["heartbeat_age"] > late:
            out.append("the clock does not tick")
        if warm:
            out.append("a warm-up is under way")
        if counts["owned"] < self.store.partitions:
            out.append("partitions have no worker")
        if counts["lag"] > 300:
            out.append("events wait for more than five minutes")
        return out

    def requeue(self, store: Store, system: str, code: str, sites: Collection[str] = ()) -> int:
        """Reads again what was set aside for a code that is known by now, of some sites or all."""
        records = []
        for body in store.take_quarantined(system, code, sites):
            told = dict(body)
            told["codes"] = tuple(tuple(c) for c in told["codes"])
            told["value"] = float("nan") if told["value"] is None else told["value"]
            records.append(Measurement(**told))
        count = 0
        for record in records:
            _, normaliser = self.intake.of_site(record.site)
            events, aside = events_of([record], normaliser)
            if aside or not events:
                continue
            name = digest("requeue", *(key for e in events for key, _ in e.items)).hex()
            store.append([Delivery("requeue", name, bytes(16), "requeue", time.time(), events, [])])
            count += 1
        if records and count == len(records):
            store.drop_quarantined(system, code, sites)
        return count

    # -------------------------------------------------- running

    def _start(self, name: str, target: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                target()
            except BaseException as error:
                # A part that is gone must take the process with it: whoever watches starts it anew.
                log.critical("%s ended: %s", name, type(error).__name__)
                self.stopping.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def start_parts(self) -> None:
        """Starts worker, clock, dispatcher and pollers in threads."""
        settings = self.config.service
        if "ingest" in self.roles:
            for poll in self.config.polls:
                if export_due(self.store, poll, again=self._warm_up):
                    # Before the clock runs: no hour is closed that is not known yet.
                    hold(self.store, poll, time.time() + min(60.0, poll.hold_seconds))
        if "worker" in self.roles:
            self.announce()
            fold = self._fold or self._folds()
            self._fold = None
            # Before the doors open: who comes first must not wait for what is compiled once.
            fold.warm()

            def work() -> None:
                overload = Overload(
                    settings.overload_lag_seconds, patience=settings.overload_patience_seconds,
                    urgent=lambda site, model, unit: fold.rules(site).lowest(model, unit),
                )  # fmt: skip
                Worker(
                    self.store.another(), fold, ttl=settings.lease_seconds, watcher=self.metrics,
                    overload=overload,
                ).run(self._workers_stop, wake=self._bell)  # fmt: skip

            clock = time.time if settings.clock == "wall" else None
            every = settings.tick_seconds
            self._start("worker", work)
            self._start(
                "clock",
                lambda: Ticker(self.store.another(), clock=clock, every=every).run(
                    self.stopping, self._bell
                ),
            )
            anchors = self.config.retention.anchors
            self._start(
                "anchors", lambda: keep_anchoring(self.store.another(), self.stopping, anchors)
            )
            if self._monitors and self.config.drift.every_minutes > 0:
                self._watch_drift()
        if "dispatcher" in self.roles:
            self._start(
                "dispatcher",
                lambda: Dispatcher(
                    self.store.another(), self._sinks, ttl=settings.lease_seconds + 2,
                    metrics=self.metrics,
                ).run(self._workers_stop),
            )  # fmt: skip
            # Those that were made before the endpoints went from the configuration are ended, too.
            if self.config.subscriptions.endpoints or self.store.subscriptions():
                self._start("notifier", self._notify)
        if "ingest" in self.roles:
            for i, poll in enumerate(self.config.polls):
                self._poll(i, poll)

    def _watch_drift(self) -> None:
        # One process looks, for all workers and doors.
        duty = Duty(self.store.another(), "drift", ttl=self.config.service.lease_seconds + 2)
        duty.keep()
        self._start("drift-duty", lambda: duty.run(self.stopping))

        def work() -> None:
            DriftWatch(
                self.store.another(), self._monitors, self.reference.ladder.schema,
                self.config.drift, watermark=self.config.service.watermark_hours, duty=duty,
                rules=self.reference.rules,
            ).run(self.stopping)  # fmt: skip

        self._start("drift", work)

    def _notify(self) -> None:
        told, systems = self.config.subscriptions, self.config.patient_systems
        Dispatcher(
            self.store.another(), [SubscriptionSink(told, self.store.another, systems)],
            ttl=self.config.service.lease_seconds + 2, metrics=self.metrics,
            feeder=FanOut(told, self.tokens.named, systems), notifications=True,
        ).run(self._workers_stop)  # fmt: skip

    def _poll(self, number: int, poll: PollConfig) -> None:
        # One process asks a server, for all doors that are told to.
        name = f"poll {poll.site} {poll.url.rstrip('/')}/ {','.join(poll.resources)}"
        duty = Duty(self.store.another(), name, ttl=self.config.service.lease_seconds + 2)
        duty.keep()
        self._start(f"duty-{number}", lambda: duty.run(self.stopping))

        def work() -> None:
            FhirPoller(
                poll, self.intake, self.committer, self.store.another(), self.metrics,
                warm_up=self._warm_up, duty=duty,
            ).run(self.stopping)  # fmt: skip

        self._start(f"poller-{number}", work)

    async def run(self, ready: Callable[[dict[str, int]], None] | None = None) -> None:
        """Serves until :attr:`stopping` is set or a signal comes; then drains and leaves."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self.stopping.set)
        check_tls(self.config, self.roles)
        self.start_parts()
        mllp: MllpServer | None = None
        http: Any = None
        serving: asyncio.Task | None = None
        if "ingest" in self.roles and self.config.mllp is not None:
            mllp = MllpServer(self.config.mllp, self.intake, self.committer, self.metrics)
            self.ports["mllp"] = await mllp.start()
        if self.config.http is not None:
            http, serving = await self._http()
        if ready is not None:
            ready(self.ports)
        while not self.stopping.is_set() and not (serving and serving.done()):
            await asyncio.sleep(0.05)
        await self._stop(mllp, http, serving)

    async def _http(self) -> tuple[Any, asyncio.Task]:
        import uvicorn

        from foretell.serving.api.app import build_app

        settings = self.config.http
        assert settings is not None
        tls = settings.tls
        options: dict[str, Any] = {}
        if tls is not None:
            options = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
            if tls.client_ca is not None:
                options |= {"ssl_ca_certs": tls.client_ca, "ssl_cert_reqs": 2}

        class Quiet(uvicorn.Server):
            def capture_signals(self) -> Any:
                # Signals are the service's: doors close in order.
                return contextlib.nullcontext()

        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        try:
            door = socket.create_server((settings.host, settings.port), family=family)
        except OSError as error:
            raise ParameterError(f"the HTTP port cannot be opened: {error.strerror}") from None
        server = Quiet(
            uvicorn.Config(
                build_app(self), log_config=None, log_level="warning",
                # Addresses of requests name patients.
                access_log=False, lifespan="off", server_header=False,
                timeout_graceful_shutdown=5, **options,
            )
        )  # fmt: skip
        task = asyncio.create_task(server.serve([door]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if task.done():
            task.result()
        self.ports["http"] = int(door.getsockname()[1])
        return server, task

    async def _stop(self, mllp: MllpServer | None, http: Any, serving: asyncio.Task | None) -> None:
        """Stops accepting, drains, gives leases back."""
        self.stopping.set()
        patience = self.config.service.drain_seconds
        if mllp is not None:
            await mllp.stop(min(patience, 10.0))
        if http is not None and serving is not None:
            http.should_exit = True
            await asyncio.wait({serving}, timeout=10)
        await asyncio.to_thread(self.committer.close)
        if "worker" in self.roles:
            end = time.monotonic() + patience
            while time.monotonic() < end and await asyncio.to_thread(self._lagging):
                self.wake()
                await asyncio.sleep(0.05)
        self._workers_stop.set()
        self._bell.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 10)
        self.stores.close()
        self.store.close()

    def _lagging(self) -> bool:
        try:
            with self.stores.use(1.0) as store:
                return store.counts()["lag"] > 0
        except StoreUnavailableError:
            return False
