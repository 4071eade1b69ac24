"""SMART backend services: an access token for a key, without anybody who signs in.

HL7, SMART App Launch 2.2, "Backend Services" and "Client Authentication: Asymmetric".
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from foretell.errors import ParameterError
from foretell.serving.config import SmartConfig
from foretell.serving.ingest.errors import PollError

if TYPE_CHECKING:
    import httpx

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_LIFE = 240
_KNOWN = frozenset({
    "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client",
    "unsupported_grant_type", "invalid_scope",
})  # fmt: skip


class BackendToken:
    """An access token that is asked for when it is needed, and again before it expires.

    The private key is read anew for every assertion, so that it can be changed without a restart.

    Args:
        config: who the service is, and its key.
        base: address of the FHIR server, whose discovery tells the token endpoint.
        client: that asks.
        clock: seconds since 1970.

    Raises:
        ParameterError: the key cannot be read, or does not fit the algorithm.
    """

    def __init__(
        self, config: SmartConfig, base: str, client: httpx.Client,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._config, self._base, self._client = config, base.rstrip("/"), client
        self._clock = clock
        self._endpoint = config.token_url
        self._token: str | None = None
        self._until = 0.0
        self._lock = threading.Lock()
        read_key(config)

    def token(self) -> str:
        """A token that is good for a while.

        Raises:
            PollError: the server gives none.
        """
        with self._lock:
            if self._token is None or self._clock() >= self._until:
                self._token = self._ask()
            return self._token

    def drop(self, token: str) -> None:
        """Forgets a token that was refused: the next one is asked for."""
        with self._lock:
            if self._token == token:
                self._token = None

    def _ask(self) -> str:
        endpoint = self._discovered()
        form = {
            "grant_type": "client_credentials", "scope": self._config.scope,
            "client_assertion_type": _ASSERTION, "client_assertion": self._assertion(endpoint),
        }  # fmt: skip
        answer = self._client.post(endpoint, data=form, headers={"Accept": "application/json"})
        if answer.status_code == 429 or answer.status_code >= 500:
            raise PollError.busy(answer.headers)
        told = _object(answer)
        if answer.status_code != 200:
            # The endpoint may have moved: it is looked up anew.
            self._endpoint = self._config.token_url
            code = told.get("error")
            why = code if code in _KNOWN else f"status {answer.status_code}"
            raise PollError(f"the token is refused: {why}")
        token, life = told.get("access_token"), told.get("expires_in", 300)
        if not isinstance(token, str) or not token or not token.isprintable():
            raise PollError("the token endpoint gives no token")
        if str(told.get("token_type", "bearer")).lower() != "bearer":
            raise PollError("the token is none for bearers")
        if isinstance(life, bool) or not isinstance(life, int | float) or life <= 0:
            life = 300
        self._until = self._clock() + life - min(60.0, 0.2 * life)
        return token

    def _assertion(self, endpoint: str) -> str:
        import jwt

        now = int(self._clock())
        claims = {
            "iss": self._config.client_id, "sub": self._config.client_id, "aud": endpoint,
            "iat": now, "exp": now + _LIFE, "jti": uuid.uuid4().hex,
        }  # fmt: skip
        key, name = read_key(self._config)
        head = {"typ": "JWT"} | ({} if name is None else {"kid": name})
        return jwt.encode(claims, key, self._config.algorithm, head)

    def _discovered(self) -> str:
        if self._endpoint is not None:
            return self._endpoint
        address = f"{self._base}/.well-known/smart-configuration"
        answer = self._client.get(address, headers={"Accept": "application/json"})
        if answer.status_code == 429 or answer.status_code >= 500:
            raise PollError.busy(answer.headers)
        if answer.status_code != 200:
            raise PollError(f"the SMART configuration answers {answer.status_code}")
        told = _object(answer)
        methods = told.get("token_endpoint_auth_methods_supported")
        if isinstance(methods, list) and "private_key_jwt" not in methods:
            raise PollError("the server takes no signed assertions")
        signatures = told.get("token_endpoint_auth_signing_alg_values_supported")
        if isinstance(signatures, list) and self._config.algorithm not in signatures:
            raise PollError(f"the server does not take {self._config.algorithm}")
        endpoint = told.get("token_endpoint")
        if not isinstance(endpoint, str):
            raise PollError("the SMART configuration names no token endpoint")
        if not safe_endpoint(endpoint, self._base):
            raise PollError("the token endpoint is no safe address")
        self._endpoint = endpoint
        return endpoint


def safe_endpoint(endpoint: str, base: str) -> bool:
    """Whether an assertion may go there: what was asked by TLS must not lead out of it."""
    try:
        parts = urlsplit(endpoint)
        allowed = {"https", urlsplit(base).scheme} & {"https", "http"}
        return parts.scheme in allowed and bool(parts.hostname) and not parts.username
    except ValueError:
        return False


def read_key(config: SmartConfig) -> tuple[Any, str | None]:
    """The private key of a configuration, PEM or JWK, and its name.

    Raises:
        ParameterError: it cannot be read, or does not fit the algorithm; the key is not repeated.
    """
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    name = config.key_id
    try:
        data = Path(config.key_file).read_bytes()
        if data.lstrip().startswith(b"{"):
            told = json.loads(data)
            if "keys" in told:
                told = next(k for k in told["keys"] if name is None or k.get("kid") == name)
            key: Any = jwt.PyJWK(told, algorithm=config.algorithm).key
            name = told.get("kid") if name is None else name
        else:
            key = load_pem_private_key(data, None)
    except (OSError, ValueError, TypeError, KeyError, StopIteration, jwt.PyJWTError) as error:
        raise ParameterError(
            f"smart: {config.key_file} holds no readable private key: {type(error).__name__}"
        ) from None
    fits = (
        isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048
        if config.algorithm == "RS384"
        else isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp384r1"
    )
    if not fits:
        wanted = "RSA of 2048 bits or more" if config.algorithm == "RS384" else "EC on P-384"
        raise ParameterError(f"smart: {config.key_file} is no private key for {config.algorithm}: "
                             f"{wanted} is needed")  # fmt: skip
    return key, name


def _object(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise PollError("the answer is no JSON object")
    return told
