"""When a rising risk becomes an alarm, and when it is better to be silent."""

from foretell.decisions.alarms.batch import (
    Alarms,
    places_of,
    run_policy,
    thresholds_at,
    thresholds_of,
)
from foretell.decisions.alarms.policy import (
    Alarm,
    AlarmPolicy,
    AlarmState,
    Suppression,
    Tier,
)

__all__ = [
    "Alarm",
    "AlarmPolicy",
    "AlarmState",
    "Alarms",
    "Suppression",
    "Tier",
    "places_of",
    "run_policy",
    "thresholds_at",
    "thresholds_of",
]
