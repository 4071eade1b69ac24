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
        ParameterError: a file cannot be read, a key is encrypted, or does not fit its certificate.
    """
    try:
        context = ssl.create_default_context(cafile=config.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.certificate is not None and config.key is not None:
            show(context, config.certificate, config.key, what)
    except OSError as error:
        raise unusable(error, what) from None
    return context


def show(context: ssl.SSLContext, certificate: str, key: str, what: str) -> None:
    """Lets a context show a certificate; a key that is encrypted is refused.

    Raises:
        ParameterError: the key is encrypted.
        OSError: a file cannot be read, or the key does not fit.
    """

    def encrypted() -> str:
        # Without an answer of ours OpenSSL asks at the terminal, and waits for ever.
        raise ParameterError(
            f"tls of {what} cannot be used: the key {key} is encrypted, and nobody is there to "
            f"tell its passphrase. `openssl pkey -in {key} -out plain.key` writes it without one: "
            "name that file, and let none but the service read it"
        )

    context.load_cert_chain(certificate, key, password=encrypted)


def unusable(error: OSError, what: str) -> ParameterError:
    """What is wrong with the files of a TLS."""
    # Of SSL, too: its reason says which of the files is meant.
    why = getattr(error, "reason", None) or error.strerror or type(error).__name__
    return ParameterError(f"tls of {what} cannot be used: {why}")
