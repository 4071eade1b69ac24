"""A federation's apps in a file of this machine, for the processes that run them.

Flower's simulation sends the whole ClientApp, with all it holds, along with every message. Here a
process reads it once, and keeps what it builds (the learner) for the messages to come. The file
is written and read by processes of the same user on the same machine, in a folder that only that
user can open, and is gone when the run ends.
"""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from foretell.training.federated.server import Server

FILE = "job.pickle"


def store(folder: Path, client: ClientApp, server: Server, used: Iterable[Any] = ()) -> Path:
    """Writes the apps of a federation into ``folder``.

    Args:
        folder: of this user alone.
        client: what clients run.
        server: what the server runs.
        used: what the apps call; what is defined where other processes cannot import it from (a
            notebook, a test) goes along.
    """
    path = folder / FILE
    with _by_value(used):
        content = cloudpickle.dumps({"client": client, "server": server})
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


@functools.lru_cache(maxsize=1)
def load(path: Path) -> dict[str, Any]:
    """The apps in a file, read once a process."""
    content: dict[str, Any] = pickle.loads(path.read_bytes())
    return content


class StoredClientApp(ClientApp):
    """A ClientApp by the path of its file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __call__(self, message: Message, context: Context) -> Message:
        """Answers a message as the app in the file does."""
        client: ClientApp = load(self.path)["client"]
        return client(message, context)


@contextmanager
def _by_value(used: Iterable[Any]) -> Iterator[None]:
    """Lets modules that other processes cannot import be pickled with what is in them."""
    modules = []
    for thing in used:
        inner = getattr(thing, "func", thing)
        name = getattr(inner, "__module__", None) or type(inner).__module__
        module = sys.modules.get(name)
        if module is None or name in ("__main__", "builtins"):
            continue
        if PathFinder.find_spec(name.partition(".")[0]) is None:
            modules.append(module)
    known = set(cloudpickle.list_registry_pickle_by_value())
    new = [module for module in modules if module.__name__ not in known]
    for module in dict.fromkeys(new):
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in dict.fromkeys(new):
            cloudpickle.unregister_pickle_by_value(module)
