"""The doctor finds what would go wrong, before patients are there."""

from __future__ import annotations

import datetime as dt
import json
import socket
import threading
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from foretell.cli import app
from foretell.data.clinical.hl7.writer import Result, drug_message, result_message, visit_message
from foretell.errors import DataError
from foretell.serving.config import read_config
from foretell.serving.doctor import channels_of, coverage, examine, read_sample
from foretell.serving.store import open_store

T0 = 1_767_225_600.0


def certificate(folder, days: int, name: str = "c") -> tuple[str, str]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    whom = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "foretell.example")])
    now = dt.datetime.now(dt.UTC)
    found = (
        x509.CertificateBuilder().subject_name(whom).issuer_name(whom).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - dt.timedelta(days=99))
        .not_valid_after(now + dt.timedelta(days=days)).sign(key, hashes.SHA256())
    )  # fmt: skip
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(found.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    files[1].chmod(0o600)
    return str(files[0]), str(files[1])


def states(config, runs=()) -> dict[str, set[str]]:
    out: dict[str, set[str]] = {}
    for one in examine(read_config(config), runs):
        out.setdefault(one.what, set()).add(one.state)
    return out


def test_what_is_wrong_is_called_wrong(tmp_path):
    good, soon, late = (certificate(tmp_path, d, f"d{d}") for d in (90, 9, -1))
    base = {"service": {"store": str(tmp_path / "s.db")}}

    def tls(pair) -> dict:
        return base | {"mllp": {"tls": {"certificate": pair[0], "key": pair[1]}}}

    assert states(tls(good))["tls of mllp"] == {"ok"}
    assert states(tls(soon))["tls of mllp"] == {"warning"}
    assert states(tls(late))["tls of mllp"] == {"wrong"}
    assert states(tls((good[0], soon[1])))["tls of mllp"] == {"wrong"}
    assert states(tls(("none", "none")))["tls of mllp"] == {"wrong"}

    def shown(**told) -> set[str]:
        sink = {"name": "bed", "kind": "mllp", "host": "example.org", "port": 1, "tls": told}
        return states(base | {"sinks": [sink]})["tls of the sink 'bed'"]

    for pair, state in ((good, "ok"), (soon, "warning"), (late, "wrong"),
                        ((good[0], soon[1]), "wrong")):  # fmt: skip
        assert shown(certificate=pair[0], key=pair[1]) == {state}
    assert shown(ca=good[0]) == {"ok"} and shown(ca="none") == {"wrong"}
    assert not (tmp_path / "s.db").exists()
    open_store(tmp_path / "s.db", partitions=16).close()
    key = tmp_path / "secret"
    key.write_text("x" * 40)
    key.chmod(0o644)
    found = states(
        base
        | {
            "http": {"host": "0.0.0.0"},
            "sites": {"A": {"zone": "Europe/Berlin"}},
            "tokens": [{"name": "t", "sha256": "0" * 64, "scopes": ["read"], "sites": ["B"]}],
            "sinks": [{"name": "p", "kind": "webhook", "url": "https://x", "token_file": "gone",
                       "secret_file": str(key)}],
        },
        [tmp_path / "no-run"],
    )  # fmt: skip
    assert found["tokens"] == {"wrong"} and found["run"] == {"wrong"}
    assert found["token_file of p"] == {"wrong"} and found["secret_file of p"] == {"warning"}
    assert found["tls of http"] == {"warning"} and found["site A"] == {"ok"}
    assert found["store"] == {"ok"} and found["commits"] <= {"ok", "warning"} and "disk" in found
    other = {"service": {"store": str(tmp_path / "s.db"), "partitions": 3}}
    assert states(other)["store"] == {"wrong"}
    nowhere = {"service": {"store": str(tmp_path / "none" / "s.db")}}
    assert states(nowhere)["store"] == {"wrong"}


def feed(folder):
    results = [Result("8867-4", 80.0, "/min"), Result("9279-1", 16.0, "/min"),
               Result("2524-7", 1.0, "furlong"), Result("0000-0", 1.0, "x")]  # fmt: skip
    parts = [
        visit_message("H", "P", "A01", time=T0, control="a", admitted=T0),
        *(result_message("H", "P", results, time=T0 + 60 * k, control=str(k)) for k in range(3)),
        drug_message("H", "P", ("RXNORM", "11124"), time=T0, control="d"),
        drug_message("H", "P", ("LAB", "ASPIRIN"), time=T0, control="e"),
        b"MSH|^~\\&|X|H|||20260101||ZZZ^Z01|z|P|2.5\rPID|||P\r",
    ]
    file = folder / "feed.hl7"
    file.write_bytes(b"".join(b"\x0b" + p + b"\x1c\r" for p in parts))
    return file


def test_a_sample_says_what_is_not_mapped_and_what_is_missing(tmp_path):
    config = read_config({"sites": {"west": {"facilities": ["H"]}}})
    sample = read_sample(config, feed(tmp_path))
    told = sample.to_json()
    assert told["known"] == {"HR": 3, "Resp": 3} and told["visits"] == 1
    assert told["unknown"] == [
        {"reason": "unknown_code", "system": "LN", "code": "0000-0", "count": 3}]  # fmt: skip
    assert told["units"] == [
        {"system": "LN", "code": "2524-7", "unit": "furlong", "count": 3}]  # fmt: skip
    assert told["treatments"] == {"antibiotic": 1}
    assert told["drugs_of_no_meaning"] == [{"system": "LAB", "code": "ASPIRIN", "count": 1}]
    assert sum(told["refused"].values()) == 1
    (channels,) = channels_of(config, []).values()
    found = {f.what: f for f in coverage(sample, channels)}
    assert "5 of 7 are never there: O2Sat" in found["channels"].text
    assert "6 (50.0%) would be set aside" in found["results"].text
    assert found["treatments"].state == "ok"
    mapped = read_config({"sites": {"west": {"facilities": ["H"], "codes": {"LN|0000-0": "Temp"}}}})
    again = read_sample(mapped, tmp_path / "feed.hl7")
    assert again.unknown[("unknown_unit", "", "")] == 0 and again.units[("LN", "0000-0", "x")] == 3
    text = json.dumps(told)
    assert "80" not in text and '"P"' not in text
    observation = {
        "resourceType": "Observation", "id": "o", "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": "Patient/p"}, "effectiveDateTime": "2026-01-01T10:00:00Z",
        "valueQuantity": {"value": 88, "code": "/min"},
    }  # fmt: skip
    lines = tmp_path / "feed.ndjson"
    lines.write_text("\n".join(json.dumps(observation) for _ in range(2)))
    assert read_sample(config, lines).channels == {"HR": 2}
    (tmp_path / "none").write_text("")
    with pytest.raises(DataError, match="no message"):
        read_sample(config, tmp_path / "none")


