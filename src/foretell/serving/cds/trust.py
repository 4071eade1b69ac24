"""Whom CDS Hooks are answered, and which servers may be asked back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from foretell.errors import ParameterError
from foretell.serving.config import CdsClientConfig
from foretell.serving.errors import ServingError

if TYPE_CHECKING:
    from foretell.serving.api.auth import Caller

ALGORITHMS = frozenset({"ES256", "ES384", "RS256", "RS384", "PS256", "PS384"})
"""Signatures by key pairs: a shared secret, or none, proves nothing here."""

_LONGEST = 600.0
_SKEW = 30.0


class UntrustedError(ServingError):
    """A token that proves nothing; the words say which check failed, never what was sent."""


class CdsTrust:
    """Checks the JWT of CDS clients: issuer, audience, times, one use, and a listed algorithm.

    Keys come from files of the configuration; addresses in a token (``jku``, ``x5u``) are never
    followed. Which tokens were used is known to all processes that share a store.

    Args:
        clients: of the configuration.
        use: keeps (issuer, token, expiry) and says whether it is new; without it only this
            process remembers.
        most: tokens that are remembered until they expire.

    Raises:
        ParameterError: a key file cannot be read, or an algorithm is not among those taken.
    """

    def __init__(
        self,
        clients: Sequence[CdsClientConfig],
        *,
        use: Callable[[str, str, float], bool] | None = None,
        most: int = 100_000,
    ) -> None:
        self._clients = {c.issuer: (c, _keys(c)) for c in clients}
        self._use = use
        self._seen: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._most = most

    def caller(self, token: str, service: str = "") -> Caller:
        """Who sent a token.

        Args:
            token: as it was shown.
            service: path of the service that is called, such as ``/cds-services/one``: the
                audience may be its address (CDS Hooks 2.0), as well as the client's as it stands.

        Raises:
            UntrustedError: it does not prove it.
        """
        import jwt

        from foretell.serving.api.auth import Caller

        try:
            head = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise UntrustedError("this is no JWT") from None
        issuer = claimed.get("iss")
        known = self._clients.get(issuer) if isinstance(issuer, str) else None
        if known is None:
            raise UntrustedError("the issuer is not known")
        client, keys = known
        if head.get("alg") not in client.algorithms:
            raise UntrustedError("the algorithm is not taken")
        key = keys.get(str(head.get("kid"))) if head.get("kid") is not None else None
        if key is None and len(keys) == 1 and head.get("kid") is None:
            key = next(iter(keys.values()))
        if key is None:
            raise UntrustedError("the key is not known")
        try:
            claims = jwt.decode(
                token, key, algorithms=list(client.algorithms),
                audience=_audiences(client.audience, service),
                issuer=client.issuer, leeway=_SKEW,
                options={"require": ["iss", "aud", "exp", "iat", "jti"]},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise UntrustedError(f"the token is refused: {type(error).__name__}") from None
        self._once(client.issuer, claims)
        return Caller(f"cds {client.issuer}"[:200], frozenset({"read"}), frozenset(client.sites))

    def _once(self, issuer: str, claims: dict[str, Any]) -> None:
        now = time.time()
        try:
            expires, issued = float(claims["exp"]), float(claims["iat"])
        except OverflowError:
            raise UntrustedError("the token lives too long") from None
        jti = claims["jti"]
        # Half characters and controls cannot be kept, to know it again.
        if not isinstance(jti, str) or not 0 < len(jti) <= 200 or not jti.isprintable():
            raise UntrustedError("the token has no usable jti")
        if not expires - issued <= _LONGEST:
            raise UntrustedError("the token lives too long")
        with self._lock:
            if len(self._seen) >= self._most:
                self._seen = {k: t for k, t in self._seen.items() if t + _SKEW > now}
                if len(self._seen) >= self._most:
                    raise UntrustedError("too many tokens")
            if self._seen.get((issuer, jti), -1.0) + _SKEW > now:
                raise UntrustedError("the token was used before")
            self._seen[issuer, jti] = expires
        if self._use is not None and not self._use(issuer, jti, expires + _SKEW):
            raise UntrustedError("the token was used before")


def _audiences(told: str, service: str) -> list[str]:
    """What a token for a service may name: the audience, and the service's address below it."""
    base, below = told.rstrip("/"), service.removeprefix("/cds-services")
    return [told, f"{base}{below}"] if base.endswith("/cds-services") else [told, base + service]


def _keys(client: CdsClientConfig) -> dict[str, Any]:
    import jwt

    wrong = [a for a in client.algorithms if a not in ALGORITHMS]
    if wrong:
        raise ParameterError(f"cds: algorithm {wrong[0]!r} is not among {sorted(ALGORITHMS)}")
    try:
        told = json.loads(Path(client.jwks_file).read_text("utf-8"))
        keys = {
            str(k.get("kid", i)): jwt.PyJWK(k).key
            for i, k in enumerate(told["keys"])
            if k.get("kty") in ("EC", "RSA")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise ParameterError(
            f"cds: {client.jwks_file} holds no readable keys: {type(error).__name__}"
        ) from None
    if not keys:
        raise ParameterError(f"cds: {client.jwks_file} holds no key pair")
    return keys


def allowed_server(address: str, allowed: Sequence[str]) -> bool:
    """Whether a FHIR server may be asked: its scheme, host and port are in the configuration.

    Whatever else a request names, an address of the own network among it, is never contacted.
    """
    try:
        given = urlsplit(address)
        if given.username or given.password or given.query or given.fragment:
            return False
        for entry in allowed:
            held = urlsplit(entry)
            same = (given.scheme, given.hostname, given.port) == (
                held.scheme, held.hostname, held.port,
            )  # fmt: skip
            path, base = given.path.rstrip("/"), held.path.rstrip("/")
            if same and ".." not in path and (path == base or path.startswith(base + "/")):
                return True
    except ValueError:
        return False
    return False
