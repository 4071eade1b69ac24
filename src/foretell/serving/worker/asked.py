"""Who is asked in an hour, and of what: the part of the fold that knows scorers and rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.doubts import MAX_AGE
from foretell.data.clinical.feed import RANKS
from foretell.decisions.alarms import AlarmPolicy
from foretell.errors import ParameterError
from foretell.serving.errors import ScorerFailedError
from foretell.serving.store.base import CellRow, Effects, ShadowRow
from foretell.serving.worker.lineup import Lineup
from foretell.serving.worker.quiet import QuietRules
from foretell.serving.worker.scorer import Ladder, RuleScorer
from foretell.serving.worker.site import SiteRules
from foretell.serving.worker.state import Measured, PatientState, unpack

_DELETED = RANKS["deleted"]
_MADE = 256


@dataclass
class Asked:
    """What a fold is made of; see :class:`foretell.serving.worker.fold.Fold`."""

    ladder: Ladder
    policy: AlarmPolicy
    policies: Mapping[str, AlarmPolicy] = field(default_factory=dict)
    watermark: int = 2
    idle: int = 72
    scores_out: bool = False
    quiet: QuietRules = field(default_factory=QuietRules)
    sites: Mapping[str, SiteRules] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)
    max_age: float = MAX_AGE
    strict: bool = False
    owing: bool = False
    watched: bool = True
    history: Callable[[str, str, str], Mapping[int, bytes]] = lambda *_: {}
    between: Callable[[], None] = lambda: None
    effects: Effects = field(default_factory=Effects)
    touched: dict[tuple[str, str], PatientState] = field(default_factory=dict)
    _cells: dict[tuple[str, str, str, int], CellRow] = field(default_factory=dict)
    _shadows: dict[tuple[str, str, str, int, str], ShadowRow] = field(default_factory=dict)
    _made: dict[tuple[str | None, float | None, str | None], list[Any]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        if self.watermark < 1 or self.idle < 1:
            raise ParameterError("watermark and idle are at least one hour")
        self._channels = {name: i for i, name in enumerate(self.ladder.schema.names)}
        known = [self.rules(None), *self.sites.values()]
        policies = [p for told in known for p in (told.policy, *told.policies.values())]
        tiers = [[t.name for t in p.tiers] for p in policies]
        if any(names != tiers[0] for names in tiers):
            raise ParameterError("the policies of a ladder have different tiers")
        # What a checkpoint is good for: other scorers start with what the hours hold.
        self._versions, self._tiers = self.ladder.versions, tiers[0]
        self._horizons = self.ladder.horizons
        self._number = {version: i for i, version in enumerate(self._versions)}
        self._bedside = {s.version for s in self.ladder.scorers if isinstance(s, RuleScorer)}

    def rules(self, site: str | None) -> SiteRules:
        """What holds at a site: its own rules, or those of all."""
        own = None if site is None else self.sites.get(site)
        return SiteRules(self.policy, self.policies, self.quiet) if own is None else own

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
        before = state.off
        # What was known before is computed by who was there then.
        state.off = before | off
        self.settle(state)
        state.off = off
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
            primary = self._versions[0]
            return primary, self._pinned(state.site, primary, range(len(self._versions))), None
        unit = state.unit(hour)
        primary, shadow = line.speaker(state.site, unit), line.shadow(state.site, unit)
        # A candidate on trial does not step in for another.
        order = [i for i, v in enumerate(self._versions) if v not in (primary, line.candidate)]
        if primary in self._number:
            order.insert(0, self._number[primary])
        order = self._pinned(state.site, primary, order or range(len(self._versions)))
        beside = None if shadow is None else self._number.get(shadow)
        return primary, order, beside

    def _pinned(self, site: str, primary: str, order: Iterable[int]) -> list[int]:
        """Who may speak at a site: where its pinned model does, only rules step in for it.

        Hours in which another model spoke, before the pin, are computed anew as they were.
        """
        if self.pins.get(site) != primary:
            return list(order)
        may = {primary} | self._bedside
        return [i for i in order if self._versions[i] in may]

    def _streams(self, state: PatientState, hour: int) -> list[Any]:
        """Feature streams that know who and where the patient is in an hour."""
        who = (state.unit(hour), state.age, state.sex)
        # Whoever uses them puts a checkpoint into them first: they serve all who are alike.
        held = self._made.get(who)
        if held is None:
            age = math.nan if state.age is None else state.age
            held = [
                s.builder.stream(age=age, sex=state.sex, unit=who[0], scaled=s.scaled)
                for s in self.ladder.scorers
            ]
            if len(self._made) >= _MADE:
                self._made.clear()
            self._made[who] = held
        return held

    def settle(self, state: PatientState) -> None:
        """Computes what is owed; see :class:`foretell.serving.worker.hours.Hours`."""
        raise NotImplementedError

    @staticmethod
    def _by_hour(state: PatientState) -> dict[int, list[Measured]]:
        out: dict[int, list[Measured]] = {}
        for record in state.records.values():
            out.setdefault(record.hour, []).append(record)
        return out

    def _row(self, records: list[Measured]) -> NDArray[np.float32]:
        return hour_values(records, len(self._channels))

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


def hour_values(records: Iterable[Measured], channels: int) -> NDArray[np.float32]:
    """(C,) values of an hour from its results, NaN where there is none; the median of several."""
    row = np.full(channels, np.nan, np.float32)
    values: dict[int, list[float]] = {}
    for record in records:
        if record.rank != _DELETED and record.value == record.value and not record.stale:
            values.setdefault(record.channel, []).append(record.value)
    for channel, several in values.items():
        row[channel] = several[0] if len(several) == 1 else np.median(np.array(several))
    return row
