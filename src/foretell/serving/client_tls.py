"""How the service shows itself, and whom it believes, where it is the one that connects."""

from __future__ import annotations

import ssl

from foretell.errors import ParameterError
from foretell.serving.config import ClientTlsConfig


def client_tls(config: ClientTlsConfig, what: str) -> ssl.SSLContext:
    """A client's side of TLS 1.2 or newer; the other side's certificate and name are checked.

    Args:
        config: the authorities that are believed, and the certificate that is shown.
        what: whose it is, for errors.

    Raises:
        ParameterError: a file cannot be read, or a key does not fit its certificate.
    """
    try:
        context = ssl.create_default_context(cafile=config.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.certificate is not None:
            context.load_cert_chain(config.certificate, config.key)
    except OSError as error:
        # Of SSL, too: its reason says which of the files is meant.
        why = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise ParameterError(f"tls of {what} cannot be used: {why}") from None
    return context
