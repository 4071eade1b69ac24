"""The HTTP face behind TLS: who shows no certificate is told nothing; keys that cannot be used."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from foretell.cli import app
from foretell.errors import ParameterError
from foretell.serving.config import read_config
from foretell.serving.doctor import examine
from foretell.serving.service import Service

SERVICE = """
[service]
store = "{folder}/s.db"
clock = "external"
[mllp]
port = 0
[http]
port = 0
tls = {{ certificate = "{cert}", key = "{key}", client_ca = "{cert}" }}
[[tokens]]
name = "t"
sha256 = "{token}"
scopes = ["read"]
"""


def test_a_client_shows_a_certificate_and_a_token(tmp_path, launch, certificate):
    cert, key = certificate
    token = hashlib.sha256(b"t").hexdigest()
    file = tmp_path / "c.toml"
    file.write_text(SERVICE.format(folder=tmp_path, cert=cert, key=key, token=token))
    port = launch(file, roles="ingest").wait().ports["http"]
    url = f"https://localhost:{port}/v1/patients"
    head = {"Authorization": "Bearer t"}
    stranger = ssl.create_default_context(cafile=cert)
    old = ssl.create_default_context(cafile=cert)
    old.load_cert_chain(cert, key)
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    for refused in (stranger, old):
        with pytest.raises(httpx.TransportError):
            httpx.get(url, headers=head, verify=refused, timeout=180)
    with pytest.raises(httpx.TransportError):
        httpx.get(url.replace("https", "http"), headers=head, timeout=180)
    known = ssl.create_default_context(cafile=cert)
    known.load_cert_chain(cert, key)
    assert httpx.get(url, verify=known, timeout=180).status_code == 401
    assert httpx.get(url, headers=head, verify=known, timeout=180).json()["patients"] == []


@pytest.fixture
def locked(tmp_path, certificate) -> tuple[str, str]:
    """The certificate, and its key behind a passphrase."""
    from cryptography.hazmat.primitives import serialization

    cert, key = certificate
    plain = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    (tmp_path / "locked.pem").write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )  # fmt: skip
    return cert, str(tmp_path / "locked.pem")


@pytest.mark.parametrize(
    ("what", "table"),
    [
        ("mllp", "[mllp]\nport = 0\n"),
        ("http", "[http]\nport = 0\n"),
        ("the sink 'bed'",
         '[[sinks]]\nname = "bed"\nkind = "mllp"\nhost = "localhost"\nport = 1\n'),
        ("the poll of 'w'",
         '[sites.w]\n[[polls]]\nsite = "w"\nurl = "https://localhost:1"\n'),
    ],
)  # fmt: skip
def test_a_key_behind_a_passphrase_is_refused_where_nobody_can_tell_it(
    tmp_path, locked, what, table
):
    cert, key = locked
    file = tmp_path / "c.toml"
    file.write_text(
        f'[service]\nstore = "{tmp_path / "s.db"}"\n{table}'
        f'tls = {{ certificate = "{cert}", key = "{key}" }}\n'
    )
    told = CliRunner().invoke(app, ["serve", "--config", str(file), "--check"])
    words = told.output.replace("\n", "")
    assert told.exit_code == 2 and f"tls of {what} cannot be used: the key" in words, told.output
    assert "is encrypted" in words and "openssl pkey -in" in words
    config = read_config(file)
    wrong = {f.what: f.text for f in examine(config) if f.state == "wrong"}
    assert "is encrypted" in wrong[f"tls of {what}"]
    # Nothing runs before it is said.
    with pytest.raises(ParameterError, match="is encrypted"):
        service = Service(config)
        try:
            asyncio.run(service.run())
        finally:
            service.store.close()
