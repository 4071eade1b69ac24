"""What goes wrong in a service."""

from __future__ import annotations

from foretell.errors import ForetellError


class ServingError(ForetellError):
    """The service cannot do what was asked."""


class StoreUnavailableError(ServingError):
    """The store does not answer or refuses to write; the same call may work later."""


class FencedError(ServingError):
    """Another worker owns the partition by now: nothing of this write was kept."""


class ScorerFailedError(ServingError):
    """A scorer gave no answer where one counts: the failure must be kept before it may show.

    Args:
        version: of the scorer.
        reason: name of the error.
    """

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"{version} failed: {reason}")
        self.version, self.reason = version, reason
        self.site = self.patient = ""
