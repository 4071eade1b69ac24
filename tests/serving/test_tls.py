"""The HTTP face behind TLS: who shows no certificate is told nothing."""

from __future__ import annotations

import hashlib
import ssl

import httpx
import pytest

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
