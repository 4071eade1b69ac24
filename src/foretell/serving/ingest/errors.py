"""What goes wrong when another server is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from foretell.serving.errors import ServingError

_LONGEST = 3600.0


class PollError(ServingError):
    """The server did not answer as it should; ``pause`` is what it asked for, in seconds."""

    def __init__(self, problem: str, pause: float | None = None) -> None:
        super().__init__(problem)
        self.pause = pause

    @classmethod
    def busy(cls, headers: Mapping[str, str]) -> PollError:
        """Of a server that asks to come again later."""
        return cls("the server is busy", retry_after(headers))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of ``Retry-After``, which is a number or a date; None where it is neither."""
    told = headers.get("Retry-After", "").strip()
    if told.isascii() and told.isdecimal():
        return min(float(told[:9]), _LONGEST)
    try:
        return min(max(parsedate_to_datetime(told).timestamp() - time.time(), 0.0), _LONGEST)
    except (ValueError, TypeError, OverflowError):
        return None
