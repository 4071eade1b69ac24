"""Where the many independent jobs of a run are done: in this process, or as Ray tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self

from foretell.errors import ForetellError, ParameterError


class Engine(Protocol):
    """Maps a function over jobs; results come in the order of the jobs."""

    name: str

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the arguments."""
        ...


class LocalEngine:
    """One job after the other, in this process."""

    name = "local"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the arguments."""
        return map(function, *iterables)


class RayEngine:
    """Jobs as Ray tasks, one core each.

    Joins the cluster named by ``RAY_ADDRESS`` or one that runs on this machine; where there is
    none, it starts one and stops it at the end. An argument that is the same object in several jobs
    is put into the object store once.
    """

    name = "ray"

    def __init__(self) -> None:
        try:
            import ray
        except ImportError:
            raise ForetellError("--engine ray needs Ray: pip install 'foretell[ray]'") from None
        self._ray = ray
        self._started = False

    def __enter__(self) -> Self:
        if not self._ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
            try:
                self._ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **quiet)
            except ConnectionError:
                if "RAY_ADDRESS" in os.environ:
                    raise
                self._ray.init(include_dashboard=False, **quiet)
            self._started = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._started:
            self._ray.shutdown()

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the arguments; the first failure is raised as it was."""
        ray = self._ray
        task = ray.remote(num_cpus=1)(_call)
        stored: dict[int, Any] = {}
        kept: list[Any] = []

        def put(value: Any) -> Any:
            if id(value) not in stored:
                stored[id(value)] = ray.put(value)
                kept.append(value)
            return stored[id(value)]

        shared = put(function)
        pending = [task.remote(shared, *map(put, job)) for job in zip(*iterables, strict=False)]
        for reference in pending:
            try:
                yield ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                for other in pending:
                    ray.cancel(other)
                raise (error.cause if isinstance(error.cause, ForetellError) else error) from None


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def make_engine(name: str) -> AbstractContextManager[Engine]:
    """``"local"`` or ``"ray"``.

    Raises:
        ParameterError: another name.
        ForetellError: Ray is not installed.
    """
    if name == "local":
        return LocalEngine()
    if name == "ray":
        return RayEngine()
    raise ParameterError(f"engine must be 'local' or 'ray', not {name!r}")
