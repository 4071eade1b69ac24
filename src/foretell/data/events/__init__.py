"""Logs of entities and their late outcomes, and the training rows that protocols emit from them."""

from foretell.data.events.emission import PROTOCOLS, Emission, Protocol
from foretell.data.events.engine import EmissionEngine
from foretell.data.events.event_log import EventLog
from foretell.data.events.readers import read_events
from foretell.data.events.schema import EventSchema
from foretell.data.events.storage import open_events, write_events

__all__ = [
    "PROTOCOLS",
    "Emission",
    "EmissionEngine",
    "EventLog",
    "EventSchema",
    "Protocol",
    "open_events",
    "read_events",
    "write_events",
]
