from __future__ import annotations

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
    options = f"-c listen_addresses='' -k {folder} -c max_connections=60 -c shared_buffers=32MB"
    control = [*user, str(place / "pg_ctl"), "-D", str(folder / "d")]
    try:
        subprocess.run([*user, *initdb, "--no-sync", "-E", "UTF8"], **run)
        log = str(folder / "log")
        subprocess.run([*control, "-o", options, "-l", log, "-w", "start"], **run)
        yield f"postgresql:///postgres?host={folder}&user=foretell"
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


class Running:
    """A service as a process."""

    def __init__(self, config: Path, roles: str, folder: Path) -> None:
        self.log = folder / f"{roles.replace(',', '-')}-{time.time_ns()}.log"
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        code = "from foretell.cli import app; app()"
        command = [sys.executable, "-c", code, "serve", "--config", str(config), "--roles", roles]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        self.ports: dict[str, int] = {}

    def wait(self, seconds: float = 120) -> Running:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.text().splitlines():
                if line.startswith("ready"):
                    pairs = (p.split("=") for p in line.split()[1:])
                    self.ports = {n: int(v) for n, v in pairs}
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"the service did not start: {self.text()[-2000:]}")

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self, seconds: float = 60) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts service processes, and ends them with the test."""
    started: list[Running] = []

    def start(config: Path, roles: str = "ingest,worker,dispatcher") -> Running:
        one = Running(config, roles, tmp_path)
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()
