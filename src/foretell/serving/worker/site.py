"""What holds at one site: thresholds and silences of its alarms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from foretell.decisions.alarms import AlarmPolicy
from foretell.serving.worker.quiet import QuietRules


class SiteRules(NamedTuple):
    """The rules of a site.

    Args:
        policy: of alarms.
        policies: version of a scorer -> the policy of its scores, where it is another.
        quiet: for how long treatment silences alarms.
    """

    policy: AlarmPolicy
    policies: Mapping[str, AlarmPolicy]
    quiet: QuietRules

    def of(self, version: str) -> AlarmPolicy:
        """The policy of a scorer's scores."""
        return self.policies.get(version, self.policy)

    def lowest(self, version: str, unit: str | None) -> float:
        """The score from which on a scorer alarms at all in a unit."""
        return self.of(version).tiers[0].of(unit)
