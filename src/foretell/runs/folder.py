"""The folder of a run: what was asked, how it went, and everything that came out."""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Literal, get_args

import polars as pl

from foretell import __version__
from foretell.errors import ArtefactError

Status = Literal["running", "complete", "failed", "interrupted"]
FORMAT = 1

_LOCK = ".lock"
_PACKAGES = ("numpy", "polars", "torch", "lightning", "scikit-learn", "numba", "statsforecast")


class RunFolder:
    """A folder with ``run.json`` and the files of one run.

    ``run.json`` is written first, with status ``running``, and replaced in one step at each change:
    a folder that looks complete is complete. The process that works on a run holds a lock on the
    folder, which ends with the process however it ends.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: IO[bytes] | None = None

    @classmethod
    def create(cls, path: str | Path, document: Mapping[str, Any]) -> RunFolder:
        """A new folder marked ``running``.

        Raises:
            ArtefactError: the folder cannot be made or holds something other than the record of
                a run that failed before it made anything.
        """
        folder = cls(path)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            held = {file.name for file in folder.path.iterdir()}
        except OSError as error:
            raise ArtefactError(f"{folder.path} cannot be made a run's folder: {error}") from error
        if held:
            if not (folder.path / "run.json").is_file():
                raise ArtefactError(f"{folder.path} is not empty and holds no run: name another")
            status = folder.read()["status"]
            # A run that failed before it made anything (a misspelt column) may be started anew.
            if status != "failed" or held != {"run.json"}:
                raise ArtefactError(
                    f"{folder.path} holds a run that is {status}: name another folder"
                    + ("" if status in ("complete", "running") else ", or go on with --resume")
                )
        folder._hold()
        folder.write({"format": FORMAT, "status": "running", **document, **_beginning()})
        return folder

    @classmethod
    def resume(cls, path: str | Path) -> RunFolder:
        """The folder of a run that was interrupted, killed or failed, marked ``running`` again.

        Raises:
            ArtefactError: it holds no run, a finished one, or one that another process works on.
        """
        folder = cls(path)
        if not (folder.path / "run.json").is_file():
            raise ArtefactError(f"{folder.path} holds no run to resume")
        status = folder.read()["status"]
        if status == "complete":
            raise ArtefactError(f"{folder.path} is complete: there is nothing to resume")
        folder._hold()
        document = folder.read()
        document.pop("failure", None)
        document.pop("ended", None)
        times = [*document.get("resumed", []), now()]
        begun = {**_beginning(), "started": document.get("started", times[0])}
        folder.write({**document, **begun, "status": "running", "resumed": times})
        return folder

    def read(self) -> dict[str, Any]:
        """``run.json``; a run whose process is gone without a word is ``interrupted``.

        Raises:
            ArtefactError: it is missing, damaged or newer than this library.
        """
        path = self.path / "run.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ArtefactError(
                f"{self.path} holds no run (no run.json); `foretell list` shows the runs"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise ArtefactError(f"{path} cannot be read: {error}") from error
        if (
            not isinstance(document, dict)
            or not isinstance(document.get("format"), int)
            or document.get("status") not in get_args(Status)
        ):
            raise ArtefactError(f"{path} is not the record of a run")
        if document["format"] > FORMAT:
            raise ArtefactError(
                f"{path} has format {document['format']}, this foretell reads up to {FORMAT}: "
                "install a newer one"
            )
        if document["status"] == "running" and not self._is_held():
            document["status"] = "interrupted"
            document["failure"] = {"message": "its process was killed; go on with --resume"}
        return document

    def _hold(self) -> None:
        lock = open(self.path / _LOCK, "ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ArtefactError(
                f"another process works on the run in {self.path}: wait for it or stop it"
            ) from None
        self._lock = lock

    def _is_held(self) -> bool:
        if self._lock is not None:
            return True
        try:
            with open(self.path / _LOCK, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def require_complete(self) -> dict[str, Any]:
        """``run.json`` of a run that ended well.

        Raises:
            ArtefactError: it did not; says why.
        """
        document = self.read()
        if document["status"] != "complete":
            reason = (document.get("failure") or {}).get("message", "it did not finish")
            raise ArtefactError(f"the run in {self.path} is {document['status']}: {reason}")
        return document

    def write(self, document: Mapping[str, Any]) -> None:
        """Replaces ``run.json`` in one step; NaN and infinities become null."""
        text = json.dumps(_plain(document), indent=1, allow_nan=False)
        partial = self.path / ".run.json.partial"
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, self.path / "run.json")

    def update(self, **changes: Any) -> dict[str, Any]:
        """Changes keys of ``run.json`` and returns it."""
        document = {**self.read(), **changes}
        self.write(document)
        return document

    def end(self, status: Status, **changes: Any) -> dict[str, Any]:
        """Sets the status and the time of the end; a complete run loses its working files."""
        document = self.update(status=status, ended=now(), **changes)
        if status == "complete":
            shutil.rmtree(self.work, ignore_errors=True)
        if self._lock is not None:
            (self.path / _LOCK).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        return document

    @property
    def work(self) -> Path:
        """Results of finished jobs and checkpoints, kept until the run is complete."""
        return self.path / "work"


def list_runs(parent: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """Runs directly under a folder, the newest first; unreadable ones are left out."""
    found = []
    for file in Path(parent).glob("*/run.json"):
        try:
            found.append((file.parent, RunFolder(file.parent).read()))
        except ArtefactError:
            continue
    return sorted(found, key=lambda run: run[1].get("started", ""), reverse=True)


def write_table(table: pl.DataFrame, file: Path) -> Path:
    """Writes a Parquet file that is complete or absent at every moment."""
    partial = file.with_name(f".{file.name}.partial")
    table.write_parquet(partial)
    return partial.replace(file)


def read_table(file: Path) -> pl.DataFrame:
    """Reads a Parquet file that a run wrote.

    Raises:
        ArtefactError: it is missing or damaged.
    """
    try:
        return pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtefactError(f"{file} cannot be read: {error}") from error


def make_folder(path: Path) -> Path:
    """A folder for results, with those above it.

    Raises:
        ArtefactError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be made a folder: {error}") from error
    return path


def _beginning() -> dict[str, Any]:
    return {
        "started": now(),
        "process": os.getpid(),
        "machine": f"{platform.node()}, {platform.platform()}, {os.cpu_count()} cores",
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python, foretell and what its numbers depend on."""
    installed = {"python": platform.python_version(), "foretell": __version__}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
