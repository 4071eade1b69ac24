"""The doors: HL7 v2 over MLLP and FHIR; nothing is acknowledged before it is durable."""

from foretell.serving.ingest.committer import BusyError, Committer
from foretell.serving.ingest.intake import Intake
from foretell.serving.ingest.mllp import Framer, MllpServer

__all__ = ["BusyError", "Committer", "Framer", "Intake", "MllpServer"]
