"""CDS Hooks 2.0: what an electronic record asks while somebody works in it."""

from foretell.serving.cds.cards import OVERRIDES, SERVICES, cards_of
from foretell.serving.cds.trust import CdsTrust, UntrustedError, allowed_server

__all__ = ["OVERRIDES", "SERVICES", "CdsTrust", "UntrustedError", "allowed_server", "cards_of"]
