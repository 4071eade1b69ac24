"""The fold: how each event changes a patient, and what follows from it.

Nothing here reads a clock, a random number or a file: the same events in the same order give the
same bytes, whatever batches they come in. Time passes by ticks alone.

A result belongs to the hour in which it became known. If that hour is closed but lies within the
watermark, the hours from there on are computed anew; if it is older, the result counts from the
open hour on and is marked late. A correction changes its result where that stands, however old.
Alarms that were raised are never taken back in silence: a correction note is sent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.binning import hour_of
from foretell.data.clinical.feed import RANKS
from foretell.decisions.alarms import AlarmPolicy, AlarmState
from foretell.decisions.alarms.policy import Status
from foretell.errors import DataError, ParameterError
from foretell.serving.events import ACTION, MEASURED, MERGED, ORDER, VISIT, Event, digest
from foretell.serving.store.base import CellRow, Effects, OutboxRow, ScoreRow, StateRow
from foretell.serving.worker.policy import act
from foretell.serving.worker.scorer import AMBIGUOUS, NO_SCORE, Ladder, Risk
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
        history: gives the sealed hours of a stay; of the store.
    """

    ladder: Ladder
    policy: AlarmPolicy
    policies: Mapping[str, AlarmPolicy] = field(default_factory=dict)
    watermark: int = 2
    idle: int = 72
    scores_out: bool = False
    history: Callable[[str, str, str], Mapping[int, bytes]] = lambda *_: {}
    effects: Effects = field(default_factory=Effects)
    touched: dict[tuple[str, str], PatientState] = field(default_factory=dict)
    _cells: dict[tuple[str, str, str, int], CellRow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.watermark < 1 or self.idle < 1:
            raise ParameterError("watermark and idle are at least one hour")
        self._channels = {name: i for i, name in enumerate(self.ladder.schema.names)}
        tiers = [[t.name for t in p.tiers] for p in (self.policy, *self.policies.values())]
        if any(names != tiers[0] for names in tiers):
            raise ParameterError("the policies of a ladder have different tiers")
        # What a checkpoint is good for: another ladder starts with what the hours hold.
        self._versions = [s.version for s in self.ladder.scorers] + tiers[0]

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
            if body["status"] == "pending":
                state.orders[body["number"]] = body["codes"]
            else:
                state.orders.pop(body["number"], None)
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
            self._raise(state, hour, state.closed)
            self._seal(state)
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
        effects = self.effects
        effects.scores = [s for s in effects.scores if (s.site, s.patient) != (site, patient)]
        effects.outbox = [o for o in effects.outbox if (o.site, o.patient) != (site, patient)]

    # -------------------------------------------------- stays

    def _begin(self, state: PatientState, visit: str | None, begin: float, anchored: bool) -> None:
        kept = PatientState(state.site, state.patient, state.partition)
        kept.age, kept.sex, kept.orders = state.age, state.sex, state.orders
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
                self._take(state, kind, then, told)
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
            state.begin = first
            for record in state.records.values():
                record.hour = hour_of((record.first - first) / 3600)
        if state.visit is None and visit is not None:
            state.visit = visit
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
        state.versions = list(self._versions)
        fresh = [b.builder.stream(scaled=b.scaled).snapshot() for b in self.ladder.scorers]
        return Checkpoint(
            fresh, [dict(s.state0()) for s in self.ladder.scorers], self.policy.start()
        )

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
    ) -> tuple[list[dict[str, NDArray]], list[dict[str, NDArray]], Risk]:
        streams = self._streams(state, hour)
        features, after = [], []
        for stream, held in zip(streams, before.streams, strict=True):
            stream.restore(held)
            features.append(stream.step(row))
            after.append(stream.snapshot())
        scorers, risk = self.ladder.step(before.scorers, features)
        self._seen = (before, features, scorers)
        return after, scorers, risk

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
        """The policy's state after what clinicians did in an hour."""
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
        streams, scorers, risk = self._step(state, before, hour, row)
        policy = self.policies.get(risk.model, self.policy)
        alarms = self._acted(state, before.alarms, hour)
        alarms, alarm = policy.step(alarms, hour, risk.value, unit=state.unit(hour))
        state.checkpoints.append(Checkpoint(streams, scorers, alarms))
        state.closed = hour
        self._fired = (hour, alarm, risk)
        return risk

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
        told = (state.site, state.patient, state.stay, self.ladder.version, hour, tier)
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
        by_hour: dict[int, list[Measured]] = {}
        for record in state.records.values():
            by_hour.setdefault(record.hour, []).append(record)
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

    def _seal(self, state: PatientState) -> None:
        """Puts hours beyond the watermark away: only a correction can still change them."""
        while state.closed - state.base > self.watermark:
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
        self._close(nobody, 1)
        for i in range(len(self._channels)):
            record = Measured(bytes(8), i, False, 2, 1.0, float(i), float(i), float(i), 1)
            nobody.records[record.group, record.time] = record
        self._close(nobody, 2)
        self.view(nobody)
        dump(nobody)

    # -------------------------------------------------- what is kept

    def restore(self, body: bytes) -> PatientState:
        """A patient from a snapshot, ready to go on."""
        state = load(body)
        if state.checkpoints and state.versions != self._versions:
            # Another ladder by now: it starts with what the sealed hours and the window hold.
            state.checkpoints = []
        closed = state.closed
        if closed and not state.checkpoints:
            cells = self._all_cells(state)
            state.checkpoints = [self._initial(state)]
            for hour in range(1, state.base + 1):
                row = self._row(unpack(cells.get(hour, b"")))
                self._advance(state, state.checkpoints[-1], hour, row)
                state.checkpoints = state.checkpoints[-1:]
        state.closed = state.base
        for hour in range(state.base + 1, closed + 1):
            self._close(state, hour)
        return state

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
            _, _, risk = self._step(state, before, hour, row)
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
            "quiet_until": _quiet_until(alarms), "alarms": len(standing),
            "last_alarm": standing[-1][1] if standing else None,
            "orders": sorted(state.orders), "end": state.end, "results": state.heard,
            "late": state.late, "left_out": state.left_out,
        }  # fmt: skip

    def _advise(self, state: PatientState, hour: int, risk: Risk) -> list[dict[str, Any]]:
        """What to measure, where it may matter: near the threshold, or where the gate asks."""
        scorer = self.ladder.scorers[0]
        advise = getattr(scorer, "advise", None)
        if advise is None or risk.value is None or risk.model != scorer.version:
            return []
        low = self.policy.tiers[0].of(state.unit(hour))
        if risk.status != AMBIGUOUS and risk.value < low / 2:
            return []
        before, features, after = self._seen
        ordered = [c for codes in state.orders.values() for _, c in codes]
        try:
            return list(
                advise(before.scorers[0], features[0], after[0], hour=hour, ordered=ordered)
            )
        except Exception as error:
            # Advice is an extra: without it the score still counts.
            name = f"advice of {scorer.version}"
            self.ladder.failures[name] = self.ladder.failures.get(name, 0) + 1
            log.error("there is no advice: %s", type(error).__name__)
            return []

    def take_effects(self) -> Effects:
        """All that followed since the last call, with the snapshots of every patient touched."""
        effects = self.effects
        effects.states = [self.row(s) for s in self.touched.values()]
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
        self.drop_effects()
        return effects

    def drop_effects(self) -> None:
        """Forgets what followed; states that were touched must be restored from the store."""
        self.effects, self.touched, self._cells = Effects(), {}, {}


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


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)
