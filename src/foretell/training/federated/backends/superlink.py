"""A real SuperLink with SuperNodes over TLS, as processes of this machine.

What runs is Flower's deployment, unchanged: ``flower-superlink``, one ``flower-supernode`` a
client, ``flwr run``. Certificates and the nodes' keys are made for the run.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from foretell.errors import TrainingError
from foretell.training.checkpoint import load_checkpoint, save_checkpoint
from foretell.training.federated.backends.certificates import make_certificates, make_node_key
from foretell.training.federated.backends.jobs import load, store
from foretell.training.federated.server import Server

JOB = "FORETELL_FEDERATED_JOB"

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "foretell-federation"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "foretell"

[tool.flwr.app.components]
serverapp = "foretell_federation_app:server"
clientapp = "foretell_federation_app:client"
"""

_APP = """\
from foretell.training.federated.backends.superlink import stored_client, stored_server

client = stored_client()
server = stored_server()
"""


def stored_client() -> ClientApp:
    """The ClientApp of the job that the environment names."""
    client: ClientApp = load(Path(os.environ[JOB]))["client"]
    return client


def stored_server() -> ServerApp:
    """The ServerApp of the job that the environment names; its result goes beside the job."""
    path = Path(os.environ[JOB])
    server: Server = load(path)["server"]
    return server.app(lambda state: _finish(path.parent, state))


def _finish(folder: Path, state: dict[str, Any]) -> None:
    save_checkpoint(folder / "result", state)


def run_on_superlink(
    server: Server,
    client: ClientApp,
    *,
    used: Iterable[Any] = (),
    authenticate: bool = True,
    start_timeout: float = 120.0,
) -> dict[str, Any]:
    """Runs a federation on a SuperLink, and returns the server's final state.

    All processes end with the call, however it ends.

    Args:
        server: what the server does.
        client: what clients run.
        used: what the apps call.
        authenticate: whether SuperNodes prove who they are by a key that the SuperLink knows.
        start_timeout: seconds for a process to come up.

    Raises:
        TrainingError: a process that ended or did not come up, with the end of its log; or a run
            that failed.
    """
    with tempfile.TemporaryDirectory(prefix="foretell-federated-") as name:
        folder = Path(name)
        job = store(folder, client, server, used)
        certificates = make_certificates(folder)
        environment = _environment(folder, job)
        port, *node_ports = _free_ports(1 + server.clients)
        _write_app(folder, port, certificates.authority)
        with _processes(folder, environment) as start:
            superlink = start(
                "superlink",
                "flower-superlink",
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--ssl-ca-certfile", str(certificates.authority)),
                *("--ssl-certfile", str(certificates.server)),
                *("--ssl-keyfile", str(certificates.key)),
                "--disable-runtime-dependency-installation",
                *(["--enable-supernode-auth"] if authenticate else []),
            )
            _wait_for_port(port, certificates.authority, superlink, start_timeout)
            for node, node_port in enumerate(node_ports):
                keys: list[str] = []
                if authenticate:
                    private, public = make_node_key(folder, node)
                    _call(
                        environment,
                        ("flwr", "supernode", "register", str(public), "local"),
                        start_timeout,
                    )
                    keys = ["--auth-supernode-private-key", str(private)]
                start(
                    f"supernode-{node}",
                    "flower-supernode",
                    *("--superlink", f"127.0.0.1:{port}"),
                    *("--root-certificates", str(certificates.authority)),
                    *("--host", "127.0.0.1", "--port", str(node_port)),
                    *("--node-config", f"partition-id={node} num-partitions={server.clients}"),
                    *keys,
                )
            run = start("run", "flwr", "run", str(folder / "app"), "local", "--stream")
            while (result := load_checkpoint(folder / "result")) is None:
                for process in start.running:
                    process.check(done=run)
                time.sleep(0.1)
    return result


class _Process:
    """One process with its log."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    def check(self, done: _Process | None = None) -> None:
        """Raises if it has ended; for the run itself, ended is failed: there is no result."""
        code = self.process.poll()
        if code is None:
            return
        if self is done:
            time.sleep(0.5)  # the result is written before the run ends, but seen after
            if load_checkpoint(self.log.parent / "result") is not None:
                return
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
        what = "ended without a result" if self is done else f"ended with status {code}"
        raise TrainingError(f"the process {self.name!r} {what}. The end of its log:\n{tail}")


class _Starter:
    """Starts processes, each in a session of its own, so that its children end with it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.running: list[_Process] = []

    def __call__(self, name: str, *command: str) -> _Process:
        log = self.folder / f"{name}.log"
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [_program(command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        self.running.append(_Process(name, process, log))
        return self.running[-1]

    def end(self, patience: float = 5.0) -> None:
        """Ends all: asks, waits, and then kills what is left."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for entry in reversed(self.running):
                try:
                    os.killpg(entry.process.pid, number)
                except (ProcessLookupError, PermissionError):
                    continue
            deadline = time.monotonic() + patience
            for entry in self.running:
                try:
                    entry.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue


@contextmanager
def _processes(folder: Path, environment: dict[str, str]) -> Iterator[_Starter]:
    starter = _Starter(folder, environment)
    try:
        yield starter
    finally:
        starter.end()


def _program(name: str) -> str:
    """A program of this interpreter's environment."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise TrainingError(f"the program {name!r} is not there: pip install 'foretell[federated]'")
    return found


def _environment(folder: Path, job: Path) -> dict[str, str]:
    paths = [str(Path(path).resolve()) if path else os.getcwd() for path in sys.path]
    return {
        **os.environ,
        JOB: str(job),
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_UPDATE_CHECK": "0",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "OMP_NUM_THREADS": "1",
    }


def _write_app(folder: Path, port: int, authority: Path) -> None:
    app, home = folder / "app", folder / "flower"
    app.mkdir()
    home.mkdir()
    (app / "pyproject.toml").write_text(_PYPROJECT)
    (app / "foretell_federation_app.py").write_text(_APP)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{authority}"\n'
    )


def _call(environment: dict[str, str], command: tuple[str, ...], timeout: float) -> None:
    done = subprocess.run(
        [_program(command[0]), *command[1:]],
        env=environment,
        capture_output=True,
        timeout=timeout,
        text=True,
        check=False,
    )
    if done.returncode:
        raise TrainingError(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; taken together, so that no two are the same."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_for_port(port: int, authority: Path, process: _Process, timeout: float) -> None:
    """Waits until the server shows a certificate of the authority."""
    context = ssl.create_default_context(cafile=str(authority))
    deadline = time.monotonic() + timeout
    while True:
        process.check()
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=1) as plain,
                context.wrap_socket(plain, server_hostname="localhost"),
            ):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"the SuperLink did not come up in {timeout:g} seconds ({error})"
                ) from error
            time.sleep(0.1)
