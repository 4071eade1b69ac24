"""A client of one FHIR server: its token goes there and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from foretell.serving.client_tls import client_tls
from foretell.serving.config import PollConfig
from foretell.serving.ingest.errors import PollError
from foretell.serving.ingest.smart import BackendToken

if TYPE_CHECKING:
    import httpx

FHIR = "application/fhir+json"


class FhirClient:
    """Asks a FHIR server, with a token from a file or by SMART; one that is refused is renewed.

    Args:
        config: of the server.

    Raises:
        ParameterError: a file of TLS, or the key of SMART, cannot be used.
    """

    def __init__(self, config: PollConfig) -> None:
        import httpx

        self._config = config
        tls = None if config.tls is None else client_tls(config.tls, f"the poll of {config.site!r}")
        self._http = httpx.Client(timeout=30.0, follow_redirects=False, verify=tls or True)
        self.base = config.url.rstrip("/") + "/"
        self._smart = (
            None if config.smart is None else BackendToken(config.smart, self.base, self._http)
        )

    def close(self) -> None:
        """Ends its connections."""
        self._http.close()

    def address(self, name: str) -> str:
        """The address of something on the server."""
        return urljoin(self.base, name)

    def ours(self, address: str) -> bool:
        """Whether an address is on the server: only there the token may go."""
        return urlsplit(address)[:2] == urlsplit(self.base)[:2]

    def _token(self) -> str | None:
        if self._smart is not None:
            return self._smart.token()
        if self._config.token_file is not None:
            return Path(self._config.token_file).read_text("utf-8").strip()
        return None

    @contextmanager
    def stream(
        self, address: str, *, method: str = "GET", accept: str = FHIR,
        params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None,
        json: Any = None, secret: bool = True,
    ) -> Iterator[httpx.Response]:  # fmt: skip
        """An answer whose body is not read yet.

        Args:
            address: whole.
            method: of the request.
            accept: type of what is wanted.
            params: of the query.
            headers: further ones.
            json: a body.
            secret: whether the token is shown; never to another server.
        """
        for last in (False, True):
            told = {"Accept": accept, **(headers or {})}
            if json is not None:
                told["Content-Type"] = FHIR
            token = self._token() if secret and self.ours(address) else None
            if token is not None:
                told["Authorization"] = f"Bearer {token}"
            with self._http.stream(
                method, address, params=params, headers=told, json=json
            ) as answer:
                # A token may end before its time, or the server may have forgotten it.
                if answer.status_code == 401 and not last and token and self._smart is not None:
                    self._smart.drop(token)
                    continue
                yield answer
                return

    def ask(self, address: str, **options: Any) -> httpx.Response:
        """An answer, whole; see :meth:`stream`.

        Raises:
            PollError: the server is busy (429 or 5xx).
        """
        with self.stream(address, **options) as answer:
            answer.read()
        check(answer)
        return answer


def check(answer: httpx.Response) -> None:
    """Raises where a server asks to come again later.

    Raises:
        PollError: 429 or 5xx.
    """
    if answer.status_code == 429 or answer.status_code >= 500:
        raise PollError.busy(answer.headers)
