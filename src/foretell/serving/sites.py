"""From a configuration to what holds at each site: policies of alarms, silences, panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from foretell.decisions.alarms import AlarmPolicy, Tier
from foretell.errors import ParameterError
from foretell.serving.config import AlarmConfig, Config, QuietConfig
from foretell.serving.site_config import SiteAlarmConfig, SiteConfig
from foretell.serving.worker.advice import site_panels
from foretell.serving.worker.policy import for_rules, with_tiers, with_units
from foretell.serving.worker.quiet import QuietRules
from foretell.serving.worker.site import SiteRules

if TYPE_CHECKING:
    from foretell.serving.deployment import Deployment
    from foretell.serving.worker.scorer import RuleScorer

Panels = dict[str, Any]
_OF_POLICY = {"snooze_hours": "snooze", "persistence": "persistence", "rise": "rise",
              "max_alarms": "max_alarms"}  # fmt: skip


def panels_of(config: Config) -> tuple[Panels, dict[str, Panels]]:
    """Tables of what can be ordered: of all sites, and of those that have their own.

    Raises:
        ParameterError: a file is not right, or a site tells costs of a panel that it has not.
    """
    common = site_panels(config.sensing.panels)
    own = {}
    for name, site in config.sites.items():
        if site.panels is None and not site.costs:
            continue
        key = f"sites.{name}.{'costs' if site.panels is None else 'panels'}"
        terms = {panel: told.told for panel, told in site.costs.items()}
        own[name] = site_panels(site.panels or config.sensing.panels, terms, key=key)
    return common, own


def sites_of(
    config: Config, policy: AlarmPolicy | None = None, trained: Sequence[Deployment] = ()
) -> list[str]:
    """Sites at which something else holds: by their own tables, or by the policies of models.

    Where no sites are configured any may send, and all that the policies name count.
    """
    policies = [d.policy for d in trained] if policy is None else [policy]
    named = {place for p in policies for tier in p.tiers for place in tier.units}
    told = [
        name for name, site in config.sites.items()
        if name in named or site.alarms.model_fields_set or site.quiet.model_fields_set
    ]  # fmt: skip
    return told if config.sites else sorted(named)


def rules_of(
    config: Config,
    rules: Sequence[RuleScorer] = (),
    policy: AlarmPolicy | None = None,
    deployments: Sequence[Deployment] = (),
    candidate: Deployment | None = None,
    site: str | None = None,
) -> SiteRules:
    """What holds at a site, or at all that tell nothing else.

    Args:
        config: of the service.
        rules: bedside rules that may speak for a model.
        policy: of alarms; by default that of the first deployment, else of the configuration.
        deployments: models in the order of preference.
        candidate: a model on trial.
        site: whose thresholds in the policies hold, and its own tables ``alarms`` and ``quiet``
            where it has some; None for all sites.

    Raises:
        ParameterError: there is no such tier, or thresholds of tiers do not ascend; says where.
    """
    own = SiteConfig() if site is None else config.sites.get(site, SiteConfig())
    try:
        return _rules_of(config, own, rules, policy, deployments, candidate, site)
    except ParameterError as error:
        if site is None:
            raise
        raise ParameterError(f"sites.{site}.alarms: {error}") from None


def _rules_of(
    config: Config, site: SiteConfig, rules: Sequence[RuleScorer], policy: AlarmPolicy | None,
    deployments: Sequence[Deployment], candidate: Deployment | None, name: str | None,
) -> SiteRules:  # fmt: skip
    told = site.alarms.model_dump(exclude_none=True, exclude={"tiers", "units"})
    alarms = config.alarms.model_copy(update=told)
    longest = alarms.longest_silence_hours
    trained = [*deployments, *([] if candidate is None else [candidate])]
    policies: dict[str, AlarmPolicy] = {}
    if policy is None and deployments:
        policy = replace(deployments[0].policy, threshold=None, max_silence=longest)
        for other in trained[1:]:
            same = [t.name for t in other.policy.tiers] == [t.name for t in policy.tiers]
            policies[other.version] = other.policy if same else policy
        policies |= {rule.version: for_rules(policy, alarms.threshold) for rule in rules}
    elif policy is None:
        policy = AlarmPolicy(
            tiers=(Tier(alarms.tier, alarms.threshold),), snooze=alarms.snooze_hours,
            max_silence=longest, persistence=alarms.persistence, rise=alarms.rise,
            max_alarms=alarms.max_alarms,
        )  # fmt: skip
    models = {other.version for other in trained}
    return SiteRules(
        _placed(policy, alarms, site.alarms, name, model=True),
        {v: _placed(p, alarms, site.alarms, name, model=v in models) for v, p in policies.items()},
        _quiet(config.quiet, site),
    )


def _placed(
    policy: AlarmPolicy, alarms: AlarmConfig, own: SiteAlarmConfig, site: str | None, *,
    model: bool,
) -> AlarmPolicy:  # fmt: skip
    """A policy with the thresholds, times and limits of a site."""
    told = own.model_dump(exclude_none=True)
    changed = {_OF_POLICY[k]: v for k, v in told.items() if k in _OF_POLICY}
    if not model:
        # The points of rules have a scale of their own.
        changed.pop("rise", None)
        return replace(policy, threshold=None, **changed)
    policy = replace(policy, threshold=None, **changed).at(site)
    return with_units(with_units(with_tiers(policy, own.tiers), alarms.units), own.units)


def _quiet(quiet: QuietConfig, site: SiteConfig) -> QuietRules:
    told = quiet.model_copy(update=site.quiet.model_dump(exclude_none=True))
    return QuietRules(told.antibiotics_hours, told.sepsis_hours, told.new_course_hours, told.orders)
