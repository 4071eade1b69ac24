"""What leaves the service: webhooks and HL7 device data, once each and in order."""

from foretell.serving.outbox.dispatcher import Dispatcher, PermanentError, Sink
from foretell.serving.outbox.sinks import FhirSink, MllpSink, WebhookSink, make_sink

__all__ = [
    "Dispatcher",
    "FhirSink",
    "MllpSink",
    "PermanentError",
    "Sink",
    "WebhookSink",
    "make_sink",
]
