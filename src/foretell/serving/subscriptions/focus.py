"""What a row of the outbox is in FHIR: resources with the identifiers they are read under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foretell.serving.resources import alarm_resources, assessment_of
from foretell.serving.store import OutboxRow, Store


def resources_of(store: Store, row: OutboxRow, systems: Mapping[str, str]) -> list[dict[str, Any]]:
    """The resources that an outbox row makes or changes, as they are after it.

    Args:
        store: in which the alarm of a correction is.
        row: of the outbox.
        systems: site -> system of its patients' identifiers, where it has one.
    """
    system = systems.get(row.site)
    if row.kind == "score":
        return [_named(assessment_of(row, system), row.key)]
    if row.kind == "alarm":
        return [_named(r, row.key) for r in alarm_resources(row, system)]
    if row.kind == "correction":
        alarm = store.note(str(row.body["alarm"]))
        if alarm is None:
            return []
        made = [_named(r, alarm.key) for r in alarm_resources(alarm, system)]
        if row.body.get("change") == "retracted":
            for resource in made:
                resource["status"] = "entered-in-error"
        return made
    return []


def _named(resource: dict[str, Any], name: str) -> dict[str, Any]:
    return {"resourceType": resource["resourceType"], "id": name, **resource}
