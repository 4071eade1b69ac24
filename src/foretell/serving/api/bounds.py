"""How large a body may be, at every door: it is refused before it is read whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from foretell.serving.metrics import Metrics

MOST_BYTES = 8 << 20
"""Of a body, where the configuration has no door for HTTP."""


class BodyBound:
    """Refuses bodies that are larger than is taken.

    One that says its length is refused at once; one that comes in chunks as soon as there are too
    many bytes. What follows of it is thrown away, so that the sender can read the answer.

    Args:
        app: behind it.
        most: bytes of a body.
        refuse: the refusal of a request in the words of its door, from a text and a status.
        metrics: that count what the doors for messages refuse.
    """

    def __init__(
        self, app: ASGIApp, most: int, refuse: Callable[[Request, Any, int], Response],
        metrics: Metrics,
    ) -> None:  # fmt: skip
        self._app, self._most, self._refuse, self._metrics = app, most, refuse, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        text = f"the body is too large: at most {self._most:,} bytes are taken"
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > self._most:
            self._count(scope["path"])
            await self._refuse(Request(scope), text, 413)(scope, receive, send)
            return
        size, refused = 0, False

        async def bounded() -> Message:
            nonlocal size, refused
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                if not refused:
                    # Whoever catches it may ask for more, and is told so again.
                    refused = True
                    self._count(scope["path"])
                # Whoever reads the body hands it on to the handlers of refusals.
                raise HTTPException(413, text)
            return message

        await self._app(scope, bounded, send)

    def _count(self, path: str) -> None:
        door = "fhir" if path.startswith("/fhir") else "json" if path == "/v1/events" else None
        if door is not None:
            self._metrics.messages.labels(door, "", "too_large").inc()
