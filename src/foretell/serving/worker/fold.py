"""The fold: how each event changes a patient, and what follows from it.

Nothing here reads a clock, a random number or a file: the same events in the same order give the
same bytes, whatever batches they come in. Time passes by ticks alone.

A result belongs to the hour in which it became known. If that hour is closed but lies within the
watermark, the hours from there on are computed anew; if it is older, the result counts from the
open hour on and is marked late. A correction changes its result where that stands, however old.
Alarms that were raised are never taken back in silence: a correction note is sent.

Which model speaks is told by events (:mod:`foretell.serving.worker.lineup`); which of them does not
answer, by a journal (:mod:`foretell.serving.worker.availability`): a worker tells the fold of both
before it applies an event, see :meth:`Fold.prepare`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.binning import hour_of
from foretell.data.clinical.feed import RANKS
from foretell.decisions.alarms import AlarmPolicy, AlarmState
from foretell.decisions.alarms.policy import NEVER, Status
from foretell.errors import DataError, ParameterError
from foretell.serving.errors import ScorerFailedError
from foretell.serving.events import ACTION, MEASURED, MERGED, ORDER, VISIT, Event, digest
from foretell.serving.store.base import (
    CellRow,
    Effects,
    OutboxRow,
    ScoreRow,
    ShadowRow,
    StateRow,
)
from foretell.serving.worker.lineup import Lineup
from foretell.serving.worker.policy import act
from foretell.serving.worker.quiet import CARRIED, QuietRules, Treatment, silences
from foretell.serving.worker.scorer import AMBIGUOUS, DEGRADED, NO_SCORE, OK, Ladder, Risk
from foretell.serving.worker.state import Checkpoint, Measured, PatientState, dump, load, unpack

log = logging.getLogger("foretell.serving.worker")
_DELETED, _CORRECTED = RANKS["deleted"], RANKS["corrected"]
_LONGEST = 24 * 400
_SILENCE = 24 * 30
_EARLY = 86400.0
_NOTHING = Risk(None, NO_SCORE)


@dataclass
class Fold:
    """Applies events to patients.

    Args:
        ladder: of scorers.
        policy: of alarms.
        policies: version of a scorer -> the policy of its scores, where it is another.
        watermark: hours for which late results still change what was computed.
        idle: hours without any result after which a stay counts as left.
        scores_out: whether every hour's score is put into the outbox, too.
        quiet: for how long treatment silences alarms.
        strict: whether a scorer that fails is an error, as a worker wants it that keeps a journal;
            otherwise the next one speaks.
        history: gives the sealed hours of a stay; of the store.
        between: called between hours and patients, so that a worker keeps its leases meanwhile.
    """

    ladder: Ladder
    policy: AlarmPolicy
    policies: Mapping[str, AlarmPolicy] = field(default_factory=dict)
    watermark: int = 2
    idle: int = 72
    scores_out: bool = False
    quiet: QuietRules = field(default_factory=QuietRules)
    strict: bool = False
    history: Callable[[str, str, str], Mapping[int, bytes]] = lambda *_: {}
    between: Callable[[], None] = lambda: None
    effects: Effects = field(default_factory=Effects)
    touched: dict[tuple[str, str], PatientState] = field(default_factory=dict)
    _cells: dict[tuple[str, str, str, int], CellRow] = field(default_factory=dict)
    _shadows: dict[tuple[str, str, str, int, str], ShadowRow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.watermark < 1 or self.idle < 1:
            raise ParameterError("watermark and idle are at least one hour")
        self._channels = {name: i for i, name in enumerate(self.ladder.schema.names)}
        tiers = [[t.name for t in p.tiers] for p in (self.policy, *self.policies.values())]
        if any(names != tiers[0] for names in tiers):
            raise ParameterError("the policies of a ladder have different tiers")
        # What a checkpoint is good for: other scorers start with what the hours hold.
        self._versions, self._tiers = self.ladder.versions, tiers[0]
        self._number = {version: i for i, version in enumerate(self._versions)}

    # -------------------------------------------------- who is asked

    def prepare(
        self, state: PatientState, off: Mapping[str, str], lineup: Mapping[str, Any] | None
    ) -> None:
        """Tells a patient, before an event of theirs, who speaks and who is not asked.

        Where that changes what is asked, the hours so far are sealed: they were said by others.

        Args:
            state: of the patient.
            off: version -> why it is not asked.
            lineup: as it is in the log; None where the ladder's own order holds.

        Raises:
            ScorerFailedError: a scorer that is asked again does not answer.
        """
        if dict(off) != state.off:
            self._switch(state, dict(off))
        if lineup is None or (state.lineups and state.lineups[-1][1] == lineup):
            return
        hour = state.closed + 1 if state.open else 1
        state.lineups = [held for held in state.lineups if held[0] < hour]
        state.lineups.append([hour, dict(lineup)])

    def _switch(self, state: PatientState, off: dict[str, str]) -> None:
        before, state.off = state.off, off
        changed = {v for v in self._versions if (v in before) != (v in off)}
        if not changed or not state.checkpoints:
            return
        back = [self._number[v] for v in sorted(changed) if v not in off]
        fresh = {i: self._recalled(state, i, state.closed) for i in back}
        self._seal(state, 0)
        last = state.checkpoints[-1]
        for i, version in enumerate(self._versions):
            if version in off:
                last.streams[i], last.scorers[i] = {}, {}
            elif i in fresh:
                last.streams[i], last.scorers[i] = fresh[i]

    def _recalled(
        self, state: PatientState, number: int, until: int
    ) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """What a scorer remembers of a stay: the same whether it was asked all the time or not."""
        scorer = self.ladder.scorers[number]
        stream = dict(scorer.builder.stream(scaled=scorer.scaled).snapshot())
        memory = dict(scorer.state0())
        cells = self._all_cells(state) if until and state.base else {}
        by_hour = self._by_hour(state)
        try:
            for hour in range(1, until + 1):
                held = unpack(cells.get(hour, b"")) if hour <= state.base else by_hour.get(hour, [])
                one = self._streams(state, hour)[number]
                one.restore(stream)
                features = one.step(self._row(held))
                stream = dict(one.snapshot())
                memory, _ = self.ladder.one(number, memory, features)
        except ScorerFailedError as error:
            error.site, error.patient = state.site, state.patient
            if self.strict:
                raise
        return stream, memory

    def lineup(self, state: PatientState, hour: int) -> Lineup | None:
        """The lineup that holds in an hour of a stay."""
        found = None
        for begin, told in state.lineups:
            if begin <= hour or found is None:
                found = told
        return None if found is None else Lineup.from_json(found)

    def _asked(self, state: PatientState, hour: int) -> tuple[str, list[int], int | None]:
        """Who should speak in an hour, who may, and who is compared."""
        line = self.lineup(state, hour)
        if line is None:
            return self._versions[0], list(range(len(self._versions))), None
        unit = state.unit(hour)
        primary, shadow = line.speaker(state.site, unit), line.shadow(state.site, unit)
        # A candidate on trial does not step in for another.
        order = [i for i, v in enumerate(self._versions) if v not in (primary, line.candidate)]
        if primary in self._number:
            order.insert(0, self._number[primary])
        order = order or list(range(len(self._versions)))
        beside = None if shadow is None else self._number.get(shadow)
        return primary, order, beside

    # -------------------------------------------------- events

    def apply(self, state: PatientState, event: Event) -> None:
        """Changes a patient by an event of theirs."""
        self._take(state, event.kind, event.time, event.body)
        self.touched[state.site, state.patient] = state

    def _take(
        self, state: PatientState, kind: str, time: float, body: Mapping[str, Any],
    ) -> None:  # fmt: skip
        if kind == MEASURED:
            self._measured(state, body)
        elif kind == VISIT:
            self._visit(state, time, body)
        elif kind == ORDER:
            self._ordered(state, time, body)
        elif kind == ACTION:
            self._action(state, body)
        elif kind == MERGED:
            self._merged(state, time, body)

    def pass_time(self, state: PatientState, time: float) -> None:
        """Closes the hours of a patient that end by a time."""
        while state.open and state.hour_end(state.closed + 1) <= time:
            if time - state.hour_end(state.closed) > 3600 * _SILENCE and self._silent(state, time):
                continue
            if state.hour_end(state.closed + 1) - max(state.last, state.begin) > 3600 * self.idle:
                self._end(state, "idle", state.hour_end(state.closed))
                break
            hour = state.closed + 1
            risk = self._close(state, hour)
            self._score(state, hour, risk)
            self._compare()
            self._raise(state, hour, state.closed)
            self._seal(state, self.watermark)
            if hour >= _LONGEST:
                self._end(state, "idle", state.hour_end(hour))
        self.touched[state.site, state.patient] = state

    def _silent(self, state: PatientState, time: float) -> bool:
        """Ends a stay before a month of which nothing is known; what came then begins another.

        A year that was mistyped in an admission must not make a worker compute centuries.
        """
        later = [r for r in state.records.values() if r.hour > state.closed]
        if not later or min(r.hour for r in later) - state.closed <= _SILENCE:
            return False
        self._end(state, "idle", state.hour_end(state.closed))
        begin = min(r.first for r in later)
        if begin <= time:
            self._begin(state, state.visit, begin, False)
            # Hours are counted anew: the visit's name stands for those before.
            state.stay = digest("stay", state.site, state.patient, begin).hex()[:16]
            for record in later:
                record.hour = hour_of((record.first - begin) / 3600)
                state.records[record.group, record.time] = record
                state.last = max(state.last, record.issued)
        return True

    def discard(self, site: str, patient: str) -> None:
        """Forgets all that followed for a patient since the last :meth:`take_effects`."""
        self.touched.pop((site, patient), None)
        self._cells = {k: c for k, c in self._cells.items() if k[:2] != (site, patient)}
        self._shadows = {k: r for k, r in self._shadows.items() if k[:2] != (site, patient)}
        effects = self.effects
        effects.scores = [s for s in effects.scores if (s.site, s.patient) != (site, patient)]
        effects.outbox = [o for o in effects.outbox if (o.site, o.patient) != (site, patient)]

    # -------------------------------------------------- stays

    def _begin(self, state: PatientState, visit: str | None, begin: float, anchored: bool) -> None:
        kept = PatientState(state.site, state.patient, state.partition)
        kept.age, kept.sex, kept.orders = state.age, state.sex, state.orders
        kept.off, kept.lineups = state.off, [[1, told] for _, told in state.lineups[-1:]]
        kept.treatments = {
            name: t._replace(hour=0) for name, t in state.treatments.items()
            if max(t.given, t.known) > begin - CARRIED
        }  # fmt: skip
        for name in PatientState.__slots__:
            setattr(state, name, getattr(kept, name))
        # The beginning tells apart stays whose sender names no visit.
        state.stay = visit or digest("stay", state.site, state.patient, begin).hex()[:16]
        state.visit, state.begin, state.anchored, state.last = visit, begin, anchored, begin

    def _end(self, state: PatientState, why: str, time: float) -> None:
        state.end, state.ended = why, time

    def _reopen(self, state: PatientState) -> None:
        state.end = state.ended = None
        # What was learned meanwhile of who it is, or by a merge, has changed no hour yet.
        self._again(state, whole=True)

    def _visit(self, state: PatientState, time: float, body: Mapping[str, Any]) -> None:
        kind, visit = body["kind"], body.get("visit")
        known = state.age, state.sex
        state.age = body["age"] if body.get("age") is not None else state.age
        state.sex = body.get("sex") or state.sex
        same = visit is None or state.visit is None or visit == state.visit
        if kind in ("admit", "register"):
            begin = body["admitted"] if body.get("admitted") is not None else time
            # A year is easily mistyped, and nobody is heard of before they were admitted.
            if not -_LONGEST * 3600 <= begin - time <= _EARLY:
                begin = time
            if state.open and same:
                self._anchor(state, visit, begin)
            elif not state.open and state.stay and visit is not None and visit == state.visit:
                pass  # repeated after the discharge: nothing new
            elif not state.stay or begin >= (state.ended or state.begin):
                if state.open:
                    self._end(state, "discharged", begin)
                self._begin(state, visit, begin, True)
            if body.get("unit") and state.open:
                self._move(state, body["unit"], begin)
        elif kind == "transfer" and state.open and same and body.get("unit"):
            self._move(state, body["unit"], time)
        elif kind == "cancel_transfer" and state.open and same and len(state.units) > 1:
            state.units.pop()
            self._again(state)
        elif kind == "discharge" and state.open and same:
            self.pass_time(state, time)
            self._end(state, "discharged", time)
        elif kind == "cancel_admit" and state.open and same:
            self._end(state, "cancelled", time)
        elif kind == "cancel_discharge" and state.end == "discharged" and same:
            self._reopen(state)
        elif kind == "update" and state.open and same and body.get("unit"):
            if body["unit"] != state.unit(state.closed + 1):
                self._move(state, body["unit"], time)
        if known != (state.age, state.sex) and state.open and state.closed:
            # Who somebody is held from the first hour on.
            self._again(state, whole=True)

    def _anchor(self, state: PatientState, visit: str | None, begin: float) -> None:
        """An admission that comes after the first results moves the hours, while none is closed."""
        state.visit = state.visit or visit
        state.silences = None
        if state.anchored or state.closed:
            return
        state.begin, state.anchored = begin, True
        held = list(state.records.values())
        state.records.clear()
        for record in held:
            record.hour = hour_of((record.first - begin) / 3600)
            if record.hour >= 1:
                state.records[record.group, record.time] = record
            else:
                state.left_out += 1

    def _move(self, state: PatientState, unit: str, time: float) -> None:
        hour = max(hour_of((time - state.begin) / 3600), state.base + 1, 1)
        if not state.units:
            hour = 1
        state.units = [u for u in state.units if u[0] < hour] + [[hour, unit]]
        if hour <= state.closed:
            self._again(state)

    def _merged(self, state: PatientState, time: float, body: Mapping[str, Any]) -> None:
        if "into" in body:
            if state.open:
                self._end(state, "merged", time)
            return
        for kind, then, told in body["history"]:
            if kind == MEASURED:
                self._measured(state, told, placed=True)
            elif kind == MERGED:
                self._merged(state, then, told)
            elif kind == VISIT and not state.open:
                if told["kind"] not in ("discharge", "cancel_admit", "merge"):
                    self._visit(state, then, told)
            elif kind == ORDER:
                self._ordered(state, then, told, placed=True)
        if state.open and state.closed:
            self._again(state, whole=True)

    def _action(self, state: PatientState, body: Mapping[str, Any]) -> None:
        if not state.open or (body.get("stay") and body["stay"] != state.stay):
            return
        state.actions.append([state.closed + 1, dict(body)])
        note = digest("action", state.site, state.patient, state.stay, len(state.actions)).hex()
        told = {k: body.get(k) for k in ("action", "reason", "hours", "by")}
        told |= {"stay": state.stay, "hour": state.closed + 1}
        self._send(state, note, "action", state.hour_end(state.closed), told)

    # -------------------------------------------------- orders and treatments

    def _ordered(
        self, state: PatientState, time: float, body: Mapping[str, Any], *, placed: bool = False
    ) -> None:
        kind, number = str(body.get("kind", "test")), str(body["number"])
        if kind == "test" and body["status"] == "pending":
            state.orders[number] = body["codes"]
        elif kind == "test":
            state.orders.pop(number, None)
        meaning = body.get("means") or ""
        held = state.treatments.get(number)
        if not meaning and held is None:
            return
        issued = time if body.get("issued") is None else max(float(body["issued"]), time)
        if held is not None and issued < held.issued:
            return
        before = self._silences(state)
        known = issued if held is None else min(held.known, issued)
        stands = bool(meaning) and self.quiet.counts(meaning, kind, body["status"])
        treatment = Treatment(meaning, time, known, issued, stands, body.get("visit"),
                              0 if held is None else held.hour)  # fmt: skip
        if held is None and state.open and not placed and treatment.at(state.begin) <= state.base:
            # As a result beyond the watermark: it counts from the open hour on.
            treatment = treatment._replace(hour=state.closed + 1)
            state.late += 1
        state.treatments[number] = treatment
        state.silences = None
        after = self._silences(state)
        if placed or not state.open or before == after:
            return
        hour = min(h for h in before.keys() | after.keys() if before.get(h) != after.get(h))
        if stands and hour in after:
            self._quieted(state, number, hour, after[hour], meaning)
        if hour <= state.closed:
            self._again(state, whole=hour <= state.base)

    def _quieted(
        self, state: PatientState, number: str, hour: int, until: int, meaning: str
    ) -> None:
        told = (state.site, state.patient, state.stay, number, hour, until)
        body = {"action": "treated", "reason": meaning, "hours": until - hour + 1, "by": None,
                "stay": state.stay, "hour": hour}  # fmt: skip
        key = digest("treated", *told).hex()
        self._send(state, key, "action", state.hour_end(state.closed), body)

    def _silences(self, state: PatientState) -> dict[int, int]:
        """Hour -> last hour of the silence after treatment that begins in it."""
        if not state.treatments:
            return {}
        if state.silences is None:
            state.silences = silences(state, self.quiet, self.policy.quiet_after_treatment)
        return state.silences

    # -------------------------------------------------- results

    def _measured(
        self, state: PatientState, body: Mapping[str, Any], *, placed: bool = False
    ) -> None:
        items = body["items"]
        visit = body.get("visit")
        first = min(item[3] for item in items)
        other = visit is not None and state.visit is not None and visit != state.visit
        if state.end == "idle" and not other and first > state.last:
            # Somebody is heard of again whom the service had given up.
            self._reopen(state)
        # The history that a merge brings belongs to the stay it fell into, though that has ended.
        covered = placed and not other and first <= (state.ended or -math.inf)
        if (not state.open or other) and not covered:
            gone = state.stay and first <= (state.ended if state.ended is not None else math.inf)
            if state.stay and (visit is None or not other or gone):
                state.left_out += len(items)
                return
            if state.open:
                self._end(state, "discharged", first)
            self._begin(state, visit, first, False)
        elif not state.closed and first < state.begin - (_EARLY if state.anchored else 0):
            # The results of an unannounced stay come out of order: it began with the earliest.
            state.begin, state.silences = first, None
            for record in state.records.values():
                record.hour = hour_of((record.first - first) / 3600)
        if state.visit is None and visit is not None:
            state.visit, state.silences = visit, None
        if body.get("skew") is not None:
            state.skewed += len(items)
        dirty: int | None = None
        whole = False
        for group, channel, value, time, issued, rank in items:
            index = self._channels.get(channel)
            if index is None:
                continue
            state.heard += 1
            record = Measured(
                bytes.fromhex(group), index, False, 0,
                math.nan if value is None else float(value), time, issued, issued, rank,
            )  # fmt: skip
            hour = self._place(state, record, placed)
            if hour is None:
                continue
            state.last = max(state.last, issued)
            if hour <= state.base:
                whole = True
            elif hour <= state.closed:
                dirty = hour if dirty is None else min(dirty, hour)
        if whole and not placed:
            self._again(state, whole=True)
        elif dirty is not None and not placed:
            self._again(state)

    def _place(self, state: PatientState, record: Measured, placed: bool) -> int | None:
        """Puts a result where it belongs; returns the first hour it changes, None for none."""
        own = hour_of((record.first - state.begin) / 3600)
        taken = hour_of((record.time - state.begin) / 3600)
        key = record.group, record.time
        held = state.records.get(key)
        if held is None and record.rank >= _CORRECTED:
            # A correction may state another time of the specimen, if it is clear what it corrects.
            same = [r for r in state.records.values() if r.group == record.group]
            held = same[0] if len(same) == 1 else None
        if held is not None:
            return self._supersede(state, held, record, own)
        if taken <= state.base and state.base:
            found = self._sealed(state, record)
            if found is not None:
                return found
        if own < 1:
            state.left_out += 1
            return None
        if own <= state.base and placed:
            record.hour = own
            self._write(state, own, [*self._read(state, own), record])
            return own
        if own <= state.base:
            record.hour, record.late = state.closed + 1, True
            state.late += 1
        else:
            record.hour = own
        state.records[key] = record
        return record.hour

    def _supersede(
        self, state: PatientState, held: Measured, new: Measured, own: int
    ) -> int | None:
        changed: int | None = None
        if new.first < held.first:
            held.first = new.first
            if max(own, 1) < held.hour and own > state.base and held.hour > state.base:
                held.hour = own
                changed = own
        if (new.issued, new.rank) < (held.issued, held.rank):
            return changed
        held.issued, held.rank = new.issued, new.rank
        if not _same(held.value, new.value) or held.channel != new.channel:
            held.value, held.channel = new.value, new.channel
            changed = held.hour
        return changed

    def _sealed(self, state: PatientState, record: Measured) -> int | None:
        """Changes a result of a sealed hour; None where there is none that this one replaces."""
        for hour, body in sorted(self._all_cells(state).items()):
            held = unpack(body)
            for other in held:
                exact = other.group == record.group and other.time == record.time
                if exact or (record.rank >= _CORRECTED and other.group == record.group):
                    changed = self._supersede(state, other, record, hour)
                    self._write(state, hour, held)
                    return hour if changed is not None else state.closed + 1
        return None

    # -------------------------------------------------- hours

    def _initial(self, state: PatientState) -> Checkpoint:
        state.versions, state.tiers = list(self._versions), list(self._tiers)
        streams: list[dict[str, NDArray]] = []
        memories: list[dict[str, NDArray]] = []
        for scorer in self.ladder.scorers:
            out = scorer.version in state.off
            fresh = scorer.builder.stream(scaled=scorer.scaled).snapshot()
            streams.append({} if out else dict(fresh))
            memories.append({} if out else dict(scorer.state0()))
        return Checkpoint(streams, memories, self.policy.start())

    def _streams(self, state: PatientState, hour: int) -> list[Any]:
        """Feature streams that know who and where the patient is in an hour."""
        unit = (state.unit(hour), state.age, state.sex)
        if not state.streams or state.stream_unit != unit:
            age = math.nan if state.age is None else state.age
            state.streams = [
                s.builder.stream(age=age, sex=state.sex, unit=unit[0], scaled=s.scaled)
                for s in self.ladder.scorers
            ]
            state.stream_unit = unit
        return state.streams

    def _step(
        self, state: PatientState, before: Checkpoint, hour: int, row: NDArray[np.float32]
    ) -> tuple[list[dict[str, NDArray]], list[dict[str, NDArray]], Risk, Risk | None]:
        streams = self._streams(state, hour)
        features: list[NDArray[np.float32] | None] = []
        after: list[dict[str, NDArray]] = []
        for version, stream, held in zip(self._versions, streams, before.streams, strict=True):
            if version in state.off:
                features.append(None)
                after.append({})
                continue
            stream.restore(held)
            features.append(stream.step(row))
            after.append(stream.snapshot())
        primary, order, beside = self._asked(state, hour)
        try:
            scorers, risk, other = self.ladder.step(
                before.scorers, features, order=order, beside=beside, off=state.off,
                strict=self.strict,
            )  # fmt: skip
        except ScorerFailedError as error:
            error.site, error.patient = state.site, state.patient
            raise
        if primary not in self._number and risk.status == OK:
            risk = replace(risk, status=DEGRADED, reason=f"{primary} is not loaded")
        self._seen = (before, features, scorers)
        return after, scorers, risk, other

    @staticmethod
    def _by_hour(state: PatientState) -> dict[int, list[Measured]]:
        out: dict[int, list[Measured]] = {}
        for record in state.records.values():
            out.setdefault(record.hour, []).append(record)
        return out

    def _row(self, records: list[Measured]) -> NDArray[np.float32]:
        row = np.full(len(self._channels), np.nan, np.float32)
        values: dict[int, list[float]] = {}
        for record in records:
            if record.rank != _DELETED and record.value == record.value:
                values.setdefault(record.channel, []).append(record.value)
        for channel, several in values.items():
            row[channel] = several[0] if len(several) == 1 else np.median(np.array(several))
        return row

    def _acted(self, state: PatientState, alarms: AlarmState, hour: int) -> AlarmState:
        """The policy's state after treatment and what clinicians did in an hour."""
        until = self._silences(state).get(hour) if state.treatments else None
        if until is not None:
            alarms = self.policy.treated(alarms, hour=hour, hours=until - hour + 1)
        for when, body in state.actions:
            if when == hour:
                try:
                    alarms = act(self.policy, alarms, body)
                except (ParameterError, DataError):
                    # An action that another policy took is no reason to stop.
                    continue
        return alarms

    def _close(self, state: PatientState, hour: int) -> Risk:
        """Computes the next hour and appends its checkpoint; see :meth:`_raise` for alarms."""
        if not state.checkpoints:
            state.checkpoints = [self._initial(state)]
        before = state.checkpoints[-1]
        row = self._row([r for r in state.records.values() if r.hour == hour])
        return self._advance(state, before, hour, row)

    def _advance(
        self, state: PatientState, before: Checkpoint, hour: int, row: NDArray[np.float32]
    ) -> Risk:
        self.between()
        streams, scorers, risk, other = self._step(state, before, hour, row)
        unit = state.unit(hour)
        policy = self.policies.get(risk.model, self.policy)
        alarms = self._acted(state, before.alarms, hour)
        alarms, alarm = policy.step(alarms, hour, risk.value, unit=unit)
        beside: dict[str, AlarmState] = {}
        self._compared: ShadowRow | None = None
        line = self.lineup(state, hour)
        shadow = None if line is None else line.shadow(state.site, unit)
        if shadow is not None:
            own = self.policies.get(shadow, self.policy)
            known = before.beside.get(shadow)
            if known is None:
                known = replace(own.start(), hour=hour - 1 if hour > 1 else NEVER)
            known = self._acted(state, known, hour)
            value = None if other is None else other.value
            beside[shadow], raised = own.step(known, hour, value, unit=unit)
            self._compared = ShadowRow(
                state.site, state.patient, state.stay, hour, shadow, unit or "",
                value, NO_SCORE if other is None else other.status,
                None if raised is None else raised.tier, risk.model, risk.value,
                None if alarm is None else alarm.tier,
            )  # fmt: skip
        state.checkpoints.append(Checkpoint(streams, scorers, alarms, beside))
        state.closed = hour
        self._fired = (hour, alarm, risk)
        return risk

    def _compare(self) -> None:
        """Keeps what was said beside the score of the hour that was computed last."""
        row = self._compared
        if row is not None:
            self._shadows[row.site, row.patient, row.stay, row.hour, row.version] = row

    def _score(self, state: PatientState, hour: int, risk: Risk) -> None:
        first = hour not in state.issued
        if not first and state.issued[hour] == risk.value:
            return
        state.issued[hour] = risk.value
        row = ScoreRow(
            state.site, state.patient, state.stay, hour, state.hour_end(hour), risk.value,
            risk.value, risk.status, risk.model, risk.reason, risk.drivers,
        )  # fmt: skip
        self.effects.scores.append(row)
        if self.scores_out and first:
            key = digest("score", state.site, state.patient, state.stay, hour).hex()
            body = {
                "stay": state.stay, "visit": state.visit, "hour": hour, "risk": risk.value,
                "status": risk.status, "model": risk.model,
            }  # fmt: skip
            self._send(state, key, "score", state.hour_end(hour), body)

    def alarm_id(self, state: PatientState, hour: int, tier: str) -> str:
        """The same for the same alarm, however often it is computed."""
        version = self._asked(state, hour)[0]
        told = (state.site, state.patient, state.stay, version, hour, tier)
        return digest("alarm", *told).hex()

    def _raise(self, state: PatientState, hour: int, now: int) -> str | None:
        """Sends the alarm of the hour that was computed last, if it has one and it is news."""
        at, alarm, risk = self._fired
        if at != hour or alarm is None:
            return None
        identity = self.alarm_id(state, hour, alarm.tier)
        held = state.emitted.get(identity)
        if held is None:
            state.emitted[identity] = [hour, True, 0]
            body = {
                "alarm": identity, "stay": state.stay, "visit": state.visit, "hour": hour,
                "raised_in": now, "tier": alarm.tier, "why": alarm.reason, "risk": alarm.score,
                "status": risk.status,
                "model": risk.model, "unit": state.unit(hour), "drivers": list(risk.drivers),
            }  # fmt: skip
            self._send(state, identity, "alarm", state.hour_end(hour), body)
        elif not held[1]:
            self._note(state, identity, held, "reinstated", risk.value)
        return identity

    def _note(
        self, state: PatientState, identity: str, held: list, change: str, risk: float | None
    ) -> None:
        held[1], held[2] = change == "reinstated", held[2] + 1
        body = {"alarm": identity, "stay": state.stay, "visit": state.visit, "hour": held[0],
                "change": change, "risk": risk}  # fmt: skip
        key = f"{identity}/{held[2]}"
        self._send(state, key, "correction", state.hour_end(state.closed), body)

    def _send(
        self, state: PatientState, key: str, kind: str, time: float, body: dict[str, Any]
    ) -> None:
        row = OutboxRow(state.site, state.patient, state.partition, key, kind, time, body)
        self.effects.outbox.append(row)

    def _again(self, state: PatientState, *, whole: bool = False) -> None:
        """Computes closed hours anew: those after the base, or all of the stay."""
        if not state.checkpoints or not state.closed:
            return
        closed, base = state.closed, state.base
        begin = 0 if whole else base
        cells = self._all_cells(state) if whole and base else {}
        state.checkpoints = [self._initial(state) if whole else state.checkpoints[0]]
        by_hour = self._by_hour(state)
        standing: set[str] = set()
        risks: dict[int, float | None] = {}
        for hour in range(begin + 1, closed + 1):
            records = unpack(cells[hour]) if hour in cells else by_hour.get(hour, [])
            risk = self._advance(state, state.checkpoints[-1], hour, self._row(records))
            risks[hour] = risk.value
            if hour <= base:
                # What the score was is not in memory: the store keeps what was first issued.
                state.issued.pop(hour, None)
                self._revise(state, hour, risk)
            else:
                self._score(state, hour, risk)
            self._compare()
            identity = self._raise(state, hour, closed)
            if identity is not None:
                standing.add(identity)
            if hour <= base:
                state.checkpoints = state.checkpoints[-1:]
        for identity, held in sorted(state.emitted.items()):
            if held[1] and held[0] > begin and identity not in standing:
                self._note(state, identity, held, "retracted", risks.get(held[0]))

    def _revise(self, state: PatientState, hour: int, risk: Risk) -> None:
        row = ScoreRow(
            state.site, state.patient, state.stay, hour, state.hour_end(hour), risk.value,
            risk.value, risk.status, risk.model, risk.reason, risk.drivers,
        )  # fmt: skip
        self.effects.scores.append(row)

    # -------------------------------------------------- sealed hours

    def _seal(self, state: PatientState, keep: int) -> None:
        """Puts hours beyond the watermark away: only a correction can still change them."""
        while state.closed - state.base > keep:
            hour = state.base + 1
            gone = [r for r in state.records.values() if r.hour == hour]
            if gone:
                self._write(state, hour, gone)
            for record in gone:
                del state.records[record.group, record.time]
            state.checkpoints.pop(0)
            state.issued.pop(hour, None)
            state.base = hour

    def _write(self, state: PatientState, hour: int, records: list[Measured]) -> None:
        ordered = sorted(records, key=lambda r: (r.group, r.time))
        body = b"".join(r.pack() for r in ordered)
        key = (state.site, state.patient, state.stay, hour)
        self._cells[key] = CellRow(*key, body)

    def _all_cells(self, state: PatientState) -> dict[int, bytes]:
        owner = (state.site, state.patient, state.stay)
        cells = dict(self.history(*owner))
        cells |= {k[3]: c.body for k, c in self._cells.items() if k[:3] == owner}
        return cells

    def _read(self, state: PatientState, hour: int) -> list[Measured]:
        return unpack(self._all_cells(state).get(hour, b""))

    def warm(self) -> None:
        """Computes hours of nobody, so that nothing is compiled or loaded before a patient."""
        nobody = PatientState("", "", 0, stay="warm")
        strict, self.strict = self.strict, False
        try:
            self._close(nobody, 1)
            for i in range(len(self._channels)):
                record = Measured(bytes(8), i, False, 2, 1.0, float(i), float(i), float(i), 1)
                nobody.records[record.group, record.time] = record
            self._close(nobody, 2)
            self.view(nobody)
            dump(nobody)
        finally:
            self.strict = strict

    # -------------------------------------------------- what is kept

    def restore(self, body: bytes, off: Mapping[str, str] | None = None) -> PatientState:
        """A patient from a snapshot, ready to go on.

        Args:
            body: of the snapshot.
            off: version -> why it is not asked any more: its memory is not made anew.

        Raises:
            ScorerFailedError: a scorer does not remember the hours that can still change.
        """
        state = load(body)
        held, state.held = state.held, None
        if not state.checkpoints:
            return state
        base, closed = state.base, state.closed
        gone = set(off or ()) | set(state.off)
        if state.versions != self._versions or state.tiers != self._tiers:
            state.checkpoints = [self._adopted(state, gone)]
        if held is None:
            # Of a version that kept no policies: they are what they were.
            state.closed = base
            for hour in range(base + 1, closed + 1):
                self._close(state, hour)
            return state
        by_hour = self._by_hour(state)
        for hour, (alarms, beside) in enumerate(held, base + 1):
            before = state.checkpoints[-1]
            row = self._row(by_hour.get(hour, []))
            streams: list[dict[str, NDArray]] = []
            memories: list[dict[str, NDArray]] = []
            for i, version in enumerate(self._versions):
                if version in gone or not before.streams[i]:
                    streams.append({})
                    memories.append({})
                    continue
                stream = self._streams(state, hour)[i]
                stream.restore(before.streams[i])
                features = stream.step(row)
                streams.append(dict(stream.snapshot()))
                memories.append(self._remembered(state, i, before.scorers[i], features))
            alarms = self._fitting(alarms)
            beside = {v: self._fitting(a) for v, a in beside.items()}
            state.checkpoints.append(Checkpoint(streams, memories, alarms, beside))
        return state

    def _remembered(
        self, state: PatientState, number: int, memory: dict[str, NDArray],
        features: NDArray[np.float32],
    ) -> dict[str, NDArray]:  # fmt: skip
        if not memory:
            return {}
        try:
            return self.ladder.one(number, memory, features)[0]
        except ScorerFailedError as error:
            error.site, error.patient = state.site, state.patient
            if self.strict:
                raise
            return memory

    def _adopted(self, state: PatientState, gone: set[str]) -> Checkpoint:
        """The base of a snapshot that other scorers wrote: new ones learn of the hours so far."""
        held = state.checkpoints[0]
        old = {v: (held.streams[i], held.scorers[i]) for i, v in enumerate(state.versions)}
        parts: list[tuple[dict[str, NDArray], dict[str, NDArray]]] = []
        for i, version in enumerate(self._versions):
            if version in gone:
                parts.append(({}, {}))
            else:
                known = old.get(version)
                parts.append(self._recalled(state, i, state.base) if known is None else known)
        alarms = self._fitting(held.alarms)
        beside = {v: self._fitting(a) for v, a in held.beside.items()}
        state.versions, state.tiers = list(self._versions), list(self._tiers)
        return Checkpoint([p[0] for p in parts], [p[1] for p in parts], alarms, beside)

    def _fitting(self, alarms: AlarmState) -> AlarmState:
        """What a policy remembers, where another one had other tiers."""
        if len(alarms.exceeded) == len(self._tiers):
            return alarms
        last = min(alarms.last_tier, len(self._tiers) - 1)
        return replace(alarms, exceeded=(0,) * len(self._tiers), last_tier=last)

    def row(self, state: PatientState) -> StateRow:
        """What is stored of a patient: the snapshot and what is shown."""
        view = self.view(state) if state.stay else None
        due = state.hour_end(state.closed + 1) if state.open else None
        return StateRow(state.site, state.patient, state.partition, dump(state), due, view)

    def view(self, state: PatientState) -> dict[str, Any]:
        """What is shown of a stay; the risk is that of the open hour as far as it is known."""
        hour = state.closed + 1
        risk = _NOTHING
        alarms = self.policy.start()
        if state.open:
            if not state.checkpoints:
                state.checkpoints = [self._initial(state)]
            before = state.checkpoints[-1]
            row = self._row([r for r in state.records.values() if r.hour <= hour
                             and r.hour > state.closed])  # fmt: skip
            _, _, risk, _ = self._step(state, before, hour, row)
            alarms = self._acted(state, before.alarms, hour)
        # By hour, not by insertion: a snapshot sorts its keys.
        standing = sorted((held[0], i) for i, held in state.emitted.items() if held[1])
        return {
            "site": state.site, "patient": state.patient, "stay": state.stay,
            "visit": state.visit, "unit": state.unit(hour), "age": state.age, "sex": state.sex,
            "begin": state.begin, "hour": hour, "updated": state.last, "risk": risk.value,
            "status": risk.status, "model": risk.model, "reason": risk.reason,
            "drivers": list(risk.drivers), "issued": state.issued.get(state.closed),
            "recommended": self._advise(state, hour, risk) if state.open else [],
            "policy": _standing(alarms), "acknowledged": alarms.acknowledged,
            "quiet_until": _quiet_until(alarms), "quiet_reason": _quiet_reason(alarms),
            "alarms": len(standing),
            "last_alarm": standing[-1][1] if standing else None,
            "orders": sorted(state.orders), "end": state.end, "results": state.heard,
            "late": state.late, "left_out": state.left_out, "skewed": state.skewed,
        }  # fmt: skip

    def _advise(self, state: PatientState, hour: int, risk: Risk) -> list[dict[str, Any]]:
        """What to measure, where it may matter: near the threshold, or where the gate asks."""
        primary = self._asked(state, hour)[0]
        if risk.value is None or risk.model != primary or primary not in self._number:
            return []
        number = self._number[primary]
        name = f"advice of {primary}"
        advise = getattr(self.ladder.scorers[number], "advise", None)
        if advise is None or name in state.off:
            return []
        low = self.policy.tiers[0].of(state.unit(hour))
        if risk.status != AMBIGUOUS and risk.value < low / 2:
            return []
        before, features, after = self._seen
        ordered = [c for codes in state.orders.values() for _, c in codes]
        try:
            return list(
                advise(
                    before.scorers[number], features[number], after[number], hour=hour,
                    ordered=ordered,
                )
            )  # fmt: skip
        except Exception as error:
            # Advice is an extra: without it the score still counts.
            self.ladder.failures[name] = self.ladder.failures.get(name, 0) + 1
            if self.strict:
                failed = ScorerFailedError(name, type(error).__name__)
                failed.site, failed.patient = state.site, state.patient
                raise failed from None
            log.error("there is no advice: %s", type(error).__name__)
            return []

    def take_effects(self) -> Effects:
        """All that followed since the last call, with the snapshots of every patient touched."""
        effects = self.effects
        effects.states = []
        for state in self.touched.values():
            self.between()
            effects.states.append(self.row(state))
        effects.cells = list(self._cells.values())
        # Of several scores of one hour the last stands, and the first is what was issued.
        first: dict[tuple[str, str, str, int], ScoreRow] = {}
        for score in effects.scores:
            key = (score.site, score.patient, score.stay, score.hour)
            held = first.get(key)
            if held is not None:
                score = ScoreRow(
                    *key, score.time, score.risk, held.issued, score.status, score.model,
                    score.reason, score.drivers,
                )  # fmt: skip
            first[key] = score
        effects.scores = list(first.values())
        effects.shadows = list(self._shadows.values())
        self.drop_effects()
        return effects

    def drop_effects(self) -> None:
        """Forgets what followed; states that were touched must be restored from the store."""
        self.effects, self.touched = Effects(), {}
        self._cells, self._shadows = {}, {}


def _standing(alarms: AlarmState) -> str:
    """Where a stay stands in the open hour: a silence that has run out is none."""
    if alarms.status is Status.ALARMED or _quiet_until(alarms) is not None:
        return alarms.status.value
    return Status.ARMED.value


def _quiet_until(alarms: AlarmState) -> int | None:
    """The last hour of the silence that holds, None where none does."""
    last = alarms.snoozed_until
    if alarms.suppression is not None:
        last = max(last, alarms.suppression.until)
    return last if last > alarms.hour else None


def _quiet_reason(alarms: AlarmState) -> str | None:
    """Why somebody asked for the silence that holds, None where nobody did."""
    asked = alarms.suppression
    return None if asked is None or asked.until <= alarms.hour else asked.reason


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)
