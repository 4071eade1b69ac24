"""When a score becomes an alarm: the plain policy, and the interface of any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from foretell.errors import ParameterError

ACTIONS = ("acknowledge", "snooze", "suppress", "resume")


class Alarm(NamedTuple):
    """An alarm: its tier and the score that raised it."""

    tier: str
    score: float


class Policy(Protocol):
    """A state machine of one stay; its state is what JSON can hold."""

    def state0(self) -> dict[str, Any]:
        """Before the first hour."""

    def step(
        self, state: Mapping[str, Any], hour: int, score: float | None
    ) -> tuple[dict[str, Any], Alarm | None]:
        """After an hour with its score; None where there is none."""

    def act(self, state: Mapping[str, Any], hour: int, action: Mapping[str, Any]) -> dict[str, Any]:
        """After a clinician's action in an hour.

        Raises:
            ParameterError: the action is not one that the policy takes.
        """

    def name(self, state: Mapping[str, Any], hour: int) -> str:
        """What the state is called in an hour."""


@dataclass(frozen=True)
class ThresholdPolicy:
    """An alarm where ``score >= threshold``, then silence for ``snooze`` hours.

    Args:
        threshold: of the score.
        snooze: hours of silence after an alarm.
        tier: of its alarms.
        longest: hours that anybody may silence a stay for at once: without an end, silence is a
            danger.
    """

    threshold: float = 0.35
    snooze: int = 6
    tier: str = "urgent"
    longest: int = 24

    def __post_init__(self) -> None:
        if self.snooze < 0 or self.longest < 1:
            raise ParameterError("snooze must not be negative, and longest at least 1")

    def state0(self) -> dict[str, Any]:
        """Armed."""
        return {"quiet": 0, "name": "armed"}

    def step(
        self, state: Mapping[str, Any], hour: int, score: float | None
    ) -> tuple[dict[str, Any], Alarm | None]:
        """An alarm, unless the stay is quiet."""
        if hour <= state["quiet"]:
            return dict(state), None
        if score is None or score < self.threshold:
            return {"quiet": 0, "name": "armed"}, None
        return {"quiet": hour + self.snooze, "name": "alarmed"}, Alarm(self.tier, score)

    def act(self, state: Mapping[str, Any], hour: int, action: Mapping[str, Any]) -> dict[str, Any]:
        """Acknowledge, snooze or suppress for hours, or resume."""
        check_action(action, self.longest)
        kind = action["action"]
        if kind == "acknowledge":
            return {**state, "name": "acknowledged"}
        if kind == "resume":
            return {"quiet": 0, "name": "armed"}
        until = hour - 1 + int(action["hours"])
        name = "snoozed" if kind == "snooze" else "suppressed"
        return {"quiet": max(until, state["quiet"]), "name": name}

    def name(self, state: Mapping[str, Any], hour: int) -> str:
        """``armed``, ``alarmed``, ``acknowledged``, ``snoozed`` or ``suppressed``."""
        if hour > state["quiet"]:
            return "armed"
        return str(state["name"])


def check_action(action: Mapping[str, Any], longest: int) -> None:
    """Refuses what is no action.

    Raises:
        ParameterError: the kind is unknown, hours are missing or too many, or there is no reason.
    """
    kind = action.get("action")
    if kind not in ACTIONS:
        raise ParameterError(f"an action is one of {ACTIONS}")
    if kind in ("snooze", "suppress"):
        hours = action.get("hours")
        if not isinstance(hours, int) or isinstance(hours, bool) or not 1 <= hours <= longest:
            raise ParameterError(f"{kind} needs hours, 1 to {longest}: silence must end")
    if kind == "suppress" and not str(action.get("reason") or "").strip():
        raise ParameterError("suppress needs a reason")
