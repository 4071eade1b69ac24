from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("psycopg")
pytest.importorskip("prometheus_client")

from foretell.serving.store import Store, open_store

from .waiting import settled, until


def _postgres_bin() -> Path | None:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


def _as_other_user() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL: running as root and setpriv is not here")
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Address of a private PostgreSQL server on a socket."""
    place = _postgres_bin()
    if place is None:
        pytest.skip("PostgreSQL: initdb is not here")
    user = _as_other_user()
    folder = Path(tempfile.mkdtemp(prefix="fpg"))
    if user:
        shutil.chown(folder, "nobody")
    run = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    initdb = [str(place / "initdb"), "-D", str(folder / "d"), "-A", "trust", "-U", "foretell"]
    options = f"-c listen_addresses='' -k {folder} -c max_connections=200 -c shared_buffers=32MB"
    control = [*user, str(place / "pg_ctl"), "-D", str(folder / "d")]
    try:
        subprocess.run([*user, *initdb, "--no-sync", "-E", "UTF8"], **run)
        log = str(folder / "log")
        subprocess.run([*control, "-o", options, "-l", log, "-w", "-t", "180", "start"], **run)
        yield f"postgresql:///postgres?host={folder}&user=foretell&connect_timeout=180"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **{**run, "check": False})
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """Address of an empty database."""
    import psycopg

    name = f"t{time.time_ns()}"
    with psycopg.connect(postgres_server, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}")
    yield postgres_server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres_server, autocommit=True) as db:
        db.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path: Path) -> str:
    """Address of an empty store, on both engines."""
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    return request.getfixturevalue("postgres")


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    held = open_store(address, partitions=4)
    yield held
    held.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> tuple[str, str]:
    """Files of a certificate of localhost that is its own authority, and of its key."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    held = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tls")
    (folder / "c.pem").write_bytes(held.public_bytes(serialization.Encoding.PEM))
    (folder / "k.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    return str(folder / "c.pem"), str(folder / "k.pem")


@pytest.fixture(scope="session")
def deployed(tmp_path_factory):
    """A small deployment in a folder, and stays that it has never seen."""
    pytest.importorskip("torch")
    import numpy as np

    from foretell.data.clinical import UnitRepair
    from foretell.data.simulators.hospitals import hospitals
    from foretell.decisions.abstention import Gate, MondrianConformal
    from foretell.decisions.alarms import AlarmPolicy, Tier
    from foretell.estimators.risk import FeedForwardRisk
    from foretell.serving.deployment import Deployment

    stays, _ = hospitals(stays=90, sites=1, hours=(12, 24), seed=3)
    train, calibration, test = stays.select(slice(50)), stays.select(slice(50, 80)), stays.select(
        slice(80, 90))  # fmt: skip
    model = FeedForwardRisk(hidden=(16,), n_knots=4, max_steps=60, patience=9, threads=1)
    model.fit(train, validation=calibration)
    risk = model.predict_proba(calibration)[:, 1]
    gate = Gate(conformal=MondrianConformal(alpha=0.1), ambiguity=0.2)
    gate.fit(train, calibration, risk)
    low, high = np.quantile(risk, [0.6, 0.9]).tolist()
    policy = AlarmPolicy(tiers=(Tier("advisory", low), Tier("urgent", high)), snooze=4)
    folder = tmp_path_factory.mktemp("run")
    held = Deployment(model, gate, policy, UnitRepair.fit(train)).save(folder)
    return folder, held, test


# Imports cost seconds: this process pays once, and every service is a fork of it that runs the
# command line's own code.
_NURSERY = """
import json, os, signal, sys
import foretell.serving.api.app, foretell.serving.service, uvicorn, psycopg, httpx
import foretell.learners.risk.scores
from foretell.cli import app
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    told = json.loads(line)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1); os.dup2(log, 2)
        code = 1
        try:
            app(told["args"], standalone_mode=False)
            code = 0
        finally:
            with open(told["log"] + ".exit", "w") as file:
                file.write(str(code))
            os._exit(code)
    print(pid, flush=True)
"""


@pytest.fixture(scope="session")
def nursery() -> Iterator[subprocess.Popen]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", _NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait(120)


class Running:
    """A service as a process of its own."""

    def __init__(
        self, nursery: subprocess.Popen, config: Path, roles: str, folder: Path, run: Path | None
    ) -> None:
        self.log = folder / f"{roles.replace(',', '-')}-{time.time_ns()}.log"
        args = ["serve", "--config", str(config), "--roles", roles]
        if run is not None:
            args.append(str(run))
        assert nursery.stdin is not None and nursery.stdout is not None
        nursery.stdin.write(json.dumps({"log": str(self.log), "args": args}) + "\n")
        nursery.stdin.flush()
        self.pid = int(nursery.stdout.readline())
        self._over = False
        self.ports: dict[str, int] = {}

    @property
    def alive(self) -> bool:
        # Once it was gone its number may be another process's.
        if not self._over:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                self._over = True
        return not self._over

    def wait(self) -> Running:
        """Until it is ready."""
        until(lambda: self._said_ready() or not self.alive)
        assert self._said_ready(), f"the service did not start: {self.text()[-2000:]}"
        return self

    def _said_ready(self) -> bool:
        # A line that has no end yet may be half a line.
        for line in self.text().splitlines(keepends=True):
            if line.startswith("ready") and line.endswith("\n"):
                self.ports = {n: int(v) for n, v in (p.split("=") for p in line.split()[1:])}
                return True
        return False

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def gone(self) -> None:
        until(lambda: not self.alive)

    def kill(self) -> None:
        if self.alive:
            # It may end by itself just now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.gone()

    def stop(self) -> int:
        """Asks it to end; returns its exit status."""
        os.kill(self.pid, signal.SIGTERM)
        self.gone()
        return int(Path(f"{self.log}.exit").read_text())


@pytest.fixture
def launch(tmp_path: Path, nursery: subprocess.Popen) -> Iterator[Callable[..., Running]]:
    """Starts service processes, and ends them with the test."""
    started: list[Running] = []

    def start(
        config: Path, roles: str = "ingest,worker,dispatcher", run: Path | None = None
    ) -> Running:
        one = Running(nursery, config, roles, tmp_path, run)
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()


WARD = """
[service]
store = "{folder}/ward.db"
partitions = 2
clock = "external"
tick_seconds = 0.5
[mllp]
port = 0
[http]
port = 0
[[tokens]]
name = "ward"
sha256 = "{token}"
scopes = ["read", "act", "ingest", "audit", "admin"]
[cds]
board = "https://board.example/board"
[[cds.clients]]
issuer = "https://ehr.example"
audience = "https://foretell.example/cds"
jwks_file = "{folder}/jwks.json"
algorithms = ["ES384"]
sites = ["SIM"]
"""


class Ward:
    """A running service with a model and patients, for tests that mostly read."""

    def __init__(self, running: Running, folder: Path, stays, deployment) -> None:
        self.running, self.folder = running, folder
        self.stays, self.deployment = stays, deployment
        self.url = f"http://127.0.0.1:{running.ports['http']}"
        self.auth = {"Authorization": "Bearer test-token"}
        self.now = 0.0

    def client(self):
        import httpx

        return httpx.Client(base_url=self.url, headers=self.auth, timeout=180)


@pytest.fixture(scope="session")
def ward(tmp_path_factory, nursery, deployed) -> Iterator[Ward]:
    import hashlib

    jwt = pytest.importorskip("jwt")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from foretell.data.clinical.hl7.writer import messages_of
    from foretell.serving.replay import MllpClient, play

    run, deployment, stays = deployed
    folder = tmp_path_factory.mktemp("ward")
    key = ec.generate_private_key(ec.SECP384R1())
    told = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    (folder / "jwks.json").write_text(json.dumps({"keys": [{**told, "kid": "k1"}]}))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    config = folder / "c.toml"
    token = hashlib.sha256(b"test-token").hexdigest()
    config.write_text(WARD.format(folder=folder, token=token))
    running = Running(nursery, config, "ingest,worker,dispatcher", folder, run)
    try:
        held = Ward(running.wait(), folder, stays, deployment)
        with held.client() as client:

            def tick(moment: float) -> None:
                client.post("/v1/clock", json={"time": moment}).raise_for_status()

            feed = sorted(messages_of(stays.first(10)), key=lambda m: m[0])
            # Nobody is discharged: the ward stays full.
            feed = [(t, m) for t, m in feed if b"ADT^A03" not in m]
            with MllpClient("127.0.0.1", running.ports["mllp"]) as door:
                play(feed, door, speed=None, tick=tick, every=3600)
            held.now = feed[-1][0]
            # Whoever reads it finds it at rest.
            store = open_store(str(folder / "ward.db"), partitions=2)
            settled(store)
            store.close()
            listed = client.get("/v1/patients").json()["patients"]
            assert len(listed) == len(stays) and min(v["hour"] for v in listed) >= 10
        yield held
    finally:
        running.kill()
