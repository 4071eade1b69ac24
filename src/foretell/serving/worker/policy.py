"""What clinicians do about alarms, in the terms of the alarm policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from foretell.decisions.alarms import AlarmPolicy, AlarmState, Tier
from foretell.errors import ParameterError

ACTIONS = ("acknowledge", "snooze", "suppress", "resume")


def act(policy: AlarmPolicy, state: AlarmState, action: Mapping[str, Any]) -> AlarmState:
    """The state of a stay after an action.

    Raises:
        ParameterError: it is no action.
        DataError: the policy does not take it, such as an acknowledgement without an alarm.
    """
    _check(action, policy.max_silence)
    kind = action["action"]
    if kind == "acknowledge":
        return policy.acknowledge(state)
    if kind == "resume":
        return policy.resume(state)
    if kind == "snooze":
        reason, by = str(action.get("reason") or "").strip(), action.get("by")
        after = policy.postpone(state, int(action["hours"]), reason=reason or "not stated", by=by)
        # Logs from before snoozes needed a reason fold to what they did.
        return after if reason else replace(after, postponement=state.postponement)
    return policy.suppress(
        state, int(action["hours"]), reason=str(action["reason"]), by=action.get("by")
    )


def check_action(action: Mapping[str, Any], longest: int) -> None:
    """Refuses what is no action.

    Raises:
        ParameterError: the kind is unknown, hours are missing or too many, or there is no reason.
    """
    _check(action, longest)
    if action["action"] == "snooze" and not str(action.get("reason") or "").strip():
        raise ParameterError("snooze needs a reason")


def _check(action: Mapping[str, Any], longest: int) -> None:
    kind = action.get("action")
    if kind not in ACTIONS:
        raise ParameterError(f"an action is one of {ACTIONS}")
    if kind in ("snooze", "suppress"):
        hours = action.get("hours")
        if not isinstance(hours, int) or isinstance(hours, bool) or not 1 <= hours <= longest:
            raise ParameterError(f"{kind} needs hours, 1 to {longest}: silence must end")
    if kind == "suppress" and not str(action.get("reason") or "").strip():
        raise ParameterError("suppress needs a reason")


def with_units(policy: AlarmPolicy, units: Mapping[str, Mapping[str, float]]) -> AlarmPolicy:
    """The policy with thresholds of a site's units.

    Args:
        policy: whose tiers they are.
        units: tier -> unit -> threshold.

    Raises:
        ParameterError: there is no such tier, or thresholds of tiers do not ascend.
    """
    if not units:
        return policy
    _known(policy, units, "units")
    tiers = tuple(
        Tier(t.name, t.threshold, {**t.units, **units.get(t.name, {})}) for t in policy.tiers
    )
    return replace(policy, threshold=None, tiers=tiers)


def with_tiers(policy: AlarmPolicy, thresholds: Mapping[str, float]) -> AlarmPolicy:
    """The policy with a site's thresholds of tiers, in all units that have none of their own.

    Raises:
        ParameterError: there is no such tier, or thresholds of tiers do not ascend.
    """
    if not thresholds:
        return policy
    _known(policy, thresholds, "tiers")
    tiers = tuple(Tier(t.name, thresholds.get(t.name, t.threshold), t.units) for t in policy.tiers)
    return replace(policy, threshold=None, tiers=tiers)


def _known(policy: AlarmPolicy, names: Mapping[str, Any], what: str) -> None:
    known = [tier.name for tier in policy.tiers]
    for name in names:
        if name not in known:
            raise ParameterError(f"alarms.{what} names {name!r}; the tiers are {known}")


def for_rules(policy: AlarmPolicy, threshold: float) -> AlarmPolicy:
    """The policy where a rule speaks for the model: its scores have a scale of their own.

    Args:
        policy: of the model.
        threshold: of the rule's score, for the highest tier; lower tiers are evenly below.
    """
    size = len(policy.tiers)
    tiers = tuple(
        Tier(tier.name, threshold * (i + 1) / size) for i, tier in enumerate(policy.tiers)
    )
    # A rise from a model's score to a rule's says nothing of the patient.
    return replace(policy, threshold=None, tiers=tiers, rise=None)
