"""From bytes at a door to what is to be stored: sites, codes, refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zoneinfo import ZoneInfo

from foretell.data.clinical.feed import Measurement, Normaliser
from foretell.data.clinical.fhir import FhirError, FhirReader, read_instant
from foretell.data.clinical.hl7 import Hl7Error, Hl7Reader, Message, read_time
from foretell.data.clinical.repair import UnitRepair
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.treatments import TreatmentCodes
from foretell.serving.config import Config, SiteConfig
from foretell.serving.events import (
    MEASURED,
    Delivery,
    NewEvent,
    Quarantined,
    digest,
    events_of,
)
from foretell.serving.ingest.watch import ClockSkews, Sender, Silences

# Characters of what a sender calls itself, as far as it is kept in memory.
_LONGEST = 100


@dataclass
class Intake:
    """Reads messages of all sites of a configuration.

    Where the configuration names no site, every sending facility is one, in UTC. ``repair`` brings
    values without a stated unit into canonical ones. What was heard and by which clock is in
    ``skews`` and ``silences``.
    """

    config: Config
    schema: Schema = field(default_factory=Schema.default)
    repair: UnitRepair | None = None
    skews: ClockSkews = field(default_factory=ClockSkews)

    def __post_init__(self) -> None:
        # In a replay the feed's time is no clock.
        self._clocked = self.config.service.clock == "wall"
        limits = {
            (name, channel): hours for name, site in self.config.sites.items()
            for channel, hours in site.silence_hours.items()
        }  # fmt: skip
        self.silences = Silences(limits)
        self._of: dict[str, tuple[Hl7Reader, Normaliser]] = {}
        self._facilities: dict[str, str] = {}
        for name, site in self.config.sites.items():
            self._of[name] = (
                Hl7Reader(name, ZoneInfo(site.zone), site.authorities),
                Normaliser(
                    self.schema, site.codes, self.repair, TreatmentCodes(site.treatments),
                    site.units_of_measure,
                ),
            )  # fmt: skip
            for facility in site.facilities or (name,):
                self._facilities[facility] = name
        self._any = Normaliser(self.schema, repair=self.repair)

    def _reader(self, facility: str) -> tuple[Hl7Reader, Normaliser]:
        if not self.config.sites:
            return Hl7Reader(facility or None), self._any
        name = self._facilities.get(facility)
        if name is None and len(self._of) == 1 and not facility:
            name = next(iter(self._of))
        if name is None:
            raise Hl7Error("the sending facility is not known", code=103, where="MSH-4")
        return self._of[name]

    def hl7(self, message: Message, data: bytes, received: float) -> Delivery:
        """What an HL7 message says, ready to be stored.

        Raises:
            Hl7Error: it cannot be taken.
        """
        head = message.get("MSH")
        if not message.control_id:
            raise Hl7Error("the control id is missing", code=101, where="MSH-10")
        mllp = self.config.mllp
        if mllp is not None and message.part(head, 11) not in mllp.processing_ids:
            raise Hl7Error("the processing id is not taken", code=202, where="MSH-11", reject=True)
        version = message.part(head, 12)
        if version and not version.startswith("2."):
            raise Hl7Error("the version is not taken", code=203, where="MSH-12", reject=True)
        application, facility = message.sender
        reader, normaliser = self._reader(facility)
        if any("\x00" in field for _, fields in message.segments for field in fields):
            raise Hl7Error("the text holds NUL characters", code=102)
        records = reader.read(message, received=received)
        events, aside = events_of(records, normaliser)
        kind = "^".join(message.kind)
        content = hashlib.sha256(data).digest()[:16]
        source = f"hl7|{application}|{facility}"
        sent = read_time(message.part(head, 7), reader.zone, near=received)
        sender = Sender(reader.site or facility, "hl7", f"{application}|{facility}"[:_LONGEST])
        self._watch(sender, events, sent, received)
        told = _of_message(aside, reader.site or facility, source, message.control_id, content)
        return Delivery(source, message.control_id, content, kind, received, events, told)

    def plain(
        self, records: Sequence[Measurement], source: str, site: str, control: str,
        content: bytes, received: float,
    ) -> Delivery:  # fmt: skip
        """Results of a site that came as such, ready to be stored.

        Args:
            records: of the site.
            source: who sent them.
            site: that is known.
            control: names the message among those of its source.
            content: digest of the message.
            received: since 1970.
        """
        events, aside = events_of(records, self.of_site(site)[1])
        self._watch(Sender(site, "json", source), events, None, received)
        return Delivery(source, control, content, "events", received, events, aside)

    def _watch(
        self, sender: Sender, events: list[NewEvent], sent: float | None, received: float
    ) -> None:
        """Notes what was heard; flags results of a sender whose clock is wrong."""
        skew = self.skews.heard(sender, sent, received) if self._clocked else None
        for event in events:
            if event.kind != MEASURED:
                continue
            self.silences.heard(event.site, {item[1] for _, item in event.items}, received)
            if skew is not None:
                # Part of the event: a replay hears it, whatever its own clock says.
                event.body["skew"] = round(skew)

    def of_site(self, site: str) -> tuple[Hl7Reader, Normaliser]:
        """The reader and normaliser of a site."""
        return self._of.get(site, (Hl7Reader(site), self._any))

    def knows_site(self, site: str) -> bool:
        """Whether a site may send; any may where none is configured."""
        return not self.config.sites or site in self.config.sites

    def fhir_reader(self, site: str) -> FhirReader:
        """The reader of a site's FHIR resources."""
        settings = self.config.sites.get(site, SiteConfig())
        return FhirReader(site, ZoneInfo(settings.zone), settings.identifier_systems)

    def fhir(
        self, resource: Any, site: str, received: float, server: str = "", *,
        reader: FhirReader | None = None,
    ) -> Delivery:  # fmt: skip
        """What a FHIR resource or bundle says, ready to be stored.

        Versions of a resource are told apart by their content. A reader that is used again knows
        the patients of what it has read.

        Raises:
            FhirError: it cannot be taken, or the site is not known.
        """
        if not self.knows_site(site):
            raise FhirError("the site is not known", where="site")
        reader = self.fhir_reader(site) if reader is None else reader
        data = fhir_content(resource)
        records = reader.read(resource)
        normaliser = self._of[site][1] if site in self._of else self._any
        events, aside = events_of(records, normaliser)
        content = hashlib.sha256(data).digest()[:16]
        control = resource.get("id") if isinstance(resource.get("id"), str) else content.hex()
        kind = resource["resourceType"]
        source = f"fhir|{site}|{server}"
        # What is asked for comes late by nature: only what is sent says what time it is.
        made = None if server else _timestamp(resource)
        sent = None if made is None else read_instant(made, ZoneInfo("UTC"))
        self._watch(Sender(site, "fhir", server), events, sent, received)
        told = _of_message(aside, site, source, control, content)
        return Delivery(source, control[:200], content, kind, received, events, told)


def fhir_content(resource: Any) -> bytes:
    """The same bytes for the same resource, of text that every store can keep.

    Raises:
        FhirError: its text holds NUL or half characters.
    """
    text = json.dumps(resource, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        data = text.encode()
    except UnicodeError:
        raise FhirError("the text holds half characters") from None
    if "\\u0000" in text:
        raise FhirError("the text holds NUL characters")
    return data


def _of_message(
    aside: Sequence[Quarantined], site: str, source: str, control: str, content: bytes
) -> list[Quarantined]:
    """What is set aside without a body, told apart by site and message: each of them counts.

    But for types of resources that are of no use here, of which bundles are full: one of each.
    """
    out = []
    for number, q in enumerate(aside):
        if q.body is None:
            every = q.reason != "resource_not_taken"
            told = (source, control, content.hex(), number) if every else ()
            q = replace(q, site=site, key=digest(q.key.hex(), site, *told))
        out.append(q)
    return out


def _timestamp(resource: dict[str, Any]) -> Any:
    """When a bundle or resource was put together, by its sender."""
    meta = resource.get("meta")
    return resource.get("timestamp") or (
        meta.get("lastUpdated") if isinstance(meta, dict) else None
    )
