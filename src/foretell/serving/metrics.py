"""Counts and times for Prometheus; no label ever names a patient."""

from __future__ import annotations

import threading
import time
from collections import Counter as Counts
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foretell.serving.events import partition_of
from foretell.serving.store.base import Effects, Store
from foretell.serving.worker.availability import OFF, SPARE

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from foretell.serving.ingest.watch import ClockSkews, Silences

_TIMES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1, 2.5, 5, 15, 60,
          300)  # fmt: skip
_SHARES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
_QUIET = ("acknowledged", "snoozed", "suppressed")
_OFTEN = 30.0
# Sites and units that are not configured: what a feed calls them is no label.
_OTHER = "other"
# Channels of a site whose index is told.
_WORST = 5
# Seconds by which a sender's clock may be ahead.
_AHEAD = 300.0


class Metrics:
    """All metrics of one process, in a registry of their own.

    Args:
        units: site -> names of units that are told apart; any text may stand in a feed's, so that
            others are ``"other"``.
        drift_seconds: how often sites should be compared with what is usual; 0 where nobody does,
            and nothing is told of it.
        begun: when the service was started; now by default.
    """

    def __init__(
        self,
        units: Mapping[str, Collection[str]] | None = None,
        *,
        drift_seconds: float = 0.0,
        begun: float | None = None,
    ) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry: CollectorRegistry = CollectorRegistry()
        self.page = threading.Lock()
        """Held from the first gauge that is set to the text: what is cleared is not seen."""
        kept: dict[str, Any] = {"registry": self.registry}
        self.messages = Counter(
            "foretell_messages_total", "Messages by door, type and outcome",
            ("door", "type", "outcome"), **kept,
        )  # fmt: skip
        self.items = Counter(
            "foretell_items_total", "Results and visits by outcome", ("outcome",), **kept
        )
        self.scored = Counter(
            "foretell_scores_total", "Scores of closed hours by status", ("status",), **kept
        )
        self.notes = Counter(
            "foretell_notes_total", "Alarms, corrections and the like", ("kind",), **kept
        )
        self.sent = Counter(
            "foretell_deliveries_total", "Deliveries by sink and outcome", ("sink", "outcome"),
            **kept,
        )  # fmt: skip
        self.commit = Histogram(
            "foretell_commit_seconds", "From receipt to commit", buckets=_TIMES, **kept
        )
        self.score = Histogram(
            "foretell_ingest_to_score_seconds", "From receipt to score", buckets=_TIMES, **kept
        )
        self.missed = Counter(
            "foretell_notifications_missed_total", "Events of subscriptions that went missing",
            ("site",), **kept,
        )  # fmt: skip
        self.silences = Counter(
            "foretell_subscription_silences_total", "Times that a server's heartbeats ceased",
            ("site",), **kept,
        )  # fmt: skip
        self.requests = Counter(
            "foretell_http_requests_total", "Requests by route and status", ("route", "status"),
            **kept,
        )  # fmt: skip
        self.waiting = Gauge("foretell_ingest_queue", "Messages that wait for a commit", **kept)
        self.connections = Gauge("foretell_mllp_connections", "Open MLLP connections", **kept)
        self.model = Gauge(
            "foretell_model_info", "1 for each model and what it does", ("version", "role"), **kept
        )
        self.failures = Counter(
            "foretell_scorer_failures_total", "Failures that were kept in the journal",
            ("version",), **kept,
        )  # fmt: skip
        self.recomputed = Counter(
            "foretell_recompute_failures_total",
            "Times that closed hours of a patient could not be computed anew", **kept,
        )  # fmt: skip
        self.doubts = Counter(
            "foretell_doubts_total", "What feeds said that cannot count as it stands", ("doubt",),
            **kept,
        )  # fmt: skip
        self.compared = Histogram(
            "foretell_shadow_difference", "Absolute difference of a compared risk to what was said",
            ("version",), buckets=_SHARES, **kept,
        )  # fmt: skip
        self.compared_alarms = Counter(
            "foretell_shadow_alarms_total", "Hours with an alarm of the compared model, the one "
            "that speaks, or both", ("version", "of"), **kept,
        )  # fmt: skip
        self.glass = Counter(
            "foretell_break_glass_total", "Times that somebody broke the glass", **kept
        )
        self.overdue = Gauge(
            "foretell_site_overdue_seconds", "Since an hour of a stay should have been scored",
            ("site",), **kept,
        )  # fmt: skip
        self.skews = Gauge(
            "foretell_clock_skew_seconds",
            "By how much the clock of a site's senders is ahead of ours that is furthest from it",
            ("site", "door"), **kept,
        )  # fmt: skip
        self.silence = Gauge(
            "foretell_channel_silence_seconds", "Since a channel of a site was heard of last",
            ("site", "channel"), **kept,
        )  # fmt: skip
        self.silence_limit = Gauge(
            "foretell_channel_silence_limit_seconds", "Silence of a channel that is too long",
            ("site", "channel"), **kept,
        )  # fmt: skip
        self.unit_scores = Counter(
            "foretell_unit_scores_total", "Scores of closed hours by unit and status",
            ("site", "unit", "status"), **kept,
        )  # fmt: skip
        self.unit_alarms = Counter(
            "foretell_unit_alarms_total",
            "Alarms by unit and tier",
            ("site", "unit", "tier"),
            **kept,
        )
        self.quiet = Gauge(
            "foretell_stays_quiet", "Open stays whose alarms are silent for now, by unit and why",
            ("site", "unit", "why"), **kept,
        )  # fmt: skip
        self.stays = Gauge("foretell_stays", "Open stays of a site", ("site",), **kept)
        self.owed = Gauge(
            "foretell_recompute_owed",
            "Patients of a site whose closed hours are still to be computed anew", ("site",),
            **kept,
        )  # fmt: skip
        self.watermark = Gauge(
            "foretell_watermark_lag_seconds",
            "How far what was folded last of a site's open stays is behind the clock",
            ("site",), **kept,
        )  # fmt: skip
        self.behind = Gauge(
            "foretell_watermark_behind_tick_seconds",
            "How far it is behind the end of the site's last closed hour", ("site",), **kept,
        )  # fmt: skip
        # Nobody renews what was found where nobody looks: it is not told there at all.
        drift: dict[str, Any] = kept if drift_seconds > 0 else {"registry": None}
        self.drift_age = Gauge(
            "foretell_drift_age_seconds", "Since sites were compared with what is usual", **drift
        )
        self.drift_age_ratio = Gauge(
            "foretell_drift_age_ratio", "The same as a share of how often it should be", **drift
        )
        self.drift_failed = Gauge(
            "foretell_drift_failed", "1 where comparing a site failed the last time", ("site",),
            **drift,
        )  # fmt: skip
        self.drift_blocks = Gauge(
            "foretell_drift_blocks", "Blocks of hours of a site that were compared", ("site",),
            **drift,
        )  # fmt: skip
        self.drift_channels = Gauge(
            "foretell_drift_channels", "Channels of a site that are not as usual", ("site",),
            **drift,
        )  # fmt: skip
        self.drift_index = Gauge(
            "foretell_drift_stability_index",
            "Population stability index of the channels of a site that moved most",
            ("site", "channel"), **drift,
        )  # fmt: skip
        self.drift_scores = Gauge(
            "foretell_drift_scores", "1 where the scores of a site are not as usual", ("site",),
            **drift,
        )  # fmt: skip
        self.drift_score_index = Gauge(
            "foretell_drift_score_stability_index", "Population stability index of a site's scores",
            ("site",), **drift,
        )  # fmt: skip
        self.expected = Gauge(
            "foretell_expected_performance", "What would be measured if scores mean what they say",
            ("site", "of"), **drift,
        )  # fmt: skip
        self.expected_usual = Gauge(
            "foretell_expected_performance_usual", "The same where the model was validated",
            ("site", "of"), **drift,
        )  # fmt: skip
        self.partition_watermark = Gauge(
            "foretell_partition_watermark_lag_seconds",
            "How far what was folded last of a partition's open stays is behind the clock",
            ("partition",), **kept,
        )  # fmt: skip
        self._drift_seconds = drift_seconds
        self._begun = time.time() if begun is None else begun
        self._units = {site: frozenset(names) for site, names in (units or {}).items()}
        self._counted = -_OFTEN
        told = {
            "events": "Events in the log",
            "quarantined": "Parts of messages set aside", "owned": "Partitions with an owner",
            "partitions": "Partitions there are", "workers": "Workers alive",
            "dead": "Dead letters", "outbox": "Outbox rows waiting",
            "outbox_age": "Age of the oldest outbox row in seconds",
            "lag": "Age of the oldest event that is not folded in seconds",
            "heartbeat_age": "Seconds since the clock of the service last beat",
            "overloaded": "Partitions that are behind, so that recomputation waits",
        }  # fmt: skip
        self._sizes = {n: Gauge(f"foretell_{n}", text, **kept) for n, text in told.items()}

    def folded(self, effects: Effects, waited: list[float]) -> None:
        """See :class:`foretell.serving.worker.worker.Watcher`."""
        for seconds in waited:
            self.score.observe(max(seconds, 0.0))
        at = {(s.site, s.patient): s.view.get("unit") for s in effects.states if s.view}
        for score in effects.scores:
            self.scored.labels(score.status).inc()
            unit = self._unit(score.site, at.get((score.site, score.patient)))
            self.unit_scores.labels(score.site, unit, score.status).inc()
        for row in effects.outbox:
            self.notes.labels(row.kind).inc()
            if row.kind == "alarm":
                unit = self._unit(row.site, row.body.get("unit"))
                self.unit_alarms.labels(row.site, unit, str(row.body["tier"])).inc()
        for failed in effects.journal:
            if failed.kind == OFF:
                self.failures.labels(failed.version).inc()
            elif failed.kind == SPARE:
                self.recomputed.inc()
        for name, count in effects.doubts.items():
            self.doubts.labels(name).inc(count)
        for beside in effects.shadows:
            if beside.risk is not None and beside.said is not None:
                self.compared.labels(beside.version).observe(abs(beside.risk - beside.said))
            if beside.alarm is not None or beside.raised is not None:
                both = beside.alarm is not None and beside.raised is not None
                of = "both" if both else "compared" if beside.alarm is not None else "spoken"
                self.compared_alarms.labels(beside.version, of).inc()

    def _site(self, name: str) -> str:
        return name if name in self._units else _OTHER

    def _unit(self, site: str, name: str | None) -> str:
        if not name:
            return "unknown"
        return name if name in self._units.get(site, ()) else _OTHER

    def _by_site(self, store: Store) -> None:
        stays: Counts[str] = Counts()
        owed: Counts[str] = Counts()
        for site, (here, owing) in store.stays_by_site().items():
            stays[self._site(site)] += here
            owed[self._site(site)] += owing
        # A site without stays is told, too: none is a number.
        for label in (*self._units, _OTHER):
            self.stays.labels(label).set(stays[label])
            self.owed.labels(label).set(owed[label])

    def standing(self, store: Store, now: float | None = None) -> None:
        """Counts stays whose alarms are silent, and says how old news are.

        All open stays are looked at.

        Args:
            store: of this thread.
            now: what time it is; None where time comes from outside.
        """
        found: Counts[tuple[str, str, str]] = Counts()
        views = store.views()
        self._watermarks(views, store.partitions, now)
        for view in views:
            if view["policy"] in _QUIET:
                site = str(view["site"])
                found[site, self._unit(site, view["unit"]), str(view["policy"])] += 1
        self.quiet.clear()
        for labels, count in found.items():
            self.quiet.labels(*labels).set(count)

    def _watermarks(
        self, views: Sequence[Mapping[str, Any]], partitions: int, now: float | None
    ) -> None:
        newest: dict[str, float] = {}
        of_part: dict[int, float] = {}
        ticked: dict[str, float] = {}
        for view in views:
            site, heard = str(view["site"]), float(view["updated"])
            closed = float(view["begin"]) + 3600.0 * (int(view["hour"]) - 1)
            ticked[site] = max(ticked.get(site, closed), closed)
            if now is not None and heard > now + _AHEAD:
                # A clock that is ahead must not hide that nothing comes.
                continue
            part = partition_of(site, str(view["patient"]), partitions)
            newest[site] = max(newest.get(site, heard), heard)
            of_part[part] = max(of_part.get(part, heard), heard)
        for gauge in (self.watermark, self.behind, self.partition_watermark):
            gauge.clear()
        for site, heard in newest.items():
            self.behind.labels(site).set(max(ticked[site] - heard, 0.0))
            if now is not None:
                self.watermark.labels(site).set(max(now - heard, 0.0))
        if now is not None:
            for part, heard in of_part.items():
                self.partition_watermark.labels(str(part)).set(max(now - heard, 0.0))

    def drift(self, told: Mapping[str, Any] | None, now: float) -> None:
        """Says what was found when sites were compared with what is usual.

        Args:
            told: of :class:`foretell.serving.drift.DriftWatch`; None where nobody has looked:
                the age counts from the start of the service then.
            now: what time it is.
        """
        if self._drift_seconds <= 0:
            return
        gauges = (self.drift_blocks, self.drift_channels, self.drift_index, self.drift_scores,
                  self.drift_score_index, self.drift_failed, self.expected,
                  self.expected_usual)  # fmt: skip
        for gauge in gauges:
            gauge.clear()
        age = max(now - (self._begun if told is None else float(told["time"])), 0.0)
        self.drift_age.set(age)
        self.drift_age_ratio.set(age / self._drift_seconds)
        if told is None:
            return
        for site, found in told["sites"].items():
            self.drift_failed.labels(site).set(float(found.get("failed", False)))
            self.drift_blocks.labels(site).set(found["blocks"])
            self.drift_channels.labels(site).set(len(found["channels_named"]))
            self.drift_scores.labels(site).set(float(found["scores_moved"]))
            # Of few patients an index says nothing.
            moved = [r for r in found["channels"] if r["distance"] is not None]
            moved.sort(key=lambda r: -r["stability_index"])
            for row in moved[:_WORST]:
                self.drift_index.labels(site, row["channel"]).set(row["stability_index"])
            if found.get("scores"):
                self.drift_score_index.labels(site).set(found["scores"]["stability_index"])
            for gauge, name in ((self.expected, "expected"), (self.expected_usual, "usual")):
                for of, value in (found.get(name) or {}).items():
                    if value is not None:
                        gauge.labels(site, of).set(value)

    def sites(self, open_since: Mapping[str, float], now: float) -> None:
        """Says of each site with open stays whether its hours are closed in time."""
        self.overdue.clear()
        for site, due in open_since.items():
            self.overdue.labels(site).set(max(now - due, 0.0))

    def heard(self, skews: ClockSkews, silences: Silences, now: float) -> None:
        """Says what the doors of this process heard."""
        self.skews.clear()
        # What senders call themselves, and sites that nobody configured, are no labels.
        for labels, ahead in skews.worst(self._site).items():
            self.skews.labels(*labels).set(ahead)
        for (site, channel), seconds in silences.told(now).items():
            self.silence.labels(site, channel).set(seconds)
        for (site, channel), hours in silences.limits.items():
            self.silence_limit.labels(site, channel).set(3600 * hours)

    def models(self, lineup: Mapping[str, Any] | None, loaded: Sequence[str]) -> None:
        """Says which model does what."""
        self.model.clear()
        speaks = loaded[0] if lineup is None else lineup["primary"]
        mode = None if lineup is None or lineup["mode"] == "off" else lineup["mode"]
        for version in dict.fromkeys((speaks, *loaded)):
            role = "speaks" if version == speaks else "stands_by"
            if lineup is not None and mode is not None and version == lineup["candidate"]:
                role = mode
            self.model.labels(version, role).set(1)

    def text(self, store: Store, now: float | None = None) -> bytes:
        """The page that Prometheus reads; see :meth:`models` for what is told apart.

        Args:
            store: of this thread.
            now: what time it is; None where time comes from outside.
        """
        from prometheus_client import generate_latest

        counts = store.counts()
        for name, gauge in self._sizes.items():
            gauge.set(counts[name])
        self._by_site(store)
        # Every view is read for it: not as often as somebody may ask.
        if time.monotonic() - self._counted >= _OFTEN:
            self._counted = time.monotonic()
            self.standing(store, now)
        return generate_latest(self.registry)
