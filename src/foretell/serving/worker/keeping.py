"""What is kept of patients: snapshots, from which they go on, and what is shown of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.alarms import AlarmState
from foretell.decisions.alarms.policy import Status
from foretell.serving.errors import ScorerFailedError
from foretell.serving.store.base import Effects, ScoreRow, StateRow
from foretell.serving.worker.offers import Offers
from foretell.serving.worker.scorer import NO_SCORE, Risk
from foretell.serving.worker.state import Checkpoint, Measured, PatientState, dump, load

_NOTHING = Risk(None, NO_SCORE)


class Keeping(Offers):
    """Writes and reads snapshots."""

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
        if state.owed is not None:
            # These hours are computed anew before anybody goes on from them.
            state.checkpoints += [Checkpoint([], [], *policies) for policies in held]
            held = []
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
        told = dump(state)
        return StateRow(state.site, state.patient, state.partition, told, due, view, state.owed)

    def view(self, state: PatientState) -> dict[str, Any]:
        """What is shown of a stay; the risk is that of the open hour as far as it is known."""
        hour = state.closed + 1
        risk = _NOTHING
        alarms = self.policy.start()
        offers: list[dict[str, Any]] = []
        if state.open and state.owed is not None:
            risk, alarms = self._behind(state, hour)
        elif state.open:
            if not state.checkpoints:
                state.checkpoints = [self._initial(state)]
            before = state.checkpoints[-1]
            row = self._row([r for r in state.records.values() if r.hour <= hour
                             and r.hour > state.closed])  # fmt: skip
            _, after, risk, _ = self._step(state, before, hour, row)
            risk = self._doubted(state, hour, risk)
            alarms = self._acted(state, before.alarms, hour)
            offers = (
                self._standing(state, hour, risk, alarms, after) if self.watched
                else self._advice(state, hour, risk)
            )  # fmt: skip
        # By hour, not by insertion: a snapshot sorts its keys.
        standing = sorted((held[0], i) for i, held in state.emitted.items() if held[1])
        return {
            "site": state.site, "patient": state.patient, "stay": state.stay,
            "visit": state.visit, "unit": state.unit(hour), "age": state.age, "sex": state.sex,
            "begin": state.begin, "hour": hour, "updated": state.last, "risk": risk.value,
            "status": risk.status, "model": risk.model, "reason": risk.reason,
            "drivers": list(risk.drivers), "issued": state.issued.get(state.closed),
            "recommended": offers,
            "policy": _policy(alarms), "acknowledged": alarms.acknowledged,
            "quiet_until": _quiet_until(alarms), "quiet_reason": _quiet_reason(alarms),
            "alarms": len(standing),
            "last_alarm": standing[-1][1] if standing else None,
            "answered": list(state.answered),
            "orders": sorted(state.orders), "end": state.end, "results": state.heard,
            "late": state.late, "left_out": state.left_out, "skewed": state.skewed,
            "doubts": {name: held[0] for name, held in sorted(state.doubts.items())},
        } | ({} if state.owed is None else {"owed": state.owed})  # fmt: skip

    def quiet_after(self, body: bytes, action: Mapping[str, Any]) -> int | None:
        """The last hour of the silence that holds once somebody acts in a stay's open hour.

        Args:
            body: of the stay's snapshot.
            action: as an event tells it.

        Returns:
            What :meth:`view` shows as ``quiet_until``, unless hours close meanwhile; None where
            none is silent.
        """
        state = load(body)
        alarms = self.policy.start()
        if state.checkpoints:
            alarms = state.held[-1][0] if state.held else state.checkpoints[-1].alarms
        hour = state.closed + 1
        state.actions.append([hour, dict(action)])
        return _quiet_until(self._acted(state, alarms, hour))

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

    def discard(self, site: str, patient: str) -> None:
        """Forgets all that followed for a patient since the last :meth:`take_effects`."""
        self.touched.pop((site, patient), None)
        self._cells = {k: c for k, c in self._cells.items() if k[:2] != (site, patient)}
        self._shadows = {k: r for k, r in self._shadows.items() if k[:2] != (site, patient)}
        effects = self.effects
        effects.scores = [s for s in effects.scores if (s.site, s.patient) != (site, patient)]
        effects.outbox = [o for o in effects.outbox if (o.site, o.patient) != (site, patient)]


def _policy(alarms: AlarmState) -> str:
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
    for asked in (alarms.suppression, alarms.postponement):
        if asked is not None and asked.until > alarms.hour:
            return asked.reason
    return None
