"""Logs of entities and their late outcomes, and the training rows that protocols emit from them."""

from foretell.data.events.emission import PROTOCOLS, Emission, Protocol
from foretell.data.events.event_log import EventLog

__all__ = ["PROTOCOLS", "Emission", "EventLog", "Protocol"]
