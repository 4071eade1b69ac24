"""What goes wrong in a service."""

from __future__ import annotations

from foretell.errors import ForetellError


class ServingError(ForetellError):
    """The service cannot do what was asked."""


class StoreUnavailableError(ServingError):
    """The store does not answer or refuses to write; the same call may work later."""


class FencedError(ServingError):
    """Another worker owns the partition by now: nothing of this write was kept."""
