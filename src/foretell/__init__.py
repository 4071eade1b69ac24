"""foretell turns a history of events into decisions people can trust."""

from __future__ import annotations

__version__ = "0.1.0"
