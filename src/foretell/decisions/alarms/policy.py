"""The alarm policy: a small state machine for each stay, moved on by the hour.

``armed -> alarmed -> (acknowledged) -> armed`` with silences in between: after an alarm the policy
snoozes, people may snooze or suppress it for a stated reason and time, and treatment quiets it. A
silence always ends: there is no way to silence a stay for good, because a patient who was
forgotten behind a silenced alarm is worse off than one without the system.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np

from foretell.errors import DataError, ParameterError

NEVER = -(2**31)
"""An hour before all others."""


class Status(StrEnum):
    """Where a stay stands."""

    ARMED = "armed"
    ALARMED = "alarmed"
    ACKNOWLEDGED = "acknowledged"
    SNOOZED = "snoozed"
    SUPPRESSED = "suppressed"
    CLOSED = "closed"


@dataclass(frozen=True)
class Tier:
    """A level of urgency.

    Args:
        name: such as ``"advisory"`` or ``"urgent"``.
        threshold: an alarm of this tier needs ``score >= threshold``.
        units: thresholds of single units or sites, by name, where they differ.
    """

    name: str
    threshold: float
    units: Mapping[str, float] = field(default_factory=dict)

    def of(self, unit: str | None) -> float:
        """The threshold that holds in a unit."""
        return self.threshold if unit is None else self.units.get(unit, self.threshold)


@dataclass(frozen=True)
class Suppression:
    """A silence that people asked for.

    Attributes:
        reason: as it was given; ``"treated"`` after treatment.
        until: last hour of the silence.
        by: who asked for it, for the audit; None where unknown.
    """

    reason: str
    until: int
    by: str | None = None


@dataclass(frozen=True)
class AlarmState:
    """What a policy remembers of a stay: small, immutable, plain JSON.

    Attributes:
        hour: last hour seen.
        exceeded: for each tier, the hours in which its threshold was reached, as bits: bit 0 is
            the last hour.
        snoozed_until: last hour of the silence after an alarm.
        last_alarm: hour of the last alarm.
        last_score: its score, which a re-alarm must exceed.
        last_tier: its tier's number; -1 before the first alarm.
        alarms: number of alarms so far.
        acknowledged: whether the last alarm was acknowledged.
        suppression: a silence that people asked for.
        closed: whether the stay has ended.
        postponement: a snooze that people asked for, with its reason and its end.
    """

    hour: int = NEVER
    exceeded: tuple[int, ...] = ()
    snoozed_until: int = NEVER
    last_alarm: int = NEVER
    last_score: float = 0.0
    last_tier: int = -1
    alarms: int = 0
    acknowledged: bool = False
    suppression: Suppression | None = None
    closed: bool = False
    postponement: Suppression | None = None

    @property
    def status(self) -> Status:
        """Where the stay stands at its last hour."""
        if self.closed:
            return Status.CLOSED
        if self.suppression is not None and self.hour <= self.suppression.until:
            return Status.SUPPRESSED
        if self.alarms and self.hour == self.last_alarm and not self.acknowledged:
            return Status.ALARMED
        if NEVER < self.hour <= self.snoozed_until:
            return Status.ACKNOWLEDGED if self.acknowledged else Status.SNOOZED
        return Status.ARMED

    def to_json(self) -> dict[str, Any]:
        """Plain values for a store."""
        values = asdict(self) | {"exceeded": list(self.exceeded)}
        if self.postponement is None:
            # Left out where there is none, so that older states are the same bytes.
            del values["postponement"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AlarmState:
        """Reads what :meth:`to_json` wrote.

        Raises:
            DataError: a key is missing or unknown.
        """
        try:
            silences = {
                name: None if told is None else Suppression(**told)
                for name, told in (
                    ("suppression", values["suppression"]),
                    ("postponement", values.get("postponement")),
                )
            }
            return cls(**dict(values) | silences | {"exceeded": tuple(values["exceeded"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"this is no state of an alarm policy: {error}") from None


@dataclass(frozen=True)
class Alarm:
    """An alarm.

    Attributes:
        hour: when.
        score: the score that raised it.
        tier: name of the tier.
        number: 1 for the stay's first alarm.
        reason: ``"threshold"``, ``"rise"`` (the score rose during a snooze) or ``"escalation"`` (a
            higher tier was reached during a snooze).
    """

    hour: int
    score: float
    tier: str
    number: int
    reason: str


@dataclass(frozen=True)
class AlarmPolicy:
    """When hourly scores raise alarms.

    An hour raises an alarm if its score reaches the threshold, has done so in ``persistence[0]`` of
    the last ``persistence[1]`` hours, and the stay is neither snoozed, suppressed nor at its limit.
    A missing score (an abstention) raises nothing and does not count as reached; time runs on.

    Args:
        threshold: of the only tier; leave it out and give ``tiers`` for several.
        tiers: in ascending order of threshold.
        snooze: hours of silence after an alarm (COMPOSER's evaluation: 6).
        persistence: ``(m, n)``: m of the last n hours must reach the threshold.
        rise: a score that exceeds that of the last alarm by this much breaks through a snooze;
            None for never.
        escalate: whether a higher tier breaks through a snooze.
        max_alarms: of a stay; None for no limit.
        quiet_after_treatment: hours of silence after treatment began.
        max_silence: longest silence in hours that people may ask for.

    Raises:
        ParameterError: a number is out of range; says which and what would be right.
    """

    threshold: float | None = None
    tiers: tuple[Tier, ...] = ()
    snooze: int = 6
    persistence: tuple[int, int] = (1, 1)
    rise: float | None = None
    escalate: bool = True
    max_alarms: int | None = None
    quiet_after_treatment: int = 24
    max_silence: int = 72

    def __post_init__(self) -> None:
        if (self.threshold is None) == (not self.tiers):
            raise ParameterError("give either threshold= or tiers=, and not both")
        tiers = self.tiers or (Tier("alarm", float(self.threshold or 0.0)),)
        object.__setattr__(self, "tiers", tuple(tiers))
        names = [tier.name for tier in tiers]
        if len(set(names)) != len(names):
            raise ParameterError(f"two tiers have the same name: {', '.join(names)}")
        for unit in {None, *(u for tier in tiers for u in tier.units)}:
            levels = [tier.of(unit) for tier in tiers]
            if not np.isfinite(levels).all():
                raise ParameterError(f"thresholds must be finite, not {levels}")
            if any(a >= b for a, b in pairwise(levels)):
                where = "" if unit is None else f" in unit {unit!r}"
                raise ParameterError(f"thresholds of tiers must ascend, not {levels}{where}")
        m, n = self.persistence
        if not 1 <= m <= n <= 62:
            raise ParameterError(f"persistence needs 1 <= m <= n <= 62, not {m} of {n}")
        for name in ("snooze", "quiet_after_treatment"):
            if getattr(self, name) < 0:
                raise ParameterError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.max_silence < 1:
            raise ParameterError(f"max_silence must be at least 1 hour, not {self.max_silence}")
        if self.rise is not None and not self.rise > 0:
            raise ParameterError(f"rise must be positive, or None, not {self.rise}")
        if self.max_alarms is not None and self.max_alarms < 1:
            raise ParameterError(f"max_alarms must be at least 1, or None, not {self.max_alarms}")

    def at(self, site: str | None) -> AlarmPolicy:
        """The policy of a site: its own thresholds, except in units that have some.

        ``units`` of tiers name sites, too: what holds is the threshold of the unit, else that of
        the site, else that of the tier. One rule, with
        :func:`~foretell.decisions.alarms.places_of`.
        """
        own = sorted({name for tier in self.tiers for name in tier.units})
        if site not in own:
            return self
        # A place that one tier names keeps all its thresholds, so that they ascend as before.
        tiers = tuple(Tier(t.name, t.of(site), {n: t.of(n) for n in own}) for t in self.tiers)
        return replace(self, threshold=None, tiers=tiers)

    def start(self) -> AlarmState:
        """The state of a stay that was just admitted."""
        return AlarmState(exceeded=(0,) * len(self.tiers))

    def step(
        self, state: AlarmState, hour: int, score: float | None, *, unit: str | None = None
    ) -> tuple[AlarmState, Alarm | None]:
        """Moves a stay on to an hour.

        Args:
            state: before.
            hour: on the stay's clock; hours left out since the last one had no score.
            score: None where no score was issued.
            unit: where the patient is, for thresholds of units; a silence goes along.

        Raises:
            DataError: the hour is not after the last one, or the score is not finite.
        """
        if state.closed:
            return state, None
        if hour <= state.hour:
            raise DataError(f"hour {hour} comes after hour {state.hour} was seen")
        if score is not None and not np.isfinite(score):
            raise DataError(f"a score is {score}: give None where no score was issued")
        m, n = self.persistence
        passed = 1 if state.hour == NEVER else min(hour - state.hour, n)
        reached = [score is not None and score >= tier.of(unit) for tier in self.tiers]
        exceeded = tuple(
            ((bits << passed) | hit) & ((1 << n) - 1)
            for bits, hit in zip(state.exceeded, reached, strict=True)
        )
        state = replace(state, hour=hour, exceeded=exceeded)
        if score is None:
            return state, None
        standing = [i for i, bits in enumerate(exceeded) if reached[i] and bits.bit_count() >= m]
        if not standing or (self.max_alarms is not None and state.alarms >= self.max_alarms):
            return state, None
        if state.suppression is not None and hour <= state.suppression.until:
            return state, None
        tier, reason = standing[-1], "threshold"
        if hour <= state.snoozed_until:
            if self.escalate and state.alarms and tier > state.last_tier:
                reason = "escalation"
            elif self.rise is not None and state.alarms and score >= state.last_score + self.rise:
                reason = "rise"
            else:
                return state, None
        state = replace(
            state, snoozed_until=hour + self.snooze, last_alarm=hour, last_score=float(score),
            last_tier=tier, alarms=state.alarms + 1, acknowledged=False, suppression=None,
            postponement=None,
        )  # fmt: skip
        return state, Alarm(hour, float(score), self.tiers[tier].name, state.alarms, reason)

    def acknowledge(self, state: AlarmState) -> AlarmState:
        """Somebody saw the last alarm.

        Raises:
            DataError: there was none.
        """
        if not state.alarms:
            raise DataError("there is no alarm to acknowledge")
        return replace(state, acknowledged=True)

    def suppress(
        self, state: AlarmState, hours: int, *, reason: str, by: str | None = None
    ) -> AlarmState:
        """Silences a stay for the next ``hours``, for a reason that is kept.

        Raises:
            DataError: no reason, or a silence that is longer than ``max_silence`` or not positive.
        """
        return replace(state, suppression=self._asked_for(state, hours, reason, by))

    def postpone(
        self, state: AlarmState, hours: int, *, reason: str, by: str | None = None
    ) -> AlarmState:
        """Somebody snoozes a stay for the next ``hours``, for a reason that is kept.

        As after an alarm a higher tier or a rise still breaks through.

        Raises:
            DataError: no reason, or a snooze that is longer than ``max_silence`` or not positive.
        """
        asked = self._asked_for(state, hours, reason, by)
        until = max(asked.until, state.snoozed_until)
        return replace(state, snoozed_until=until, postponement=asked)

    def _asked_for(self, state: AlarmState, hours: int, reason: str, by: str | None) -> Suppression:
        if not reason.strip():
            raise DataError("a silence needs a reason")
        if not 1 <= hours <= self.max_silence:
            raise DataError(
                f"a silence may last 1 to {self.max_silence} hours, not {hours}",
                hint="It can be asked for again when it ends",
            )
        begin = 0 if state.hour == NEVER else state.hour
        return Suppression(reason, begin + hours, by)

    def resume(self, state: AlarmState) -> AlarmState:
        """Ends every silence at once."""
        return replace(state, suppression=None, postponement=None, snoozed_until=NEVER)

    def treated(
        self, state: AlarmState, *, by: str | None = None, hour: int | None = None,
        hours: int | None = None,
    ) -> AlarmState:  # fmt: skip
        """Treatment began, or the diagnosis is known: a silence that ends by itself.

        A longer silence that people asked for stays.

        Args:
            state: before.
            by: who said so.
            hour: in which it began; the next one by default. It may be past: what became known
                late is quiet for the rest of its time only.
            hours: of silence from ``hour`` on; ``quiet_after_treatment`` by default.
        """
        length = self.quiet_after_treatment if hours is None else hours
        begin = 0 if state.hour == NEVER else state.hour
        until = (begin if hour is None else hour - 1) + length
        if length < 1 or until <= begin:
            return state
        if state.suppression is not None and state.suppression.until >= until:
            return state
        return replace(state, suppression=Suppression("treated", until, by))

    def close(self, state: AlarmState) -> AlarmState:
        """The stay ended: nothing is raised any more."""
        return replace(state, closed=True)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a store."""
        values = asdict(self)
        del values["threshold"]
        return values | {
            "tiers": [asdict(tier) | {"units": dict(tier.units)} for tier in self.tiers],
            "persistence": list(self.persistence),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AlarmPolicy:
        """Reads what :meth:`to_json` wrote.

        Raises:
            DataError: a key is missing or unknown.
        """
        try:
            tiers = tuple(Tier(**tier) for tier in values["tiers"])
            m, n = values["persistence"]
            rest = {k: v for k, v in values.items() if k not in ("tiers", "persistence")}
            return cls(tiers=tiers, persistence=(int(m), int(n)), **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is no alarm policy: {error}") from None
