"""What a run can be about: each task is a folder of its own beside this file.

A task's folder hands on one object, ``TASK``; a recipe names it by its ``task`` key. Nothing else
knows the tasks by name: adding one is adding a folder (and, if it is to be shipped, its recipes).
"""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from foretell.errors import RecipeError
from foretell.runs.engine import Engine
from foretell.runs.folder import RunFolder
from foretell.runs.section import BaseRecipe, nearest

_PACKAGE = "foretell.runs"

R = TypeVar("R", bound=BaseRecipe)
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Trip(Generic[R]):
    """A run on its way: what a task is handed to do its work with.

    Args:
        recipe: what to do.
        folder: where the results go; ``folder.work`` keeps what an interrupted run goes on behind.
        engine: where many independent jobs are done.
        progress: draw progress lines.
        tell: gets one line at each stage.
    """

    recipe: R
    folder: RunFolder
    engine: Engine
    progress: bool = False
    tell: Tell = lambda _: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a part of the work; ``seconds`` holds the results by name."""
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


@dataclass(frozen=True)
class Task(Generic[R]):
    """One kind of run.

    Args:
        recipe: the recipe's class.
        run: does the work and writes everything but the run's status; what it returns is added to
            ``run.json`` at the end. ``run.json`` holds ``metrics.<model>.<protocol>.<score>`` and
            ``leaderboard.<protocol>``, a list of ``{rank, model, ...}``.
        scores: scores of ``run.json`` that the command line shows, and their headings; the first is
            the one that runs are compared by.
        report: draws ``report.html`` anew from folder, record and recipe; returns its path.
        predict: applies the run's model to new data: ``predict(folder, record, recipe, data, out,
            **options)`` returns the files it wrote. The names of its keyword arguments are the
            options of ``foretell predict`` that the task knows.
        audit: what ``foretell audit`` repeats on halves of the data: ``audit(folder, record,
            recipe, model)`` returns a :class:`foretell.runs.auditing.AuditSubject`, or refuses.
    """

    recipe: type[R]
    run: Callable[[Trip[R]], Mapping[str, Any]]
    scores: Mapping[str, str]
    report: Callable[[RunFolder, Mapping[str, Any], R], Path] | None = None
    predict: Callable[..., Sequence[Path]] | None = None
    audit: Callable[..., Any] | None = None

    @property
    def main_score(self) -> str:
        """The score that runs are compared by."""
        return next(iter(self.scores))


def names() -> list[str]:
    """All tasks there are."""
    home = import_module(_PACKAGE).__path__
    return sorted(module.name for module in pkgutil.iter_modules(home) if module.ispkg)


def find(name: object) -> Task[Any]:
    """The task of that name.

    Raises:
        RecipeError: there is none; names the nearest one.
    """
    known = names()
    if name not in known:
        raise RecipeError(f"there is no task {name!r}" + nearest(str(name), known))
    return import_module(f"{_PACKAGE}.{name}").TASK