def test_the_command_line_tells_all_of_it(tmp_path):
    config = tmp_path / "site.toml"
    config.write_text(f'[service]\nstore = "{tmp_path / "s.db"}"\n[sites.H]\n')
    run = CliRunner()
    sample = feed(tmp_path)
    told = run.invoke(app, ["doctor", "--config", str(config), "--sample", str(sample), "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["sample"]["known"]["HR"] == 3
    assert {"configuration", "store", "disk", "clock", "channels"} <= {
        f["what"] for f in found["findings"]}  # fmt: skip
    shown = run.invoke(app, ["doctor", "--config", str(config), "--sample", str(sample)])
    assert "furlong" in shown.stdout and "0000-0" in shown.stdout
    config.write_text("[service]\nunknown = 1\n")
    assert run.invoke(app, ["doctor", "--config", str(config)]).exit_code == 2


def test_a_service_of_any_site_is_warned_of_the_names_that_metrics_tell(tmp_path):
    base = {"service": {"store": str(tmp_path / "s.db")}}
    (found,) = [f for f in examine(read_config(base)) if f.what == "sites"]
    assert found.state == "warning" and "MSH-4" in found.text and "/metrics" in found.text
    assert "sites" not in states(base | {"sites": {"west": {}}})


SECRET = "TELLNOBODY"


def store_of(address: str) -> str:
    (found,) = [f for f in examine(read_config({"service": {"store": address}}))
                if f.what == "store"]  # fmt: skip
    assert found.state == "wrong" and SECRET not in found.text
    return found.text


def test_a_database_that_is_away_is_told_with_what_was_tried(tmp_path, monkeypatch, request):
    pytest.importorskip("psycopg")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")
    # Nobody else takes the port, and nobody listens.
    held = socket.socket()
    request.addfinalizer(held.close)
    held.bind(("127.0.0.1", 0))
    port = held.getsockname()[1]
    login = f"postgresql://clinic:{SECRET}"
    text = store_of(f"{login}@127.0.0.1:{port}/scores")
    assert f"user 'clinic' for database 'scores' at 127.0.0.1:{port}: nothing listens" in text
    assert "listen_addresses" in text
    text = store_of(f"{login}@/scores?host={tmp_path}&port=5499")
    assert f"the socket {tmp_path}/.s.PGSQL.5499: there is no such socket" in text
    # Of several each.
    text = store_of(f"{login}@127.0.0.1:{port},127.0.0.1:{port}/scores")
    assert text.count("nothing listens") == 2
    # What the address does not say comes from the environment.
    for name, value in {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "u"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGPASSWORD", SECRET)
    assert f"user 'u' for database 'u' at 127.0.0.1:{port}" in store_of("postgresql://")


def test_a_port_behind_which_is_no_database_is_told_as_such():
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        text = store_of(f"postgresql://clinic:{SECRET}@127.0.0.1:{port}/scores")
    assert f"127.0.0.1:{port}: something listens there" in text and "pg_hba.conf" in text


def test_a_host_that_nobody_knows_is_told_as_such(monkeypatch):
    pytest.importorskip("psycopg")
    from foretell.serving.reach import why_away

    def unknown(*given, **how):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "create_connection", unknown)
    text = why_away(f"postgresql://clinic:{SECRET}@database/scores")
    assert "database:5432: the name of the host is not known" in text and SECRET not in text


@pytest.mark.parametrize("password", [f"a@{SECRET}", f"a/{SECRET}", f"1/{SECRET}", f"%zz{SECRET}",
                                      f"a:/{SECRET}", f"[{SECRET}"])  # fmt: skip
def test_a_password_that_is_written_wrongly_is_not_told(password):
    pytest.importorskip("psycopg")
    from foretell.serving.reach import why_away

    # As the address cannot be read it is not known which part is the password.
    text = why_away(f"postgresql://clinic:{password}@127.0.0.1:1/scores")
    assert SECRET not in text
    assert "%40" in text or "user 'clinic' for database 'scores' at 127.0.0.1:1" in text
