"""Processes of the service, forked from one that has paid for its imports; and PostgreSQL."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_NURSERY = """
import json, os, signal, sys
import foretell.serving.api.app, foretell.serving.service, uvicorn, httpx
import foretell.learners.risk.scores
from foretell.serving.service import make_fold
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
        try:
            app(told["args"], standalone_mode=False)
        finally:
            os._exit(0)
    print(pid, flush=True)
"""


class Nursery:
    """Starts service processes in the time of a fork; each runs the command line's own code.

    Args:
        nets: whether the processes will need the nets of a run.
    """

    def __init__(self, *, nets: bool = False) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        code = f"import foretell.estimators.risk\n{_NURSERY}" if nets else _NURSERY
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=env, text=True,
        )  # fmt: skip
        if self._process.stdout is None or self._process.stdout.readline() != "ready\n":
            raise SystemExit("the service cannot be imported")

    def start(self, config: Path, roles: str, run: Path | None = None) -> Running:
        """A process of the roles, ready; with the model of a run where one is named."""
        log = Path(f"{config}.{time.time_ns()}.log")
        args = ["serve", "--config", str(config), "--roles", roles]
        told = {"log": str(log), "args": args if run is None else [*args, str(run)]}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return Running(int(self._process.stdout.readline()), log)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Running:
    """A service process."""

    def __init__(self, pid: int, log: Path, patience: float = 120.0) -> None:
        self.pid, self.log = pid, log
        self.ports: dict[str, int] = {}
        end = time.monotonic() + patience
        while not self.ports:
            for line in self.text().splitlines():
                if line.startswith("ready"):
                    self.ports = {n: int(v) for n, v in (p.split("=") for p in line.split()[1:])}
                    self.ports.setdefault("none", 0)
            if not self.alive or time.monotonic() > end:
                raise SystemExit(f"a process did not start: {self.text()[-1500:]}")
            time.sleep(0.02)

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def signal(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.signal(signal.SIGKILL)
        while self.alive:
            time.sleep(0.005)

    def memory(self) -> float:
        """Resident MB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return float("nan")


def full_disk(pids: list[int], size: int | None) -> None:
    """Lets processes write no file beyond a size, as on a full disk; None lifts the limit."""
    limit = resource.RLIM_INFINITY if size is None else size
    for pid in pids:
        try:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        except ProcessLookupError:
            continue


def children(pid: int) -> list[int]:
    """A process and those it has started."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [pid, *(int(p) for p in found.stdout.split())]


class Postgres:
    """A private server on a socket in a folder."""

    def __init__(self, folder: Path) -> None:
        place = Path(shutil.which("initdb") or "/usr/lib/postgresql/15/bin/initdb").resolve().parent
        user = []
        if os.geteuid() == 0:
            user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            shutil.chown(folder, "nobody")
        self._quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL,
                       "cwd": "/"}  # fmt: skip
        self.data = folder / "d"
        make = [str(place / "initdb"), "-D", str(self.data), "-A", "trust", "-U", "foretell"]
        subprocess.run([*user, *make], **self._quiet)
        self._control = [*user, str(place / "pg_ctl"), "-D", str(self.data)]
        self._options = f"-c listen_addresses='' -k {folder} -c shared_buffers=128MB"
        self._log = str(folder / "log")
        self.address = f"postgresql:///postgres?host={folder}&user=foretell"
        self.start()

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        command = [*self._control, "-o", self._options, "-l", self._log, "-w", "start"]
        subprocess.run(command, **self._quiet)

    def restart(self) -> None:
        """As after a crash: nothing is flushed before."""
        self.stop()
        self.start()

    def stop(self) -> None:
        command = [*self._control, "-m", "immediate", "stop"]
        subprocess.run(command, **{**self._quiet, "check": False})
