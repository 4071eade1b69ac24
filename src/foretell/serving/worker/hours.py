"""Hours that close: their scores, alarms and corrections, and the same computed anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.doubts import DOUBTS
from foretell.decisions.alarms import AlarmState
from foretell.decisions.alarms.policy import NEVER, Status
from foretell.errors import DataError, ParameterError
from foretell.serving.errors import ScorerFailedError
from foretell.serving.events import digest
from foretell.serving.store.base import OutboxRow, ScoreRow, ShadowRow
from foretell.serving.worker.asked import Asked
from foretell.serving.worker.policy import act
from foretell.serving.worker.quiet import silences
from foretell.serving.worker.scorer import DEGRADED, NO_SCORE, OK, Risk
from foretell.serving.worker.state import Checkpoint, PatientState, unpack

UNANSWERED = (Status.ALARMED, Status.SNOOZED)
BEHIND = "the service is behind: results of earlier hours are not counted yet"


class Hours(Asked):
    """Computes hours of a stay, in order."""

    def _silences(self, state: PatientState) -> dict[int, int]:
        """Hour -> last hour of the silence after treatment that begins in it."""
        if not state.treatments:
            return {}
        if state.silences is None:
            told = self.rules(state.site)
            state.silences = silences(state, told.quiet, told.policy.quiet_after_treatment)
        return state.silences

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

    def _acted(self, state: PatientState, alarms: AlarmState, hour: int) -> AlarmState:
        """The policy's state after treatment and what clinicians did in an hour."""
        policy = self.rules(state.site).policy
        until = self._silences(state).get(hour) if state.treatments else None
        if until is not None:
            alarms = policy.treated(alarms, hour=hour, hours=until - hour + 1)
        for when, body in state.actions:
            if when == hour:
                try:
                    alarms = act(policy, alarms, body)
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
        risk = self._doubted(state, hour, risk)
        unit = state.unit(hour)
        rules = self.rules(state.site)
        policy = rules.of(risk.model)
        alarms = self._acted(state, before.alarms, hour)
        alarms, alarm = policy.step(alarms, hour, risk.alarming, unit=unit)
        beside: dict[str, AlarmState] = {}
        self._compared: ShadowRow | None = None
        line = self.lineup(state, hour)
        shadow = None if line is None else line.shadow(state.site, unit)
        if shadow is not None:
            own = rules.of(shadow)
            known = before.beside.get(shadow)
            if known is None:
                known = replace(own.start(), hour=hour - 1 if hour > 1 else NEVER)
            known = self._acted(state, known, hour)
            value = None if other is None else other.value
            heard = None if other is None else other.alarming
            beside[shadow], raised = own.step(known, hour, heard, unit=unit)
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

    def _doubt(self, state: PatientState, name: str, hour: int = 0) -> None:
        """Counts a doubt; it is told beside the score of an hour, at the earliest the open one."""
        held = state.doubts.setdefault(name, [0, []])
        held[0] += 1
        hour = max(hour, state.closed + 1)
        if hour not in held[1]:
            held[1].append(hour)
        self.effects.doubts[name] = self.effects.doubts.get(name, 0) + 1

    @staticmethod
    def _doubted(state: PatientState, hour: int, risk: Risk) -> Risk:
        """A risk with what is doubtful in its hour among its reasons."""
        if not state.doubts:
            return risk
        told = [text for n, text in DOUBTS.items() if hour in state.doubts.get(n, (0, ()))[1]]
        return replace(risk, reason="; ".join(filter(None, [risk.reason, *told]))) if told else risk

    def _compare(self) -> None:
        """Keeps what was said beside the score of the hour that was computed last."""
        row = self._compared
        if row is not None:
            self._shadows[row.site, row.patient, row.stay, row.hour, row.version] = row

    def _score(self, state: PatientState, hour: int, risk: Risk) -> None:
        # Also where it is the same: what drove it need not be, and what is kept of an hour must
        # not depend on how often it was computed.
        first = hour not in state.issued
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
                "horizon": self._horizons.get(risk.model),
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
                "horizon": self._horizons.get(risk.model),
            }  # fmt: skip
            self._send(state, identity, "alarm", state.hour_end(hour), body)
        elif not held[1]:
            self._note(state, identity, held, "reinstated", risk.value)
        return identity

    def _note(
        self, state: PatientState, identity: str, held: list, change: str, risk: float | None
    ) -> None:
        held[1], held[2] = change == "reinstated", held[2] + 1
        hour = held[0]
        tiers = {self.alarm_id(state, hour, name): name for name in self._tiers}
        body = {"alarm": identity, "stay": state.stay, "visit": state.visit, "hour": hour,
                "tier": tiers.get(identity), "raised": state.hour_end(hour),
                "change": change, "risk": risk}  # fmt: skip
        key = f"{identity}/{held[2]}"
        self._send(state, key, "correction", state.hour_end(state.closed), body)

    def _send(
        self, state: PatientState, key: str, kind: str, time: float, body: dict[str, Any]
    ) -> None:
        row = OutboxRow(state.site, state.patient, state.partition, key, kind, time, body)
        self.effects.outbox.append(row)

    def _late(self, state: PatientState, *, whole: bool) -> None:
        """After a result of a closed hour: computes hours anew, or keeps that it is owed.

        What is owed is computed at the latest before the stay's next hour closes, so that scores
        are the same as if it had been computed at once.
        """
        if not self.owing or self._urgent(state):
            self._again(state, whole=whole)
        elif state.checkpoints and state.closed:
            begin = 1 if whole else state.base + 1
            state.owed = begin if state.owed is None else min(state.owed, begin)

    def _urgent(self, state: PatientState) -> bool:
        """Whether a stay does not wait: an alarm is not answered, or the last hour was as high."""
        if state.checkpoints and state.checkpoints[-1].alarms.status in UNANSWERED:
            return True
        hour = state.closed
        risk = state.issued.get(hour)
        if risk is None:
            return False
        # Points of a rule that stepped in have a scale of their own.
        rules, spoke = self.rules(state.site), self._spoke(state, hour)
        return risk >= rules.lowest(spoke, state.unit(hour))

    def _spoke(self, state: PatientState, hour: int) -> str:
        """Who speaks in an hour: the first who may and is asked."""
        order = (self._versions[i] for i in self._asked(state, hour)[1])
        return next((version for version in order if version not in state.off), "")

    def settle(self, state: PatientState) -> None:
        """Computes what is owed of a stay."""
        if state.owed is not None:
            self._again(state)
            self.touched[state.site, state.patient] = state

    def _behind(self, state: PatientState, hour: int) -> tuple[Risk, AlarmState]:
        """What is shown of a stay of which hours are owed: what was said last."""
        risk = state.issued.get(state.closed)
        status = NO_SCORE if risk is None else DEGRADED
        speaker = "" if risk is None else self._asked(state, hour)[0]
        return Risk(risk, status, speaker, BEHIND), state.checkpoints[-1].alarms

    def _again(self, state: PatientState, *, whole: bool = False) -> None:
        """Computes closed hours anew: those after the base, or all of the stay."""
        whole = whole or (state.owed is not None and state.owed <= state.base)
        state.owed = None
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
