"""What is kept of patients: snapshots, from which they go on, and what is shown of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.alarms import AlarmState
from foretell.decisions.alarms.policy import Status
from foretell.serving.errors import ScorerFailedError
from foretell.serving.store.base import Effects, ScoreRow, StateRow
from foretell.serving.worker.hours import Hours
from foretell.serving.worker.scorer import AMBIGUOUS, NO_SCORE, Risk
from foretell.serving.worker.state import (
    ANSWERS,
    STANDS,
    Checkpoint,
    Measured,
    PatientState,
    dump,
    load,
)

log = logging.getLogger("foretell.serving.worker")
_NOTHING = Risk(None, NO_SCORE)
_KEPT = 20


class Keeping(Hours):
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
        if state.open and state.owed is not None:
            risk, alarms = self._behind(state, hour)
        elif state.open:
            if not state.checkpoints:
                state.checkpoints = [self._initial(state)]
            before = state.checkpoints[-1]
            row = self._row([r for r in state.records.values() if r.hour <= hour
                             and r.hour > state.closed])  # fmt: skip
            _, _, risk, _ = self._step(state, before, hour, row)
            risk = self._doubted(state, hour, risk)
            alarms = self._acted(state, before.alarms, hour)
        # By hour, not by insertion: a snapshot sorts its keys.
        standing = sorted((held[0], i) for i, held in state.emitted.items() if held[1])
        return {
            "site": state.site, "patient": state.patient, "stay": state.stay,
            "visit": state.visit, "unit": state.unit(hour), "age": state.age, "sex": state.sex,
            "begin": state.begin, "hour": hour, "updated": state.last, "risk": risk.value,
            "status": risk.status, "model": risk.model, "reason": risk.reason,
            "drivers": list(risk.drivers), "issued": state.issued.get(state.closed),
            "recommended": [] if not state.open or state.owed is not None
            else self._advise(state, hour, risk, alarms),
            "policy": _standing(alarms), "acknowledged": alarms.acknowledged,
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

    def _advise(
        self, state: PatientState, hour: int, risk: Risk, alarms: AlarmState
    ) -> list[dict[str, Any]]:
        """What to measure, where it may matter: near the threshold, or where the gate asks."""
        if alarms.suppression is not None and alarms.suppression.until >= hour:
            # Who wants no alarms for a reason, such as comfort care, wants no tests for them.
            return []
        primary = self._asked(state, hour)[0]
        if risk.value is None or risk.model != primary or primary not in self._number:
            return []
        number = self._number[primary]
        name = f"advice of {primary}"
        scorer = self.ladder.scorers[number]
        advise = getattr(scorer, "advise", None)
        at = {"site": state.site} if hasattr(scorer, "panels_at") else {}
        if advise is None or name in state.off:
            return []
        low = self.rules(state.site).policy.tiers[0].of(state.unit(hour))
        if risk.status != AMBIGUOUS and risk.value < low / 2:
            return []
        before, features, after = self._seen
        given = features[number]
        if given is None:
            return []
        ordered = [c for codes in state.orders.values() for _, c in codes]
        memory = before.scorers[number]
        told = (hour, risk.value, ordered, dict(state.asked), given.tobytes())
        if state.advised is not None and state.advised[0] is memory and state.advised[1] == told:
            # What is shown of the open hour is asked again when it closes.
            return list(state.advised[2])
        try:
            found = list(
                advise(
                    memory, given, after[number],
                    risk=risk.value, hour=hour, ordered=ordered, asked=told[3], **at,
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
        state.advised = (memory, told, found)
        return list(found)

    def _offer(self, state: PatientState, hour: int, risk: Risk) -> None:
        """Keeps which panels are offered as an hour that was computed last closes.

        What stands at the close of an hour counts as offered: when views are made depends on
        commits, when hours close on the log alone. What was offered and has come is kept with what
        it did to the risk.
        """
        if state.asked:
            self._answer(state, hour, risk)
        for panel in self._advise(state, hour, risk, state.checkpoints[-1].alarms):
            made = state.asked.get(panel["panel"])
            if made is None or hour - made > STANDS:
                state.asked[panel["panel"]] = hour

    def _answer(self, state: PatientState, hour: int, risk: Risk) -> None:
        number = self._number.get(self._asked(state, hour)[0])
        scorer = None if number is None else self.ladder.scorers[number]
        of_site = getattr(scorer, "panels_at", None)
        panels = getattr(scorer, "panels", {}) if of_site is None else of_site(state.site)
        came = {r.channel for r in state.records.values() if r.hour == hour and not r.stale}
        for name, channels in panels.items():
            made = state.asked.get(name)
            if made is None or not made < hour <= made + ANSWERS or not channels & came:
                continue
            # From here on the result itself holds the panel back.
            del state.asked[name]
            # In the order of a snapshot, which sorts its keys.
            told = {"after": risk.value, "before": state.issued.get(hour - 1), "measured": hour,
                    "offered": made, "panel": name}  # fmt: skip
            state.answered = [*state.answered, told][-_KEPT:]

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
    for asked in (alarms.suppression, alarms.postponement):
        if asked is not None and asked.until > alarms.hour:
            return asked.reason
    return None
