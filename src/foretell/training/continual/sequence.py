"""One task after the other: the matrix of scores, and what was forgotten on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.errors import ParameterError
from foretell.learners.contract import Learner
from foretell.training.continual.methods import ContinualMethod
from foretell.training.examples import Examples
from foretell.training.fit import fit
from foretell.training.result import FitResult
from foretell.training.validation import Validation


@dataclass(frozen=True)
class ContinualTask:
    """One task of a sequence: a hospital, a region, a season.

    Args:
        name: of the task.
        examples: to train on.
        score: of the learner on the task's test part; higher is better.
        validation: to stop by, lower is better; None trains to the end.
        options: of :func:`foretell.training.fit` for this task alone.
    """

    name: str
    examples: Examples
    score: Callable[[Learner], float]
    validation: Validation | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ContinualMatrix:
    """Scores on every task after training on each.

    Attributes:
        tasks: names in the order of training.
        scores: ``(n, n)``: row i, column j is the score on task j after training on task i.
        untrained: (n,) scores before any training; NaN where not measured.
        fits: how each training went.
    """

    tasks: tuple[str, ...]
    scores: NDArray[np.float64]
    untrained: NDArray[np.float64]
    fits: tuple[FitResult, ...] = ()

    def final_mean(self) -> float:
        """Mean score on all tasks after the last."""
        return float(self.scores[-1].mean())

    def forgetting(self) -> float:
        """Mean over all tasks but the last of the best score ever minus the last one."""
        if len(self.tasks) < 2:
            return 0.0
        earlier = self.scores[:, :-1]
        return float((earlier.max(0) - earlier[-1]).mean())

    def backward_transfer(self) -> float:
        """Mean over earlier tasks of the last score minus that right after their training."""
        if len(self.tasks) < 2:
            return 0.0
        return float((self.scores[-1, :-1] - np.diag(self.scores)[:-1]).mean())

    def forward_transfer(self) -> float:
        """Mean over later tasks of the score just before their training minus the untrained one."""
        if len(self.tasks) < 2:
            return 0.0
        before = np.diag(self.scores, 1)
        return float((before - self.untrained[1:]).mean())

    def to_polars(self) -> pl.DataFrame:
        """``trained_on``, then one column a task."""
        columns: dict[str, Any] = {"trained_on": list(self.tasks)}
        columns |= {name: self.scores[:, j] for j, name in enumerate(self.tasks)}
        return pl.DataFrame(columns)


def train_sequence(
    learner: Learner,
    tasks: Sequence[ContinualTask],
    method: ContinualMethod,
    *,
    strategies: Callable[[ContinualTask], Sequence[Any]] | None = None,
    seed: int = 0,
    on_task: Callable[[str, Learner], None] | None = None,
    **options: Any,
) -> ContinualMatrix:
    """Trains a learner on one task after the other, in place, by the ordinary loop.

    Args:
        learner: trained in place.
        tasks: in the order of training.
        method: what is kept and rehearsed; a fresh one for each sequence.
        strategies: further strategies for each task, such as private training. Its statements
            speak of the steps alone: what a method measures on raw examples at the end of a task
            (the Fisher information of EWC and WUPERR, stored representations) is not covered.
        seed: of the first task; each later one has the next.
        on_task: called after each task with its name and the learner.
        options: of :func:`foretell.training.fit` for all tasks.

    Raises:
        ParameterError: no task, or two of the same name.
        TrainingError: as :func:`foretell.training.fit`.
    """
    names = tuple(task.name for task in tasks)
    if not names or len(set(names)) != len(names):
        raise ParameterError(f"tasks need names of their own, not {', '.join(names) or 'none'}")
    untrained = np.array([task.score(learner) for task in tasks])
    scores = np.empty((len(tasks), len(tasks)))
    fits = []
    for i, task in enumerate(tasks):
        more = [] if strategies is None else list(strategies(task))
        fits.append(
            fit(
                learner, method.examples(task.examples),
                strategies=[*method.begin(learner), *more], validation=task.validation,
                seed=seed + i, **{**options, **task.options},
            )
        )  # fmt: skip
        method.end(learner, task.examples)
        scores[i] = [other.score(learner) for other in tasks]
        if on_task is not None:
            on_task(task.name, learner)
    return ContinualMatrix(names, scores, untrained, tuple(fits))


def evaluate_orders(
    build: Callable[[], Learner],
    tasks: Sequence[ContinualTask],
    method: Callable[[], ContinualMethod],
    *,
    orders: Iterable[Sequence[str]] | None = None,
    **options: Any,
) -> pl.DataFrame:
    """How much the order of the tasks matters.

    Args:
        build: makes an untrained learner.
        tasks: in any order.
        method: makes a fresh method.
        orders: names in the orders to try; all by default.
        options: of :func:`train_sequence`.

    Returns:
        ``order`` (names joined by ``" > "``), ``final_mean``, ``forgetting``.

    Raises:
        ParameterError: two tasks have the same name, or an order names one that is not there.
    """
    known = {task.name: task for task in tasks}
    if len(known) != len(tasks):
        raise ParameterError("two tasks have the same name")
    rows = []
    for order in permutations(known) if orders is None else orders:
        missing = [name for name in order if name not in known]
        if missing:
            raise ParameterError(f"there is no task {missing[0]!r}; known are {', '.join(known)}")
        found = train_sequence(build(), [known[n] for n in order], method(), **options)
        rows.append((" > ".join(order), found.final_mean(), found.forgetting()))
    return pl.DataFrame(rows, schema=["order", "final_mean", "forgetting"], orient="row")
