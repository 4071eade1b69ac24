"""Bearer tokens with scopes: the configuration holds their hashes only."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBearer

from foretell.serving.config import SCOPES, TokenConfig

if TYPE_CHECKING:
    from foretell.serving.service import Service


# Said in the description of the service; what it means is judged here.
BEARER = HTTPBearer(auto_error=False, scheme_name="bearer", description="A token of the service.")
Bearer = Annotated[Any, Depends(BEARER)]
# Parameters of queries that may be repeated.
_LISTS = frozenset({"id"})


@dataclass(frozen=True)
class Caller:
    """Who asks: ``sites`` empty means all."""

    name: str
    scopes: frozenset[str]
    sites: frozenset[str] = frozenset()
    break_glass: bool = False
    per_minute: int | None = None

    def may(self, scope: str, site: str | None = None) -> bool:
        """Whether a scope is granted, and a site is among theirs."""
        return scope in self.scopes and (site is None or not self.sites or site in self.sites)


class Tokens:
    """Knows callers by their tokens, and how often they ask.

    Args:
        tokens: of the configuration.
        per_minute: requests that one caller may make; bursts of a tenth of that.
    """

    def __init__(self, tokens: Sequence[TokenConfig], *, per_minute: int = 60_000) -> None:
        self._known = [
            (
                bytes.fromhex(t.sha256),
                Caller(t.name, t.granted, frozenset(t.sites), t.break_glass, t.requests_per_minute),
            )
            for t in tokens
        ]
        self._rate, self._burst = per_minute / 60, max(per_minute / 10, 1.0)
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def caller(self, header: str | None) -> Caller | None:
        """The caller of an Authorization header; None where it is missing or not known."""
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        given = hashlib.sha256(token.strip().encode("utf-8", "replace")).digest()
        found = None
        for known, caller in self._known:
            if hmac.compare_digest(known, given):
                found = caller
        return found

    def named(self, name: str) -> Caller | None:
        """The caller of a name, None where the configuration has none."""
        return next((caller for _, caller in self._known if caller.name == name), None)

    def wait(self, caller: Caller) -> float:
        """Seconds that the caller has to wait, 0 where the request may go on."""
        now = time.monotonic()
        rate, burst = self._rate, self._burst
        if caller.per_minute is not None:
            rate, burst = caller.per_minute / 60, max(caller.per_minute / 10, 1.0)
        with self._lock:
            left, then = self._left.get(caller.name, (burst, now))
            left = min(left + (now - then) * rate, burst)
            if left < 1:
                self._left[caller.name] = (left, now)
                return (1 - left) / rate
            self._left[caller.name] = (left - 1, now)
            return 0.0


def new_token(name: str, scopes: Sequence[str] = SCOPES) -> tuple[str, TokenConfig]:
    """A fresh token and what the configuration needs to know of it."""
    token = secrets.token_urlsafe(32)
    hashed = hashlib.sha256(token.encode()).hexdigest()
    return token, TokenConfig(name=name, sha256=hashed, scopes=tuple(scopes))  # type: ignore[arg-type]


class Needs:
    """Who has a scope.

    Args:
        scope: that is needed.
    """

    def __init__(self, scope: str) -> None:
        self.scope = scope

    # No ``__call__``: FastAPI 0.115 finds no types in postponed annotations of an object.
    def caller(self, request: Request, bearer: Bearer) -> Caller:
        """A dependency: the caller of a request, if they may.

        Raises:
            HTTPException: 401, 403, 429, or 422 where a parameter is given twice.
        """
        service: Service = request.app.state.service
        header = request.headers.get("authorization")
        caller = service.tokens.caller(header)
        if caller is None and header is None:
            headers = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(401, "a bearer token is needed", headers=headers)
        if caller is None:
            # Often the end of the line was hashed with it.
            told = "the bearer token is not known: the configuration holds the SHA-256 of another"
            headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            raise HTTPException(401, told, headers=headers)
        wait = service.tokens.wait(caller)
        if wait > 0:
            headers = {"Retry-After": str(math.ceil(wait))}
            raise HTTPException(429, "too many requests", headers=headers)
        if self.scope not in caller.scopes:
            raise HTTPException(403, f"the scope {self.scope!r} is needed")
        names = [name for name, _ in request.query_params.multi_items() if name not in _LISTS]
        if len(set(names)) < len(names):
            # Which one counts would be a guess.
            raise HTTPException(422, "a parameter is given more than once")
        return caller


Reader = Annotated[Caller, Depends(Needs("read").caller)]
Actor = Annotated[Caller, Depends(Needs("act").caller)]
Subscriber = Annotated[Caller, Depends(Needs("subscribe").caller)]
Sender = Annotated[Caller, Depends(Needs("ingest").caller)]
Auditor = Annotated[Caller, Depends(Needs("audit").caller)]
Admin = Annotated[Caller, Depends(Needs("admin").caller)]
