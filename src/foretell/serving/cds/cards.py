"""Cards: what a hook is answered."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from foretell.decisions.alarms import AlarmPolicy
from foretell.serving.reasons import REASONS
from foretell.serving.resources import NOTE, service_request

_PREFETCH = {
    "patient": "Patient/{{context.patientId}}",
    "observations": "Observation?patient={{context.patientId}}"
    "&category=vital-signs,laboratory&_sort=-date&_count=500",
}
SERVICES: tuple[dict[str, Any], ...] = tuple(
    {
        "hook": hook,
        "id": f"sepsis-risk-{hook}",
        "title": "Risk of sepsis",
        "description": text,
        "prefetch": _PREFETCH,
        "usageRequirements": "Vital signs in the record; laboratory values where there are any.",
    }
    for hook, text in (
        ("patient-view", "The present risk of sepsis, or why there is none."),
        ("encounter-start", "The risk of sepsis at the beginning of an encounter."),
        ("order-select", "Measurements that would tell most about the risk of sepsis."),
    )
)
OVERRIDES = tuple(
    {"code": code, "system": "urn:foretell:override", "display": text}
    # A card may wait without a reason; an alarm may not.
    for code, text in (*REASONS.items(), ("not-now", "Not now"))
)
"""Why a card is overridden: what silences an alarm, and ``not-now``."""
_SOURCE = {
    "label": "foretell early warning",
    "topic": {"code": "sepsis-risk", "system": "urn:foretell:topic", "display": "Risk of sepsis"},
}
_WITHHELD = ("invalid_input", "out_of_distribution", "indeterminate", "no_score")


def cards_of(
    view: Mapping[str, Any],
    policy: AlarmPolicy,
    *,
    hook: str,
    ordered: Collection[str] = (),
    board: str | None = None,
    smart_app: str | None = None,
) -> list[dict[str, Any]]:
    """The cards of a patient; none where there is nothing to decide.

    Args:
        view: of the patient's stay.
        policy: whose thresholds say what is worth a card.
        hook: that asks.
        ordered: LOINC codes of draft orders: these are not proposed again.
        board: address of the live board, for a link.
        smart_app: launch address of a SMART app, which the client opens with patient and user.
    """
    links = []
    if smart_app is not None:
        # The client adds who and where; the app is told only which hook brought it there.
        context = json.dumps({"hook": hook, "hour": view.get("hour")}, separators=(",", ":"))
        links.append({"label": "Course of the risk", "url": smart_app, "type": "smart",
                      "appContext": context})  # fmt: skip
    if board is not None:
        links.append({"label": "Live board", "url": board, "type": "absolute"})
    risk, status = view.get("risk"), str(view.get("status"))
    wanted = [r for r in view.get("recommended") or () if not set(r["loinc"]) & set(ordered)]
    levels = [tier.of(view.get("unit")) for tier in policy.tiers]
    tier = sum(risk >= level for level in levels) if risk is not None else 0
    if hook == "order-select":
        if not wanted:
            return []
        title = f"Consider {wanted[0]['panel']}: it would tell most about the risk of sepsis"
        return [_card(view, hook, "info", title, _reasons(wanted), wanted, links)]
    if status in _WITHHELD:
        told = view.get("reason") or "too little is known"
        title = "No sepsis score: the input cannot be judged"
        text = f"**No score is given** ({status.replace('_', ' ')}): {_plain(told)}."
        return [_card(view, hook, "info", title, text, wanted, links)]
    if not tier and status != "ambiguous":
        return []
    indicator = ("info", "warning", "critical")[min(tier + (len(levels) == 1 and tier > 0), 2)]
    if tier:
        title = f"Sepsis risk {risk:.0%} ({policy.tiers[tier - 1].name})"
        if str(view.get("model", "")).startswith(("news2-", "sirs-", "qsofa-")):
            title = f"Bedside score {risk:.0%} of its most points ({policy.tiers[tier - 1].name})"
    else:
        title = f"Sepsis risk {risk:.0%}: the measurements do not decide"
    drivers = ", ".join(_plain(name) for name, _ in view.get("drivers") or ())
    text = f"Driven by: {drivers}. " if drivers else ""
    if view.get("reason"):
        text += f"{_plain(view['reason'])}. "
    return [_card(view, hook, indicator, title, text + _reasons(wanted), wanted, links)]


def _reasons(wanted: Collection[Mapping[str, Any]]) -> str:
    return "".join(f"\n- {_plain(r['panel'])}: {_plain(r['reason'])}" for r in wanted)


def _plain(text: Any) -> str:
    """Without the marks of Markdown."""
    return "".join(c for c in str(text) if c not in "*_`[]<>#|\\" and c >= " ")


def _card(
    view: Mapping[str, Any], hook: str, indicator: str, title: str, detail: str,
    wanted: Collection[Mapping[str, Any]], links: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    told = f"{view['site']}|{view['patient']}|{view['stay']}|{view['hour']}|{hook}|{title}"
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:foretell:card:{told}")
    card: dict[str, Any] = {
        "uuid": str(identity),
        "summary": title[:139],
        "indicator": indicator,
        "detail": f"{detail}\n\nModel {view.get('model') or 'none'}. {NOTE}".strip(),
        "source": _SOURCE,
        "overrideReasons": list(OVERRIDES),
    }
    if wanted:
        card["suggestions"] = [
            {
                "label": f"Propose {r['panel']}",
                "uuid": str(uuid.uuid5(identity, r["panel"])),
                "isRecommended": k == 0,
                "actions": [
                    {
                        "type": "create",
                        "description": f"Drafts a request for {r['panel']}; nothing is ordered",
                        "resource": service_request(
                            view["patient"], view.get("visit"), r, float(view["updated"])
                        ),
                    }
                ],
            }
            for k, r in enumerate(wanted)
        ]
        card["selectionBehavior"] = "any"
    if links:
        card["links"] = links
    return card
