"""Making a run, going on with one, and putting a finished one to use, whatever its task."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foretell.errors import ArtefactError, ForetellError, ParameterError
from foretell.runs import tasks
from foretell.runs.engine import make_engine
from foretell.runs.folder import RunFolder
from foretell.runs.memory import peak_memory_mib
from foretell.runs.recipe import DEFAULT_TASK, parse
from foretell.runs.section import BaseRecipe
from foretell.runs.tasks import Task, Tell, Trip


def run(
    recipe: BaseRecipe,
    out: str | Path,
    *,
    engine: str = "local",
    command: str = "",
    progress: bool = False,
    tell: Tell = lambda _: None,
) -> RunFolder:
    """Makes the trip that a recipe describes.

    Args:
        recipe: what to do.
        out: folder of the run; must be new.
        engine: ``"local"`` or ``"ray"``.
        command: how the run was called, for the record.
        progress: draw progress lines.
        tell: gets one line at each stage.

    Returns:
        The folder, complete. A run that fails leaves its folder marked ``failed`` with the reason,
        one that is interrupted ``interrupted``; the error is raised.
    """
    workers = make_engine(engine)
    document = {
        "task": recipe.task,
        "title": recipe.title,
        "command": command,
        "engine": engine,
        "seeds": recipe.seeds,
        "recipe": recipe.model_dump(mode="json"),
    }
    folder = RunFolder.create(out, document)
    with _marking(folder), workers:
        _make(Trip(recipe, folder, workers, progress, tell))
    return folder


def resume(
    out: str | Path,
    *,
    recipe: BaseRecipe | None = None,
    engine: str | None = None,
    progress: bool = False,
    tell: Tell = lambda _: None,
) -> RunFolder:
    """Goes on with a run that was interrupted, killed or failed, behind what it had done.

    Args:
        out: folder of the run.
        recipe: refused unless it is the run's own; the run's own when ``None``.
        engine: the run's own when ``None``.
        progress: draw progress lines.
        tell: gets one line at each stage.

    Raises:
        ArtefactError: there is nothing to resume, another process works on it, or recipe or data
            are not what they were.
    """
    path = RunFolder(out)
    if not (path.path / "run.json").is_file():
        raise ArtefactError(f"{path.path} holds no run to resume")
    record = path.read()
    own = read_recipe(path, record)
    if recipe is not None and recipe != own:
        raise ArtefactError(
            f"the run in {path.path} was started with another recipe ({_difference(own, recipe)}): "
            "resume it without naming one, or start anew in another folder"
        )
    name = engine or str(record.get("engine", "local"))
    workers = make_engine(name)
    folder = RunFolder.resume(out)
    folder.update(engine=name)
    with _marking(folder), workers:
        _make(Trip(own, folder, workers, progress, tell))
    return folder


def predict_run(run: str | Path, data: str, out: str | Path, **options: Any) -> list[Path]:
    """Applies a run's model to new data.

    Args:
        run: folder of a complete run.
        data: a source with the columns of the run's data.
        out: folder for the files.
        options: what the run's task knows, e.g. ``quantiles`` of a demand run.

    Returns:
        The files written.

    Raises:
        ArtefactError: the run is not complete or kept no model.
        DataError: the data cannot be used.
        ParameterError: the run's task knows no such option.
    """
    folder = RunFolder(run)
    record = folder.require_complete()
    task = task_of(record)
    if task.predict is None:
        raise ArtefactError(
            f"runs of the task {record['task']!r} have no model for new data; what they leave is "
            "told under 'The run folder' in the documentation"
        )
    known = [
        name
        for name, parameter in inspect.signature(task.predict).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in options:
        if name not in known:
            raise ParameterError(
                f"the run in {folder.path} is about {record['task']}, which has no option "
                f"--{name}" + (f" (it has {', '.join('--' + k for k in known)})" if known else "")
            )
    recipe = read_recipe(folder, record)
    return list(task.predict(folder, record, recipe, data, Path(out), **options))


def redraw_report(run: str | Path) -> Path:
    """Draws a run's report anew.

    Args:
        run: folder of a complete run.

    Returns:
        The page.

    Raises:
        ArtefactError: the run is not complete, or what its report needs is gone or has changed.
    """
    folder = RunFolder(run)
    record = folder.require_complete()
    task = task_of(record)
    if task.report is None:
        raise ArtefactError(f"runs of the task {record['task']!r} have no report")
    return task.report(folder, record, read_recipe(folder, record))


def task_of(record: Mapping[str, Any]) -> Task[Any]:
    """The task of a run by its record."""
    return tasks.find(record.get("task", DEFAULT_TASK))


def read_recipe(folder: RunFolder, record: Mapping[str, Any]) -> BaseRecipe:
    """The recipe that a run was started with.

    Raises:
        ArtefactError: it is missing or damaged.
    """
    try:
        return parse(record["recipe"], where=str(folder.path / "run.json"))
    except (KeyError, TypeError, AttributeError, ForetellError) as error:
        raise ArtefactError(f"{folder.path} holds a recipe that cannot be read: {error}") from error


def _make(trip: Trip[Any]) -> None:
    found = tasks.find(trip.recipe.task).run(trip)
    timings = {**found.get("timings", {}), "stages": trip.seconds}
    peak = max(found.get("peak_memory_mib", 0.0), peak_memory_mib())
    trip.folder.end("complete", **{**found, "timings": timings, "peak_memory_mib": peak})


def _difference(own: BaseRecipe, other: BaseRecipe) -> str:
    """The first key in which two recipes differ."""

    def walk(a: Any, b: Any, place: str) -> str | None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in [*a, *(k for k in b if k not in a)]:
                inner = walk(a.get(key), b.get(key), f"{place}.{key}" if place else key)
                if inner is not None:
                    return inner
            return None
        return None if a == b else f"{place} was {a!r} and is {b!r}"

    return walk(own.model_dump(mode="json"), other.model_dump(mode="json"), "") or "in order"


@contextmanager
def _marking(folder: RunFolder) -> Iterator[None]:
    """Marks the folder by how its run ends badly."""
    try:
        yield
    except KeyboardInterrupt:
        folder.end("interrupted", failure={"message": "interrupted; go on with --resume"})
        raise
    except BaseException as error:
        failure = {"kind": type(error).__name__, "message": str(error)}
        if not isinstance(error, ForetellError):
            failure["trace"] = traceback.format_exc(limit=-8)
        folder.end("failed", failure=failure)
        raise
