"""The one place that touches what Flower keeps internal.

Flower has no in-process runtime. Building one needs the identity of the running task (which
messages are stamped with), a run object and the codes of errors; all three are internal to Flower,
so that this module names the versions it was checked against, and a test runs a plain Flower app
through it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, SType
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from foretell.errors import ForetellError

SUPPORTED = ("1.41", "1.42")

RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
UNAVAILABLE = int(ErrorCode.NODE_UNAVAILABLE)
UNKNOWN = int(ErrorCode.UNKNOWN)
NUMPY = str(SType.NUMPY)


class FlowerVersionError(ForetellError, RuntimeError):
    """The installed Flower is not one that the in-process runtime was checked against."""


def check_version(installed: str | None = None) -> str:
    """The installed version of Flower.

    Raises:
        FlowerVersionError: it is not one of ``SUPPORTED``.
    """
    installed = version("flwr") if installed is None else installed
    if ".".join(installed.split(".")[:2]) not in SUPPORTED:
        raise FlowerVersionError(
            f"Flower {installed} is installed; the in-process runtime uses internals that were "
            f"checked for {' and '.join(SUPPORTED)} only. Install 'flwr>=1.41,<1.43', or use "
            "backend='ray'"
        )
    return installed


def refuse(reply: Message, reason: str) -> Message:
    """The error reply that stands in for a reply whose content is refused."""
    error = Message(Error(UNKNOWN, reason), reply_to=reply)
    error.metadata.__dict__.update(reply.metadata.__dict__)
    return error


def empty_run(number: int) -> Run:
    """A run without an app bundle."""
    return Run.create_empty(run_id=number)


@contextmanager
def task_identity(run: int, node: int, task: int) -> Iterator[None]:
    """Sets whose messages are made in this process, and restores it afterwards."""
    names = ("_run_id", "_node_id", "_task_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, node, task
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Keeps Flower's line for every step of every round from the console, for a while."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
