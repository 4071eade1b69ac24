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

import math
from collections.abc import Mapping
from typing import Any

from foretell.data.clinical.binning import hour_of
from foretell.data.clinical.doubts import OLD_SPECIMEN, Described, contradictions, is_old
from foretell.data.clinical.feed import RANKS
from foretell.data.clinical.presence import (
    ADMISSIONS,
    EARLY,
    Step,
    admission,
    result_step,
    same_visit,
    visit_step,
)
from foretell.serving.events import ACTION, MEASURED, MERGED, ORDER, VISIT, Event, digest
from foretell.serving.worker.keeping import Keeping
from foretell.serving.worker.quiet import CARRIED, Treatment
from foretell.serving.worker.state import Measured, PatientState, unpack

_CORRECTED = RANKS["corrected"]
_LONGEST = 24 * 400
_SILENCE = 24 * 30


class Fold(Keeping):
    """Applies events to patients.

    Args:
        ladder: of scorers.
        policy: of alarms.
        policies: version of a scorer -> the policy of its scores, where it is another.
        watermark: hours for which late results still change what was computed.
        idle: hours without any result after which a stay counts as left.
        max_age: hours after which a specimen says nothing of when its result came.
        scores_out: whether every hour's score is put into the outbox, too.
        quiet: for how long treatment silences alarms.
        sites: site -> what holds there instead.
        owing: whether what late results change is computed later, as a worker says that is behind.
        watched: whether somebody sees hours close and is offered what to measure then; else only
            the open hour is asked, as it is shown.
        strict: whether a scorer that fails is an error, as a worker wants it that keeps a journal;
            otherwise the next one speaks.
        history: gives the sealed hours of a stay; of the store.
        between: called between hours and patients, so that a worker keeps its leases meanwhile.
    """

    def apply(self, state: PatientState, event: Event) -> None:
        """Changes a patient by an event of theirs."""
        self._take(state, event.kind, event.time, event.body)
        self.touched[state.site, state.patient] = state

    def _take(
        self, state: PatientState, kind: str, time: float, body: Mapping[str, Any],
    ) -> None:  # fmt: skip
        if kind == MEASURED:
            self._measured(state, body)
            return
        self.settle(state)
        if kind == VISIT:
            self._visit(state, time, body)
        elif kind == ORDER:
            self._ordered(state, time, body)
        elif kind == ACTION:
            self._action(state, body)
        elif kind == MERGED:
            self._merged(state, time, body)

    def pass_time(self, state: PatientState, time: float) -> None:
        """Closes the hours of a patient that end by a time."""
        if state.open and state.hour_end(state.closed + 1) <= time:
            self.settle(state)
        while state.open and state.hour_end(state.closed + 1) <= time:
            if time - state.hour_end(state.closed) > 3600 * _SILENCE and self._silent(state, time):
                continue
            if state.hour_end(state.closed + 1) - max(state.last, state.begin) > 3600 * self.idle:
                self._end(state, "idle", state.hour_end(state.closed))
                break
            hour = state.closed + 1
            risk = self._close(state, hour)
            if self.watched:
                self._offer(state, hour, risk)
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
                if not record.stale:
                    state.last = max(state.last, record.first)
        return True

    def _begin(self, state: PatientState, visit: str | None, begin: float, anchored: bool) -> None:
        self.settle(state)
        kept = PatientState(state.site, state.patient, state.partition)
        kept.age, kept.sex, kept.orders = state.age, state.sex, state.orders
        kept.aged = state.aged
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
        # Here, not where it is first shown: that depends on when somebody commits.
        state.checkpoints = [self._initial(state)]

    def _end(self, state: PatientState, why: str, time: float) -> None:
        state.end, state.ended = why, time

    def _reopen(self, state: PatientState) -> None:
        state.end = state.ended = None
        # What was learned meanwhile of who it is, or by a merge, has changed no hour yet.
        self._again(state, whole=True)

    def _visit(self, state: PatientState, time: float, body: Mapping[str, Any]) -> None:
        kind, visit = body["kind"], body.get("visit")
        known = state.age, state.sex
        before, told = _described(state), _told(time, body)
        doubts = contradictions(before, told)
        state.age, state.aged, state.sex = before.then(told)
        same = same_visit(state, visit)
        begin = admission(time, body.get("admitted"))
        step = visit_step(state if state.stay else None, kind, visit, begin)
        if kind in ADMISSIONS:
            if step is Step.GOES_ON:
                self._anchor(state, visit, begin)
            elif step is Step.BEGINS:
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
        elif step is Step.ENDS:
            self.pass_time(state, time)
            # One that was given up ended then.
            self._end(state, "discharged", time if state.ended is None else state.ended)
        elif step is Step.CANCELLED:
            self._end(state, "cancelled", time)
        elif step is Step.REOPENED:
            self._reopen(state)
        elif kind == "update" and state.open and same and body.get("unit"):
            if body["unit"] != state.unit(state.closed + 1):
                self._move(state, body["unit"], time)
        for name in [*doubts, *filter(None, [body.get("doubt")])]:
            # Of the stay that it may have begun; the last word counts, but not in silence.
            self._doubt(state, name)
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
        doubts: set[str] = set()
        for kind, then, told in body["history"]:
            if kind == VISIT and state.open:
                # Whoever is merged is to be the same person.
                doubts.update(contradictions(_described(state), _told(then, told)))
            if kind == MEASURED:
                self._measured(state, told, placed=True)
            elif kind == MERGED:
                self._merged(state, then, told)
            elif kind == VISIT and not state.open:
                if told["kind"] not in ("discharge", "cancel_admit", "merge"):
                    self._visit(state, then, told)
            elif kind == ORDER:
                self._ordered(state, then, told, placed=True)
        for name in sorted(doubts):
            self._doubt(state, name)
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
        quiet = self.rules(state.site).quiet
        stands = bool(meaning) and quiet.counts(meaning, kind, body["status"])
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

    def _measured(
        self, state: PatientState, body: Mapping[str, Any], *, placed: bool = False
    ) -> None:
        items = body["items"]
        visit = body.get("visit")
        # An old specimen is no sign that somebody was here when it was taken.
        first = min(i[4] if is_old(i[3], i[4], self.max_age) else i[3] for i in items)
        # The history that a merge brings belongs to the stay it fell into, though that has ended;
        # and what was known before a discharge, or corrects it, counts after it.
        step = result_step(state if state.stay else None, visit, first, placed=placed)
        if step is Step.NOTHING:
            state.left_out += len(items)
            return
        if step is Step.REOPENED:
            self._reopen(state)
        elif step is Step.BEGINS:
            self._begin(state, visit, first, False)
        elif (
            step is Step.GOES_ON
            and not state.closed
            and first < state.begin - (EARLY if state.anchored else 0)
        ):
            # The results of an unannounced stay come out of order: it began with the earliest.
            state.begin, state.silences = first, None
            for record in state.records.values():
                record.hour = hour_of((record.first - first) / 3600)
        ended = math.inf if state.ended is None else state.ended
        counts = placed or any(i[4] <= ended or i[5] >= _CORRECTED for i in items)
        if state.visit is None and visit is not None and counts:
            state.visit, state.silences = visit, None
        if body.get("skew") is not None:
            state.skewed += len(items)
        if body.get("described") is not None:
            age, sex, moment = body["described"]
            # Results of another patient are often sent under the right number.
            for name in contradictions(_described(state), Described(age, moment, sex)):
                self._doubt(state, name)
        dirty: int | None = None
        whole = False
        for group, channel, value, time, issued, rank in items:
            index = self._channels.get(channel)
            if index is None:
                continue
            if not placed and issued > ended and rank < _CORRECTED:
                state.left_out += 1
                continue
            state.heard += 1
            record = Measured(
                bytes.fromhex(group), index, False, 0,
                math.nan if value is None else float(value), time, issued, issued, rank,
            )  # fmt: skip
            hour = self._place(state, record, placed)
            if hour is None:
                continue
            state.last = max(state.last, record.first)
            if hour <= state.base:
                whole = True
            elif hour <= state.closed:
                dirty = hour if dirty is None else min(dirty, hour)
        if not placed and (whole or dirty is not None):
            self._late(state, whole=whole)

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
        # The time that a correction states may be another one than what it corrects was taken at.
        if state.base and (taken <= state.base or record.rank >= _CORRECTED):
            found = self._sealed(state, record)
            if found is not None:
                return found
        if own < 1:
            state.left_out += 1
            return None
        sealed = own <= state.base
        # What counts from the open hour on became known in it, whatever its sender says.
        known = state.hour_end(state.closed) if sealed and not placed else record.first
        record.stale = is_old(record.time, max(known, record.first), self.max_age)
        if sealed and placed:
            record.hour = own
            self._write(state, own, [*self._read(state, own), record])
        elif sealed:
            record.hour, record.late = state.closed + 1, True
            state.late += not record.stale
            state.records[key] = record
        else:
            record.hour = own
            state.records[key] = record
        if record.stale:
            self._doubt(state, OLD_SPECIMEN, record.hour)
            return None
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
            if held.stale and not held.late and not is_old(held.time, held.first, self.max_age):
                # An earlier version turned up: it was fresh when it first became known.
                held.stale, changed = False, held.hour
        # What is corrected was known before: nobody was heard of anew.
        new.first = held.first
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


def _described(state: PatientState) -> Described:
    return Described(state.age, state.aged, state.sex)


def _told(time: float, body: Mapping[str, Any]) -> Described:
    admitted = body.get("admitted")
    return Described(body.get("age"), time if admitted is None else admitted, body.get("sex"))


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)
