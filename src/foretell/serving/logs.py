"""The service's log, as lines for people or as one JSON object a line for a log store."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal

from foretell import __version__

_PLAIN = "%(asctime)s %(levelname)s %(message)s"


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``part``, ``message``, ``version``.

    Of an exception only the type is told: its words may hold anything.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "part": record.name,
            "message": record.getMessage(),
            "version": __version__,
        }
        if record.exc_info and record.exc_info[0] is not None:
            told["exception"] = record.exc_info[0].__name__
        return json.dumps(told, ensure_ascii=True)


def set_up_log(form: Literal["text", "json"]) -> None:
    """Sends what the service says from ``info`` on to standard error, in a form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(_PLAIN))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Addresses of requests name patients.
    logging.getLogger("httpx").setLevel(logging.WARNING)
