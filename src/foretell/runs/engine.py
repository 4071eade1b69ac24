"""Where the many independent jobs of a run are done: in this process, or as Ray tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from foretell.errors import ForetellError, ParameterError


class EngineError(ForetellError):
    """The machines that should do the work are not there, or went away."""


class Engine(Protocol):
    """Maps a function over jobs; results come in the order of the jobs.

    Where an engine does not share this process' memory, large data are handed to jobs as the path
    of a folder, which all machines of a cluster must see.
    """

    name: str
    shares_memory: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the arguments."""
        ...


class LocalEngine:
    """One job after the other, in this process."""

    name = "local"
    shares_memory = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the arguments."""
        return map(function, *iterables)


class RayEngine:
    """Jobs as Ray tasks, one core each.

    Joins the cluster named by ``RAY_ADDRESS``, or the one that ``ray start`` made on this machine;
    where there is none, it starts one and stops it at the end. A cluster that another program
    started for itself is not joined: it would end with that program. An argument that is the same
    object in several jobs is put into the object store once.
    """

    name = "ray"
    shares_memory = False

    def __init__(self) -> None:
        try:
            import ray
        except ImportError:
            raise EngineError("--engine ray needs Ray: pip install 'foretell[ray]'") from None
        self._ray = ray
        self._started = False

    def __enter__(self) -> Self:
        if self._ray.is_initialized():
            return self
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        alone: dict[str, Any] = {"include_dashboard": False}
        named = os.environ.get("RAY_ADDRESS")
        try:
            # Not "auto", which also takes what another program started for itself.
            self._ray.init(address=named, **({} if named else alone), **quiet)
        except ConnectionError as error:
            if named is not None:
                raise EngineError(
                    f"no Ray cluster answers at RAY_ADDRESS={named}: {error}"
                ) from error
            self._ray.init(address="local", **alone, **quiet)
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
        if not pending:
            return
        try:
            for reference in pending:
                yield ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ForetellError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise EngineError(f"a Ray task was lost: {error}") from error
        finally:
            # Only what has not ended, and gently: forcing a task that is just replying aborts the
            # whole driver ("Tried to complete task that was not pending").
            _, unfinished = ray.wait(pending, num_returns=len(pending), timeout=0)
            for other in unfinished:
                ray.cancel(other)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def make_engine(name: str) -> Engine:
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
